"""Two sweeps at once over the same trials: each trial trains once, and a sweep takes over what a dead one leaves."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cifar_hpc.planning.plan import make_plan
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.jobs import JobEvent, reserve_numbers
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.records.store import read_records
from cifar_hpc.spec.load import load_spec
from tests.test_train_loop import result_of

SPEC = """
name: {name}
dataset: {{name: digits, train_size: 600}}
base: {{arch: simple_cnn, epochs: {epochs}, batch_size: 32}}
grid: {{lr: {lrs}}}
"""


@pytest.fixture
def layout(tmp_path, monkeypatch) -> Layout:
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))
    return Layout(tmp_path / "results")


def start(path, on="inline") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cifar_hpc", "sweep", str(path), "--on", on]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def write_spec(folder, name, lrs, epochs):
    path = folder / f"{name}.yaml"
    path.write_text(SPEC.format(name=name, lrs=lrs, epochs=epochs))
    return path


def test_two_sweeps_that_overlap_train_each_trial_once_and_both_end_well(tmp_path, layout):
    paths = [write_spec(tmp_path, "one", [0.01, 0.02, 0.03], 6), write_spec(tmp_path, "two", [0.02, 0.03, 0.04], 6)]
    sweeps = [start(path) for path in paths]
    errors = [sweep.communicate(timeout=240)[1] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], errors
    trials = {trial.trial_id: trial for path in paths for trial in make_plan(load_spec(path)).trials}
    assert len(trials) == 4
    assert all(result_of(layout, trial).attempts == 1 for trial in trials.values())


@pytest.mark.parametrize("on", ["inline", "ray"])  # on Ray seconds pass between a job's number and its start
def test_two_sweeps_of_one_spec_take_no_trial_from_each_other_and_share_no_job(tmp_path, layout, on):
    path = write_spec(tmp_path, "one", [0.01, 0.02, 0.03], 6)
    sweeps = [start(path, on), start(path, on)]
    errors = [sweep.communicate(timeout=240)[1] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], errors
    assert [result_of(layout, trial).attempts for trial in make_plan(load_spec(path)).trials] == [1, 1, 1]
    submitted = [event for event in read_records(layout.sweep("one").jobs, JobEvent) if event.event == "submitted"]
    assert len({event.job_id for event in submitted}) == len(submitted)


def test_commands_that_number_their_jobs_at_once_get_numbers_of_their_own(layout):
    sweep = layout.sweep("one")
    with ThreadPoolExecutor(8) as pool:
        firsts = sorted(pool.map(lambda _: reserve_numbers(sweep, 3), range(24)))
    assert all(after - before >= 3 for before, after in itertools.pairwise(firsts))


def test_a_sweep_takes_over_the_trial_of_another_that_is_killed(tmp_path, layout):
    paths = [write_spec(tmp_path, "one", [0.01], 40), write_spec(tmp_path, "two", [0.01], 40)]
    (trial,) = make_plan(load_spec(paths[0])).trials
    files = layout.trial(trial.trial_id)
    first = start(paths[0])
    _wait_until(lambda: read_state(files, trial.trial_id).status is Status.RUNNING)
    second = start(paths[1])
    _wait_until(lambda: layout.sweep("two").plan.exists() and read_state(files, trial.trial_id).epochs_done >= 3)
    os.kill(first.pid, signal.SIGKILL)
    _, error = second.communicate(timeout=240)
    first.wait()
    assert second.returncode == 0, error
    assert result_of(layout, trial).attempts == 2


def _wait_until(holds, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
