"""An objective that a plug-in registers, in processes that never execute its code: what the plan says of it is enough."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifar_hpc.collect.comparison import compare_with_best
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.config.sources import OwnCodeError, look_in
from cifar_hpc.planning.plan import make_plan, plan_record, recorded_plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import ranked_by, read_plan, write_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.store import write_record
from cifar_hpc.report.caveats import caveats
from cifar_hpc.report.comparison_table import comparison_lines
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.progress import best_point
from cifar_hpc.status.state import read_states
from cifar_hpc.train.measure import objective_value
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of

MINE = """
from cifar_hpc.config.plugins import register_objective


def wrong(logits_NK, labels_N):
    return float((logits_NK.argmax(1) != labels_N).mean() * 7)


register_objective("sevenfold", wrong, mode="min", share=False, noun="sevenfold error")
"""
SPEC = """
name: NAME
dataset: {name: digits, train_size: 150, val_frac: 0.4}
plugins: [PLUGIN]
base: {arch: linear, epochs: 2, batch_size: 32, optimizer: adamw}
grid: {lr: [0.0001, 0.05]}
objective: {metric: sevenfold}
"""


def planned(folder: Path, name: str = "own", plugin: str = MINE) -> PlanRecord:
    (folder / f"{name}.py").write_text(plugin)
    (folder / f"{name}.yaml").write_text(SPEC.replace("NAME", name).replace("PLUGIN", f"{name}.py"))
    spec = load_spec(folder / f"{name}.yaml")
    layout = Layout(folder / "results")
    write_plan(layout, plan_record(make_plan(spec, share=True)))
    run_job(job_of(*(trial.config for trial in spec.trials)), layout, executor="inline")
    return read_plan(layout, name)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one sweep; neither its plug-in nor the copy of it can be executed any more."""
    folder = tmp_path_factory.mktemp("own")
    planned(folder)
    for file in [folder / "own.py", *Layout(folder / "results").sources.rglob("*.py")]:
        file.write_text("raise RuntimeError('who reads results executed it')\n")
    return folder


def test_another_process_reads_a_sweep_of_ones_own_objective_without_its_code(swept: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CIFAR_HPC_RESULTS": str(swept / "results")}
    both = "from cifar_hpc.cli import app\nfor word in ('status', 'report'):\n app([word, 'own'], standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", both], env=environment, cwd=swept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 completed" in done.stdout and "sevenfold error" in done.stdout


def test_the_plan_ranks_by_it_and_tests_by_what_each_image_counts(swept: Path) -> None:
    layout = Layout(swept / "results")
    for sweeps in (["own"], []):
        board = make_leaderboard(scan(layout, sweeps))
        assert board.objective == "sevenfold" not in OBJECTIVES
        assert board.info.mode == "min" and [row.axes["lr"] for row in board.rows] == [0.05, 0.0001]
        best, other = board.rows
        assert best.best_trial.metric("sevenfold") == best.score.mean < other.score.mean
        assert best.test_score.mean == pytest.approx(7 * (1 - best.test_acc.mean))
        if sweeps:
            states = read_states(layout, [t.trial_id for t in read_plan(layout, "own").trials])
            assert best_point(read_plan(layout, "own"), states).score == f"sevenfold {best.score.mean:.2f}"  # of 36 images
        found = compare_with_best(board, layout).differences[other.point_id]
        assert found.difference == pytest.approx(other.score.mean - best.score.mean, abs=1e-4)
        assert comparison_lines(best, other, layout)[0].startswith("validation sevenfold error")


def test_a_number_beyond_0_and_1_that_is_registered_as_a_share_is_refused() -> None:
    info = ObjectiveInfo(doc="", mode="max", noun="gain", share=True, measure=lambda logits, labels: 1.5)
    with pytest.raises(OwnCodeError, match=r"gain 1\.5.*share=False"):
        objective_value(info, torch.zeros(2, 2), torch.zeros(2))
    assert objective_value(dataclasses.replace(info, share=False), torch.zeros(2, 2), torch.zeros(2)) == 1.5
    rounded = dataclasses.replace(info, measure=lambda logits, labels: 1 + 1e-7)  # as a sum of float32 may be
    assert objective_value(rounded, torch.zeros(2, 2), torch.zeros(2)) == 1


def test_a_plan_that_says_nothing_of_its_objective_is_ranked_by_accuracy_and_the_report_says_so(swept: Path) -> None:
    layout = Layout(swept / "results")
    plan = read_plan(layout, "own")
    assert recorded_plan(plan).spec.own_objective == ranked_by(plan)[1]
    older = dataclasses.replace(plan, sweep="older", own_objective=None)
    layout.sweep("older").folder.mkdir()
    write_record(layout.sweep("older").plan, older)
    pool = scan(layout, ["older"])
    assert pool.objective == ranked_by(older)[0] == "val_acc"
    assert any("'sevenfold'" in note for note in pool.ranked.notes)


def test_objectives_of_one_name_with_different_code_are_not_ranked_together(tmp_path: Path) -> None:
    one, other = planned(tmp_path, "one"), planned(tmp_path, "other", MINE.replace("min", "max").replace("!=", "=="))
    layout = Layout(tmp_path / "results")
    look_in(layout.sources)
    assert (one.own_objective.mode, other.own_objective.mode) == ("min", "max")
    assert one.own_objective.sha256 != other.own_objective.sha256
    for sweep, word in (("one", "lower"), ("other", "higher")):
        best, below = make_leaderboard(scan(layout, [sweep])).rows
        assert f" {word} than" in comparison_lines(best, below, layout)[0] and best.axes["lr"] == 0.05
    for sweeps in (["one", "other"], []):
        pool = scan(layout, sweeps)
        assert pool.objective == "val_acc" and any("different code" in note for note in pool.ranked.notes)
        for row in make_sections(pool, layout)[0].board.rows:
            assert row.best_trial in row.trials


def test_a_report_of_several_sweeps_ranks_each_data_set_by_its_own_objective(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "results")
    spec = SPEC.replace("plugins: [PLUGIN]\n", "").replace("[0.0001, 0.05]", "[0.0001, 0.05, 10.0]")
    for name, metric, size in (("one", "val_loss", 150), ("other", "macro_f1", 160), ("third", "balanced_acc", 150)):
        text = spec.replace("NAME", name).replace("sevenfold", metric).replace("150", str(size))
        (tmp_path / f"{name}.yaml").write_text(text)
        loaded = load_spec(tmp_path / f"{name}.yaml")
        write_plan(layout, plan_record(make_plan(loaded, share=True)))
        run_job(job_of(*(trial.config for trial in loaded.trials)), layout, executor="inline")
    alone = {name: make_sections(scan(layout, [name]), layout)[0].board for name in ("one", "other")}
    together = [section.board for section in make_sections(scan(layout, ["one", "other"]), layout)]
    assert {board.objective for board in together} == {"val_loss", "macro_f1"}
    for board in together:
        own = next(one for one in alone.values() if one.objective == board.objective)
        assert [row.point_id for row in board.rows] == [row.point_id for row in own.rows]
        assert [row.score for row in board.rows] == [row.score for row in own.rows]
    for sweeps in (["one", "third", "other"], []):
        mixed, agreed = make_sections(scan(layout, sweeps), layout)
        assert (mixed.board.objective, agreed.board.objective) == ("val_acc", "macro_f1")
        said = [[line for line in caveats(one.pool, one.board) if "objectives" in line] for one in (mixed, agreed)]
        assert said == [
            ["These trials have different objectives (balanced_acc, val_loss), so accuracy ranks them together."],
            [],
        ]
    only = scan(layout, ["one", "third"]).where(lambda trial: trial.config["objective"] == "val_loss")
    assert (only.objective, make_leaderboard(only).rows[0].point_id) == ("val_loss", alone["one"].rows[0].point_id)
