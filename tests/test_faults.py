"""A small, fixed part of `make faults`: a sweep, a removal and a fetch, each refused a write and killed once."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import random, sys
from pathlib import Path
from tests import faults
faults.import_everything()
faults.COMMANDS = tuple(command for command in faults.COMMANDS if command.name in ("sweep", "prune", "fetch"))
place = faults.Place(Path(sys.argv[1]))
draw, wrong = random.Random(0), []
for number, command in enumerate(faults.COMMANDS):
    at = max(1, place.writes[command.name] // 2)
    wrong.append(faults.attack_with_refusal(place, command, at, faults.REFUSALS[number % 2], number % 2 == 0, "attacked"))
    wrong.append(faults.attack_with_kills(place, command, draw, "attacked", 1)[1])
print("".join(wrong))
sys.exit(1 if any(wrong) else 0)
"""


def test_commands_that_are_killed_or_refused_a_write_say_so_and_give_the_same_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_writes_that_are_refused_are_those_below_the_folder_in_their_order(tmp_path):
    from tests.faults import refusing

    inside, outside = tmp_path / "in", tmp_path / "out"
    outside.mkdir()
    inside.mkdir()
    with refusing(inside, None) as writes:
        (inside / "a").write_text("1")
        (outside / "a").write_text("1")
        whole = writes()
    assert whole >= 2
    for at in range(1, whole + 1):
        with refusing(inside, (at, errno.ENOSPC, False)), pytest.raises(OSError, match="No space left"):
            (inside / "a").write_text("1")
    with refusing(inside, (whole + 1, errno.EIO, True)):
        (inside / "a").write_text("2")
        with pytest.raises(OSError, match="Input/output"):
            (inside / "a").write_text("3")
    assert (inside / "a").read_text() == "2"
