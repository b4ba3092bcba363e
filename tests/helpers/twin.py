"""Graphs whose replays do the captured work once more, so that what a GPU replays is held by tests where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from cifar_hpc.train.graphs import Graphs


class Twin(Graphs):
    """Captures nothing: a replay does the work, with the same numbers in the same places."""

    replays_n = 0

    def __init__(self, device: torch.device, why_not: str = "") -> None:
        super().__init__(device, why_not or "twin")
        if not why_not:
            self.why_not = ""

    @contextmanager
    def one_stream(self) -> Iterator[None]:
        yield

    def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        def replay() -> None:
            type(self).replays_n += 1
            work()

        return replay

    def side_by_side(self, pieces: Sequence[Callable[[], None]]) -> None:
        for piece in pieces:
            piece()
