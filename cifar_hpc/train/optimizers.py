"""Optimisers over the blocks of a model: the builders that config/registry.OPTIMIZERS names. Knows no schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cifar_hpc.config.registry import OPTIMIZERS, load
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.train.muon import Muon, is_hidden

Groups = list[dict[str, Any]]


def build_optimizer(config: TrialConfig, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    """The trial's optimiser over the blocks, classifier last, one parameter group for each block that has parameters.

    Each group carries its 'height', the blocks between it and the end, by which `set_rates` gives it its learning rate.
    """
    groups: Groups = []
    for height, block in enumerate(reversed(blocks)):
        parameters = list(block.parameters())
        if parameters:
            groups.append({"params": parameters, "height": height})
    optimizer: torch.optim.Optimizer = load(OPTIMIZERS[config.optimizer].build)(config, groups, blocks)
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, rate: Callable[[int], float]) -> None:
    """Gives every parameter group the learning rate of its height."""
    for group in optimizer.param_groups:
        group["lr"] = rate(group["height"])


def build_sgd(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    momentum = config.momentum or 0.0
    return torch.optim.SGD(
        groups,
        _first_rate(config),
        momentum,
        weight_decay=config.weight_decay,
        nesterov=momentum > 0,
        foreach=None,
        fused=_fused(groups),
    )


def build_adam(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, _first_rate(config), weight_decay=config.weight_decay, fused=_fused(groups))


def build_adamw(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, _first_rate(config), weight_decay=config.weight_decay, fused=_fused(groups))


def build_muon(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    hidden = {p for block in blocks[:-1] for name, p in block.named_parameters() if is_hidden(name, p)}
    return Muon(groups, hidden, _first_rate(config), config.momentum or 0.0, config.weight_decay)


def _first_rate(config: TrialConfig) -> float:
    return 0.0 if config.lr == "auto" else float(config.lr)  # set again before each step


def _fused(groups: Groups) -> bool | None:
    return all(p.device.type in ("cuda", "cpu") for group in groups for p in group["params"]) or None
