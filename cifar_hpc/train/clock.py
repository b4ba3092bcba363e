"""How long each member of a cohort trained, and what company saved it. Owns: Clock. Knows nothing of steps.

A GPU runs behind the process that asks it for work: there the times are those of its own clock, by events. What passes beside
(the host's own work, captures) is divided evenly.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from cifar_hpc.train.progress import Progress


class Timed(Protocol):
    progress: Progress


@dataclass(frozen=True, eq=False)
class Shares:
    """Whose work something is: each member's part of it; common: the part that is done once for all of them."""

    members: Sequence[Timed]
    parts: Sequence[float]
    common: float

    @classmethod
    def common_to(cls, members: Sequence[Timed]) -> Shares:
        """Of what is done once for all of them."""
        return cls(members, [1 / len(members)] * len(members), 1.0)

    @classmethod
    def spent_by(cls, members: Sequence[Timed]) -> Shares:
        """Of what each of them would have done alone."""
        return cls(members, [1 / len(members)] * len(members), 0.0)


@dataclass
class Span:
    """A stretch of work."""

    shares: Shares
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    seconds: float = 0.0

    def measure(self) -> float:
        if self.events is not None:
            self.seconds = self.events[0].elapsed_time(self.events[1]) / 1000
            self.events = None
        return self.seconds


@dataclass
class Clock:
    """Charges members with the time that was spent for them.

    What is common to n members each of them would have spent alone: it saved (n - 1) / n of that.
    """

    device: torch.device
    spans: list[Span] = field(default_factory=list)
    began: float = field(default_factory=lambda: time.perf_counter())

    @contextlib.contextmanager
    def span(self, shares: Shares) -> Iterator[Span]:
        span = Span(shares)
        self.spans.append(span)
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield span
            end.record()
            span.events = start, end
        else:
            began = time.perf_counter()
            yield span
            span.seconds = time.perf_counter() - began

    def settle(self, members: Sequence[Timed]) -> None:
        """Waits until the device has done all that was asked of it, and charges what has passed. members: who shares what
        passed beside the spans."""
        wait_for(self.device)
        now = time.perf_counter()
        left_s = now - self.began
        self.began = now
        spent: dict[Shares, float] = {}
        for span in self.spans:
            spent[span.shares] = spent.get(span.shares, 0.0) + span.measure()
        for shares, seconds in spent.items():
            left_s -= seconds
            n = len(shares.members)
            saved_s = seconds * shares.common * (n - 1) / n
            for member, part in zip(shares.members, shares.parts, strict=True):
                member.progress.epoch_s += seconds * part
                member.progress.saved_s = (member.progress.saved_s or 0.0) + saved_s
        self.spans.clear()
        for member in members:
            member.progress.epoch_s += max(0.0, left_s) / len(members)


def divided_as(spans: Sequence[Span], members: Sequence[Timed]) -> Shares:
    """Whose work of these members is that is done in one piece, of which these spans, now over, were the parts."""
    whole = sum(span.measure() for span in spans)
    if whole <= 0:
        return Shares.spent_by(members)
    parts = dict.fromkeys(map(id, members), 0.0)
    for span in spans:
        for member, part in zip(span.shares.members, span.shares.parts, strict=True):
            if id(member) in parts:
                parts[id(member)] += span.seconds * part / whole
    return Shares(members, list(parts.values()), sum(span.seconds * span.shares.common for span in spans) / whole)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
