"""What every executor promises, with a scripted runner; each goes through the same tests, Slurm on a real cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors import EXECUTORS, open_executor
from cifar_hpc.executors.base import Executor, Standing, record_death
from cifar_hpc.executors.inline import InlineExecutor
from cifar_hpc.executors.ray.executor import RayTuneExecutor, record_end
from cifar_hpc.executors.ray.session import ray_session, remove_abandoned, tune_resources
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.claims import claim_trial, read_state, release_claim
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from tests.helpers.training import digits_config, job_of

ROOT = Path(__file__).parents[1]
# What stands before python in the batch script, as a container would: the worker with the tests' runner in place of training.
SLURM_TASK = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from cifar_hpc.executors.slurm.task import run_worker
from tests.test_executors import make_runner
sys.exit(run_worker(Path(sys.argv[-1]), make_runner(Path({folder!r}))))
"""


ATTACHED = {"inline": InlineExecutor, "ray": RayTuneExecutor}


def make_runner(folder: Path):
    """A runner that marks what it ran and does what the trial's seed says: 13 raises, 9 kills its process once, 99 always, 7
    trains until it is interrupted, 5 until the third job is done, 11 needs the first one done. Made in a function, so that it
    travels by value."""

    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        import os
        import time

        from cifar_hpc.records.schema import EpochRecord

        (folder / f"{job.job_id}.{executor}.{time.monotonic_ns()}").touch()
        print("the runner was here")
        if executor == "ray":
            import ray

            given = ray.get_runtime_context().get_assigned_resources()
            (folder / f"cpus-{job.job_id}").write_text(str(given["CPU"]))
        for cohort in job.cohorts:
            for trial in cohort.trials:
                if trial.seed == 13:
                    raise ValueError("thirteen")
                attempts = len(list(folder.glob(f"{job.job_id}.*")))
                if trial.seed == 99 or (trial.seed == 9 and attempts == 1):
                    os._exit(1)
                end = time.monotonic() + 60
                while trial.seed == 5 and not (folder / "done-job-0003").exists():
                    assert time.monotonic() < end
                    time.sleep(0.02)
                assert trial.seed != 11 or (folder / "done-job-0001").exists()
                while trial.seed == 7 and not interrupted():
                    time.sleep(0.02)
                if trial.seed == 7:
                    (folder / "saved").touch()
                    raise RuntimeError("interrupted")
                if on_epoch is not None:
                    losses = {"train_loss": None, "train_acc": None, "val_loss": 1.0, "val_acc": 0.5}
                    assert on_epoch(trial.trial_id, EpochRecord(epoch=1, lr=0.1, train_s=0.1, val_s=0.1, **losses))
        (folder / f"done-{job.job_id}").touch()

    return run


@pytest.fixture(autouse=True)
def _results(tmp_path):
    """The folder stands, as the driver has made it: who runs a job never does."""
    (tmp_path / "results").mkdir(exist_ok=True)


@pytest.fixture(params=sorted(EXECUTORS))
def executor(request, tmp_path):
    if request.param == "slurm":
        request.getfixturevalue("cluster")
        (tmp_path / "runner.py").write_text(SLURM_TASK.format(root=str(ROOT), folder=str(tmp_path)))
        command = f"{sys.executable} {tmp_path / 'runner.py'}"
        profile = SlurmProfile(minutes=1, parallel=1, container=command)  # one worker for all jobs of a test
        return SlurmExecutor(profile, Layout(tmp_path / "results"), canary=False)
    return ATTACHED[request.param](make_runner(tmp_path))


def run_to_end(executor: Executor, jobs: list[Job], layout: Layout) -> dict[str, str]:
    """Handles by job, once all jobs have ended."""
    handles: dict[str, str] = {}
    executor.start(layout, jobs, lambda job, handle: handles.update({job.job_id: handle}))
    wait_gone(executor, handles.values())
    return handles


def wait_gone(executor: Executor, handles: Collection[str]) -> None:
    until = time.monotonic() + 60
    while not executor.attached and set(executor.states(list(handles)).values()) != {JobState.GONE}:
        assert time.monotonic() < until
        time.sleep(0.2)
        executor.queue.forget()


def jobs_with_seeds(*seeds: int) -> list[Job]:
    return [job_of(digits_config(seed=seed), number=number) for number, seed in enumerate(seeds, 1)]


def done(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("done-*"))


def test_a_failing_job_never_keeps_the_next_from_running(executor, tmp_path, capfd):
    jobs, layout = jobs_with_seeds(1, 13, 2), Layout(tmp_path / "results")
    started = run_to_end(executor, jobs, layout)
    if executor.name == "ray":
        assert capfd.readouterr() == ("", "")  # no banner; what workers print is in the jobs' logs
    assert done(tmp_path) == ["done-job-0001", "done-job-0003"]
    assert list(started) == ["job-0001", "job-0002", "job-0003"]
    failed = jobs[1].trial_ids[0]
    state = read_state(layout.trial(failed), failed)
    assert state.status is Status.FAILED
    assert state.reason == "ValueError: thirteen"
    assert 'raise ValueError("thirteen")' in state.error.traceback
    state = JobState.RUNNING if executor.attached else JobState.GONE  # the handle of an attached one is this very process
    assert set(executor.states(list(started.values())).values()) == {state}


def _child(job: Job, number: int, seed: int) -> Job:
    config = digits_config(seed=seed, weights=f"{PARENT_PREFIX}{job.trial_ids[0]}")
    return dataclasses.replace(job_of(config), job_id=f"job-{number:04d}", level=job.level + 1)


def test_a_job_starts_once_those_of_its_parents_have_ended_well_or_not(tmp_path):
    well, badly = jobs_with_seeds(1, 13)
    children = [_child(well, 3, 11), _child(badly, 4, 2)]
    InlineExecutor(make_runner(tmp_path)).start(
        Layout(tmp_path / "results"), [well, badly, *children], lambda job, handle: None
    )
    assert done(tmp_path) == ["done-job-0001", "done-job-0003", "done-job-0004"]


@dataclasses.dataclass
class RayRun:
    """What one start of many jobs on Ray left: its folder, its jobs and what it said."""

    folder: Path
    jobs: list[Job]
    out: str
    err: str

    @property
    def layout(self) -> Layout:
        return Layout(self.folder / "results")


@pytest.fixture(scope="module")
def ray_run(tmp_path_factory) -> RayRun:
    """A parent and its child beside a slow job; a job that fails and its child, whose process dies once; one whose process dies
    always; and one that asks for two CPUs."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "results").mkdir()
    well, slow, badly, dying, wide = jobs_with_seeds(1, 5, 13, 99, 3)
    wide = dataclasses.replace(wide, job_id="job-0007", resources=Resources(cpus_per_gpu=2))
    dying = dataclasses.replace(dying, job_id="job-0006")
    badly = dataclasses.replace(badly, job_id="job-0004")
    jobs = [well, slow, _child(well, 3, 11), badly, _child(badly, 5, 9), dying, wide]
    with _told_to_files(folder):
        RayTuneExecutor(make_runner(folder)).start(Layout(folder / "results"), jobs, lambda job, handle: None)
    return RayRun(folder, jobs, (folder / "out").read_text(), (folder / "err").read_text())


@contextlib.contextmanager
def _told_to_files(folder: Path) -> Iterator[None]:
    """Standard output and error of this process, Python's and those of what it starts, into the files `out` and `err`."""
    kept = [os.dup(number) for number in (1, 2)]
    with (folder / "out").open("a") as out, (folder / "err").open("a") as err:
        try:
            for number, stream in ((1, out), (2, err)):
                os.dup2(stream.fileno(), number)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        finally:
            for number, own in enumerate(kept, 1):
                os.dup2(own, number)
                os.close(own)


def test_on_ray_a_job_starts_once_those_of_its_parents_have_ended_well_or_not_and_waits_for_no_other(ray_run):
    ended_well = ["done-job-0001", "done-job-0002", "done-job-0003", "done-job-0005", "done-job-0007"]
    assert done(ray_run.folder) == ended_well  # the slow job is done only after the child of another


def test_an_interruption_lets_the_job_save_and_starts_no_other(executor, tmp_path):
    jobs = jobs_with_seeds(7) if executor.name == "ray" else jobs_with_seeds(7, *range(20, 24))
    handles: dict[str, str] = {}

    def interrupt_once_running() -> None:
        while not list(tmp_path.glob("job-*")):
            time.sleep(0.05)
        time.sleep(0.2)
        if executor.attached:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            executor.cancel(list(handles.values()))

    sender = threading.Thread(target=interrupt_once_running)
    before = signal.getsignal(signal.SIGTERM)
    sender.start()
    with pytest.raises(KeyboardInterrupt) if executor.attached else contextlib.nullcontext():
        executor.start(Layout(tmp_path / "results"), jobs, lambda job, handle: handles.update({job.job_id: handle}))
    sender.join()
    wait_gone(executor, handles.values())
    assert (tmp_path / "saved").exists()
    assert done(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handle_of_what_is_gone_or_elsewhere_is_told_apart_and_never_signalled(executor):
    if executor.attached:
        host, boot, pid, started = executor.own_handle().split("/")
        expected = {f"{host}/{boot}/{pid}/1.0": JobState.GONE, f"elsewhere/{boot}/{pid}/{started}": JobState.UNKNOWN}
    else:
        expected = {"7": JobState.GONE, "8_0": JobState.GONE}  # of jobs that Slurm has forgotten
    assert executor.states(list(expected)) == expected
    executor.cancel(list(expected))  # would end this test


def test_ray_starts_a_job_again_whose_process_died_and_gives_up_in_the_end(ray_run):
    dead = ray_run.jobs[5].trial_ids[0]
    assert read_state(ray_run.layout.trial(dead), dead).reason.startswith("WorkerDied: the worker process died 3 times")
    assert len(list(ray_run.folder.glob("job-0005.*"))) == 2
    starts = len(list(ray_run.folder.glob("job-0006.*")))
    assert 2 <= starts <= 3, "once, and two restarts, of which Ray may spend one on a worker that is still dying"
    log = ray_run.layout.sweep("test").log
    assert "the runner was here" in log("job-0007").read_text()
    assert ray_run.out == "", "Ray's own words are in a log"
    assert "raylet" in log("ray").read_text()
    assert "job-0005: its worker process died; it starts again, each trial from its checkpoint if one stands" in ray_run.err
    assert "job-0006: its worker process died; it is given up" in ray_run.err


def test_jobs_of_one_start_get_each_the_resources_that_it_asks_for(ray_run):
    given = [(ray_run.folder / f"cpus-{job_id}").read_text() for job_id in ("job-0001", "job-0007")]
    assert given == ["1.0", str(float(min(2, os.cpu_count() or 1)))]


def test_a_killed_sweeps_temporary_folder_goes_with_the_next_one_and_a_living_ones_stays(tmp_path):
    own = RayTuneExecutor.own_handle()
    for name, owner in {"dead": own.rpartition("/")[0] + "/1.0", "living": own, "far": f"x{own}"}.items():
        (tmp_path / f"chpc-{name}").mkdir()
        (tmp_path / f"chpc-{name}" / "owner").write_text(owner)
    (tmp_path / "chpc-unknown").mkdir()
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("chpc-*")) == ["chpc-far", "chpc-living", "chpc-unknown"]


def test_ray_refuses_what_the_machine_can_never_give_instead_of_waiting_for_ever(tmp_path):
    job = job_of(digits_config())
    greedy = Job(sweep="test", job_id="job-0001", cohorts=job.cohorts, resources=Resources(memory_gb=1e6))
    with pytest.raises(CifarHpcError, match=r"resources\.memory_gb: a trial asks for"):
        open_executor("ray", Layout(tmp_path / "results")).start(Layout(tmp_path), [greedy], lambda job, handle: None)


def test_a_death_before_any_attempt_hides_no_later_interruption(tmp_path):
    job, layout = job_of(digits_config()), Layout(tmp_path)
    (trial_id,) = job.trial_ids
    files = layout.trial(trial_id)
    record_death(layout, job, "ValueError", "thirteen")
    assert read_state(files, trial_id).status is Status.FAILED
    claim = claim_trial(files, trial_id, "s/job-0002")
    assert claim is not None
    release_claim(files, claim)
    assert read_state(files, trial_id).status is Status.PLANNED


@pytest.mark.parametrize(("address", "told"), [(None, "--on inline"), ("ray://gone:1", "$RAY_ADDRESS names ray://gone:1")])
def test_ray_that_does_not_start_is_a_sentence_with_what_to_type(tmp_path, monkeypatch, address, told):
    """What Ray raises where the machine is too busy for its processes to answer within 30 s."""
    import ray

    def start(**_):
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(CifarHpcError, match="Ray does not start") as caught,
        ray_session(tmp_path / "log"),
    ):
        pass
    assert told in str(caught.value)


def test_a_worker_that_ray_calls_unavailable_died(tmp_path):
    """What Ray says where the connection broke and its own news of the death come late, as on a loaded machine."""
    from ray.exceptions import ActorUnavailableError

    job, layout = job_of(digits_config()), Layout(tmp_path)
    record_end(layout, job, ActorUnavailableError("The actor is temporarily unavailable: Socket closed", None))
    (trial_id,) = job.trial_ids
    assert read_state(layout.trial(trial_id), trial_id).reason.startswith("WorkerDied: the worker process died 3 times")


def test_what_stands_between_jobs_is_not_looked_through_again_and_is_freed_as_before_once_they_have_ended():
    gc.unfreeze()
    Standing.loaded()
    assert gc.get_freeze_count() == 0, "nobody here trains many jobs"
    with Standing() as standing:
        Standing.loaded()
        assert gc.get_freeze_count() > 0
        standing.job_ended()
        frozen = gc.get_freeze_count()  # falls where any of these objects is freed
        later = [[] for _ in range(1000)]
        standing.job_ended()
        assert frozen >= gc.get_freeze_count() > 0, later[:1]
        with Standing() as inner:  # of a process that has frozen what stands by itself
            inner.job_ended()
        assert frozen >= gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_what_no_node_of_a_ray_has_is_not_told_of_this_machine(monkeypatch, capsys):
    monkeypatch.setattr("cifar_hpc.executors.ray.session._largest_node", lambda: {"CPU": 4.0, "memory": 8e9})
    assert tune_resources(Resources(gpus=1))["gpu"] == 0
    with pytest.raises(CifarHpcError, match=r"memory_gb: a trial asks for 16; the most that Ray has on a node is 8") as refused:
        tune_resources(Resources(gpus=0, memory_gb=16.0))
    assert "this machine" not in f"{refused.value}{capsys.readouterr().err}"


def test_on_this_machine_a_trial_that_trains_alone_has_all_of_its_gpu_whatever_part_it_asked_for(tmp_path):
    given = []
    run = InlineExecutor(lambda job, layout, **_: given.append(job.resources.gpus))
    jobs = [dataclasses.replace(job_of(digits_config()), resources=Resources(gpus=gpus)) for gpus in (0.25, 0, None)]
    run.start(Layout(tmp_path), jobs, lambda *_: None)
    assert given == [1, 0, None]
