"""The moving average of a network's weights. Owns: Average."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from cifar_hpc.models.blocks import BlockModel


class Average:
    """An exponential moving average of all that a suffix holds, which is evaluated in its place; counts are copied.

    The decay rises to the one asked for: else a short trial were judged by the weights that it began with.
    """

    def __init__(self, suffix: BlockModel, decay: float) -> None:
        self.net = copy.deepcopy(suffix)
        self._decay = decay
        self._share: float | Tensor = 0.0
        pairs = list(zip(self.net.state_dict().values(), suffix.state_dict().values(), strict=True))
        smooth = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averages, self._values = [own for own, _ in smooth], [followed for _, followed in smooth]
        self._counts, self._counted = [own for own, _ in counts], [followed for _, followed in counts]

    def share_of(self, step: int) -> float:
        """That of the weights as they are after a step, which counts from 0 over all epochs."""
        return 1 - min(self._decay, (1 + step) / (10 + step))

    def put_share(self, share: float | Tensor) -> None:
        """Of the next update; a tensor on the device where steps are captured."""
        self._share = share

    @torch.no_grad()
    def update(self) -> None:
        if isinstance(self._share, Tensor):
            steps = torch._foreach_sub(self._values, self._averages)
            torch._foreach_mul_(steps, self._share)
            torch._foreach_add_(self._averages, steps)
        else:
            torch._foreach_lerp_(self._averages, self._values, self._share)
        if self._counts:
            torch._foreach_copy_(self._counts, self._counted)
