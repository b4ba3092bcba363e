"""BatchNorm's counts of the batches that it has seen, moved on for all layers at once. Owns: BatchCounts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_hpc.distributed.norms import GhostBatchNorm

KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GhostBatchNorm)


class BatchCounts:
    """Each layer adds 1 to a number of its own: a kernel a layer, which on a GPU takes as long to launch as a convolution."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: list[_BatchNorm] | None = None  # found at first use, when none is replaced any more

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around a forward pass."""
        if self._layers is None:  # those without momentum take their mean by the count
            layers = [layer for layer in self._model.modules() if isinstance(layer, _BatchNorm) and type(layer) in KNOWN]
            self._layers = [layer for layer in layers if layer.momentum is not None]
        counting = [(layer, layer.num_batches_tracked) for layer in self._layers if layer.training]
        counts = [count for _, count in counting if count is not None]
        try:
            for layer, _ in counting:
                layer.num_batches_tracked = None
            yield
        finally:
            for layer, count in counting:
                layer.num_batches_tracked = count
        if counts:
            torch._foreach_add_(counts, 1)
