"""The list of a sweep's jobs, jobs.jsonl: their numbers, which of them are open, and the handles of those that run under a
process of this machine. Knows no scheduler.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cifar_hpc.errors import RecordError
from cifar_hpc.records.codec import SCHEMA_VERSION, Int, Name, Record
from cifar_hpc.records.layout import SweepFiles
from cifar_hpc.records.owners import Process, lives, own_process
from cifar_hpc.records.store import append_records, read_records, utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Record):
    """A line of jobs.jsonl. event: reserved (all job numbers up to this one), sending, submitted, unsent, waiting, ended,
    cancelled.

    handle: what the backend calls the job, on Slurm the array any task of which may do it; of one that is being sent the name
    by which it can be asked for, and detail says which process sends it.
    """

    schema_version: Int = SCHEMA_VERSION
    at: str
    event: str
    job_id: Name
    trial_ids: tuple[Name, ...]
    executor: str
    handle: str
    detail: str = ""


class JobState(StrEnum):
    """What a backend knows of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    GONE = "gone"  # ended, cancelled or forgotten: the files tell how
    UNKNOWN = "unknown"  # the backend did not answer


def own_handle() -> str:
    """This process as a handle: host/boot/pid/start time, so that a pid that is used again is not taken for it."""
    own = own_process()
    return f"{own.host}/{own.boot_id}/{own.pid}/{own.started}"


def process_states(handles: Sequence[str]) -> Mapping[str, JobState]:
    """Of handles that name a process: RUNNING while it lives; UNKNOWN where it is another host's."""
    return {handle: _process_state(handle) for handle in dict.fromkeys(handles)}


def _process_state(handle: str) -> JobState:
    try:
        host, boot, pid, started = handle.split("/")
        alive = lives(Process(host, boot, int(pid), float(started)))
    except ValueError:  # no handle of ours
        return JobState.UNKNOWN
    if alive is None:
        own = own_process()
        rebooted = host == own.host and boot.partition(":")[0] != own.boot_id.partition(":")[0]
        return JobState.GONE if rebooted else JobState.UNKNOWN
    return JobState.RUNNING if alive else JobState.GONE


def open_jobs(sweep: SweepFiles) -> list[JobEvent]:
    """What was submitted, or is being sent, has not ended and was not cancelled, as far as jobs.jsonl tells."""
    jobs: dict[tuple[str, str], JobEvent] = {}
    sending: dict[str, tuple[str, str]] = {}  # a job that is being sent has no handle yet: by its id alone it is found again
    for event in read_records(sweep.jobs, JobEvent):
        key = (event.job_id, event.handle)
        if event.event in ("submitted", "unsent") and event.job_id in sending:
            jobs.pop(sending.pop(event.job_id), None)
        if event.event == "sending":
            sending[event.job_id] = key
        if event.event in ("submitted", "sending"):
            jobs[key] = event
        else:
            jobs.pop(key, None)
    return list(jobs.values())


def newest_events(events: Iterable[JobEvent]) -> dict[str, JobEvent]:
    """The last event of each trial. A cancelled job ends too, and says so later: cancelled is what counts."""
    events = list(events)
    cancelled = {(event.job_id, event.handle) for event in events if event.event == "cancelled"}
    newest: dict[str, JobEvent] = {}
    for event in events:
        if event.event != "ended" or (event.job_id, event.handle) not in cancelled:
            newest |= dict.fromkeys(event.trial_ids, event)
    return newest


def reserve_numbers(sweep: SweepFiles, jobs_n: int) -> int:
    """The first of jobs_n job numbers that no other command has, nor will: a line of jobs.jsonl says that they are taken.

    Where two commands add their lines at once, the one whose line stands behind looks further.
    """
    handle = f"{own_handle()}/{secrets.token_hex(4)}"
    while True:
        first = next_number(read_records(sweep.jobs, JobEvent))
        last = f"job-{first + jobs_n - 1:04d}"
        reserved = JobEvent(at=utc_now(), event="reserved", job_id=last, trial_ids=(), executor="", handle=handle)
        append_records(sweep.jobs, [reserved])
        events = read_records(sweep.jobs, JobEvent)
        if reserved in events and next_number(events[: events.index(reserved)]) == first:
            return first


def next_number(events: Iterable[JobEvent]) -> int:
    """One more than the highest job number of the events."""
    numbers = (event.job_id.rpartition("-")[2] for event in events)
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 10), default=0)


class CancelledTrials:
    """Which trials of a sweep are cancelled, for who trains them; the file is read again once it has grown."""

    def __init__(self, sweep: SweepFiles) -> None:
        self._sweep = sweep
        self._size = -1
        self._ids: frozenset[str] = frozenset()

    def ids(self) -> frozenset[str]:
        """Those whose newest line says so; as before where the file cannot be read."""
        with contextlib.suppress(OSError, RecordError):
            size = self._sweep.jobs.stat().st_size
            if size != self._size:
                newest = newest_events(read_records(self._sweep.jobs, JobEvent))
                self._ids = frozenset(trial_id for trial_id, event in newest.items() if event.event == "cancelled")
                self._size = size
        return self._ids


class Withdrawn:
    """Whether a job was cancelled while who runs it goes on with others; the list of jobs is asked every POLL_S."""

    POLL_S = 2.0

    def __init__(self, sweep: SweepFiles, trial_ids: Iterable[str]) -> None:
        self._cancelled = CancelledTrials(sweep)
        self._trial_ids = frozenset(trial_ids)
        self._asked_at = -math.inf
        self._found = False

    def __call__(self) -> bool:
        if not self._found and time.monotonic() - self._asked_at >= self.POLL_S:
            self._asked_at = time.monotonic()
            self._found = bool(self._trial_ids) and self._cancelled.ids().issuperset(self._trial_ids)
        return self._found
