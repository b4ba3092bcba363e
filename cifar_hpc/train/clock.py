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


@dataclass
class Span:
    """A stretch of work. shares: each member's of it; common: the share of it that was done once for all of them."""

    shares: Sequence[tuple[Timed, float]]
    common: float
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

    def common_to(self, members: Sequence[Timed]) -> contextlib.AbstractContextManager[Span]:
        """What is done inside is done once for all of them."""
        return self.span([(member, 1 / len(members)) for member in members], 1.0)

    def spent_by(self, members: Sequence[Timed]) -> contextlib.AbstractContextManager[Span]:
        """What is done inside each of them would have done alone."""
        return self.span([(member, 1 / len(members)) for member in members], 0.0)

    @contextlib.contextmanager
    def span(self, shares: Sequence[tuple[Timed, float]], common: float) -> Iterator[Span]:
        span = Span(shares, common)
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
        for span in self.spans:
            seconds = span.measure()
            left_s -= seconds
            for member, share in span.shares:
                member.progress.epoch_s += seconds * share
                saved_s = seconds * span.common * (len(span.shares) - 1) / len(span.shares)
                member.progress.saved_s = (member.progress.saved_s or 0.0) + saved_s
        self.spans.clear()
        for member in members:
            member.progress.epoch_s += max(0.0, left_s) / len(members)


def divided_as(spans: Sequence[Span], members: Sequence[Timed]) -> tuple[Sequence[tuple[Timed, float]], float]:
    """The shares and the common part of work of these members that is done in one piece, of which these spans, now over, were
    the parts."""
    whole = sum(span.measure() for span in spans)
    if whole <= 0:
        return [(member, 1 / len(members)) for member in members], 0.0
    parts = [sum(span.seconds * share for span in spans for one, share in span.shares if one is member) for member in members]
    return [(m, part / whole) for m, part in zip(members, parts, strict=True)], sum(s.seconds * s.common for s in spans) / whole


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
