"""Freezing: the first n blocks without gradients and in eval mode. Owns: freeze_blocks. Must not know: specs, training."""

from __future__ import annotations

from cifar_hpc.config.freeze import frozen_blocks
from cifar_hpc.models.blocks import Block, BlockModel

__all__ = ["freeze_blocks", "frozen_blocks"]


def freeze_blocks(model: BlockModel, n: int) -> None:
    """Freeze the first n blocks and free the others: no gradient, and eval mode (BatchNorm statistics, dropout, stochastic
    depth) that later calls of train() leave as it is. n: 0..number of blocks. The blocks' mode follows the model's."""
    if not 0 <= n <= len(model.blocks):
        raise ValueError(f"cannot freeze {n} of {len(model.blocks)} blocks")
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        block.frozen = i < n
        block.requires_grad_(not block.frozen)
        block.train(model.training)
