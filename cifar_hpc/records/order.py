"""In what order configurations stand that were measured on the same images: the rows of a report, and the best that a sweep
tells of while it runs. Knows numbers, neither trials nor files.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from cifar_hpc.config.registry import ObjectiveInfo
from cifar_hpc.records.schema import Outcome


class Last(NamedTuple):
    """Why a configuration stands below others, whatever its number is: its trials are no longer like those of others, or it
    was asked less."""

    diverged: bool  # all its trials
    seen: bool  # what it starts from may have trained on images that validate it
    cut: bool  # a search ended one early
    partial: bool  # only a part of its trials has measured it


def last_of(outcomes: Collection[Outcome], *, partial: bool, seen: bool = False) -> Last:
    """outcomes: of its trials that finished, whether they measured it or not; partial, seen: as in Last."""
    diverged = bool(outcomes) and all(outcome is Outcome.DIVERGED for outcome in outcomes)
    return Last(diverged, seen, Outcome.PRUNED in outcomes, partial)


class Standing(NamedTuple):
    """Of two that are compared the smaller stands higher: by its number, of equal numbers by fewer trained parameters, and then
    by its id, so that a sweep's page and the whole pool's have one order."""

    last: Last
    cost: float
    params_trained: int
    point_id: str

    @classmethod
    def of(cls, last: Last, mean: float, info: ObjectiveInfo, params_trained: int, point_id: str) -> Standing:
        """mean: of the objective, which info is of. Its last digits tell in what order numbers were added: they rank none."""
        sign = -1 if info.mode == "max" else 1
        return cls(last, sign * float(f"{mean:.12g}"), params_trained, point_id)

    def equals(self, other: Standing) -> bool:
        """Whether both measured the very same, so that only their size or their id puts one above the other."""
        return (self.last, self.cost) == (other.last, other.cost)
