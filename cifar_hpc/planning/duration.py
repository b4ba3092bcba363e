"""What a job or cohort may take, and by what that is known. Owns: Basis, Duration. Measures and estimates nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Basis(StrEnum):
    """By what a time is known, the best first."""

    EPOCHS = "by measured epochs of trials like these"
    SCALED = "a guess: by measured epochs on another number of processes"
    FLOPS = "by FLOPs, at the speed that was measured here"
    OTHERS = "a guess: by FLOPs, at the speed of other networks here"
    CALIBRATION = "a guess: by FLOPs, at the speed of a calibration"
    UNFITTED = "a guess: by FLOPs, which do not count the fit of a classifier that is not trained"
    GUESS = "a guess: the minutes of the spec or the profile for every trial"


@dataclass(frozen=True, slots=True)
class Duration:
    """Of a job or cohort, seconds beside its start: the mean, and, by measured epochs, what 95 of 100 do not exceed."""

    expected_s: float
    p95_s: float
    basis: Basis

    def __add__(self, other: Duration) -> Duration:
        """Of both, one after another, known no better than the worse of the two. All are as slow as the node: the longest
        times add up."""
        order = list(Basis)
        worse = max(self.basis, other.basis, key=order.index)
        return Duration(self.expected_s + other.expected_s, self.p95_s + other.p95_s, worse)

    def allowing(self, factor: float) -> Duration:
        """The same work with so many times the longest time."""
        return replace(self, p95_s=factor * self.p95_s)
