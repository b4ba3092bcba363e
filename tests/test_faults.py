"""A small, fixed part of `make faults`: a sweep, a removal and a fetch, each refused a write and killed once."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import random, sys
from pathlib import Path
from tests import faults
place = faults.Place(Path(sys.argv[1]), [command for command in faults.COMMANDS if command.name in ("sweep", "prune", "fetch")])
draw, wrong = random.Random(0), []
for number, command in enumerate(place.commands):
    sites = place.sites[command.name]
    at = sorted({len(sites) // 3, len(sites) // 2})
    refusals = [faults.Refusal(sites[n], sites[: n + 1].count(sites[n]), faults.REFUSALS[number % 2], n % 2 == 0) for n in at]
    done, said = faults.attack_with_refusals(place, command, refusals, "attacked")
    wrong += [said] if done else [f"{command.name}: no write was refused"]
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
    from tests.helpers.refused_writes import Refusal, refusing

    inside, outside = tmp_path / "in", tmp_path / "out"
    outside.mkdir()
    inside.mkdir()
    with refusing(inside) as writes:
        (inside / "a").write_text("1")
        (outside / "a").write_text("1")
    sites = list(writes.sites)
    assert [site.split(" < ")[0] for site in sites] == ["open", "write"]
    for site in sites:
        with refusing(inside, Refusal(site, 1, errno.ENOSPC)) as writes, pytest.raises(OSError, match="No space left"):
            (inside / "a").write_text("1")
        assert writes.refused
    with refusing(inside, Refusal(sites[0], 2, errno.EIO, lasting=True)) as writes:
        (inside / "a").write_text("2")
        assert not writes.refused
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                (inside / "a").write_text("3")
    assert (inside / "a").read_text() == "2"


def test_removals_are_refused_too_also_of_what_stands_in_an_open_folder(tmp_path):
    from tests.helpers.refused_writes import Refusal, refusing

    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "deep", outside / "deep"):
        folder.mkdir(parents=True)
        (folder / "a").write_text("1")
    with refusing(inside) as writes:
        shutil.rmtree(outside)
    assert not writes.sites
    for operation in ("unlink", "rmdir"):
        with refusing(inside, Refusal(f"{operation} < elsewhere", 1, errno.EIO)) as writes, pytest.raises(OSError, match="Inp"):
            shutil.rmtree(inside)
        assert writes.refused and inside.exists()
