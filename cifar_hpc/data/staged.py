"""A batch of what the host keeps, on its way to a GPU. Owns: Staged. Knows not what the rows are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Gather = Callable[[Tensor, Tensor], object]  # rows at a CPU int64 index, into a pinned tensor


class Staged:
    """A place on the device for a batch of what the host keeps, and two pinned ones before it: while one is copied the host
    gathers into the other."""

    def __init__(self, gather: Gather, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """shape: of a batch."""
        self.rows = torch.empty(shape, dtype=dtype, device=device)
        self._gather = gather
        self._pinned = [torch.empty(shape, dtype=dtype, pin_memory=True) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._turn = 0

    def load(self, index_B: Tensor) -> None:
        """index_B: CPU int64."""
        pinned, copied = self._pinned[self._turn], self._copied[self._turn]
        copied.synchronize()  # of two batches ago: over but where the host is far ahead
        self._gather(index_B, pinned)
        self.rows.copy_(pinned, non_blocking=True)
        copied.record()
        self._turn = 1 - self._turn
