"""The gradients of a batch's mean loss: of the whole batch at once, or of as large parts as the memory holds.

Owns: MicroBatches, how the gradients of several processes are brought together. Knows no optimiser and no epochs.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.distributed.gradients import SharedGradients
from cifar_hpc.distributed.world import World
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.train.batch_counts import BatchCounts
from cifar_hpc.train.portions import is_out_of_memory

Reseed = Callable[[], None]


class MicroBatches:
    """Forward and backward passes of a network's trained blocks, `size` images at a time; None: a whole batch.

    allowed: whether a batch that does not fit the memory is taken in parts; else OutOfMemoryError.
    """

    def __init__(self, config: TrialConfig, model: BlockModel, trained: Iterable[nn.Parameter], precision: torch.dtype) -> None:
        """trained: the parameters that ever get gradients."""
        self.world = World()
        self.allowed = True
        self.size: int | None = None
        self.class_weight_K: Tensor | None = None  # of weights_of_classes
        self._config, self._model, self._precision = config, model, precision
        self._trained = list(trained)
        self._one = torch.ones((), device=self._trained[0].device) if self._trained else None
        self._counts = BatchCounts(model)
        self._shared: tuple[int, SharedGradients] | None = None  # in a world of several: from which depth on, and how

    def backward(self, tap: Tensor, target: Tensor, depth: int, reseed: Reseed | None) -> tuple[Tensor, Tensor]:
        """Puts the gradients in place of the former ones; finds the size that fits by halving. reseed: begins the draws of the
        step again; None while it is captured, when nothing can be tried again.

        Returns the mean loss of this process's images and the logits NK. Raises CifarHpcError where no size fits.
        """
        if self.world.size == 1:
            return self._that_fits(tap, target, depth, None, reseed)
        if self._shared is None or self._shared[0] != depth:
            self._shared = None
            gc.collect()  # else what averaged the gradients of the epoch before would hear of those to come
            trained = BlockModel(self._model.names[depth:], list(self._model.blocks)[depth:])
            self._shared = depth, SharedGradients(trained, self.world, may_skip=":" in self._config.arch)
            if self.allowed and reseed and not self._has_batch_statistics(depth):
                # once averaging has begun nothing can be tried again
                self._that_fits(tap, target, depth, self._shared[1], reseed, rehearsal=True)
                reseed()
        return self.passes(tap, target, depth, self.size or len(target), self._shared[1])

    def passes(
        self, tap: Tensor, target: Tensor, depth: int, size: int, shared: SharedGradients | None, rehearsal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss of this batch, `size` images at a time; of the global one where they are shared, unless it
        is a rehearsal."""
        self._drop_gradients()
        losses, logits = [], []
        parts = list(zip(tap.split(size), target.split(size), strict=True))  # type: ignore[no-untyped-call]
        for i, (x, y) in enumerate(parts):
            last = i == len(parts) - 1 and not rehearsal
            with shared.step(last) if shared is not None else contextlib.nullcontext():
                with (
                    torch.autocast(x.device.type, self._precision, enabled=self._precision is not torch.float32),
                    self._counts.together() if x.is_cuda and shared is None else contextlib.nullcontext(),
                ):
                    logits_NK = self._forward(x, depth) if shared is None else shared(x)
                loss = self._loss(logits_NK.float(), y)
                share = len(y) / len(target)
                scale = share if shared is None else shared.scale(len(y))
                (loss if scale == 1 else loss * scale).backward(self._one)  # type: ignore[no-untyped-call]
            losses.append(loss.detach() if share == 1 else loss.detach() * share)
            logits.append(logits_NK.detach())
        return (losses[0], logits[0]) if len(losses) == 1 else (torch.stack(losses).sum(), torch.cat(logits))

    def _that_fits(
        self,
        tap: Tensor,
        target: Tensor,
        depth: int,
        shared: SharedGradients | None,
        reseed: Reseed | None,
        rehearsal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        while True:
            size = min(self.size or len(target), len(target))
            try:
                return self.passes(tap, target, depth, size, shared, rehearsal)
            except RuntimeError as error:
                if not is_out_of_memory(error) or reseed is None or not self.allowed:
                    raise
                self._refuse_smaller(size, depth, error)
            self._drop_gradients()
            if tap.is_cuda:
                torch.cuda.empty_cache()
            self.size = (size + 1) // 2
            reseed()

    def _loss(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        """The mean over the images, in which each part of a target counts as its class does: not divided by what they count in
        all, so that parts of a batch add up to the whole."""
        smoothing = self._config.label_smoothing
        if self.class_weight_K is None:
            return functional.cross_entropy(logits_NK, target, label_smoothing=smoothing)
        loss_N = functional.cross_entropy(logits_NK, target, self.class_weight_K, reduction="none", label_smoothing=smoothing)
        return loss_N.mean()

    def _forward(self, x: Tensor, depth: int) -> Tensor:
        return self._model.forward_blocks(x, depth, len(self._model.blocks))

    def _drop_gradients(self) -> None:
        for parameter in self._trained:
            parameter.grad = None

    def _has_batch_statistics(self, depth: int) -> bool:
        trained = list(self._model.blocks)[depth:]
        return any(isinstance(module, _BatchNorm) and module.training for block in trained for module in block.modules())

    def _refuse_smaller(self, size: int, depth: int, error: RuntimeError) -> None:
        arch = self._config.arch
        if self._has_batch_statistics(depth):
            raise CifarHpcError(
                f"out of memory with {size} images in a step; {arch} has batch statistics, so that a step cannot "
                f"be split: batch_size {size // 2} would take about half the memory, as would twice the processes, smaller "
                f"images or a larger freeze ({error})"
            ) from error
        if size == 1:
            raise CifarHpcError(f"out of memory with one image in a step: {arch} does not fit ({error})") from error
