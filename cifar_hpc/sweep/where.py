"""Where trials run: the choice that a caller makes, and what it means on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cifar_hpc.executors.slurm.names import settle_names
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.usage import spent_budget
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.usage import Budget, Spent
from cifar_hpc.status.state import SweepReader

if TYPE_CHECKING:
    from cifar_hpc.executors.slurm.profile import SlurmProfile


class On(StrEnum):
    """Where the trials run."""

    AUTO = "auto"
    INLINE = "inline"
    RAY = "ray"
    SLURM = "slurm"


@dataclass(frozen=True, slots=True)
class Where:
    """Where and how to run. profile: of the Slurm site, None: the only one; wait: stay until Slurm's jobs have ended; budget:
    of its workers, None: as it was."""

    on: On = On.AUTO
    profile: str | None = None
    canary: bool = True
    wait: bool = False
    budget: Budget | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The options that mean the same when a command is typed again."""
        on = () if self.on is On.AUTO else ("--on", self.on.value)
        return (*on, *(() if self.profile is None else ("--profile", self.profile)))

    def slurm(self) -> SlurmProfile | None:
        """The profile where Slurm is meant: asked for, or there with a profile. Raises CifarHpcError."""
        if self.on not in (On.AUTO, On.SLURM) or (self.on is On.AUTO and shutil.which("sbatch") is None):
            return None
        from cifar_hpc.executors.slurm.profile import SlurmProfile, find_profile

        found = find_profile(self.profile)
        return SlurmProfile() if found is None and self.on is On.SLURM else found

    def on_this_machine(self, jobs_n: int) -> str:
        """The executor for so many jobs where Slurm is not meant."""
        if self.on is not On.AUTO:
            return self.on.value
        return "ray" if jobs_n > 1 and find_spec("ray") is not None else "inline"


def spent_of(layout: Layout, plan: PlanRecord) -> Spent | None:
    """The sweep's budget where that is spent, and it did not run last where none counts. Raises OSError, RecordError."""
    if plan.where[:1] == ("--on",) and On.SLURM.value not in plan.where[:2]:
        return None
    return spent_budget(layout.sweep(plan.sweep))


def reader_of(layout: Layout, plan: PlanRecord) -> SweepReader:
    """The reader of a sweep's states that asks Slurm about jobs in its queue, those too whose sending was cut short."""
    queue = SlurmQueue(layout.queue)
    settle_names([layout.sweep(plan.sweep)], queue)
    return SweepReader(layout, plan, queue)
