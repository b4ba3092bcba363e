"""What stands on the screen of a real terminal, of 80 columns and of 200, and under the cell of a notebook."""

from __future__ import annotations

import re
import sys
import time
import warnings
from pathlib import Path

import pytest

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.claims import TrialState, claim_trial
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import PlannedTrial, Status
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.progress import images_per_s
from cifar_hpc.terminal.harmless import make_console
from cifar_hpc.terminal.live import make_view
from tests.helpers.live_picture import _epoch
from tests.helpers.terminal import terminal
from tests.helpers.training import digits_config

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


def test_a_notebook_without_widgets_gets_lines_and_no_warning_at_each_refresh(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_hpc.terminal.live.find_spec", lambda name: None, raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    (tmp_path / "x.yaml").write_text("name: x\ndataset: digits\nbase: {arch: linear}\n")
    plan = plan_record(make_plan(load_spec(tmp_path / "x.yaml")))
    view = make_view(make_console(force_jupyter=True))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        view.begin("inline")
        view.show(plan, {trial.trial_id: TrialState(trial.trial_id, Status.PLANNED) for trial in plan.trials})
        time.sleep(0.6)  # a picture would have been drawn twice
        view.end()
    assert not told


def test_of_trials_side_by_side_no_images_a_second_are_told_from_the_part_of_the_time_that_is_theirs(tmp_path):
    config = digits_config(dataset=DatasetConfig(name="cifar10"))
    trial = PlannedTrial(trial_id=config.trial_id, point_id=config.point_id, axes={}, config=config.to_json())
    alone, beside = (claim_trial(Layout(tmp_path).trial(f"t{n}"), f"t{n}", "s/job-0001", shared_by=n) for n in (1, 2))
    states = [TrialState(config.trial_id, Status.RUNNING, epochs=(_epoch(1),), claim=claim) for claim in (alone, beside)]
    assert [images_per_s(trial, state) for state in states] == [45_000 / 12.5, None]
