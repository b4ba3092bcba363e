"""A batch that the memory does not hold whole, taken in halves. For what treats every image by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Portions:
    """Applies what treats every image by itself to a whole batch, or in the largest halves that the memory holds.

    Once a batch was too large, later ones are not tried whole again.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, function: Callable[[Tensor], dict[int, Tensor]], x: Tensor) -> dict[int, Tensor]:
        """function: from a tensor, images first, to such tensors. Raises OutOfMemoryError where not even one image fits."""
        while True:
            size = min(self.most or len(x), len(x))
            try:
                if size == len(x):
                    return function(x)
                parts = [function(part) for part in x.split(size)]  # type: ignore[no-untyped-call]
                return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            if x.is_cuda:
                torch.cuda.empty_cache()
            self.most = (size + 1) // 2
