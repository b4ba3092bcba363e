"""What an array task does with its jobs and with signals, in this process with a scripted runner and scontrol."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cifar_hpc.errors import Interrupted
from cifar_hpc.executors.slurm.node import INTERRUPTED, Element, run_canary, run_element
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EpochRecord, Status
from tests.helpers.training import digits_config

EPOCH = EpochRecord(epoch=1, lr=0.1, train_loss=1.0, train_acc=0.1, val_loss=1.0, val_acc=0.1, train_s=1.0, val_s=0.1)


def _element(root: Path, n: int = 1, **changes) -> Element:
    jobs = tuple(
        Job(sweep="s", job_id=f"job-{i:04d}", cohorts=(Cohort(trials=(digits_config(seed=i),)),), resources=Resources())
        for i in range(n)
    )
    return Element(index=0, root=root, jobs=jobs, **changes)


@pytest.fixture
def slurm_job(tmp_path, monkeypatch):
    """The environment of an array task, and a scontrol that writes down what it was asked."""
    said = tmp_path / "said"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text(f'#!/bin/sh\necho "$*" >> {said}\n')
    (tmp_path / "bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    for key, value in {"ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "5", "JOB_ID": "82", "RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    return lambda: said.read_text().splitlines() if said.exists() else []


def _runner(*signals: int, epochs: int = 0):
    """Trains `epochs`, gets the signals, and stops as the runner does."""

    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        for _ in range(epochs):
            on_epoch(job.trial_ids[0], EPOCH)
        for number in signals:
            os.kill(os.getpid(), number)
        if interrupted():
            raise RuntimeError("saved and stopped")
        (layout.root / job.job_id).touch()

    return run


def _exit_status(element: Element, run) -> int:
    element.root.mkdir(parents=True, exist_ok=True)
    with pytest.raises(SystemExit) as ended:
        run_element(element, run)
    return ended.value.code


def test_the_signal_before_the_limit_requeues_this_element_not_its_array(slurm_job, tmp_path):
    assert _exit_status(_element(tmp_path / "r"), _runner(signal.SIGUSR2, epochs=1)) == INTERRUPTED
    assert slurm_job() == ["requeue 77_5"]


def test_a_job_outside_an_array_requeues_its_own_id(slurm_job, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert _exit_status(_element(tmp_path / "r"), _runner(signal.SIGUSR2, epochs=1)) == INTERRUPTED
    assert slurm_job() == ["requeue 82"]


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGUSR2, signal.SIGTERM)])
def test_after_sigterm_slurm_decides_whether_the_job_starts_again(slurm_job, tmp_path, signals):
    assert _exit_status(_element(tmp_path / "r"), _runner(*signals, epochs=1)) == INTERRUPTED
    assert slurm_job() == []


def test_where_requeue_is_not_allowed_the_next_sweep_goes_on(slurm_job, tmp_path, capsys):
    assert _exit_status(_element(tmp_path / "r", requeue=False), _runner(signal.SIGUSR2, epochs=1)) == INTERRUPTED
    assert slurm_job() == [] and "the next `cifar-hpc sweep` goes on" in capsys.readouterr().out


@pytest.mark.parametrize(("restarts", "epochs", "again"), [("1", 0, True), ("2", 0, False), ("9", 1, True)])
def test_starts_without_a_single_epoch_end_after_three_and_progress_never_does(
    slurm_job, tmp_path, monkeypatch, restarts, epochs, again
):
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    _exit_status(_element(tmp_path / "r"), _runner(signal.SIGUSR2, epochs=epochs))
    assert bool(slurm_job()) is again


def test_a_job_whose_runner_raises_is_recorded_and_the_next_one_runs(slurm_job, tmp_path):
    def run(job, layout, **_):
        if job.job_id == "job-0000":
            raise ValueError("no such file")
        (layout.root / job.job_id).touch()

    element = _element(tmp_path / "r", n=2)
    assert _exit_status(element, run) == 0
    assert (tmp_path / "r/job-0001").exists()
    first = element.jobs[0].trial_ids[0]
    assert read_state(Layout(tmp_path / "r").trial(first), first).reason == "ValueError: no such file"


def test_a_process_that_dies_beside_others_is_recorded_and_the_others_end(slurm_job, tmp_path):
    def run(job, layout, **_):
        if job.job_id == "job-0000":
            os.kill(os.getpid(), signal.SIGKILL)
        (layout.root / job.job_id).touch()

    element = _element(tmp_path / "r", n=3, at_once=3)
    assert _exit_status(element, run) == 0
    assert (tmp_path / "r/job-0001").exists() and (tmp_path / "r/job-0002").exists()
    first = element.jobs[0].trial_ids[0]
    assert read_state(Layout(tmp_path / "r").trial(first), first).status is Status.FAILED


def test_a_signal_reaches_all_that_share_a_gpu(slurm_job, tmp_path):
    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        end = time.monotonic() + 10
        if job.job_id == "job-0000":
            on_epoch(job.trial_ids[0], EPOCH)
            while not (layout.root / "second").exists() and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGUSR2)
        else:
            (layout.root / "second").touch()
        while not interrupted() and time.monotonic() < end:
            time.sleep(0.01)
        if not interrupted():
            return
        (layout.root / job.job_id).touch()
        raise RuntimeError("saved and stopped")

    assert _exit_status(_element(tmp_path / "r", n=2, at_once=2), run) == INTERRUPTED
    assert (tmp_path / "r/job-0000").exists() and (tmp_path / "r/job-0001").exists()
    assert slurm_job() == ["requeue 77_5"]


def test_a_canary_stops_after_one_epoch_and_then_goes_on_from_its_checkpoint(slurm_job, tmp_path):
    looks = []

    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        looks.append(interrupted())  # before anything is claimed or read
        if len(looks) == 1:
            on_epoch(job.trial_ids[0], EPOCH)
        assert interrupted()
        raise Interrupted

    (tmp_path / "r").mkdir()
    with pytest.raises(SystemExit) as ended:
        run_canary(_element(tmp_path / "r"), run)
    assert ended.value.code == 0 and looks == [False, False]


@pytest.mark.parametrize(("place", "status", "requeued"), [("0", INTERRUPTED, ["requeue 77_5"]), ("1", 0, [])])
def test_of_the_tasks_on_several_nodes_only_the_first_requeues(slurm_job, tmp_path, monkeypatch, place, status, requeued):
    monkeypatch.setenv("SLURM_PROCID", place)
    assert _exit_status(_element(tmp_path / "r"), _runner(signal.SIGUSR2, epochs=1)) == status
    assert slurm_job() == requeued


def test_a_signal_that_only_the_other_node_has_had_so_far_ends_the_job_here_too(slurm_job, tmp_path):
    def run(job, layout, **_):
        raise Interrupted  # by the word of the other node's processes

    assert _exit_status(_element(tmp_path / "r", n=2), run) == INTERRUPTED
    assert slurm_job() == ["requeue 77_5"]
    assert not list((tmp_path / "r").rglob("error.json"))


def test_an_error_on_a_further_node_is_the_first_ones_to_record(slurm_job, tmp_path, monkeypatch):
    def run(job, layout, **_):
        raise ValueError("no such device")

    monkeypatch.setenv("SLURM_PROCID", "1")
    assert _exit_status(_element(tmp_path / "r"), run) == 0
    assert not list((tmp_path / "r").rglob("error.json"))
