"""Runs jobs on this machine side by side with Ray Tune. The only file that imports ray.

One Tune trial carries one job. Ray schedules processes and brings a dead one back; our records are the truth, so Ray's
loggers, dashboard and reports are off and its files go to a short temporary folder that ends with the sweep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import LocalHandles, RunJob, record_death, run_on_node, stop_signals
from cifar_hpc.plan import Job, Resources
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.schema import EpochRecord, Status

RESTARTS = 2  # of a job whose process died (out of memory, say); each goes on from the last checkpoint
STOP_S = 30.0  # for the workers to save what they train, once asked to stop
LONGEST_TEMPORARY = 40  # characters: Ray adds some 60 for its sockets, and a socket's path ends at 107
OBJECT_STORE_BYTES = 100 * 2**20  # only jobs and epoch records travel through it

# Set before ray is imported: it reads most of these once.
ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a job without a GPU sees none
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_AUTH_MODE": "token",  # on a shared node nobody else may hand work to our processes
    "RAY_DEDUP_LOGS": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}


class RayTuneExecutor(LocalHandles):
    """Jobs in worker processes under this one. run: what executes a job on a worker (the runner)."""

    name = "ray"
    attached = True

    def __init__(self, run: RunJob = run_on_node) -> None:
        self._run = run

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """As the protocol says. All jobs of a call get the resources of the first: a sweep asks for one kind."""
        if not jobs:
            return
        with _ray_session() as temporary, stop_signals() as stopped:  # in this order: ray.init sets a handler of its own
            resources = _tune_resources(jobs[0].resources)
            for job in jobs:
                started(job, self.own_handle())
            if not stopped.is_set():
                deaths = _fit(self._run, layout, jobs, resources, temporary, stopped)
            if stopped.is_set():
                raise KeyboardInterrupt
        for job, death in deaths.items():
            _record(layout, job, death)


def _fit(
    run: RunJob, layout: Layout, jobs: Sequence[Job], resources: dict[str, float], storage: Path, stopped: threading.Event
) -> dict[Job, Exception]:
    """Runs the jobs to their ends; returns those that Ray gave up, with its word on why."""
    from ray import tune

    class StopWhenAsked(tune.Stopper):  # type: ignore[misc]
        """Asked to stop, tells the workers by a file; ends the run once they have saved, or after STOP_S."""

        def __init__(self) -> None:
            self.asked_at: float | None = None

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            if not stopped.is_set():
                return False
            if self.asked_at is None:
                self.asked_at = time.monotonic()
                _stop_file(storage).touch()
            return time.monotonic() - self.asked_at > STOP_S or not _any_running(layout, jobs)

        def __reduce__(self) -> tuple[type, tuple[()]]:  # Tune saves its state; no state of ours is in it
            return tune.stopper.NoopStopper, ()

    class GivenUp(tune.Callback):  # type: ignore[misc]
        """Keeps the Tune trials that are not started again; their errors stand once fit has returned."""

        def __init__(self) -> None:
            self.trials: list[Any] = []

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.trials.append(trial)

    given_up = GivenUp()
    trainable = tune.with_parameters(_trainable(), jobs=list(jobs), layout=layout, run=run, stop_file=_stop_file(storage))
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"job": tune.grid_search(list(range(len(jobs))))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            stop=StopWhenAsked(),
            callbacks=[given_up],
            verbose=0,
        ),
    )
    tuner.fit()
    unknown = RuntimeError("the worker gave no reason")
    return {jobs[trial.config["job"]]: trial.get_pickled_error() or unknown for trial in given_up.trials}


def _record(layout: Layout, job: Job, death: Exception) -> None:
    """The job's last error as its trials' error record: a dead process, or what the runner itself raised."""
    from ray.exceptions import RayActorError

    text = re.sub(r"\x1b\[[0-9;]*m", "", str(death))  # without Ray's colours
    if isinstance(death, RayActorError) or "actor died" in text:  # "unavailable" too: on a loaded machine Ray learns it late
        message = f"the worker process died {RESTARTS + 1} times (out of memory, or a crash in a library)"
        record_death(layout, job, "WorkerDied", message, text)
        return
    last = next((line for line in reversed(text.splitlines()) if line.strip()), type(death).__name__)
    kind, _, message = last.partition(": ")
    record_death(layout, job, kind if message else type(death).__name__, message or last, text)


def _stop_file(storage: Path) -> Path:
    return storage / "stop"


def _any_running(layout: Layout, jobs: Sequence[Job]) -> bool:
    return any(
        read_state(layout.trial(trial_id), trial_id).status is Status.RUNNING for job in jobs for trial_id in job.trial_ids
    )


def _trainable() -> type:
    """The class of the actor; made here because its base class is Ray's."""
    from ray import tune

    class JobTrainable(tune.Trainable):  # type: ignore[misc]
        """Trains one job after another, each in a thread of its own; a Tune step ends with an epoch of any trial."""

        def setup(self, config: dict[str, Any], *, jobs: list[Job], layout: Layout, run: RunJob, stop_file: Path) -> None:
            self._jobs, self._layout, self._run, self._stop_file = jobs, layout, run, stop_file
            self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._begin(new_config)
            return True

        def _begin(self, config: dict[str, Any]) -> None:
            job: Job = self._jobs[config["job"]]
            _print_to(self._layout.sweep(job.sweep), job)
            self._work = _Work(job, self._layout, self._run, self._stop_file.exists)

        def step(self) -> dict[str, Any]:
            epoch = self._work.next_epoch()
            return {"done": True} if epoch is None else epoch

    return JobTrainable


class _Work:
    """One job in training on a worker: its thread and the epochs that it has ended."""

    def __init__(self, job: Job, layout: Layout, run: RunJob, stopped: Callable[[], bool]) -> None:
        self._epochs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped = stopped
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(job, layout, run), name=job.job_id, daemon=True)
        self._thread.start()

    def next_epoch(self) -> dict[str, Any] | None:
        """Waits for the next epoch; None once the job has ended. Raises what the runner itself raised."""
        epoch = self._epochs.get()
        if epoch is None and self._error is not None:
            raise self._error
        return epoch

    def _train(self, job: Job, layout: Layout, run: RunJob) -> None:
        try:
            run(job, layout, executor=RayTuneExecutor.name, on_epoch=self._report, interrupted=self._stopped)
        except BaseException as error:
            self._error = None if self._stopped() else error
        finally:
            self._epochs.put(None)

    def _report(self, trial_id: str, epoch: EpochRecord) -> bool:
        self._epochs.put({"trial": trial_id, **epoch.to_json()})
        return True


def _print_to(sweep: SweepFiles, job: Job) -> None:
    """From here on this process prints into the job's log, whatever prints: Python, a library, the C runtime."""
    path = sweep.log(job.job_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


@contextlib.contextmanager
def _ray_session() -> Iterator[Path]:
    """A Ray of our own on this machine, and the short folder that holds all it writes; both end with the block."""
    for name, value in {**ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
        os.environ.setdefault(name, value)
    package, given = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    if package not in (given or "").split(os.pathsep):  # workers find this very package, installed or not
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, given]))
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    base = tempfile.gettempdir()
    temporary = Path(tempfile.mkdtemp(prefix="chpc-", dir=base if len(base) <= LONGEST_TEMPORARY - 14 else "/tmp"))
    try:
        ray.init(
            address="local",
            num_cpus=_cpus(),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _temp_dir=str(temporary),
        )
        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield temporary
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        shutil.rmtree(temporary, ignore_errors=True)


def _cpus() -> int:
    """CPUs that this process may use (a Slurm allocation may be less than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tune_resources(asked: Resources) -> dict[str, float]:
    """What each job reserves. Raises CifarHpcError where the machine can never give it; warns of what has no effect here."""
    import ray

    there: Mapping[str, float] = ray.cluster_resources()
    gpus_there = there.get("GPU", 0.0)
    gpus = min(1.0, gpus_there) if asked.gpus is None else asked.gpus
    if gpus and not gpus_there:
        print(f"warning: the spec asks for {gpus:g} GPU a trial; this machine has none: training on the CPU", file=sys.stderr)
        gpus = 0.0
    memory_bytes = (asked.memory_gb or 0.0) * 1e9
    for name, wanted, limit in (
        ("gpus", gpus, gpus_there),
        ("memory_gb", memory_bytes / 1e9, there.get("memory", 0.0) / 1e9),
    ):
        if wanted > limit:
            raise CifarHpcError(f"resources.{name}: a trial asks for {wanted:g}; this machine has {limit:.3g}")
    cpus = min(asked.cpus_per_gpu * (asked.processes or max(1, round(gpus))), _cpus())
    return {"cpu": cpus, "gpu": gpus, **({"memory": memory_bytes} if memory_bytes else {})}
