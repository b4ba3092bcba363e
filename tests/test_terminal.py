"""What stands on the screen of a real terminal, of 80 columns and of 200."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.helpers.terminal import terminal

ROOT = Path(__file__).parents[1]
SIZES = [(80, 24), (200, 50)]
PROGRAM = (sys.executable, "-m", "cifar_hpc")


def _environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "CIFAR_HPC_RESULTS": str(folder / "results"), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_the_picture_of_a_sweep_keeps_its_numbers_whatever_the_axes(tmp_path, columns, rows):
    command = (sys.executable, str(ROOT / "tests" / "helpers" / "live_picture.py"), str(tmp_path))
    with terminal(columns, rows, command, _environment(tmp_path)) as screen:
        began = screen.until("starting Ray:", "0/72 trials", "0/720 epochs")
        assert "a_question_with" in began
        (tmp_path / "go on").touch()
        screen.until("val 55.00 %", "15/720 epochs", "left", "66 wait")
        lines = [line for line in screen.lines if re.match(r"  [a-z2-7]{8}  ", line)]
    assert len(lines) == 6
    assert all(len(line) <= columns for line in lines)
    for done, line in enumerate(lines):
        assert f" {done}/10" in line

        assert ("360 images/s" in line and f"val {50 + done}.00 %" in line) is (done > 0)
        assert "resnet18" not in line  # equal in all rows: dropped
    assert len({line[:40] for line in lines}) == 6


def test_ctrl_c_is_answered_at_once_and_the_sweep_says_how_to_go_on(tmp_path):
    spec = "name: long\ndataset: digits\nbase: {arch: simple_cnn, epochs: 2000}\nseeds: 2\n"
    (tmp_path / "long.yaml").write_text(spec)
    with terminal(80, 24, (*PROGRAM, "sweep", str(tmp_path / "long.yaml"), "--on", "inline"), _environment(tmp_path)) as screen:
        screen.until("/2000", "images/s")
        screen.press("C-c")
        text = screen.until("stopping", "interrupted:", "ended with 130")
    assert "\\x1b" not in text and text.count("epochs") == 1  # the picture renews itself in place, and is gone in the end
    assert "To go on:" in text.replace("\n", " ")
