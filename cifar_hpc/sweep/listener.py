"""Who is told how a sweep gets on, and what it comes to. Owns: the events, the outcome. Knows no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlanRecord, Status
from cifar_hpc.status.progress import Best, best_point
from cifar_hpc.status.state import ENDED
from cifar_hpc.status.words import total_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What is about to train. trials_n, cohorts_n: of those to start, of all_n trials; where: inline, ray or slurm; what: of a
    search, its bounds in words."""

    sweep: str
    trials_n: int
    all_n: int
    cohorts_n: int
    where: str
    root: Path
    what: str = ""


class Listener(Protocol):
    """Is told of a sweep as it goes on. `progress` comes from a thread of its own, the rest from the caller's."""

    def note(self, text: str) -> None:
        """A sentence that a person should read."""

    def begun(self, begun: Begun) -> None:
        """Once, before anything starts."""

    def progress(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        """Where all trials stand, by id: before the first one starts, about once a second, and after the last one ended."""

    def ended(self) -> None:
        """Once no trial trains any more, however that came."""


class Silent:
    """Is told, and does nothing. The base of a listener that wants to hear some events only."""

    def note(self, text: str) -> None: ...

    def begun(self, begun: Begun) -> None: ...

    def progress(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None: ...

    def ended(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SweepOutcome:
    """Where a sweep stands once a call has returned. states: by trial id, in the plan's order.

    started: whether there was anything to start or to wait for; interrupted: by Ctrl-C or SIGTERM; submitted: its jobs stand
    in a queue, and nobody waits for them here; elsewhere: ids of trials that go on though this call was interrupted.
    """

    plan: PlanRecord
    states: Mapping[str, TrialState]
    started: bool = True
    interrupted: bool = False
    submitted: bool = False
    elsewhere: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """A line: a notebook shows it under the cell that ran the sweep."""
        best = f"; best: {self.best}" if self.best else ""
        total = total_text(len(self.states), self.plan.to_come)
        return f"SweepOutcome({self.plan.sweep}: {len(self.completed)} of {total} finished{best})"

    @property
    def completed(self) -> tuple[str, ...]:
        """Ids of the trials that have a result."""
        return tuple(trial_id for trial_id, state in self.states.items() if state.status in ENDED)

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(trial_id for trial_id, state in self.states.items() if state.status is Status.FAILED)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Ids of those without a result, the failed ones among them."""
        return tuple(trial_id for trial_id, state in self.states.items() if state.status not in ENDED)

    @property
    def ok(self) -> bool:
        """Whether every trial has a result."""
        return not self.unfinished

    @property
    def best(self) -> Best | None:
        """The best configuration by the objective on validation; None before anything was measured."""
        return best_point(self.plan, self.states)
