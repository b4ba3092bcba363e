"""Parameters, floating-point operations and output shape of each block. Nothing is computed: tensors have shapes only.

Owns: summarize, flops. Must not know: configs, drawing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """One block: parameters; FLOPs of a forward pass of one image (a multiply-add is two); output shape without the batch."""

    name: str
    params: int
    flops: int
    output_shape: tuple[int, ...]


def summarize(model: BlockModel, image_size: int, in_channels: int) -> tuple[BlockSummary, ...]:
    """One row a block, for one image of image_size x image_size pixels. Leaves the model as it was. Raises CifarHpcError
    where more than one tensor passes between two blocks.

    FLOPs are torch.utils.flop_counter's: convolutions, matrix products and attention; element-wise work is not counted.
    """
    rows = []
    x = torch.empty(1, in_channels, image_size, image_size, device="meta")
    with _evaluating(model):
        for name, block in zip(model.names, model.blocks, strict=True):
            with FlopCounterMode(display=False) as counter:
                x = functional_call(block, _shapes_only(block), (x,))
            if not isinstance(x, Tensor):
                raise CifarHpcError(f"block {name!r} hands on a {type(x).__name__}, not one tensor")
            params = sum(parameter.numel() for parameter in block.parameters())
            rows.append(BlockSummary(name, params, counter.get_total_flops(), tuple(x.shape[1:])))
    return tuple(rows)


def flops(model: BlockModel, image_size: int, in_channels: int) -> int:
    """Floating-point operations of the forward pass of one image."""
    return sum(row.flops for row in summarize(model, image_size, in_channels))


def _shapes_only(block: nn.Module) -> dict[str, Tensor]:
    """All tensors of the block on the meta device; with gradients, else attention takes a fused path that is not counted."""
    tensors = {name: parameter.detach().to("meta").requires_grad_() for name, parameter in block.named_parameters()}
    return {**tensors, **{name: buffer.to("meta") for name, buffer in block.named_buffers()}}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
