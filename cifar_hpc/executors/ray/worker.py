"""What runs in a worker process of Ray: one job after another, and the words between it and the driver.

A Tune step ends with an epoch of any trial of the job. Where trials are judged, the next epoch begins only once the driver
has heard of the last one.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.executors.base import RunJob, Standing
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.jobs import Withdrawn
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.node import Node
from cifar_hpc.records.schema import EpochRecord

POLL_EVERY_S = 0.2  # of a job that waits for its decision, at the word to stop


@dataclass(frozen=True, slots=True)
class Orders:
    """What the driver tells its workers, as files in a folder that all see."""

    folder: Path

    def stop_all(self) -> None:
        """Save and end."""
        (self.folder / "stop").touch()

    def all_stop(self) -> bool:
        return (self.folder / "stop").exists()

    def end(self, trial_id: str, why: str) -> None:
        """The trial ends with its present epoch, as pruned."""
        path = self.folder / f"end-{trial_id}"
        path.with_suffix(".new").write_text(why)
        path.with_suffix(".new").rename(path)

    def why_end(self, trial_id: str) -> str | None:
        try:
            return (self.folder / f"end-{trial_id}").read_text()
        except FileNotFoundError:
            return None


def job_trainable() -> type:
    """The class of the actor; made here because its base class is Ray's."""
    from ray import tune

    class JobTrainable(tune.Trainable):  # type: ignore[misc]
        """Trains one job after another, each in a thread of its own."""

        def setup(
            self, config: dict[str, Any], *, jobs: list[Job], layout: Layout, run: RunJob, orders: Orders, judged: bool
        ) -> None:
            self._jobs, self._layout, self._run, self._orders, self._judged = jobs, layout, run, orders, judged
            self._standing = Standing()
            self._work = self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._work = self._begin(new_config)
            return True

        def _begin(self, config: dict[str, Any]) -> _Work:
            self._layout.require_root()
            job: Job = config["job"] if isinstance(config["job"], Job) else self._jobs[config["job"]]
            _print_to(self._layout.sweep(job.sweep), job)
            return _Work(job, self._layout, self._run, self._orders, self._judged)

        def step(self) -> dict[str, Any]:
            if (epoch := self._work.next_epoch()) is not None:
                return epoch
            self._standing.job_ended()
            return {"done": True}

    return JobTrainable


class _Work:
    """One job in training on a worker: its thread and the epochs that it has ended."""

    def __init__(self, job: Job, layout: Layout, run: RunJob, orders: Orders, judged: bool) -> None:
        self._epochs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._decisions: queue.SimpleQueue[bool | str] = queue.SimpleQueue()
        self._orders, self._judged = orders, judged
        self._waiting: str | None = None  # the trial whose last epoch was told to the driver
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(job, layout, run), name=job.job_id, daemon=True)

    def next_epoch(self) -> dict[str, Any] | None:
        """Passes the decision on the last epoch on and waits for the next; None once the job has ended. Raises what the runner
        itself raised."""
        if self._thread.ident is None:  # not earlier: an actor that dies while it is made Ray makes again, uncounted
            self._thread.start()
        if self._judged and self._waiting is not None:
            self._decisions.put(self._orders.why_end(self._waiting) or True)
        epoch = self._epochs.get()
        self._waiting = epoch["trial"] if epoch else None
        if epoch is None and self._error is not None:
            raise self._error
        return epoch

    def _train(self, job: Job, layout: Layout, run: RunJob) -> None:
        withdrawn = Withdrawn(layout.sweep(job.sweep), job.trial_ids)

        def interrupted() -> bool:
            return self._orders.all_stop() or withdrawn()

        try:
            if not withdrawn():
                run(job, layout, executor="ray", node=Node.here(), on_epoch=self._report, interrupted=interrupted)
        except BaseException as error:
            self._error = None if interrupted() else error
        finally:
            self._epochs.put(None)

    def _report(self, trial_id: str, epoch: EpochRecord) -> bool | str:
        told = {"trial": trial_id, **epoch.to_json()}
        self._epochs.put({name: value for name, value in told.items() if value is not None})
        while self._judged:
            try:
                return self._decisions.get(timeout=POLL_EVERY_S)
            except queue.Empty:
                if self._orders.all_stop():
                    break
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
