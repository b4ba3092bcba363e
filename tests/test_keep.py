"""Which trained networks stay by themselves, and what is done with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cifar_hpc.api.predictor import members_of
from cifar_hpc.cli import app
from cifar_hpc.cli.speech import conclude
from cifar_hpc.collect.ensemble_pool import make_ensembles
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.config.trial import BY_RULE
from cifar_hpc.errors import CifarHpcError, SpecError
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.spec.load import spec_of
from cifar_hpc.status.progress import best_point
from cifar_hpc.sweep.listener import SweepOutcome
from cifar_hpc.sweep.reproduce import lacking_text
from cifar_hpc.sweep.where import reader_of
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of

SPEC = (
    "name: kept\ndataset: {name: digits, train_size: 80}\nbase: {arch: linear, epochs: 1, batch_size: 40}\n"
    f"grid: {{lr: {[round(0.0001 * 2**n, 6) for n in range(13)]}}}\n"
)


def run(layout: Layout, text: str, name: str = "kept") -> tuple[list, dict[str, float], set[str]]:
    """The configs, what each trial reached, and those whose network stays."""
    spec = spec_of(text, layout.root / "x.yaml")
    layout.sweep(name).plan.parent.mkdir(parents=True, exist_ok=True)
    write_record(layout.sweep(name).plan, plan_record(make_plan(spec)))
    configs = [trial.config for trial in spec.trials]
    job = dataclasses.replace(job_of(*configs, together=True), sweep=name)
    run_job(job, layout, executor="inline")
    reached = {c.trial_id: read_record(layout.trial(c.trial_id).result, TrialResult).val.acc for c in configs}
    return configs, reached, {c.trial_id for c in configs if layout.trial(c.trial_id).weights.exists()}


@pytest.fixture
def few(monkeypatch):
    """Ensembles that look at three members."""
    monkeypatch.setattr("cifar_hpc.worker.keeper.ENSEMBLE_LIBRARY", 3)
    monkeypatch.setattr("cifar_hpc.collect.ensemble.ENSEMBLE_LIBRARY", 3)


def test_the_best_networks_stay_and_the_others_are_not_written(tmp_path, few):
    configs, reached, kept = run(Layout(tmp_path), SPEC)
    assert {config.keep for config in configs} == {BY_RULE} and len(kept) == 3
    assert min(reached[i] for i in kept) >= max(value for i, value in reached.items() if i not in kept)


def test_every_member_of_every_ensemble_has_its_network_also_the_best_of_a_poor_architecture(tmp_path, few):
    poor = "include: [{arch: simple_cnn, lr: 0.00001}, {arch: simple_cnn, lr: 0.00002}]\n"
    text = SPEC.replace("arch: linear, ", "").replace("lr: [", "arch: [linear], lr: [") + poor
    layout = Layout(tmp_path)
    _, reached, kept = run(layout, text)
    found = make_ensembles(make_leaderboard(scan(layout, ["kept"])), layout)
    members = {member.trial_id for one in found.measured for member in one.record.members}
    assert len(kept) == 4 and members <= kept and len(reached) == 15


def test_beyond_the_budget_the_best_alone_stays(tmp_path):
    _, reached, kept = run(Layout(tmp_path), SPEC + "keep: {best: 3, max_gb: 0.000001}\n")
    assert len(kept) == 1 and reached[kept.pop()] == max(reached.values())


@pytest.mark.parametrize("words, count", [("weights", 13), ("null", 0)])
def test_a_spec_may_keep_all_or_none(tmp_path, words, count):
    assert len(run(Layout(tmp_path), f"{SPEC}keep: {words}\n")[2]) == count


def test_what_is_beaten_later_is_removed_unless_another_sweep_needs_it(tmp_path):
    layout = Layout(tmp_path)
    poor = SPEC.replace(SPEC[SPEC.index("[") : SPEC.index("]") + 1], "[0.00001, 0.00002]")
    _, _, first = run(layout, poor)
    assert len(first) == 2
    needed = sorted(first)[0]
    other = spec_of(poor.replace("kept", "other") + "keep: weights\n", tmp_path / "y.yaml")
    plan = plan_record(make_plan(other))
    layout.sweep("other").plan.parent.mkdir(parents=True)
    write_record(
        layout.sweep("other").plan, dataclasses.replace(plan, trials=tuple(t for t in plan.trials if t.trial_id == needed))
    )
    run(layout, SPEC.replace("grid: {lr: [", "grid: {lr: [0.00001, 0.00002, ") + "keep: {best: 1, max_gb: 0.000001}\n")
    assert layout.trial(needed).weights.exists()
    assert not any(layout.trial(trial_id).weights.exists() for trial_id in first - {needed})


def test_predict_takes_a_sweeps_best_and_says_how_to_bring_it_back(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))
    layout = Layout(tmp_path / "results")
    _, reached, _ = run(layout, SPEC)
    (tmp_path / "new").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "new" / "a.png")
    members = members_of(layout, "kept").members
    assert len(members) == 1 and reached[members[0].trial_id] == max(reached.values())
    found = CliRunner().invoke(app, ["predict", "kept", str(tmp_path / "new")])
    assert found.exit_code == 0 and found.stdout.splitlines()[0] == "id,label,probability"
    layout.trial(members[0].trial_id).weights.unlink()
    with pytest.raises(CifarHpcError, match=r"did not stay; `cifar-hpc reproduce \w+` brings them back, in about"):
        members_of(layout, "kept")
    point = read_record(layout.trial(members[0].trial_id).result, TrialResult).point_id
    again = CliRunner().invoke(app, ["reproduce", point])
    assert again.exit_code == 0 and "the same numbers to the last bit" in again.stdout
    assert layout.trial(members[0].trial_id).weights.exists()


def test_weights_asked_for_afterwards_are_counted_with_their_cost(tmp_path, few):
    layout = Layout(tmp_path)
    run(layout, SPEC)
    plan = plan_record(make_plan(spec_of(SPEC + "keep: weights\n", tmp_path / "x.yaml")))
    assert "10 finished trials kept no weights" in lacking_text(layout, plan) and "all take " in lacking_text(layout, plan)
    assert lacking_text(layout, plan_record(make_plan(spec_of(SPEC, tmp_path / "x.yaml")))) == ""


def test_another_word_than_weights_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"'weight'; weights \(of all trials\), null.*Did you mean 'weights'"):
        spec_of(SPEC + "keep: weight\n", tmp_path / "x.yaml")


def test_of_configurations_that_measure_the_same_that_stays_which_a_report_names_first(tmp_path):
    layout = Layout(tmp_path)
    equal = SPEC.replace(SPEC[SPEC.index("[") : SPEC.index("]") + 1], "[1e-9, 2e-9, 3e-9, 4e-9, 5e-9]")
    _, reached, kept = run(layout, equal + "keep: {best: 1, max_gb: 0.000001}\n")
    assert len(set(reached.values())) == 1
    (first, *_) = make_leaderboard(scan(layout, ["kept"])).measured
    assert kept == {first.trials[0].trial_id}


def test_a_sweep_says_at_its_end_which_networks_of_its_best_configuration_are_not_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))
    layout = Layout(tmp_path / "results")
    run(layout, SPEC)
    plan = read_plan(layout, "kept")
    states = reader_of(layout, plan).read()
    conclude(SweepOutcome(plan=plan, states=states))
    assert "not here" not in capsys.readouterr().err
    best = best_point(plan, states)
    layout.trial(best.trial_ids[0]).weights.unlink()  # as where it was beaten for a while
    conclude(SweepOutcome(plan=plan, states=states))
    said = " ".join(capsys.readouterr().err.split())
    assert f"of its 1 network 1 is not here: `cifar-hpc reproduce {best.point_id}` brings them back" in said
