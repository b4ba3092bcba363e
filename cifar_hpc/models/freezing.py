"""Freezing: which blocks, and which parameters of them, have gradients, and which layers are in eval mode.

Owns: freeze_blocks, choose_trained, params_of. Must not know: specs, training.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cifar_hpc.config.freeze import frozen_blocks
from cifar_hpc.config.trained import LORA, STILL
from cifar_hpc.models.blocks import Block, BlockModel
from cifar_hpc.models.lora import LowRank
from cifar_hpc.models.tracing import NORMS

__all__ = ["choose_trained", "freeze_blocks", "frozen_blocks"]


def freeze_blocks(model: BlockModel, n: int) -> None:
    """Freeze the first n blocks and free the others: no gradient, and eval mode (BatchNorm statistics, dropout, stochastic
    depth) that later calls of train() leave as it is. n: 0..number of blocks. The blocks' mode follows the model's."""
    if not 0 <= n <= len(model.blocks):
        raise ValueError(f"cannot freeze {n} of {len(model.blocks)} blocks")
    choose_trained(model, [i >= n for i in range(len(model.blocks))])


def choose_trained(model: BlockModel, trained: Sequence[bool], part: str = "all") -> None:
    """Frees the trained blocks, wherever they stand, and freezes the others as `freeze_blocks` does.

    part: what of a trained block has gradients: all, bias, norm, or lora, its matrices of low rank; of the classifier, the last
    block, always all.
    """
    last = len(model.blocks) - 1
    for i, (block, trains) in enumerate(zip(model.blocks, trained, strict=True)):
        assert isinstance(block, Block)
        whole = part == "all" or i == last
        block.frozen, block.still = not trains, not whole and part in STILL
        for module in block.modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(trains and (whole or _is_part(module, name, part)))
        block.train(model.training)


def params_of(block: nn.Module, part: str) -> int:
    """How many parameters of a block have gradients where that part of it trains. part: bias or norm."""
    parameters = {
        parameter
        for module in block.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if _is_part(module, name, part)
    }
    return sum(parameter.numel() for parameter in parameters)


def _is_part(module: nn.Module, name: str, part: str) -> bool:
    if part == "bias":
        return name.endswith("bias")
    if part == LORA:
        return isinstance(module, LowRank)
    return isinstance(module, NORMS) or "norm" in type(module).__name__.lower()
