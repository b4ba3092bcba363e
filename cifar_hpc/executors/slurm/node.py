"""What runs on a Slurm node: the jobs of one array task, their end by signal, their way back into the queue.

An element on several nodes has one task on each, and all of them run the same. The first one leads: it alone writes records,
requeues and decides the exit status. The others follow what it says in the runner's rendezvous, and leave with 0.

Knows no submitit, though submitit calls it. USR2 comes before the time limit or a preemption: save, then requeue this element
by its own id. TERM comes from scancel, `scontrol requeue` and preemption: save; Slurm itself starts the element again or not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from cifar_hpc.executors.base import RunJob, record_death, run_on_node
from cifar_hpc.planning.lineage import parent_failure, parent_of
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.claims import read_state, restartable
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.node import Node
from cifar_hpc.records.schema import EpochRecord, Status

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
OUTER_JOB = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")  # variables that sbatch would take for wishes
INTERRUPTED = 75  # exit status: saved, to be gone on with


@dataclass(frozen=True, slots=True)
class Element:
    """What one array task does. index: its place in the array; at_once: processes that share its GPU."""

    index: int
    root: Path
    jobs: tuple[Job, ...]
    at_once: int = 1
    requeue: bool = True
    max_attempts: int = 3


@dataclass
class _Flag:
    """Which signals came. progress: whether an epoch ended since the start."""

    term: bool = False
    user: bool = False
    progress: bool = False
    children: list[int] = field(default_factory=list)

    def raised(self) -> bool:
        return self.term or self.user

    def epoch_ended(self, trial_id: str, record: EpochRecord) -> bool:
        self.progress = True
        return True


def canary_of(element: Element) -> Element:
    """The canary of an array: the first trial of its first element, as a job of its own name."""
    job = element.jobs[0]
    first = replace(job.cohorts[0], trials=job.cohorts[0].trials[:1])
    return replace(
        element, index=0, at_once=1, jobs=(replace(job, job_id=job.job_id.replace("job-", "canary-"), cohorts=(first,)),)
    )


def run_element(element: Element, run: RunJob = run_on_node) -> None:
    """Runs the jobs; after a signal saves, and puts this element back into the queue where that is right.

    A trial's own failure stands in its error.json and leaves the exit status at 0. Leaves by SystemExit, upon which submitit
    writes no answer: nobody reads it.
    """
    Layout(element.root).require_root()
    node = Node.here()
    with _signals() as flag, restartable(f"slurm/{node.handle}"):
        if element.at_once > 1:
            interrupted = _run_side_by_side(element, node, run, flag)
        else:
            interrupted = _run_jobs(element, element.jobs, node, run, flag)
    if not node.leads:
        raise SystemExit(0)
    if not interrupted:
        _remove_input(node)
        raise SystemExit(0)
    if flag.term:
        _say("saved after SIGTERM")
    elif not element.requeue:
        _say("saved before the time limit; the next `cifar-hpc sweep` goes on")
    elif not flag.progress and node.restarts + 1 >= element.max_attempts:
        _say(
            f"saved, not requeued: no epoch ended in this start, and it was start {node.restarts + 1} of {element.max_attempts}"
        )
    else:
        requeue_self(node)
    raise SystemExit(INTERRUPTED)


def run_canary(element: Element, run: RunJob = run_on_node) -> None:
    """The first epoch of the element's only trial, its checkpoint and the resume from it. Exit status 1 where that fails.

    Its checkpoint stays: the array goes on from it. A failure of the trial's parent is not the class's: exit status 0.
    """
    job, layout = element.jobs[0], Layout(element.root)
    layout.require_root()
    trial_id = job.trial_ids[0]
    node = Node.here()
    with _signals() as flag, restartable(f"slurm/{node.handle}"):
        looks = itertools.count()
        for part, stop in (
            ("first epoch", lambda: flag.raised() or flag.progress),
            ("resume", lambda: flag.raised() or next(looks) > 0),  # the first look comes before the checkpoint is read
        ):
            saved = False
            try:
                run(job, layout, executor="slurm", node=node, on_epoch=flag.epoch_ended, interrupted=stop)
            except Exception as error:
                saved = _is_interruption(error)
                if not (saved or flag.raised()):
                    raise
            state = read_state(layout.trial(trial_id), trial_id)
            if node.leads and state.status is Status.FAILED and not _failed_with_parent(job, layout):
                print(f"canary: the {part} of trial {trial_id} failed: {state.reason}", file=sys.stderr, flush=True)
                raise SystemExit(1)
            if not saved or flag.raised():  # it has ended already, or must go
                break
    if not node.leads:
        raise SystemExit(0)
    _remove_input(node)
    done = (
        f"{state.epochs_done} epoch(s), saved and resumed"
        if state.epochs_done
        else "not begun, for want of its parent's weights"
    )
    _say(f"canary: trial {trial_id}: {done}")
    raise SystemExit(INTERRUPTED if flag.raised() else 0)


def _failed_with_parent(job: Job, layout: Layout) -> bool:
    parent = parent_of(job.cohorts[0].trials[0])
    return parent is not None and parent_failure(parent, layout) is not None


def run_relay(element: Element, go_on: Callable[[], None]) -> None:
    """Submits what had no room in the queue before; what it submits knows nothing of the job that it was submitted in."""
    _remove_input(Node.here())
    for key in [key for key in os.environ if key.startswith(OUTER_JOB) and key != "SLURM_CONF"]:
        del os.environ[key]
    go_on()
    raise SystemExit(0)


def requeue_self(node: Node) -> None:
    """Puts this array task, not its array, back into the queue."""
    own = str(node.handle)
    for attempt in range(3):
        done = subprocess.run(["scontrol", "requeue", own], capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            _say(f"saved and requeued as {own}")
            return
        time.sleep(1 + attempt)
    _say(f"saved, but not requeued ({done.stderr.strip()}); the next `cifar-hpc sweep` goes on")


def _run_jobs(element: Element, jobs: tuple[Job, ...], node: Node, run: RunJob, flag: _Flag) -> bool:
    """Whether a signal ended them before their time. What the runner itself raises becomes the trials' error record."""
    layout = Layout(element.root)
    for job in jobs:
        if flag.raised() and node.leads:
            return True
        try:
            run(job, layout, executor="slurm", node=node, on_epoch=flag.epoch_ended, interrupted=flag.raised)
        except Exception as error:
            if flag.raised() or _is_interruption(error):
                return True
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            if node.leads:
                record_death(layout, job, type(error).__name__, str(error), text)
    return False


def _run_side_by_side(element: Element, node: Node, run: RunJob, flag: _Flag) -> bool:
    """The jobs dealt out to processes, forked before torch is loaded. Whether a signal ended them before their time."""
    shares = [share for place in range(element.at_once) if (share := element.jobs[place :: element.at_once])]
    for share in shares:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while forking would reach neither list nor child
        pid = os.fork()
        if pid == 0:
            flag.children.clear()
            code = 1
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                code = INTERRUPTED + flag.progress if _run_jobs(element, share, node, run, flag) else 0
            finally:
                sys.stdout.flush()
                os._exit(code)
        flag.children.append(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in flag.children]
    for share, code in zip(shares, codes, strict=True):
        if code not in (0, INTERRUPTED, INTERRUPTED + 1):
            for job in share:
                record_death(Layout(element.root), job, "ProcessDied", f"its process ended with {code}")
    flag.progress = INTERRUPTED + 1 in codes or 0 in codes
    return INTERRUPTED in codes or INTERRUPTED + 1 in codes


@contextlib.contextmanager
def _signals() -> Iterator[_Flag]:
    """While inside, USR2 and TERM set the flag, here and in the children. Replaces submitit's own handlers."""
    flag = _Flag()

    def raise_flag(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR2:
            flag.user = True
        else:
            flag.term = True
        for pid in flag.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    before = {number: signal.signal(number, raise_flag) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_interruption(error: Exception) -> bool:
    """Whether the runner saved and left, here or on another node, whose signal came first."""
    from cifar_hpc.errors import Interrupted

    return isinstance(error, Interrupted)


def _remove_input(node: Node) -> None:
    """submitit keeps what a job was given; of one that ended only the log is wanted."""
    if folder := os.environ.get("SUBMITIT_FOLDER"):
        (Path(folder) / f"{node.handle}_submitted.pkl").unlink(missing_ok=True)


def _say(text: str) -> None:
    print(text, flush=True)
