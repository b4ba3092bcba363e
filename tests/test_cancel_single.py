"""Single trials of a sweep that goes on under a process of this machine are cancelled: its worker leaves them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import Interrupted
from cifar_hpc.executors.inline import InlineExecutor
from cifar_hpc.executors.ray.worker import Orders, _Work
from cifar_hpc.planning.plan import Cohort, Job, Resources, make_plan, plan_record
from cifar_hpc.records.claims import claim_trial, release_claim
from cifar_hpc.records.jobs import JobEvent, Withdrawn, open_jobs, own_handle
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.records.store import append_records, utc_now
from cifar_hpc.spec.load import spec_of
from cifar_hpc.sweep import rounds
from cifar_hpc.sweep.cancel import cancel_chosen, cancel_trials
from cifar_hpc.sweep.driver import run_plan
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.where import On, Where, reader_of
from tests.helpers.training import digits_config

SPEC = "name: s\ndataset: {name: digits, train_size: 200}\nbase: {arch: linear, epochs: 1}\ngrid: {lr: [0.1, 0.2, 0.3]}\n"


@pytest.fixture(autouse=True)
def _asks_at_once(monkeypatch):
    monkeypatch.setattr(Withdrawn, "POLL_S", 0.0)


def _until(interrupted) -> None:
    for _ in range(1000):
        if interrupted():
            raise Interrupted
    raise AssertionError("nobody said that it is cancelled")


def _submit(layout: Layout, *jobs: tuple[TrialConfig, ...]) -> None:
    """Jobs of the sweep s that this process runs."""
    for number, trials in enumerate(jobs, 1):
        ids = tuple(trial.trial_id for trial in trials)
        event = JobEvent(
            at=utc_now(), event="submitted", job_id=f"job-000{number}", executor="inline", handle=own_handle(), trial_ids=ids
        )
        append_records(layout.sweep("s").jobs, [event])


def test_cancel_with_a_filter_ends_that_trial_alone_and_the_sweep_does_not_begin_it_again(tmp_path, monkeypatch):
    layout = Layout(tmp_path / "results")
    plan = make_plan(spec_of(SPEC, tmp_path / "s.yaml"), share=False)
    ran: list[float] = []

    def run(job, layout, *, interrupted, **_):
        (config,) = job.cohorts[0].trials
        ran.append(config.lr)
        if config.lr == ran[0]:
            done = cancel_chosen(layout, "s", [f"lr={ran[0]}"])
            assert len(done.stopped) == 1 and not done.shared and len(open_jobs(layout.sweep("s"))) == 2
            _until(interrupted)

    monkeypatch.setattr(rounds, "open_executor", lambda name, layout: InlineExecutor(run))
    monkeypatch.setattr(rounds, "MOST_STARTS", 1)
    outcome = run_plan(layout, plan, plan_record(plan), Where(On.INLINE), Silent())
    states = {trial.lr: outcome.states[trial.trial_id] for trial in plan.trials}
    assert states[ran[0]].status is Status.CANCELLED and not outcome.interrupted
    assert sorted(ran) == [0.1, 0.2, 0.3], "each began once"
    assert not list(layout.pool.glob("*/error.json"))


def test_a_sweep_that_waits_for_another_process_does_not_begin_what_is_cancelled_there(tmp_path):
    layout = Layout(tmp_path / "results")
    plan = make_plan(spec_of(SPEC, tmp_path / "s.yaml"), share=False)
    claims = [claim_trial(layout.trial(trial.trial_id), trial.trial_id, "s/job-0001") for trial in plan.trials[:2]]
    waits = rounds.GridRounds(layout, plan, reader_of(layout, plan_record(plan)), Where(On.INLINE))
    assert waits.ready(waits.prepare(Silent())) == {plan.trials[2].trial_id}
    for trial, claim in zip(plan.trials, claims, strict=False):
        release_claim(layout.trial(trial.trial_id), claim)
    ended = {"job_id": "job-0001", "executor": "ray", "handle": "h", "trial_ids": (plan.trials[0].trial_id,)}
    append_records(layout.sweep("s").jobs, [JobEvent(at=utc_now(), event="cancelled", **ended)])
    assert waits.ready(waits.settle()) == {trial.trial_id for trial in plan.trials[1:]}


def test_a_job_that_was_cancelled_before_a_ray_worker_began_it_is_not_begun(tmp_path):
    layout = Layout(tmp_path / "results")
    layout.root.mkdir()
    job = Job(sweep="s", job_id="job-0001", cohorts=(Cohort(trials=(digits_config(),)),), resources=Resources())
    begun: list[str] = []

    def run(job, layout, *, interrupted, **_):
        begun.append(job.job_id)
        append_records(layout.sweep("s").jobs, [replace(job.event("cancelled", "ray", "h"), at=utc_now())])
        _until(interrupted)

    for _ in range(2):
        assert _Work(job, layout, run, Orders(tmp_path), judged=False).next_epoch() is None, "an end in order"
    assert begun == ["job-0001"]


def test_what_the_spec_dropped_ends_by_itself_where_a_trial_that_has_ended_shares_its_job(tmp_path):
    layout = Layout(tmp_path / "results")
    ended, dropped, other = trials = list(configs(3, seeds=1, epochs=1))
    write_trial(layout, ended, Images.draw(20, 20), sweep="s")
    write_plan(layout, trials, "s")
    _submit(layout, (ended, dropped), (other,))
    done = cancel_trials(layout, "s", [dropped.trial_id])
    assert (done.trials, done.shared, done.notes) == ((dropped.trial_id,), (), ())


def test_a_trial_that_another_sweeps_job_trains_is_not_told_as_asked_to_stop(tmp_path):
    layout = Layout(tmp_path / "results")
    elsewhere, own, kept = trials = list(configs(3, seeds=1, epochs=1))
    write_plan(layout, trials, "s")
    claim_trial(layout.trial(elsewhere.trial_id), elsewhere.trial_id, "other/job-0001")
    _submit(layout, (elsewhere, own), (kept,))
    done = cancel_trials(layout, "s", [elsewhere.trial_id, own.trial_id])
    assert (done.trials, done.notes) == ((own.trial_id,), ("1 trial goes on: jobs of other train it",))
