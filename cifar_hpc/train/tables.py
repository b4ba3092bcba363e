"""What the steps of an epoch read that the host knows beforehand: indices, draws, rates, as rows on the device.

One row a step, all of its tensors packed into bytes; a step takes its row by a counter that lies on the device too, so that it
asks the host for nothing and may be captured. Owns: Table. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cifar_hpc.data.pixels import move

_ALIGNED = 16  # bytes: where each tensor of a row begins


class Table:
    """The tensors of steps that all have tensors of the same shapes and types. Its place on the device never changes."""

    def __init__(self, steps: Sequence[Sequence[Tensor]], rows_n: int, device: torch.device) -> None:
        """steps: the tensors of each, on the CPU; rows_n: of the steps that it may ever hold."""
        self._places: list[tuple[int, torch.dtype, torch.Size]] = []
        size = 0
        for tensor in steps[0]:
            self._places.append((size, tensor.dtype, tensor.shape))
            size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        self._rows = torch.zeros(rows_n, max(size, _ALIGNED), dtype=torch.uint8, device=device)
        self._row = torch.zeros(1, self._rows.shape[1], dtype=torch.uint8, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self.fill(steps)

    def fill(self, steps: Sequence[Sequence[Tensor]]) -> None:
        """Puts the steps in place of the former ones and goes to the first."""
        packed = torch.zeros(len(steps), self._rows.shape[1], dtype=torch.uint8)
        for i, (start, dtype, shape) in enumerate(self._places):
            column = torch.stack([step[i] for step in steps])
            if column.dtype != dtype or column.shape[1:] != shape:
                raise ValueError(
                    f"a step has {column.dtype} {tuple(column.shape[1:])} where the first has {dtype} {tuple(shape)}"
                )
            flat = column.reshape(len(steps), -1).contiguous().view(torch.uint8)
            packed[:, start : start + flat.shape[1]] = flat
        if packed.device == self._rows.device:
            self._rows[: len(steps)] = packed
        else:
            self._rows[: len(steps)].copy_(move(packed, self._rows.device))
        self._at.zero_()

    def take(self) -> list[Tensor]:
        """The tensors of the present step; then goes to the next one."""
        torch.index_select(self._rows, 0, self._at, out=self._row)
        self._at += 1
        return [
            self._row[0, start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for start, dtype, shape in self._places
        ]
