"""Halving inside a cohort: one decision whoever takes it, read off the records; who was ended is so for that search alone."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest

from cifar_hpc.collect.predictions import read_predictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.errors import Interrupted, SpecError
from cifar_hpc.executors import open_executor
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.planning.halving import Rungs, rungs_of
from cifar_hpc.planning.plan import Resources, jobs_for, make_plan, recorded_plan
from cifar_hpc.records.claims import claim_trial, read_state, release_claim
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import EnsembleRecord, Outcome, Status
from cifar_hpc.records.store import read_record
from cifar_hpc.records.ties import files_of, sha256_of
from cifar_hpc.spec.load import spec_of
from cifar_hpc.worker import job as runner
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_cli_sweep import call
from tests.test_executors import run_to_end

SPEC = """\
name: x
dataset: {name: digits, train_size: 400, val_frac: 0.2}
base: {arch: simple_cnn, freeze: 2, augment: flip_crop, batch_size: 64, epochs: 5}
grid: {lr: [0.0001, 0.001, 0.01, 0.02, 0.05], momentum: [0.9]}
search: {scheduler: halving}
"""


def test_the_best_share_goes_on_at_each_rung_and_who_is_missing_is_not_judged():
    rungs = Rungs(company=tuple(zip("abcde")), epochs=(1, 2), reduction=2, objective="val_acc", mode="max")
    values = {"a": [0.1, 0.9], "b": [0.5, 0.2], "c": [0.4, 0.6], "d": [0.4, 0.1], "e": []}
    found = rungs.endings(values)
    assert {trial: ending.epoch for trial, ending in found.ended.items()} == {
        "d": 1,
        "a": 1,
        "b": 2,
    } and found.undecided is None
    assert found.ended["b"].reason == "halving: val_acc 0.2 after epoch 2; 1 of 2 in its cohort went on"
    assert "the best" not in found.ended["d"].reason, "c, which is as good, went on"
    awaited = rungs.endings(values, awaited=["e"])
    assert awaited.ended == {} and awaited.undecided == 1
    least = dataclasses.replace(rungs, objective="val_loss", mode="min").endings(values | {"b": [None]})
    assert {trial: ending.epoch for trial, ending in least.ended.items()} == {"b": 1, "d": 1, "a": 2}
    assert rungs_of(1, 3.0, 10) == (1, 3, 9) and rungs_of(2, 1.5, 8) == (2, 3, 4, 7) and rungs_of(4, 2, 4) == ()


def test_folds_of_a_configuration_are_judged_by_their_mean_once_all_have_come():
    company = (("a1", "a2"), ("b1", "b2"), ("c1", "c2"))
    rungs = Rungs(company=company, epochs=(1,), reduction=2, objective="val_acc", mode="max")
    values = {"a1": [0.9], "a2": [0.1], "b1": [0.6], "b2": [0.6], "c1": [0.2], "c2": [0.9]}
    ended = rungs.endings(values).ended
    assert set(ended) == {"a1", "a2"}, "the best fold is of the worst configuration"
    assert ended["a1"].reason == "halving: val_acc 0.5 (mean of 2 folds) after epoch 1; 2 of 3 in its cohort went on"
    assert rungs.endings(values | {"c2": []}, awaited=["c2"]).undecided == 1
    ended = rungs.endings(values | {"b2": [None]}).ended
    assert set(ended) == {"b1", "b2"}, "one that diverged is no good configuration"
    assert "val_acc has no value after epoch 1; 2 of 3" in ended["b1"].reason
    assert Rungs.of(json.loads(json.dumps(dataclasses.asdict(rungs)))) == rungs


def test_folds_go_on_or_end_together_and_the_same_interrupted(tmp_path):
    text = SPEC.replace(", val_frac: 0.2", "").replace("0.0001, 0.001, 0.01, 0.02, 0.05", "0.0001, 0.05, 0.001")
    plan = make_plan(spec_of(text.replace("epochs: 5", "epochs: 2") + "folds: 2\n", tmp_path / "x.yaml"))
    (cohort,), whole = plan.cohorts, Layout(tmp_path / "whole")
    assert [len(trials) for trials in cohort.rungs.company] == [2, 2, 2], "augmented folds, too, are judged together"
    run_job(_job(plan), whole, executor="inline")
    results = _results(plan, whole)
    values = {trial_id: [record.val_acc for record in result.curves] for trial_id, result in results.items()}
    ended = cohort.rungs.endings(values).ended
    assert len(ended) == 4 and {i: len(r.curves) for i, r in results.items()} == {i: 1 if i in ended else 2 for i in results}
    broken, left = Layout(tmp_path / "broken"), itertools.count()
    for stop_at in (9, 30, 10_000):
        with contextlib.suppress(Interrupted):
            run_job(_job(plan), broken, executor="inline", interrupted=lambda: next(left) == stop_at)  # noqa: B023
    assert {i: numbers(r) for i, r in _results(plan, broken).items()} == {i: numbers(r) for i, r in results.items()}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The plan and, of its cohort trained in one piece, the results."""
    plan = make_plan(spec_of(SPEC, tmp_path_factory.mktemp("spec") / "x.yaml"))
    layout = Layout(tmp_path_factory.mktemp("whole"))
    run_job(_job(plan), layout, executor="inline")
    return plan, layout, _results(plan, layout)


def _job(plan):
    (job,) = jobs_for(plan, [trial.trial_id for trial in plan.trials], 1)
    return job


def _results(plan, layout):
    return {t.trial_id: read_state(layout.trial(t.trial_id), t.trial_id).result for t in plan.trials}


def test_decisions_can_be_read_off_the_records(judged):
    plan, _, results = judged
    (cohort,) = plan.cohorts
    assert cohort.rungs.epochs == (1, 3) and len(cohort.rungs.company) == 5
    assert sorted(len(result.curves) for result in results.values()) == [1, 1, 1, 3, 5]
    values = {trial_id: [record.val_acc for record in result.curves] for trial_id, result in results.items()}
    told = cohort.rungs.endings(values)
    for trial_id, result in results.items():
        ended = told.ended.get(trial_id)
        assert (result.outcome is Outcome.PRUNED) == (ended is not None)
        if ended is not None:
            assert (len(result.curves), result.reason) == (ended.epoch, ended.reason)
    best = max(values, key=lambda trial_id: values[trial_id][0])
    assert len(values[best]) >= 3


def test_interrupted_anywhere_or_in_parts_for_want_of_memory_the_same_trials_end_with_the_same_bits(
    judged, tmp_path, monkeypatch
):
    plan, _, results = judged
    for name in ("interrupted", "parts"):
        layout, job = Layout(tmp_path / name), _job(plan)
        for stop_at in itertools.count(2, 8) if name == "interrupted" else (0,):
            left = itertools.count()
            if name == "parts":
                whole = runner._Cohort._parts
                monkeypatch.setattr(runner._Cohort, "_parts", lambda self, r: [[a] for p in whole(self, r) for a in p])  # noqa: B023
            try:
                run_job(job, layout, executor="inline", interrupted=lambda: 0 < stop_at <= next(left))  # noqa: B023
                break
            except Interrupted:
                continue
        again = _results(plan, layout)
        assert {i: numbers(result) for i, result in again.items()} == {i: numbers(result) for i, result in results.items()}


def test_several_processes_end_the_same_trials_at_the_same_rungs(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan, _, results = judged
    layout = Layout(tmp_path)
    run_job(dataclasses.replace(_job(plan), resources=Resources(processes=2)), layout, executor="inline")
    again = _results(plan, layout)
    told = {trial_id: (result.outcome, len(result.curves)) for trial_id, result in again.items()}
    values = {trial_id: [record.val_acc for record in result.curves] for trial_id, result in again.items()}
    ended = plan.cohorts[0].rungs.endings(values).ended
    assert told == {i: (Outcome.PRUNED, ended[i].epoch) if i in ended else (Outcome.FINISHED, 5) for i in results}


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_job_of_ray_or_slurm_ends_the_same_trials_with_the_same_numbers(judged, tmp_path, request, monkeypatch, name):
    plan, _, results = judged
    layout = Layout(tmp_path / "results")
    layout.sweep("x").folder.mkdir(parents=True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if name == "slurm":
        monkeypatch.setitem(request.getfixturevalue("cluster").environment, "OMP_NUM_THREADS", "1")
        executor = SlurmExecutor(SlurmProfile(minutes=1, parallel=1), layout, canary=False)
    else:
        executor = open_executor(name, layout)
    run_to_end(executor, [_job(plan)], layout)
    assert {i: numbers(r) for i, r in _results(plan, layout).items()} == {i: numbers(r) for i, r in results.items()}


def test_a_job_that_starts_again_leaves_what_it_ended_and_another_sweep_trains_it_whole(judged, tmp_path):
    plan, layout, results = judged
    before = {i: layout.trial(i).result.stat().st_mtime_ns for i in results}
    run_job(_job(plan), layout, executor="inline")
    assert {i: layout.trial(i).result.stat().st_mtime_ns for i in results} == before


def test_a_sweep_says_which_trials_halving_cannot_judge_before_they_train(tmp_path):
    path = tmp_path / "x.yaml"
    text = SPEC.replace("epochs: 5", "epochs: 1").replace("train_size: 400", "train_size: 50")
    path.write_text(
        text.replace("simple_cnn, freeze: 2", "linear").replace("[0.0001, 0.001, 0.01, 0.02, 0.05]", "[0.01, 0.05]")
    )
    told = "2 trials, too short or alone in a cohort, have all epochs"
    assert f"halving   {told}" in call("sweep", path, "--dry-run").stdout
    both = call("sweep", path, "--dry-run", "--set", "grid.epochs=[1, 3]").stdout
    assert f"halving   the best 1/3 of each cohort, rounded up, go on after epoch 1; {told}" in both
    assert f"halving: {told}" in call("sweep", path, "--on", "inline").stderr


def test_a_sweep_with_it_ends_is_shown_and_judged_once(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        SPEC.replace("epochs: 5", "epochs: 2")
        .replace("freeze: 2", "freeze: all")
        .replace("[0.0001, 0.001, 0.01, 0.02, 0.05]", "[0.001, 0.01, 0.05]")
    )
    looked = call("sweep", path, "--dry-run")
    assert "halving   the best 1/3 of each cohort, rounded up, go on after epoch 1" in looked.stdout, looked.stdout
    made = call("sweep", path, "--on", "inline")
    assert made.exit_code == 0, made.output
    layout = Layout(results_root())
    plan = read_plan(layout, "x")
    states = [read_state(layout.trial(t.trial_id), t.trial_id) for t in plan.trials]
    assert sorted(state.status for state in states) == [Status.COMPLETED, Status.STOPPED, Status.STOPPED]
    assert all(plan.ends(state.result) for state in states)
    assert recorded_plan(plan).cohorts[0].rungs == make_plan(spec_of(path.read_text(), path)).cohorts[0].rungs
    again = call("sweep", path, "--on", "inline")
    assert again.exit_code == 0 and [s.result.finished_at for s in states] == [
        read_state(layout.trial(t.trial_id), t.trial_id).result.finished_at for t in plan.trials
    ]
    path.write_text(path.read_text().replace("{scheduler: halving}", "{scheduler: {name: halving, reduction: 2}}"))
    assert "2 trials in 1 job," in call("sweep", path, "--dry-run").stdout  # other rules: what the former ended begins again


def test_what_a_search_stopped_stays_measured_for_its_sweep_when_another_trains_it_again(tmp_path):
    """Two searches over the same trials undid one another: each took the numbers of what the other had stopped."""
    text = SPEC.replace("epochs: 5", "epochs: 3").replace("freeze: 2", "freeze: all")
    strict, lenient, whole = (tmp_path / f"{name}.yaml" for name in ("strict", "lenient", "whole"))
    strict.write_text(text.replace("name: x", "name: strict"))
    lenient.write_text(text.replace("name: x", "name: lenient").replace("halving}", "{name: halving, reduction: 2}}"))
    whole.write_text(text.replace("name: x", "name: whole").replace("search: {scheduler: halving}\n", ""))
    layout = Layout(results_root())
    assert call("sweep", strict, "--on", "inline").exit_code == 0
    alone = scan(layout, ["strict"])
    stopped = [trial for trial in alone.trials if trial.outcome is Outcome.PRUNED]
    assert len(alone.trials) == 5 and len(stopped) >= 3
    assert call("sweep", lenient, "--on", "inline").exit_code == 0
    beside = scan(layout, ["strict"])
    assert beside.trials == alone.trials and not beside.unfinished
    assert all(np.array_equal(beside.curves.values[name], values) for name, values in alone.curves.values.items())
    assert {t.trial_id: t.epochs for t in scan(layout, ["lenient"]).trials} != {t.trial_id: t.epochs for t in alone.trials}
    for trial in beside.trials:
        assert read_predictions(files_of(layout, trial), "val", trial.told("val"), trial.classes) is not None
    for path in (strict, lenient):
        assert "nothing to start" in call("sweep", path, "--on", "inline").output
        assert "Left out:" not in call("report", path.stem).output
    claims = {trial.trial_id: claim_trial(layout.trial(trial.trial_id), trial.trial_id, "whole/job-0001") for trial in stopped}
    assert all(claims.values()) and scan(layout, ["strict"]).trials == alone.trials, "nor while another trains it"
    assert call("report", "strict").exit_code == 0
    ensembles = [read_record(path, EnsembleRecord) for path in layout.sweep("strict").report.glob("ensembles/*.json")]
    members = [member for record in ensembles for member in record.members if member.trial_id in claims]
    assert members
    for member in members:
        aside = layout.trial(member.trial_id).until_stopped("strict")
        assert member.predictions_sha256 == sha256_of(aside.predictions)
    for trial_id, claim in claims.items():
        release_claim(layout.trial(trial_id), claim)
    assert call("sweep", whole, "--on", "inline").exit_code == 0
    assert {trial.epochs for trial in scan(layout, ["strict"]).trials} == {3}, "one that was trained on to its end counts"


def test_a_search_that_asks_anew_for_what_it_had_stopped_takes_no_older_result_for_its_own(tmp_path):
    for sweep, epochs in (("one", 1), ("two", 2), ("one", 3)):
        job = dataclasses.replace(job_of(digits_config(epochs=4)), sweep=sweep)
        run_job(job, Layout(tmp_path), executor="inline", on_epoch=lambda _, record: record.epoch < epochs)  # noqa: B023
        files = Layout(tmp_path).trial(job.trial_ids[0])
        result = read_state(files, job.trial_ids[0]).result
        assert (len(result.curves), files_of(Layout(tmp_path), result)) == (epochs, files)
    assert [path.name for path in sorted(files.folder.glob("*until*"))] == [
        "predictions-until-stopped-two.npz",
        "result-until-stopped-two.json",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("search: {scheduler: halving, num_points: 3}", "num_points beside scheduler halving"),
        ("search: {scheduler: {name: halving, brackets: 2}}", "scheduler.brackets beside scheduler halving"),
        ("search: {scheduler: asha}", "no num_points"),
        ("search: {scheduler: halfing}", "Did you mean 'halving'?"),
    ],
)
def test_what_halving_does_not_have_is_refused(tmp_path, line, words):
    with pytest.raises(SpecError) as error:
        spec_of(SPEC.replace("search: {scheduler: halving}", line), tmp_path / "x.yaml")
    assert words in str(error.value), str(error.value)
