"""Runs jobs on this machine side by side with Ray Tune. The only file that imports ray.

One Tune trial carries one job. Ray schedules processes and brings a dead one back; our records are the truth, so Ray's
loggers, dashboard and reports are off and its files go to a short temporary folder that ends with the sweep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import LocalHandles, RunJob, record_death, run_on_node, stop_signals
from cifar_hpc.plan import Job, Resources
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.schema import EpochRecord

RESTARTS = 2  # of a job whose process died (out of memory, say); each goes on from the last checkpoint
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
            record_death(layout, job, "WorkerDied", death)


def _fit(
    run: RunJob, layout: Layout, jobs: Sequence[Job], resources: dict[str, float], storage: Path, stopped: threading.Event
) -> dict[Job, str]:
    """Runs the jobs to their ends; returns those whose process died for good, with Ray's word on it."""
    from ray import tune

    class StopWhenAsked(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return stopped.is_set()

        def __reduce__(self) -> tuple[type, tuple[()]]:  # Tune saves its state; no state of ours is in it
            return tune.stopper.NoopStopper, ()

    trainable = tune.with_parameters(_trainable(), jobs=list(jobs), layout=layout, run=run)
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
            verbose=0,
        ),
    )
    results = tuner.fit()
    return {jobs[result.config["job"]]: str(result.error) for result in results if result.error and result.config}


def _trainable() -> type:
    """The class of the actor; made here because its base class is Ray's."""
    from ray import tune

    class JobTrainable(tune.Trainable):  # type: ignore[misc]
        """Trains one job after another, each in a thread of its own; a Tune step ends with an epoch of any trial."""

        def setup(self, config: dict[str, Any], *, jobs: list[Job], layout: Layout, run: RunJob) -> None:
            self._jobs, self._layout, self._run = jobs, layout, run
            self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self._begin(new_config)
            return True

        def _begin(self, config: dict[str, Any]) -> None:
            job: Job = self._jobs[config["job"]]
            _print_to(self._layout.sweep(job.sweep), job)
            self._work = _Work(job, self._layout, self._run)

        def step(self) -> dict[str, Any]:
            epoch = self._work.next_epoch()
            return {"done": True} if epoch is None else epoch

        def cleanup(self) -> None:
            self._work.stop()

    return JobTrainable


class _Work:
    """One job in training on a worker: its thread and the epochs that it has ended."""

    def __init__(self, job: Job, layout: Layout, run: RunJob) -> None:
        self._epochs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(job, layout, run), name=job.job_id, daemon=True)
        self._thread.start()

    def next_epoch(self) -> dict[str, Any] | None:
        """Waits for the next epoch; None once the job has ended. Raises what the runner itself raised."""
        epoch = self._epochs.get()
        if epoch is None and self._error is not None:
            raise self._error
        return epoch

    def stop(self) -> None:
        """Asks the job to save and end, and waits for it."""
        self._stopped.set()
        self._thread.join()

    def _train(self, job: Job, layout: Layout, run: RunJob) -> None:
        try:
            run(job, layout, executor=RayTuneExecutor.name, on_epoch=self._report, interrupted=self._stopped.is_set)
        except BaseException as error:
            self._error = None if self._stopped.is_set() else error
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
    cpus = min(asked.cpus_per_gpu * max(1, round(gpus)), _cpus())
    return {"cpu": cpus, "gpu": gpus, **({"memory": memory_bytes} if memory_bytes else {})}
