"""Sweeps on a real Slurm: from submission to results, through signals, requeues and a power cut."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import run_on_node
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.handles import local_part
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.claims import TrialState, read_state
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import SOURCE_FILE, Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.records.starts import task_of
from slurm.local.cluster import Cluster
from tests.helpers.training import digits_config, numbers


def _job(number: int = 0, gpus: float = 0, memory_gb: float | None = None, **config) -> Job:
    cohort = Cohort(trials=(digits_config(seed=number, **config),))
    needs = Resources(gpus=gpus, minutes=10.0, memory_gb=memory_gb)
    return Job(sweep="s", job_id=f"job-{number:04d}", cohorts=(cohort,), resources=needs)


class _Sweep:
    """Jobs on the cluster, recorded in jobs.jsonl as the command line does."""

    def __init__(self, root: Path, jobs: list[Job], canary: bool = False, **profile) -> None:
        self.layout, self.jobs = Layout(root), jobs
        self.executor = SlurmExecutor(SlurmProfile(parallel=8, **profile), self.layout, canary=canary)
        self.handles: dict[str, str] = {}

    def start(self) -> _Sweep:
        self.executor.start(self.layout, self.jobs, self._started)
        return self

    def _started(self, job: Job, handle: str) -> None:
        self.handles[job.job_id] = handle

    def state(self, job: Job) -> TrialState:
        return read_state(self.layout.trial(job.trial_ids[0]), job.trial_ids[0])

    def wait(self, done: Callable[[], bool], timeout_s: float = 120.0) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            logs = "\n".join(path.read_text() for path in sorted(self.layout.sweep("s").logs.glob("*/*.out")))
            assert time.monotonic() < end, f"{[self.state(job) for job in self.jobs]}\n{logs[-4000:]}"
            time.sleep(0.2)

    def wait_completed(self) -> None:
        self.wait(lambda: all(self.state(job).status is Status.COMPLETED for job in self.jobs))

    def wait_gone(self) -> None:
        def gone() -> bool:
            self.executor.queue.forget()
            return set(self.executor.states(list(self.handles.values())).values()) == {JobState.GONE}

        self.wait(gone)


def test_a_sweep_ends_with_the_numbers_of_an_inline_run_and_leaves_little_behind(
    cluster: Cluster, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "cifar_hpc").mkdir()
    (tmp_path / "cifar_hpc/__init__.py").write_text("raise SystemExit('an edit after the submission')")
    monkeypatch.chdir(tmp_path)  # python -m puts the working folder before PYTHONPATH
    sweep = _Sweep(tmp_path / "results", [_job(number) for number in range(3)], canary=True).start()
    assert set(sweep.executor.states(list(sweep.handles.values())).values()) <= {JobState.QUEUED, JobState.RUNNING}
    sweep.wait_completed()
    sweep.wait_gone()
    alone = Layout(tmp_path / "inline")
    run_on_node(sweep.jobs[1], alone, executor="inline")
    trial_id = sweep.jobs[1].trial_ids[0]
    ours, theirs = sweep.state(sweep.jobs[1]).result, read_state(alone.trial(trial_id), trial_id).result
    assert numbers(ours) == numbers(theirs)
    assert (ours.executor, ours.job, ours.hardware.host[0]) == ("slurm", "s/job-0001", "n")
    first = sweep.state(sweep.jobs[0]).result
    assert first.attempts == 3, "the canary trained its first epoch and went on from the checkpoint"
    assert first.task.removeprefix("slurm/").startswith(local_part(sweep.handles["job-0000"]))
    files = sweep.layout.sweep("s")
    assert not list(files.logs.rglob("*.pkl")), "neither inputs nor answers of submitit stay"
    assert len(list(files.logs.glob("*/*.out"))) == 4
    (code,) = files.code.iterdir()
    assert (code / "cifar_hpc/worker/job.py").exists() and "commit" in json.loads((code / SOURCE_FILE).read_text())
    assert ours.provenance.commit == json.loads((code / SOURCE_FILE).read_text())["commit"]


def test_a_sweep_that_fails_on_the_node_fails_once_with_its_traceback(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [_job(number, freeze="no_such_block") for number in range(3)]
    sweep = _Sweep(tmp_path / "results", jobs, canary=True).start()
    sweep.wait(lambda: sweep.state(jobs[0]).status is Status.FAILED)
    sweep.wait_gone()
    assert [sweep.state(job).status for job in jobs] == [Status.FAILED, Status.PLANNED, Status.PLANNED]
    assert "no_such_block" in sweep.state(jobs[0]).reason
    words = sweep.executor.queue.explain([sweep.handles["job-0001"]])
    assert words[sweep.handles["job-0001"]].startswith("CANCELLED")
    assert not sweep.layout.trial(jobs[1].trial_ids[0]).folder.exists()


def _epochs(sweep: _Sweep, job: Job) -> int:
    return sweep.state(job).epochs_done


def _task(sweep: _Sweep, job: Job) -> str:
    """The array task that trains the job, as Slurm's commands call it."""
    return task_of(sweep.state(job).claim.restart_token)


def _logs(sweep: _Sweep, task: str) -> str:
    return "".join(path.read_text() for path in sweep.layout.sweep("s").task_logs(task))


def test_signals_requeues_and_a_power_cut_end_in_the_undisturbed_numbers(cluster: Cluster, tmp_path: Path) -> None:
    """USR2 before a time limit, `scontrol requeue` (which sends TERM only) and a dead node, each on its own array task."""
    jobs = [_job(number, epochs=60) for number in range(3)]
    sweep = _Sweep(tmp_path / "results", jobs)
    sweep.executor.profile = SlurmProfile(parallel=8, sbatch={"exclusive": True})
    sweep.start()
    cut = jobs[2]
    sweep.wait(lambda: all(_epochs(sweep, job) >= 1 for job in jobs))
    tasks = [_task(sweep, job) for job in jobs]
    assert len(set(tasks)) == 3, "each worker began with its own share"
    node = cluster.run("squeue", "-h", "-j", tasks[2], "-o", "%N").strip()
    try:
        cluster.kill_node(node, tell=True)
        cluster.run("scancel", "--batch", "--signal=USR2", tasks[0])
        cluster.run("scontrol", "requeue", tasks[1])
        sweep.wait(lambda: "requeued as" in _logs(sweep, tasks[0]) and "saved after SIGTERM" in _logs(sweep, tasks[1]))
    finally:
        cluster.start_node(node)
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    sweep.wait_completed()
    alone = Layout(tmp_path / "inline")
    for job in jobs:
        result = sweep.state(job).result
        assert result.attempts == 2, "one attempt more, from the checkpoint"
        assert [record.epoch for record in result.curves] == list(range(1, 61))
    run_on_node(cut, alone, executor="inline")
    trial_id = cut.trial_ids[0]
    assert numbers(sweep.state(cut).result) == numbers(read_state(alone.trial(trial_id), trial_id).result)


def test_a_preempted_canary_and_a_signal_before_python_listens_cost_a_sweep_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A container that takes seconds to start, and has no scontrol, stands for a slow import."""
    container = tmp_path / "container"
    container.write_text('#!/bin/bash\ntouch "$(dirname "$0")/began"\nsleep 4\nPATH=/nowhere exec "$@"\n')
    container.chmod(0o755)
    jobs = [_job(number) for number in range(2)]
    sweep = _Sweep(tmp_path / "results", jobs, canary=True, container=str(container)).start()
    canary = local_part(sweep.handles["canary-0000"])
    sweep.wait((tmp_path / "began").exists)
    cluster.run("scancel", "--batch", "--signal=USR2", canary)
    sweep.wait(lambda: "requeued as" in _logs(sweep, canary))
    sweep.wait_completed()
    assert "1 epoch(s), saved and resumed" in _logs(sweep, canary)


def test_a_trial_in_four_processes_on_two_nodes_gives_the_numbers_of_one_through_a_requeue(
    cluster: Cluster, tmp_path: Path
) -> None:
    job = replace(_job(epochs=20), resources=Resources(gpus=1.0, nodes=2, processes=2, minutes=10.0))
    sweep = _Sweep(tmp_path / "results", [job], environment={"OMP_NUM_THREADS": "1"}).start()
    sweep.wait(lambda: _epochs(sweep, job) >= 1)
    handle = local_part(sweep.handles[job.job_id])
    cluster.run("scancel", "--signal=USR2", handle)  # to the processes alone
    sweep.wait(lambda: "requeued as" in _logs(sweep, handle))
    sweep.wait_completed()
    result = sweep.state(job).result
    assert (result.hardware.world_size, result.attempts) == (4, 2)
    assert [record.epoch for record in result.curves] == list(range(1, 21))
    sweep.wait_gone()
    assert not list(sweep.layout.sweep("s").folder.glob(".rendezvous-*"))
    alone = Layout(tmp_path / "inline")
    run_on_node(replace(job, resources=Resources()), alone, executor="inline")
    one = read_state(alone.trial(job.trial_ids[0]), job.trial_ids[0]).result
    losses, of_one = ([record.val_loss for record in found.curves] for found in (result, one))
    assert losses == pytest.approx(of_one, rel=1e-3), "up to the order of sums"
    assert result.test.acc == pytest.approx(one.test.acc, abs=0.01)


def test_a_cancelled_job_saves_and_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    job = _job(epochs=500)
    sweep = _Sweep(tmp_path / "results", [job]).start()
    sweep.wait(lambda: _epochs(sweep, job) >= 1)
    sweep.executor.cancel(list(sweep.handles.values()))
    sweep.wait_gone()
    sweep.wait(lambda: sweep.state(job).status is Status.PLANNED)
    assert sweep.layout.trial(job.trial_ids[0]).checkpoint.exists()
    assert "CANCELLED" in sweep.executor.queue.explain(list(sweep.handles.values()))[sweep.handles["job-0000"]]


def test_jobs_side_by_side_on_a_node_see_the_gpus_that_slurm_gave_each_and_no_others(cluster: Cluster, tmp_path: Path) -> None:
    """As each of several processes of a trial does: it takes its own one of these by its place, not by a number of the node."""
    seen = tmp_path / "seen"
    seen.mkdir()
    watcher = tmp_path / "watcher"  # in the container's place, in front of python
    watcher.write_text(
        f'#!/bin/bash\ncd {seen}; touch "$SLURM_ARRAY_TASK_ID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $SLURM_STEP_GPUS"\n'
        "for _ in {1..200}; do [ $(ls | wc -l) -ge 2 ] && break; sleep 0.1; done\n"
    )
    watcher.chmod(0o755)
    sweep = _Sweep(tmp_path / "results", [replace(_job(number), resources=Resources(gpus=2.0)) for number in range(2)])
    sweep.executor.profile = SlurmProfile(parallel=2, sbatch={"nodelist": "n1"}, container=str(watcher))
    sweep.start().wait_gone()
    places = [path.name.split() for path in sorted(seen.iterdir())]
    assert [place[:2] for place in places] == [["0", "n1"], ["1", "n1"]]
    assert all(visible == given for _, _, visible, given in places)
    assert sorted(device for place in places for device in place[2].split(",")) == ["0", "1", "2", "3"]


def test_several_trials_share_one_gpu_where_the_profile_allows(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [_job(number, gpus=0.5) for number in range(2)]
    sweep = _Sweep(tmp_path / "results", jobs, share_gpus=True)
    sweep.executor.profile = SlurmProfile(share_gpus=True)
    sweep.start().wait_completed()
    assert len(set(sweep.handles.values())) == 1
    first, second = (sweep.state(job).result for job in jobs)
    assert first.started_at < second.finished_at and second.started_at < first.finished_at, "side by side"


@pytest.mark.parametrize(
    ("profile", "words"),
    [({"cpu_partition": "nowhere"}, "nvalid partition"), ({"constraint": "h999"}, "nvalid feature")],
)
def test_what_slurm_refuses_is_told_in_its_own_words_and_leaves_no_file(cluster: Cluster, tmp_path, profile, words) -> None:
    sweep = _Sweep(tmp_path / "results", [_job(0), _job(1)], **profile)
    with pytest.raises(CifarHpcError, match=words):
        sweep.start()
    assert not sweep.handles and not list(sweep.layout.sweep("s").logs.iterdir())
