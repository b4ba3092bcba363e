"""What every executor does. The truth about a trial is on disk; a backend only tells queued from running from gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from cifar_hpc.plan import Job
from cifar_hpc.records.layout import Layout


class JobState(StrEnum):
    """What a backend knows of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    GONE = "gone"  # ended, cancelled or forgotten: the files tell how
    UNKNOWN = "unknown"  # the backend did not answer


class Executor(Protocol):
    """Starts jobs. `attached` ones run them while `start` runs; others leave them to their backend and return."""

    name: str
    attached: bool

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """Starts the jobs; calls started(job, handle) as each is handed over, before it can end.

        A failure of one job never keeps the next from running. KeyboardInterrupt stops all, leaving resumable trials.
        """

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """The state of each handle, in one query to the backend."""

    def cancel(self, handles: Sequence[str]) -> None:
        """Ends the jobs; those already gone are ignored."""
