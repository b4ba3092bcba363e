"""What a task of a Slurm job does: `python -m cifar_hpc.executors.slurm.task run|canary WORK_FILE`.

A worker's jobs and its end by signal; the canary's first epoch, checkpoint and resume. On several nodes one task runs on each:
the first one leads, it alone takes jobs, writes records and decides the exit status. The others do what it says in a file,
follow it in the runner's rendezvous, and leave with 0.

A signal (USR2 before the time limit or a preemption, TERM when Slurm ends the job) has the runner save and come back. Whether
the job goes back into the queue the batch script decides by the exit status: AGAIN asks for it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from cifar_hpc.errors import Interrupted, RecordError
from cifar_hpc.executors.base import RunJob, Standing, record_death, run_on_node
from cifar_hpc.executors.slurm.pull import Puller
from cifar_hpc.executors.slurm.script import EARLY_S
from cifar_hpc.executors.slurm.usage import Meter
from cifar_hpc.executors.slurm.work import AGAIN, BROKEN, Task, Work, root_of
from cifar_hpc.planning.lineage import parent_failure, parent_missing, parent_of
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.claims import read_state, restartable
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.node import Node
from cifar_hpc.records.schema import EpochRecord, Status
from cifar_hpc.records.starts import ASKED, TIME, TOKEN_PREFIX, task_of
from cifar_hpc.records.store import write_text

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
POLL_S = 0.2


@dataclass
class Flag:
    """Which signals came, and what has happened since the start. time_at: from when on a signal is the time limit's."""

    term: bool = False
    user: bool = False
    epochs_n: int = 0
    time_at: float | None = None
    children: list[int] = field(default_factory=list)
    on_epoch: list[Callable[[], None]] = field(default_factory=list)

    def raised(self) -> bool:
        return self.term or self.user

    def ending(self) -> str:
        return TIME if self.raised() and self.time_at is not None and time.time() >= self.time_at else ASKED

    def epoch_ended(self, trial_id: str, record: EpochRecord) -> bool:
        self.epochs_n += 1
        for hook in self.on_epoch:
            hook()
        return True


@dataclass(frozen=True)
class Here:
    """One task on its node: its work, where the records lie, which signals came."""

    work: Work
    work_file: Path
    layout: Layout
    node: Node
    flag: Flag
    run: RunJob

    @property
    def token(self) -> str:
        return f"{TOKEN_PREFIX}{self.node.handle}"

    def passed(self) -> None:
        """Notes that jobs of this class can do their work."""
        if self.work.mark:
            path = self.layout.sweep(self.work.sweep).resource_class(self.work.mark)
            if not path.exists():
                write_text(path, "passed\n")


def run_worker(work_file: Path, run: RunJob = run_on_node) -> int:
    """Takes jobs of the array until none is left that fits, and gives the exit status. A trial's own failure stands in its
    error.json. Raises RecordError where the results folder is not there."""
    with _signals() as flag:
        here = _here(work_file, flag, run)
        flag.on_epoch.append(lambda: _first_epoch(here))
        if here.work.at_once > 1:
            return _run_side_by_side(here)
        meter = _meter(here)
        flag.on_epoch.append(meter.tell)
        status = _pull(here, _puller(here, meter, 0)) if here.node.leads else _follow(here)
        if here.node.leads:
            meter.tell(at_once=True)
        return status


def _here(work_file: Path, flag: Flag, run: RunJob) -> Here:
    work, node = Work.read(work_file), Node.here()
    layout = root_of(work_file)
    ends_at = node.ends_at or time.time() + work.limit_minutes * 60
    flag.time_at = ends_at - work.signal_s - EARLY_S
    (work_file.parent / f"{node.handle}.early").unlink(missing_ok=True)  # from here on starts are counted by their claims
    return Here(work, work_file, layout, replace(node, ends_at=ends_at), flag, run)


def _first_epoch(here: Here) -> None:
    if here.flag.epochs_n == 1 and here.node.leads:
        here.passed()


def _meter(here: Here) -> Meter:
    work = here.work
    files = here.layout.sweep(work.sweep)
    return Meter(files, str(here.node.handle), here.node.restarts, work.gpus, work.cpus)


def _puller(here: Here, meter: Meter, process: int) -> Puller:
    work, handle = here.work, str(here.node.handle)
    index = int(handle.partition("_")[2] or 0) % work.workers
    return Puller(
        work,
        here.layout,
        here.work_file,
        meter,
        here.token if work.at_once == 1 else f"{here.token}/{process}",
        index * work.at_once + process,
        work.workers * work.at_once,
        here.node.ends_at,
        _say,
    )


def _pull(here: Here, puller: Puller) -> int:
    """The exit status. What the runner itself raises becomes the trials' error record."""
    flag, orders = here.flag, _Orders(here)
    with Standing() as standing:
        again = _train_what_fits(here, puller, orders, standing)
    orders.say(None)
    if flag.term:
        _say("saved after SIGTERM")
        return AGAIN
    if not (again or flag.raised() or puller.left_n):
        return 0
    return AGAIN if puller.has_left() else 0


def _train_what_fits(here: Here, puller: Puller, orders: _Orders, standing: Standing) -> bool:
    """Whether it ended with a job that was saved and is to go on."""
    flag, layout = here.flag, here.layout
    while not flag.raised() and (task := puller.next()) is not None:
        job = task.job(here.work.sweep)
        orders.say(job.job_id)
        cancelled = _Cancelled(puller, task)
        try:
            with restartable(puller.token, flag.ending):
                here.run(
                    job,
                    layout,
                    executor="slurm",
                    node=here.node,
                    on_epoch=flag.epoch_ended,
                    interrupted=lambda seen=cancelled: flag.raised() or seen(),  # type: ignore[misc]
                )
            standing.job_ended()
        except Exception as error:
            if cancelled.found and not flag.raised():
                _say(f"{job.job_id} was cancelled: saved, and left")
                continue
            if flag.raised() or isinstance(error, Interrupted):  # also by the word of another node, whose signal came first
                return True
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            record_death(layout, job, type(error).__name__, str(error), text)
        puller.meter.tell()
    return False


@dataclass
class _Cancelled:
    """Whether the job at hand was cancelled meanwhile; once it was, it stays so."""

    puller: Puller
    task: Task
    found: bool = False

    def __call__(self) -> bool:
        self.found = self.found or self.puller.is_cancelled(self.task)
        return self.found


@dataclass
class _Orders:
    """On several nodes: which job is next, a line each in a file that the tasks of one start share; an empty line: none."""

    here: Here
    _read_n: int = 0

    @property
    def path(self) -> Path:
        node = self.here.node
        return self.here.work_file.parent / f"{node.handle}-{node.restarts}.orders"  # the batch script removes it

    def say(self, job_id: str | None) -> None:
        if self.here.node.tasks > 1:
            with self.path.open("a") as stream:
                stream.write(f"{job_id or ''}\n")

    def hear(self) -> str | None:
        while not self.here.flag.raised():
            with contextlib.suppress(FileNotFoundError):
                lines = self.path.read_text().split("\n")[:-1]
                if len(lines) > self._read_n:
                    self._read_n += 1
                    return lines[self._read_n - 1] or None
            time.sleep(POLL_S)
        return None


def _follow(here: Here) -> int:
    tasks = {task.job_id: task for task in here.work.tasks}
    orders = _Orders(here)
    while (job_id := orders.hear()) is not None:
        try:
            job = tasks[job_id].job(here.work.sweep)
            here.run(
                job, here.layout, executor="slurm", node=here.node, on_epoch=here.flag.epoch_ended, interrupted=here.flag.raised
            )
        except Exception as error:  # the first task's to record
            if here.flag.raised() or isinstance(error, Interrupted):
                return 0
            traceback.print_exc()
    return 0


def _run_side_by_side(here: Here) -> int:
    """Several processes that pull, forked before torch is loaded. The exit status."""
    flag = here.flag
    for process in range(here.work.at_once):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while forking would reach neither list nor child
        pid = os.fork()
        if pid == 0:
            flag.children.clear()
            code = 1
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                meter = _meter(here)
                flag.on_epoch.append(meter.tell)
                code = _pull(here, _puller(here, meter, process))
                meter.tell(at_once=True)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        flag.children.append(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    codes = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in flag.children}
    for pid, code in codes.items():
        if code not in (0, AGAIN):
            _record_process(here, pid, code)
    return AGAIN if AGAIN in codes.values() else 0


def _record_process(here: Here, pid: int, code: int) -> None:
    """The failure of what a dead process had claimed."""
    for task in here.work.tasks:
        for trial_id in task.trial_ids:
            claim = read_state(here.layout.trial(trial_id), trial_id).claim
            if claim is not None and task_of(claim.restart_token) == here.node.handle and claim.pid == pid:
                job = task.job(here.work.sweep)
                record_death(here.layout, job, "ProcessDied", f"its process ended with {code}")
                break


def run_canary(work_file: Path, run: RunJob = run_on_node) -> int:
    """The first epoch of the work's only trial, its checkpoint and the resume from it; the exit status is BROKEN where that
    fails, and no decision where a signal comes between.

    Its checkpoint stays: the array goes on from it. A failure of the trial's parent is not the class's.
    """
    with _signals() as flag:
        here = _here(work_file, flag, run)
        job, layout, node = here.work.tasks[0].job(here.work.sweep), here.layout, here.node
        trial_id = job.trial_ids[0]
        meter = _meter(here)
        looks = itertools.count()
        for part, stop in (
            ("first epoch", lambda: flag.raised() or flag.epochs_n > 0),
            ("resume", lambda: flag.raised() or next(looks) > 0),  # the first look comes before the checkpoint is read
        ):
            saved = False
            try:
                with restartable(here.token, flag.ending):
                    run(job, layout, executor="slurm", node=node, on_epoch=flag.epoch_ended, interrupted=stop)
            except Exception as error:
                saved = isinstance(error, Interrupted)
                if not (saved or flag.raised()):
                    raise
            state = read_state(layout.trial(trial_id), trial_id)
            if node.leads and state.status is Status.FAILED and not _failed_with_parent(job, layout):
                print(f"canary: the {part} of trial {trial_id} failed: {state.reason}", file=sys.stderr, flush=True)
                return BROKEN
            if not saved or flag.raised():  # it has ended already, or must go
                break
        if not node.leads:
            return 0
        meter.tell(at_once=True)
        if flag.raised():
            _say(f"canary: stopped by a signal after {state.epochs_done} epoch(s) of trial {trial_id}: no decision")
            return AGAIN
        if state.epochs_done or state.result is not None:
            here.passed()
            _say(f"canary: trial {trial_id}: {state.epochs_done} epoch(s){', saved and resumed' if saved else ''}")
        else:
            _say(f"canary: trial {trial_id} did not begin{_why_not(job, layout)}: no decision")
        return 0


def _failed_with_parent(job: Job, layout: Layout) -> bool:
    parent = parent_of(job.cohorts[0].trials[0])
    return parent is not None and parent_failure(parent, layout) is not None


def _why_not(job: Job, layout: Layout) -> str:
    config = job.cohorts[0].trials[0]
    if parent_missing(config, layout) is not None:
        return f", for want of the weights of its parent {parent_of(config)}"
    claim = read_state(layout.trial(job.trial_ids[0]), job.trial_ids[0]).claim
    return f": {claim.job} on {claim.host} has it" if claim is not None else ""


@contextlib.contextmanager
def _signals() -> Iterator[Flag]:
    """While inside, USR2 and TERM set the flag, here and in the children."""
    flag = Flag()

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


def _say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    kind, path = arguments
    try:
        return {"run": run_worker, "canary": run_canary}[kind](Path(path))
    except RecordError as error:
        print(error, file=sys.stderr, flush=True)
        return BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
