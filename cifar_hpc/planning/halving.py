"""Successive halving among the trials of one cohort (Jamieson & Talwalkar 2016, arXiv:1502.07943): after each rung, an epoch,
the best share of the configurations that are still in it goes on. The folds of one go on or end together, by their mean.

Owns: Rungs, which trials end where. All is a pure function of what the trials measured, in the order in which their cohort was
planned, so that who decides, on which machine and how often makes no difference: the same decisions can be read off the records
afterwards. Knows no files and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Values = Mapping[str, Sequence[float | None]]  # trial id -> the objective after each epoch, as far as it has come


@dataclass(frozen=True, slots=True, kw_only=True)
class Rungs:
    """company: the configurations that are judged together, each by the ids of its trials, one a fold; epochs: the rungs;
    reduction: the best 1/reduction go on, rounded up; objective, mode: as in config/registry.OBJECTIVES."""

    company: tuple[tuple[str, ...], ...]
    epochs: tuple[int, ...]
    reduction: float
    objective: str
    mode: str

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Rungs:
        """As JSON has it."""
        return cls(**{**plain, "company": tuple(map(tuple, plain["company"])), "epochs": tuple(plain["epochs"])})

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(trial_id for trials in self.company for trial_id in trials)

    def endings(self, values: Values, awaited: Collection[str] = ()) -> Endings:
        """awaited: trials that may still come as far as the others; a rung before which one of them is is not decided yet. What
        has no value at a rung otherwise (failed, diverged, stopped early) is not among those that are judged there."""
        competing = list(self.company)
        ended: dict[str, Ending] = {}
        for rung in self.epochs:
            if any(len(values.get(i, ())) < rung for trials in competing for i in trials if i in awaited):
                return Endings(ended, rung)
            there = {trials: tuple(i for i in trials if len(values.get(i, ())) >= rung) for trials in competing}
            reached = {trials: [values[i][rung - 1] for i in came] for trials, came in there.items() if came}
            going_n = math.ceil(len(reached) / self.reduction)
            best = sorted(reached, key=lambda trials: -self._worth(reached[trials]))
            for trials in best[going_n:]:
                going = f"{going_n} of {len(reached)} in its cohort went on"  # of equal ones perhaps some
                told = f"{self.objective} {_told(reached[trials])} after epoch {rung}; {going}"
                ended |= dict.fromkeys(there[trials], Ending(rung, f"halving: {told}"))
            competing = [trials for trials in competing if trials in best[:going_n]]
        return Endings(ended, None)

    def _worth(self, reached: Sequence[float | None]) -> float:
        mean = _mean(reached)
        if mean is None or math.isnan(mean):
            return -math.inf
        return mean if self.mode == "max" else -mean


def _mean(reached: Sequence[float | None]) -> float | None:
    """None where one has no value."""
    numbers = [value for value in reached if value is not None]
    return fmean(numbers) if len(numbers) == len(reached) else None


def _told(reached: Sequence[float | None]) -> str:
    mean = _mean(reached)
    if mean is None:
        return "has no value"
    return f"{mean:.4g}" if len(reached) == 1 else f"{mean:.4g} (mean of {len(reached)} folds)"


@dataclass(frozen=True, slots=True)
class Ending:
    """epoch: the last one of a trial that does not go on; reason: a sentence."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Endings:
    """ended: by trial id; undecided: the first rung that cannot be decided yet, None where all are."""

    ended: Mapping[str, Ending]
    undecided: int | None


def rungs_of(grace_epochs: int, reduction: float, longest: int) -> tuple[int, ...]:
    """grace_epochs x reduction^k, whole and rising, below the longest trial's epochs."""
    found: list[int] = []
    rung = float(grace_epochs)
    while round(rung) < longest:
        if not found or round(rung) > found[-1]:
            found.append(round(rung))
        rung *= reduction
    return tuple(found)
