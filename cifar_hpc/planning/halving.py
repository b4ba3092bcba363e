"""Successive halving among the trials of one cohort (Jamieson & Talwalkar 2016, arXiv:1502.07943): after each rung, an epoch,
the best share of those that are still in it goes on.

Owns: Rungs, which trials end where. All is a pure function of what the trials measured, in the order in which their cohort was
planned, so that who decides, on which machine and how often makes no difference: the same decisions can be read off the records
afterwards. Knows no files and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Sequence[float | None]]  # trial id -> the objective after each epoch, as far as it has come


@dataclass(frozen=True, slots=True, kw_only=True)
class Rungs:
    """company: the ids of the trials that are judged together; epochs: the rungs; reduction: the best 1/reduction go on,
    rounded up; objective, mode: as in config/registry.OBJECTIVES."""

    company: tuple[str, ...]
    epochs: tuple[int, ...]
    reduction: float
    objective: str
    mode: str

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Rungs:
        """As JSON has it."""
        return cls(**{**plain, "company": tuple(plain["company"]), "epochs": tuple(plain["epochs"])})

    def endings(self, values: Values, awaited: Collection[str] = ()) -> Endings:
        """awaited: trials that may still come as far as the others; a rung before which one of them is is not decided yet. What
        has no value at a rung otherwise (failed, diverged, stopped early) is not among those that are judged there."""
        competing = list(self.company)
        ended: dict[str, Ending] = {}
        for rung in self.epochs:
            if any(len(values.get(trial_id, ())) < rung for trial_id in competing if trial_id in awaited):
                return Endings(ended, rung)
            there = [trial_id for trial_id in competing if len(values.get(trial_id, ())) >= rung]
            going_n = math.ceil(len(there) / self.reduction)
            best = sorted(there, key=lambda trial_id: -self._worth(values[trial_id][rung - 1]))
            for trial_id in best[going_n:]:
                value = values[trial_id][rung - 1]
                told = "has no value" if value is None else f"{value:.4g}"
                best_n = f"the best {going_n} of {len(there)} in its cohort"
                ended[trial_id] = Ending(rung, f"halving: {self.objective} {told} after epoch {rung} is not among {best_n}")
            competing = [trial_id for trial_id in competing if trial_id in best[:going_n]]
        return Endings(ended, None)

    def _worth(self, value: float | None) -> float:
        if value is None or math.isnan(value):
            return -math.inf
        return value if self.mode == "max" else -value


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
