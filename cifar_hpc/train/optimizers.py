"""Optimisers over the blocks of a model: the builders that config/registry.OPTIMIZERS names. Knows no schedule.

On a GPU a learning rate is a number on the device, where the step's table has it, so that a step reads nothing of the host and
may be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cifar_hpc.config.plugins import optimizer_of
from cifar_hpc.config.registry import load
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.train.muon import Muon, is_hidden

Groups = list[dict[str, Any]]


def build_optimizer(config: TrialConfig, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    """The trial's optimiser over what of the blocks has gradients, classifier first, one parameter group for each learning rate
    that blocks have.

    Each group carries its 'height', the blocks between it and the end, by which `set_rates` gives it its learning rate; with
    `anchor`, all but the classifier are 'anchored' in groups of their own and have no other decay.
    """
    parts: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for height, block in enumerate(reversed(blocks)):
        parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]
        if parameters:
            anchored = config.anchor is not None and height > 0
            parts.setdefault((height if config.layer_decay else 0, anchored), []).extend(parameters)
    groups: Groups = [
        {"params": parameters, "height": height, **({"anchored": True, "weight_decay": 0.0} if anchored else {})}
        for (height, anchored), parameters in parts.items()
    ]
    optimizer: torch.optim.Optimizer = load(optimizer_of(config).build)(config, groups, blocks)
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, rate: Callable[[int], float]) -> None:
    """Gives every parameter group the learning rate of its height."""
    put_rates(optimizer, [rate(group["height"]) for group in optimizer.param_groups])


def put_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float] | Tensor) -> None:
    """A learning rate for every parameter group: numbers, or a tensor on the optimiser's device, of which each group holds its
    element."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` that leaves averages as their parameters lie, which fused optimisers demand."""
    optimizer.load_state_dict(state)
    for part in (optimizer, optimizer.adamw) if isinstance(optimizer, Muon) else (optimizer,):
        for parameter, averages in part.state.items():
            for name, value in averages.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    averages[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def build_sgd(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    momentum = config.momentum or 0.0
    rate, decay = _first_rate(config), config.weight_decay
    sgd = torch.optim.SGD(groups, rate, momentum, weight_decay=decay, nesterov=momentum > 0, fused=_fused(groups))
    for p in (p for group in groups for p in group["params"] if momentum):  # torch begins all averages of a group, or none
        sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return sgd


def build_adam(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    return _adam(torch.optim.Adam, config, groups)


def build_adamw(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    return _adam(torch.optim.AdamW, config, groups)


def build_muon(config: TrialConfig, groups: Groups, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    hidden = {p for block in blocks[:-1] for name, p in block.named_parameters() if is_hidden(name, p)}
    return Muon(groups, hidden, config.momentum or 0.0, config.weight_decay)


def _adam(kind: type[torch.optim.Adam], config: TrialConfig, groups: Groups) -> torch.optim.Optimizer:
    on_gpu = any(p.is_cuda for group in groups for p in group["params"])
    rate, decay = _first_rate(config), config.weight_decay
    return kind(groups, rate, weight_decay=decay, fused=_fused(groups), capturable=on_gpu)


def _first_rate(config: TrialConfig) -> float:
    return 0.0 if config.lr == "auto" else float(config.lr)  # set again before each step


def _fused(groups: Groups) -> bool | None:
    return all(p.device.type in ("cuda", "cpu") for group in groups for p in group["params"]) or None
