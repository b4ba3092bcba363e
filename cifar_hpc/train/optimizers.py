"""Optimisers over the blocks of a model. The learning rate of a step is schedule.py's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cifar_hpc.config.schedule import block_factor
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.train.muon import Muon, is_hidden


def build_optimizer(config: TrialConfig, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    """An optimiser over the blocks, classifier last, one parameter group for each block that has parameters.

    Each group carries 'lr_scale', its share of the learning rate.
    """
    groups: list[dict[str, Any]] = []
    for height, block in enumerate(reversed(blocks)):
        parameters = list(block.parameters())
        if parameters:
            groups.append({"params": parameters, "lr_scale": block_factor(config, height)})
    lr = 0.0 if config.lr == "auto" else float(config.lr)  # set anew before each step
    if config.optimizer == "muon":
        hidden = {p for block in blocks[:-1] for name, p in block.named_parameters() if is_hidden(name, p)}
        return Muon(groups, hidden, lr, config.momentum or 0.0, config.weight_decay)
    fused = all(p.device.type in ("cuda", "cpu") for group in groups for p in group["params"])
    if config.optimizer == "sgd":
        momentum = config.momentum or 0.0
        return torch.optim.SGD(
            groups,
            lr,
            momentum,
            weight_decay=config.weight_decay,
            nesterov=momentum > 0,
            foreach=None,
            fused=fused or None,
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr, weight_decay=config.weight_decay, fused=fused or None)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
