"""A signal is answered at once, says what happens and leaves no trial without a word."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
import time

import pytest

from cifar_hpc.executors.base import give_back, stop_signals
from cifar_hpc.executors.ray.session import ray_session
from cifar_hpc.records.claims import claim_trial, read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.records.store import write_record
from tests.helpers.training import digits_config, job_of


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_is_answered_at_once_and_heeded_once_it_has_started(tmp_path, monkeypatch, number):
    """An exception inside Ray's start is swallowed where it meets a fork, whose locks then hang the process: none is raised."""
    import ray

    said, begun = io.StringIO(), []  # pytest's capture loses what is written while it is read

    def start(**_):
        for _ in range(2):
            os.kill(os.getpid(), number)
        until = time.monotonic() + 20
        while not said.getvalue().endswith("\n") and time.monotonic() < until:
            time.sleep(0.02)
        begun.append(said.getvalue())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray wants it for itself

    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: begun.append("shut down"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            stop_signals(Layout(tmp_path), []) as stopped,
            ray_session(tmp_path / "log", stopped),
        ):
            begun.append("trained")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert begun == ["stopping, once Ray has started\n", "shut down"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_is_answered_at_once_and_says_what_happens(tmp_path, monkeypatch, number):
    said = io.StringIO()  # pytest's capture loses what is written while it is read
    monkeypatch.setattr(sys, "stderr", said)
    before = signal.signal(number, signal.SIG_DFL)  # a suite that runs in the background ignores some
    job = job_of(*(digits_config(seed=seed) for seed in range(3)))
    layout = Layout(tmp_path / "results")
    names = [f"{job.sweep}/{job.job_id}"] * 2 + ["other/job-0001"]
    for trial_id, name, waits in zip(job.trial_ids, names, (False, True, False), strict=True):
        claim_trial(layout.trial(trial_id), trial_id, name, waits=waits)
    with stop_signals(layout, [job]) as stopped:
        os.kill(os.getpid(), number)
        assert stopped.wait(10)
        until = time.monotonic() + 20
        while not said.getvalue().endswith("\n") and time.monotonic() < until:
            time.sleep(0.02)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(10)
    signal.signal(number, before)
    assert said.getvalue() == "stopping: 1 trial saves its state; again to stop at once\n"


def test_nohup_holds(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(Layout(tmp_path), []) as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert not stopped.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_trials_of_an_interrupted_job_whose_process_is_gone_are_interrupted_and_not_lost(tmp_path):
    job = job_of(digits_config())
    layout = Layout(tmp_path / "results")
    files, trial_id = layout.trial(job.trial_ids[0]), job.trial_ids[0]
    claim = claim_trial(files, trial_id, f"{job.sweep}/{job.job_id}")
    write_record(files.claim(1), dataclasses.replace(claim, pid=2**22 + 1))
    assert read_state(files, trial_id).status is Status.LOST
    give_back(layout, [dataclasses.replace(job, job_id="job-0777")])
    assert read_state(files, trial_id).status is Status.LOST  # another job's
    give_back(layout, [job])
    state = read_state(files, trial_id)
    assert (state.status, state.reason) == (Status.PLANNED, "interrupted before an epoch had ended")
