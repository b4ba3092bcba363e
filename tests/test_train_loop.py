"""The loop's promises: the same numbers alone, together, interrupted, killed; every end is a record."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.schedule import LrSchedule
from cifar_hpc.errors import Interrupted
from cifar_hpc.records import claims
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Outcome, Status, TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.train.features import Feed
from cifar_hpc.train.progress import Progress
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers


def result_of(layout, config) -> TrialResult:
    return read_record(layout.trial(config.trial_id).result, TrialResult)


def run_alone(tmp_path, config) -> TrialResult:
    layout = Layout(tmp_path / f"alone-{config.trial_id}")
    run_job(job_of(config), layout, executor="inline")
    return result_of(layout, config)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "results")


def test_a_finished_trial_is_three_files_and_learned_something(layout):
    config = digits_config(epochs=8)
    run_job(job_of(config), layout, executor="inline")
    folder = layout.trial(config.trial_id).folder
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.npz", "result.json", "trial.json"]
    result = result_of(layout, config)
    assert result.outcome is Outcome.FINISHED and len(result.curves) == 8
    assert result.val.acc > 0.8 and result.test.acc > 0.8
    saved = np.load(folder / "predictions.npz")
    assert (saved["test_logits"].argmax(1) == saved["test_labels"]).mean() == pytest.approx(result.test.acc, abs=0.005)
    assert (saved["val_logits"].argmax(1) == saved["val_labels"]).mean() == pytest.approx(result.val.acc, abs=0.01)


def test_a_trial_interrupted_at_any_step_goes_on_to_the_same_bits(layout, tmp_path):
    config = digits_config(epochs=3, augment="flip_crop", dropout=0.3, ema=0.9, optimizer="adamw")
    undisturbed = numbers(run_alone(tmp_path, config))
    rng = random.Random(0)
    attempt = 0
    while attempt < 100:
        attempt += 1
        left = itertools.count()
        stop_at = rng.randrange(1, 9)
        try:
            run_job(job_of(config), layout, executor="inline", interrupted=lambda: next(left) >= stop_at)  # noqa: B023
            break
        except Interrupted:
            assert claims.read_state(layout.trial(config.trial_id), config.trial_id).status is Status.PLANNED
    assert attempt > 2
    result = result_of(layout, config)
    assert numbers(result) == undisturbed
    assert result.attempts == attempt


def test_an_interruption_is_heard_in_validation_and_test_and_loses_no_step(layout, tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_hpc.train.evaluation.EVAL_BATCH_SIZE", 20)
    config = digits_config(epochs=2)
    undisturbed = numbers(run_alone(tmp_path, config))
    within = []
    eval_batch = Feed.eval_batch

    def spied(feed, start, stop, depths):
        within.append((len(feed), start))
        return eval_batch(feed, start, stop, depths)

    monkeypatch.setattr(Feed, "eval_batch", spied)
    stops = {(80, 20), (359, 40)}  # within the validation and the test split

    def interrupted():
        return bool(within) and within[-1] in stops

    for stop in sorted(stops):
        with pytest.raises(Interrupted):
            run_job(job_of(config), layout, executor="inline", interrupted=interrupted)
        assert within[-1] == stop
        stops.remove(stop)
        within.clear()
    run_job(job_of(config), layout, executor="inline", interrupted=interrupted)
    assert numbers(result_of(layout, config)) == undisturbed


def test_a_trial_killed_at_any_moment_goes_on_to_the_same_bits(layout, tmp_path):
    config = digits_config(epochs=30, augment="flip_crop")
    undisturbed = numbers(run_alone(tmp_path, config))
    script = (
        "import sys, pathlib\n"
        "from tests.helpers.training import digits_config, job_of\n"
        "from cifar_hpc.records.layout import Layout\n"
        "from cifar_hpc.worker.job import run_job\n"
        "run_job(job_of(digits_config(epochs=30, augment='flip_crop')), Layout(pathlib.Path(sys.argv[1])), executor='inline')\n"
    )
    files = layout.trial(config.trial_id)
    kills = 0
    while not files.result.exists():
        epochs_before = claims.read_state(files, config.trial_id).epochs_done
        child = subprocess.Popen([sys.executable, "-c", script, str(layout.root)], env={**os.environ, "OMP_NUM_THREADS": "1"})
        while child.poll() is None:
            state = claims.read_state(files, config.trial_id)
            if kills < 1 and state.epochs_done >= epochs_before + 2:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
            time.sleep(0.05)
        if not files.result.exists():
            assert claims.read_state(files, config.trial_id).status is Status.LOST
    assert kills == 1
    assert numbers(result_of(layout, config)) == undisturbed


def test_members_of_a_cohort_have_the_bits_of_trials_alone(layout, tmp_path):
    members = [
        digits_config(freeze="none", lr=0.05),
        digits_config(freeze=1, lr=0.01, dropout=0.2),
        digits_config(freeze="all", optimizer="adam", lr=0.003, epochs=4),
        digits_config(freeze="none", epochs=3, weight_decay=0.01, schedule="onecycle"),
        digits_config(freeze=1, unfreeze_epoch=1, epochs=3, layer_decay=0.5),
    ]
    run_job(job_of(*members, together=True), layout, executor="inline")
    for config in members:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config)), config
        assert result_of(layout, config).trunk_shared_by == 5


def test_what_a_cohort_does_once_for_n_saves_each_n_minus_1_nth_of_it(monkeypatch):
    from cifar_hpc.train import clock as clock_module

    members = [SimpleNamespace(progress=Progress(epoch_s=0.0)) for _ in range(4)]
    ticks = itertools.count(step=8.0)
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(ticks))
    clock = clock_module.Clock(torch.device("cpu"))  # 0 s
    with clock.span(clock_module.Shares.common_to(members)):  # 8 to 16 s
        pass
    with clock.span(clock_module.Shares.spent_by(members[:1])):  # 24 to 32 s
        pass
    clock.settle(members)  # 40 s: 24 s lay between
    assert [(m.progress.saved_s, m.progress.epoch_s) for m in members] == [(6.0, 16.0)] + [(6.0, 8.0)] * 3


def test_results_say_what_cohorts_saved_where_it_was_measured(layout, tmp_path):
    members = [digits_config(freeze=1), digits_config(freeze=1, lr=0.01), digits_config(classifier="svm")]
    run_job(job_of(*members, together=True), layout, executor="inline")
    saved = [result_of(layout, config).saved_s for config in members]
    assert saved[0] == saved[1] and saved[0] > 0 and saved[2] > 0  # of the features that it did not compute alone
    alone = run_alone(tmp_path, members[0])
    assert (alone.saved_s, alone.lost_s) == (0.0, 0.0)


MEMBERS = st.builds(
    digits_config,
    freeze=st.sampled_from(["none", 1, 2, "all"]),
    unfreeze_epoch=st.sampled_from([None, 1]),
    layer_decay=st.sampled_from([None, 0.5]),
    optimizer=st.sampled_from(["sgd", "adam", "adamw"]),
    lr=st.sampled_from([0.003, 0.01, 0.05]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    schedule=st.sampled_from(["constant", "cosine", "onecycle"]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    dropout=st.sampled_from([None, 0.3]),
    ema=st.sampled_from([None, 0.9]),
    grad_clip=st.sampled_from([None, 1.0]),
    epochs=st.integers(1, 3),
)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    members=st.lists(MEMBERS, min_size=2, max_size=5, unique_by=lambda c: c.trial_id),
    augment=st.sampled_from(["none", "flip_crop"]),
)
def test_cohorts_drawn_at_random_have_the_bits_of_trials_alone(tmp_path_factory, members, augment):
    folder = tmp_path_factory.mktemp("drawn")
    members = [normalise(dataclasses.replace(member, augment=augment)) for member in members]
    members = list({member.trial_id: member for member in members}.values())
    run_job(job_of(*members, together=True), Layout(folder), executor="inline")
    for config in members:
        assert numbers(result_of(Layout(folder), config)) == numbers(run_alone(folder, config)), config


def test_taps_that_are_kept_change_no_bit(layout, tmp_path, monkeypatch):
    members = [digits_config(freeze=1, lr=0.05), digits_config(freeze="all"), digits_config(freeze=2, epochs=3)]
    run_job(job_of(*members, together=True), layout, executor="inline")
    kept_bytes = []

    def keep_nothing(feed, depths):
        feed._keep = False
        kept_bytes.append(feed.kept_bytes)

    monkeypatch.setattr(Feed, "_fill_as_needed", keep_nothing)
    for config in members:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config))
    assert kept_bytes and not any(kept_bytes)


def test_a_member_that_fails_leaves_its_traceback_and_the_others_go_on(layout, monkeypatch):
    from cifar_hpc.train.member import Member

    good, bad = digits_config(lr=0.02), digits_config(lr=0.03)
    step = Member.train_step

    def failing(member, tap, target):
        if member.config == bad and member.progress.epoch == 2:
            raise ZeroDivisionError("on purpose")
        step(member, tap, target)

    monkeypatch.setattr(Member, "train_step", failing)
    run_job(job_of(good, bad, together=True), layout, executor="inline")
    assert result_of(layout, good).outcome is Outcome.FINISHED
    state = claims.read_state(layout.trial(bad.trial_id), bad.trial_id)
    assert state.status is Status.FAILED and state.reason == "ZeroDivisionError: on purpose"
    assert "in failing" in state.error.traceback


def test_a_failed_trial_run_again_goes_on_as_the_next_attempt(layout, monkeypatch, tmp_path):
    from cifar_hpc.train.member import Member

    config = digits_config()
    with monkeypatch.context() as patched:
        patched.setattr(Member, "end_epoch", lambda *_: 1 / 0)
        run_job(job_of(config), layout, executor="inline")
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    assert result.attempts == 2 and not layout.trial(config.trial_id).error.exists()
    assert numbers(result) == numbers(run_alone(tmp_path, config))


def test_a_loss_that_is_not_finite_ends_the_trial_as_a_result_that_says_so(layout):
    config = digits_config(lr=1e30, arch="linear")
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    assert result.outcome is Outcome.DIVERGED
    assert "loss not finite in epoch" in result.reason
    assert result.test is None if result.best_epoch is None else result.test is not None


def test_patience_ends_a_trial_and_the_best_epoch_is_the_one_tested(layout):
    config = digits_config(epochs=40, patience=2, lr=0.2)
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    assert result.outcome is Outcome.EARLY_STOPPED
    assert len(result.curves) == max(c.epoch for c in result.curves) < 40
    assert result.val.acc == max(c.val_acc for c in result.curves)


def test_a_scheduler_that_says_no_prunes_the_trial(layout):
    config = digits_config(epochs=5)
    run_job(job_of(config), layout, executor="ray", on_epoch=lambda trial_id, record: record.epoch < 2)
    state = claims.read_state(layout.trial(config.trial_id), config.trial_id)
    assert state.status is Status.STOPPED and state.epochs_done == 2


def test_a_trial_that_a_living_process_has_is_left_alone(layout):
    config = digits_config()
    files = layout.trial(config.trial_id)
    claim = claims.claim_trial(files, config.trial_id, "other/job-0001")
    run_job(job_of(config), layout, executor="inline")
    assert not files.result.exists()
    claims.release_claim(files, claim)
    run_job(job_of(config), layout, executor="inline")
    assert result_of(layout, config).attempts == 2


def test_an_attempt_that_lost_its_claim_writes_nothing_more(layout):
    config = digits_config(epochs=3)
    files = layout.trial(config.trial_id)
    usurper = {}

    def take_over(trial_id, record):
        if record.epoch == 2:
            mine = files.claims()[-1]
            stolen = json.loads(mine.read_text()) | {"attempt": 2, "host": "elsewhere"}
            usurper["path"] = files.claim(2)
            usurper["path"].write_text(json.dumps(stolen))
        return True

    run_job(job_of(config), layout, executor="inline", on_epoch=take_over)
    assert not files.result.exists() and not files.error.exists()
    assert files.claims()[-1] == usurper["path"]
    assert claims.read_state(files, config.trial_id).status is Status.RUNNING


def test_where_a_trial_cannot_be_claimed_those_claimed_before_it_are_given_back(layout, monkeypatch):
    one, other = digits_config(freeze=1, lr=0.01), digits_config(freeze=1, lr=0.02)
    claim_trial = claims.claim_trial

    def full(files, trial_id, *rest, **more):
        if trial_id == other.trial_id:
            raise OSError(28, "No space left on device")
        return claim_trial(files, trial_id, *rest, **more)

    monkeypatch.setattr(claims, "claim_trial", full)
    with pytest.raises(OSError, match="No space left"):
        run_job(job_of(one, other, together=True), layout, executor="inline")
    states = [claims.read_state(layout.trial(c.trial_id), c.trial_id).status for c in (one, other)]
    assert states == [Status.PLANNED] * 2  # not RUNNING for as long as this process lives


def test_a_result_that_bears_another_id_is_no_result(layout):
    config = digits_config()
    run_job(job_of(config), layout, executor="inline")
    files = layout.trial(config.trial_id)
    write_record(files.result, dataclasses.replace(read_record(files.result, TrialResult), trial_id="x" * 12))
    state = claims.read_state(files, config.trial_id)
    assert state.status is Status.FAILED and "bears the id" in state.reason


@pytest.mark.parametrize("schedule", ["cosine", "linear", "onecycle", "constant", "step"])
def test_the_learning_rate_rises_once_at_most_and_never_passes_lr(schedule):
    config = digits_config(schedule=schedule, epochs=10, warmup_epochs=2.0 if schedule != "onecycle" else 0.0)
    factors = [LrSchedule(config, 7, 1.0).rate(step, 0) for step in range(70)]
    assert max(factors) <= 1.0 and min(factors) >= 0.0
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_that_torch_has_is_torchs(schedule):
    config = digits_config(schedule=schedule, epochs=4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if schedule == "cosine":
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    else:
        reference = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=40)
    for step in range(40):
        assert LrSchedule(config, 10, 1.0).rate(step, 0) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()
