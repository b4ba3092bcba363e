"""What every executor does. The truth about a trial is on disk; a backend only tells queued from running from gone.

Owns: the protocol, the handles of jobs that run under a process of this machine, the error record of a job that died without
a word. Knows no backend, and the runner only inside what runs on the node.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import ClassVar, Protocol, Self

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import RecordError
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.claims import newest_claim, read_state, release_claim
from cifar_hpc.records.jobs import JobState, own_handle, process_states
from cifar_hpc.records.layout import Layout, TrialFiles, attempt_of
from cifar_hpc.records.node import Node
from cifar_hpc.records.schema import EpochRecord, ErrorRecord, Status
from cifar_hpc.records.store import utc_now, write_record

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ANSWER_S = 0.1  # from an interruption to the word on it


class Executor(Protocol):
    """Starts jobs. `attached` ones run them while `start` runs; others leave them to their backend and return.

    After `start`: waiting: jobs that the backend had no room for; notes: sentences on that.
    """

    name: str
    attached: bool
    waiting: Sequence[Job]
    notes: Sequence[str]

    @classmethod
    def open(cls, layout: Layout) -> Self:
        """On one results folder."""

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """Starts the jobs in their order, each once those of its parents have ended; calls started(job, handle) as each is
        handed over, before it can end.

        A failure of one job never keeps the next from running. SIGINT and SIGTERM stop all, leaving resumable trials, and
        KeyboardInterrupt is raised then. Raises CifarHpcError where the machine cannot run them at all.
        """

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """The state of each handle, in one query to the backend."""

    def explain(self, handles: Sequence[str]) -> Mapping[str, str]:
        """Why a handle waits, how it ended, or why it cannot be asked about, in words; absent where nothing is known."""

    def cancel(self, handles: Sequence[str]) -> None:
        """Ends the jobs; those already gone are ignored."""


class RunJob(Protocol):
    """The runner's run_job, as executors call it."""

    def __call__(
        self,
        job: Job,
        layout: Layout,
        *,
        executor: str,
        node: Node = ...,
        on_epoch: Callable[[str, EpochRecord], bool | str] | None = None,
        interrupted: Callable[[], bool] = ...,
    ) -> None: ...


def run_on_node(
    job: Job,
    layout: Layout,
    *,
    executor: str,
    node: Node | None = None,
    on_epoch: Callable[[str, EpochRecord], bool | str] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """The runner's run_job; torch is imported here, where training is, and nowhere before. node: None: asked for here."""
    first = "cifar_hpc.worker.job" not in sys.modules
    from cifar_hpc.worker.job import run_job

    if first:
        Standing.loaded()
    run_job(job, layout, executor=executor, node=node or Node.here(), on_epoch=on_epoch, interrupted=interrupted)


def promises_on_node(configs: Sequence[TrialConfig]) -> dict[str, float]:
    """What their networks promise; torch is imported here, as for a job."""
    from cifar_hpc.worker.promise import promises_of

    return promises_of(configs)


class Standing:
    """What a process that trains many jobs keeps from the first to the last: torch with its half a million objects.

    Collections between jobs pass over it; each of them else takes as long as a small trial trains. On leaving all is as before.
    """

    _open_n: ClassVar[int] = 0

    def __init__(self) -> None:
        self._theirs = gc.get_freeze_count() > 0  # whoever else runs in this process has done so
        self._frozen = self._theirs

    @classmethod
    def loaded(cls) -> None:
        """Torch has just been: what is there now stands, where anybody in this process is between entering and leaving."""
        if cls._open_n and not gc.get_freeze_count():
            gc.freeze()

    def job_ended(self) -> None:
        """The runner has collected what the job left: what is alive now stands."""
        if not self._frozen:
            gc.freeze()
            self._frozen = True

    def __enter__(self) -> Self:
        Standing._open_n += 1
        return self

    def __exit__(self, *_: object) -> None:
        Standing._open_n -= 1
        if not self._theirs:
            gc.unfreeze()


class LocalHandles:
    """`states` and `cancel` of executors whose jobs live and die with the process that called `start`; a handle names it."""

    attached = True
    waiting: Sequence[Job] = ()
    notes: Sequence[str] = ()

    @classmethod
    def open(cls, layout: Layout) -> Self:
        return cls()

    @staticmethod
    def own_handle() -> str:
        return own_handle()

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """RUNNING while the process lives; UNKNOWN where it is another host's."""
        return process_states(handles)

    def explain(self, handles: Sequence[str]) -> Mapping[str, str]:
        return {}

    def cancel(self, handles: Sequence[str]) -> None:
        """SIGTERM, after which the process saves what it trains and ends. All its jobs end, not only the ones named."""
        for handle, state in self.states(handles).items():
            if state is JobState.RUNNING:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(handle.split("/")[2]), signal.SIGTERM)


class StopRequest(threading.Event):
    """What the first signal sets. starting: the library that starts its processes just now, which no signal breaks off."""

    starting = ""

    @contextlib.contextmanager
    def heeded_after(self, starting: str) -> Iterator[None]:
        """While inside no signal raises: an exception in the middle of a fork leaves locks that nobody frees, and the start
        hangs. Raises KeyboardInterrupt at the end where one came."""
        self.starting = starting
        try:
            yield
        finally:
            self.starting = ""
            if self.is_set():
                raise KeyboardInterrupt


@contextlib.contextmanager
def stop_signals(layout: Layout, jobs: Sequence[Job]) -> Iterator[StopRequest]:
    """While inside, the first SIGINT, SIGTERM or SIGHUP (a closed terminal) only sets the event, and what now happens is said
    at once; a second one raises KeyboardInterrupt. After either, no trial of the jobs stays with an owner who is gone."""
    stopped = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set() and not stopped.starting:
            raise KeyboardInterrupt
        stopped.set()

    left = threading.Event()
    threading.Thread(target=_answer, args=(stopped, left, layout, jobs), daemon=True, name="answer").start()
    before = {number: signal.signal(number, stop) for number in END_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        left.set()


def _answer(stopped: StopRequest, left: threading.Event, layout: Layout, jobs: Sequence[Job]) -> None:
    """Says what an interruption does, from a thread: the main one may be deep in a step, and a handler may not print."""
    while not stopped.wait(ANSWER_S):
        if left.is_set():
            return
    if left.is_set():
        return
    if stopped.starting:
        print(f"stopping, once {stopped.starting} has started", file=sys.stderr, flush=True)
        return
    running = sum(_trains(layout.trial(trial_id), job) for job in list(jobs) for trial_id in job.trial_ids)
    what = f": {running} trials save their state" if running > 1 else ": 1 trial saves its state" if running else ""
    print(f"stopping{what}; again to stop at once", file=sys.stderr, flush=True)


def _trains(files: TrialFiles, job: Job) -> bool:
    """Whether the job has it, and not only as one that waits for others."""
    claim = newest_claim(files)
    is_jobs = claim is not None and claim.job == f"{job.sweep}/{job.job_id}" and claim.released_at is None
    return is_jobs and claim is not None and not claim.waits and not files.result.exists()


def give_back(layout: Layout, jobs: Iterable[Job]) -> None:
    """After an interruption, once the jobs' processes are gone: their trials are interrupted, as far as they were saved, and
    not lost. Nothing is raised: what cannot be written stays lost."""
    for job in jobs:
        for trial_id in job.trial_ids:
            with contextlib.suppress(OSError, RecordError):
                state = read_state(layout.trial(trial_id), trial_id)
                if state.status is Status.LOST and state.claim and state.claim.job == f"{job.sweep}/{job.job_id}":
                    release_claim(layout.trial(trial_id), state.claim)


def record_death(layout: Layout, job: Job, kind: str, message: str, traceback: str = "") -> None:
    """Writes error.json for the job's trials that have neither a result nor an error nor a living owner: who trained them
    is gone and cannot. Without it each further sweep would run into the same death."""
    if not layout.root.is_dir():
        return
    for trial_id in job.trial_ids:
        files = layout.trial(trial_id)
        state = read_state(files, trial_id)
        if state.status not in (Status.LOST, Status.PLANNED):
            continue
        claims = files.claims()
        record = ErrorRecord(
            trial_id=trial_id,
            attempt=attempt_of(claims[-1]) if claims else 0,  # 0: before any attempt, so that it hides none
            kind=kind,
            message=message,
            traceback=traceback,
            host=state.claim.host if state.claim else socket.gethostname(),
            job=f"{job.sweep}/{job.job_id}",
            failed_at=utc_now(),
        )
        with contextlib.suppress(OSError):  # a full disk: the trial stays LOST
            write_record(files.error, record)
