"""Optimisers over the blocks of a model, and the learning rate at every step as a pure function of the config.

Because the rate is computed and not carried, a resumed trial has the same one without any saved scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cifar_hpc.train.muon import Muon, is_hidden
from cifar_hpc.trial import TrialConfig

ONECYCLE_WARMUP_FRAC = (
    0.3  # share of the steps in which the rate rises (Smith & Topin 2018, arXiv:1708.07120; fastai's default)
)
ONECYCLE_START_DIVISOR = 25.0
ONECYCLE_FINAL_DIVISOR = 1e4
STEP_MILESTONES_FRAC = (0.5, 0.75)  # of the epochs, each divides the rate by ten (He et al. 2016, section 4.2)
STEP_FACTOR = 0.1


def lr_factor(config: TrialConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over all epochs, as a share of config.lr (0..1).

    warmup_epochs rise linearly, ending at 1; the schedule spans the steps after them. onecycle has its own rise instead.
    """
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done_frac = (step - warmup) / max(1.0, total - warmup)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return _cosine(1.0, 0.0, done_frac)
    if config.schedule == "onecycle":
        start, final = 1 / ONECYCLE_START_DIVISOR, 1 / ONECYCLE_START_DIVISOR / ONECYCLE_FINAL_DIVISOR
        if done_frac < ONECYCLE_WARMUP_FRAC:
            return _cosine(start, 1.0, done_frac / ONECYCLE_WARMUP_FRAC)
        return _cosine(1.0, final, (done_frac - ONECYCLE_WARMUP_FRAC) / (1 - ONECYCLE_WARMUP_FRAC))
    return float(STEP_FACTOR ** sum(done_frac >= milestone for milestone in STEP_MILESTONES_FRAC))


def build_optimizer(config: TrialConfig, blocks: Sequence[nn.Module]) -> torch.optim.Optimizer:
    """An optimiser over the blocks, classifier last, one parameter group for each block that has parameters.

    Each group carries 'lr_scale': layer_decay to the power of its distance from the classifier, 1 without layer_decay.
    """
    groups: list[dict[str, Any]] = []
    for height, block in enumerate(reversed(blocks)):
        parameters = list(block.parameters())
        if parameters:
            groups.append({"params": parameters, "lr_scale": (config.layer_decay or 1.0) ** height})
    lr = 0.0 if config.lr == "auto" else float(config.lr)  # set anew before each step
    if config.optimizer == "muon":
        hidden = {p for block in blocks[:-1] for name, p in block.named_parameters() if is_hidden(name, p)}
        return Muon(groups, hidden, lr, config.momentum or 0.0, config.weight_decay)
    fused = all(p.is_cuda for group in groups for p in group["params"])
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


def _cosine(start: float, end: float, done_frac: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, done_frac))) / 2
