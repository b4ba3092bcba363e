"""What the workers of a sweep have taken of a cluster, and whether its budget is spent.

Owns: usage.jsonl and budget.json. A worker tells of itself after each job, and at the end of an epoch at most once a minute, so
that a killed one is counted up to then. Asks no scheduler.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import SweepFiles
from cifar_hpc.records.store import append_records, read_record, read_records, write_record
from cifar_hpc.records.usage import Budget, Spent, Usage

TELL_EVERY_S = 60.0
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(gpuh|cpuh)")


@dataclass(frozen=True, slots=True)
class Used:
    """Hours that the workers of a sweep have taken."""

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0

    def spends(self, budget: Budget) -> bool:
        gpus_over = budget.gpu_hours is not None and self.gpu_hours >= budget.gpu_hours
        return gpus_over or (budget.cpu_hours is not None and self.cpu_hours >= budget.cpu_hours)

    def words(self, budget: Budget) -> str:
        """'3.25 of 20 GPU-hours'."""
        if budget.gpu_hours is not None:
            return f"{_told(self.gpu_hours)} of {_told(budget.gpu_hours)} GPU-hours"
        return f"{_told(self.cpu_hours)} of {_told(budget.cpu_hours or 0.0)} CPU-hours"

    def more(self, budget: Budget) -> str:
        """Twice the budget, or what is taken where that is more, as `parse_budget` reads it."""
        bounds = (self.gpu_hours, budget.gpu_hours, "gpuh"), (self.cpu_hours, budget.cpu_hours, "cpuh")
        taken, bound, unit = bounds[0] if budget.gpu_hours is not None else bounds[1]
        return f"{Decimal(f'{2 * max(taken, bound or 0.0):.2g}'):f}{unit}"


def _told(hours: float) -> str:
    """With so many digits that what is just below a budget does not look like it."""
    return f"{hours:.4g}" if hours < 9999 else f"{hours:.0f}"


def parse_budget(text: str) -> Budget:
    """Of '20gpuh', '100cpuh' or 'none', which bounds nothing. Raises CifarHpcError."""
    if text.strip().lower() == "none":
        return Budget()
    match = _BUDGET.fullmatch(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise CifarHpcError(
            f"--budget: {text!r}; a number above 0 with gpuh or cpuh (GPU- or CPU-hours), such as 20gpuh, or none"
        )
    hours = float(match[1])
    return Budget(gpu_hours=hours) if match[2] == "gpuh" else Budget(cpu_hours=hours)


def set_budget(files: SweepFiles, budget: Budget) -> None:
    """For all its workers, those that run included. Raises OSError."""
    if budget == Budget():
        files.budget.unlink(missing_ok=True)
    else:
        write_record(files.budget, budget)


def spent_words(files: SweepFiles, asked: Budget | None = None) -> str | None:
    """'3.2 of 20 GPU-hours'; None where nothing bounds the sweep. asked: the budget that is to be set; None: as it is. Raises
    OSError, RecordError."""
    budget = read_budget(files) if asked is None else asked
    return None if budget in (None, Budget()) else read_used(files).words(budget)


def spent_budget(files: SweepFiles, asked: Budget | None = None) -> Spent | None:
    """None where nothing bounds the sweep, or some is left. asked, raises: as above."""
    budget = read_budget(files) if asked is None else asked
    if budget is None or not (used := read_used(files)).spends(budget):
        return None
    return Spent(used.words(budget), used.more(budget))


def read_budget(files: SweepFiles) -> Budget | None:
    """None where nothing bounds the sweep. Raises RecordError, OSError."""
    try:
        return read_record(files.budget, Budget)
    except FileNotFoundError:
        return None


def read_used(files: SweepFiles) -> Used:
    """By the last line of each start of each worker. Raises RecordError, OSError."""
    last: dict[tuple[str, int], Usage] = {}
    for line in read_records(files.usage, Usage):
        key = line.task, line.restarts
        if key not in last or last[key].seconds <= line.seconds:
            last[key] = line
    gpu_s = sum(line.seconds * line.gpus for line in last.values())
    cpu_s = sum(line.seconds * line.cpus for line in last.values())
    return Used(gpu_s / 3600, cpu_s / 3600)


def told_at(files: SweepFiles) -> str | None:
    """When a worker told last what it has taken, UTC, ISO-8601; None where none has."""
    with contextlib.suppress(OSError):
        return datetime.fromtimestamp(files.usage.stat().st_mtime, UTC).isoformat()
    return None


@dataclass
class Meter:
    """Of one start of a worker, of which each process may tell: the one that tells last counts for all."""

    files: SweepFiles
    task: str
    restarts: int
    gpus: float
    cpus: int
    _began: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def tell(self, at_once: bool = False) -> None:
        """Raises OSError. at_once: also within a minute of the last time."""
        now = time.monotonic()
        if at_once or now - self._told >= TELL_EVERY_S:
            self._told = now
            seconds = round(now - self._began, 1)
            line = Usage(task=self.task, restarts=self.restarts, seconds=seconds, gpus=self.gpus, cpus=self.cpus)
            append_records(self.files.usage, [line])

    def spent(self) -> bool:
        """Whether the sweep's budget is. Raises OSError, RecordError."""
        if read_budget(self.files) is None:
            return False
        self.tell(at_once=True)
        return spent_budget(self.files) is not None

    def words(self) -> str:
        return spent_words(self.files) or "there is none any more"
