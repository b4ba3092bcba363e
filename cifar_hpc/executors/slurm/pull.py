"""A worker of a resource class: which job of its array it takes next, until none is left that fits its remaining time.

Owns: the order in which workers take jobs, what fits, when a sweep's budget is spent. Who has a trial the claims say: a worker
that ends early or dies leaves nothing behind but claims that lapse. Knows no signal and starts no process.

Each worker goes through its own share first, so that workers meet only at the end, and then through the others'.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cifar_hpc.errors import RecordError
from cifar_hpc.executors.slurm.usage import Meter
from cifar_hpc.executors.slurm.work import Task, Work
from cifar_hpc.planning.lineage import parent_failure
from cifar_hpc.records.claims import is_alive, is_pruned
from cifar_hpc.records.jobs import CancelledTrials
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import parent_in
from cifar_hpc.records.schema import Claim, ErrorRecord
from cifar_hpc.records.starts import fruitless_starts
from cifar_hpc.records.store import read_record

POLL_S = 5.0  # between two questions whether the job at hand was cancelled
MARGIN = 1.5  # what a job may take longer than those before it took, each against its estimate


@dataclass
class Puller:
    """Of one process of a worker. place: among all processes of the array, of `places`; token: what this process's claims bear;
    ends_at: the task's time limit, by the clock; None: not known."""

    work: Work
    layout: Layout
    work_file: Path
    meter: Meter
    token: str
    place: int = 0
    places: int = 1
    ends_at: float | None = None
    say: Callable[[str], None] = print
    left_n: int = 0  # jobs for which the time no longer sufficed
    _over: set[str] = field(default_factory=set)  # job ids that are nothing for this start any more
    _took_s: float = 0.0
    _expected_s: float = 0.0
    _began: tuple[Task, float] | None = None
    _asked_at: float = 0.0
    _cancelled: CancelledTrials = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._cancelled = CancelledTrials(self.layout.sweep(self.work.sweep))

    def next(self) -> Task | None:
        """The next job, which counts as run in this start; None where none is left that can begin and fits. Raises RecordError
        where the results folder is gone."""
        self._finish_last()
        if not self.work_file.exists():
            raise RecordError(f"results: {self.work_file} is gone: nothing is trained where its results are lost")
        if self.meter.spent():
            self.say(f"the budget of {self.work.sweep} is spent ({self.meter.words()}): no further trial is claimed")
            self.left_n = 0
            return None
        self.left_n = 0
        for task in self._in_order():
            if not self._is_open(task):
                continue
            if not self._fits(task):
                self.left_n += 1
                continue
            self._over.add(task.job_id)
            self._began = task, time.monotonic()
            return task
        return None

    def is_cancelled(self, task: Task) -> bool:
        """Whether all its trials are, for who trains it; asked every POLL_S."""
        if time.monotonic() - self._asked_at < POLL_S:
            return False
        self._asked_at = time.monotonic()
        return self._cancelled.ids().issuperset(task.trial_ids)

    def has_left(self) -> bool:
        """Whether a job could begin if this worker had a fresh time limit."""
        self._over.clear()
        return not self.meter.spent() and any(map(self._is_open, self.work.tasks))

    def _in_order(self) -> list[Task]:
        """What an earlier start of this task had claimed, its share, then the shares of the others from their ends."""
        tasks = [task for task in self.work.tasks if task.job_id not in self._over]
        places = {task.job_id: place for place, task in enumerate(self.work.tasks)}
        own = [task for task in tasks if places[task.job_id] % self.places == self.place]
        others = [task for task in reversed(tasks) if places[task.job_id] % self.places != self.place]
        ordered = [*own, *others]
        if not self._over:
            ordered.sort(key=lambda task: not any(self._is_of_this_task(trial_id) for trial_id in task.trial_ids))
        return ordered

    def _is_of_this_task(self, trial_id: str) -> bool:
        claims = self.layout.trial(trial_id).claims()
        with contextlib.suppress(OSError, RecordError):
            return bool(claims) and read_record(claims[-1], Claim).restart_token == self.token
        return False

    def _fits(self, task: Task) -> bool:
        """The first of a start always does: no start has more time."""
        if self.ends_at is None or not self._over:
            return True
        pace = MARGIN * self._took_s / self._expected_s if self._expected_s else 1.0
        left_s = self.ends_at - self.work.signal_s - time.time()
        return task.minutes * 60 * min(1.0, pace) <= left_s

    def _finish_last(self) -> None:
        if self._began is not None:
            task, began = self._began
            self._took_s += time.monotonic() - began
            self._expected_s += task.minutes * 60
            self._began = None

    def _is_open(self, task: Task) -> bool:
        """Whether a trial of it can begin: not finished, failed since the submission, cancelled or given up, and its parent
        there; and no fellow worker at work on the cohort. What never changes is asked once."""
        if task.job_id in self._over:
            return False
        waits = False
        for trial_id, parent_id in zip(task.trial_ids, _parents(task), strict=True):
            if self._is_over(trial_id):
                continue
            fellow = self._fellow(task, trial_id)
            if fellow is not None:
                if fellow:
                    return False  # the cohort is a fellow's, who claims its trials one after another
                waits = True
                continue
            if parent_id is not None and self._awaits(parent_id):
                waits = True
                continue
            return True
        if not waits:
            self._over.add(task.job_id)
        return False

    def _is_over(self, trial_id: str) -> bool:
        files = self.layout.trial(trial_id)
        if files.result.exists():
            return not is_pruned(files)
        with contextlib.suppress(OSError, RecordError):
            if read_record(files.error, ErrorRecord).failed_at >= self.work.submitted_at:
                return True
        if trial_id in self._cancelled.ids():
            return True
        if (starts := fruitless_starts(self.layout, trial_id)) >= self.work.max_attempts:
            self.say(f"trial {trial_id} is not started again: {starts} starts came to nothing")
            return True
        return False

    def _fellow(self, task: Task, trial_id: str) -> bool | None:
        """Whether the living owner of the trial works on this same job; None where nobody lives who has it, or it is this
        task's earlier start."""
        claims = self.layout.trial(trial_id).claims()
        with contextlib.suppress(OSError, RecordError):
            if claims:
                claim = read_record(claims[-1], Claim)
                if is_alive(claim, claims[-1]) and claim.restart_token != self.token:
                    return claim.job == f"{self.work.sweep}/{task.job_id}"
        return None

    def _awaits(self, parent_id: str) -> bool:
        files = self.layout.trial(parent_id)
        return not (files.weights.exists() and not is_pruned(files)) and parent_failure(parent_id, self.layout) is None


def _parents(task: Task) -> list[str | None]:
    """Of each trial, in the order of trial_ids."""
    return [parent_in(config) for cohort in task.cohorts for config in cohort]
