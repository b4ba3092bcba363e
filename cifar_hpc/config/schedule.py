"""The learning rate at every step and in every block, as a pure function of the config. Imports no torch, so that a plan can be
looked at on a login node.

Because the rate is computed and not carried, a resumed trial has the same one without any saved scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cifar_hpc.config.freeze import frozen_blocks
from cifar_hpc.config.trial import TrialConfig

ONECYCLE_WARMUP_FRAC = (
    0.3  # share of the steps in which the rate rises (Smith & Topin 2018, arXiv:1708.07120; fastai's default)
)
ONECYCLE_START_DIVISOR = 25.0
ONECYCLE_FINAL_DIVISOR = 1e4
STEP_MILESTONES_FRAC = (0.5, 0.75)  # of the epochs, each divides the rate by ten (He et al. 2016, section 4.2)
STEP_FACTOR = 0.1
_STEPS = 1000  # of an epoch, where the data set's size is of no account


def lr_factor(config: TrialConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over all epochs, as a share of config.lr (0..1).

    warmup_epochs rise linearly, ending at 1; the schedule spans the steps after them. onecycle has its own rise instead.
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "onecycle":
        return _one_cycle(step, total)
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done_frac = (step - warmup) / max(1.0, total - warmup)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return _cosine(1.0, 0.0, done_frac)
    return float(STEP_FACTOR ** sum(done_frac >= milestone for milestone in STEP_MILESTONES_FRAC))


def block_factor(config: TrialConfig, height: int) -> float:
    """A block's share of the learning rate, 0..1: layer_decay to the power of its height, the blocks between it and the end."""
    return (config.layer_decay or 1.0) ** height


def first_trained(config: TrialConfig, frozen: int, blocks_n: int, epoch: int) -> int:
    """Blocks that an epoch, counted from 1, leaves as they are: the frozen ones, or all but the classifier at the beginning.

    frozen: blocks that `freeze` means, of blocks_n.
    """
    head_only = config.unfreeze_epoch is not None and epoch <= config.unfreeze_epoch
    return max(frozen, blocks_n - 1) if head_only else frozen


def block_rates(config: TrialConfig, names: Sequence[str], epoch: int) -> tuple[float | None, ...]:
    """The learning rate of each block in the middle of an epoch, as a share of lr; None where the block does not train."""
    trained = first_trained(config, frozen_blocks(names, config.freeze), len(names), epoch)
    factor = lr_factor(config, round((epoch - 0.5) * _STEPS), _STEPS)
    heights = range(len(names) - 1, -1, -1)
    return tuple(None if i < trained else factor * block_factor(config, height) for i, height in enumerate(heights))


def _one_cycle(step: int, total: int) -> float:
    """As torch.optim.lr_scheduler.OneCycleLR has it: the peak is at step 0.3 total - 1 and the floor at the last step."""
    start, floor = 1 / ONECYCLE_START_DIVISOR, 1 / ONECYCLE_START_DIVISOR / ONECYCLE_FINAL_DIVISOR
    peak = ONECYCLE_WARMUP_FRAC * total - 1
    if step <= peak:
        return _cosine(start, 1.0, step / peak)
    return _cosine(1.0, floor, (step - peak) / (total - 1 - peak))


def _cosine(start: float, end: float, done_frac: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, done_frac))) / 2
