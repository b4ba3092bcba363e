"""The learning rate at every step and in every block, as a pure function of the config. Imports no torch, so that a plan can be
looked at on a login node.

Because the rate is computed and not carried, a resumed trial has the same one without any saved scheduler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cifar_hpc.config.catalog import ArchInfo
from cifar_hpc.config.plugins import schedule_of
from cifar_hpc.config.registry import load
from cifar_hpc.config.trained import stepped_in
from cifar_hpc.config.trial import TrialConfig

ONECYCLE_WARMUP_FRAC = (
    0.3  # share of the steps in which the rate rises (Smith & Topin 2018, arXiv:1708.07120; fastai's default)
)
ONECYCLE_START_DIVISOR = 25.0
ONECYCLE_FINAL_DIVISOR = 1e4
STEP_MILESTONES_FRAC = (0.5, 0.75)  # of the epochs, each divides the rate by ten (He et al. 2016, section 4.2)
STEP_FACTOR = 0.1
STEPS = 1000  # of an epoch, as block_rates has it: which data set trains is not known


@dataclass(frozen=True, slots=True)
class LrSchedule:
    """The learning rates of one trial. peak: its lr, or the rate that a range test found."""

    config: TrialConfig
    steps_per_epoch: int
    peak: float

    def rate(self, step: int, height: int) -> float:
        """Of a step, counted from 0 over all epochs, and of a block by its height: the blocks between it and the end.

        warmup_epochs rise linearly, ending at the peak; the schedule spans the steps after them. layer_decay to the power of
        the height is the block's share.
        """
        share: float = (self.config.layer_decay or 1.0) ** height
        return self.peak * self._factor(step) * share

    def _factor(self, step: int) -> float:
        info = schedule_of(self.config)
        total = self.config.epochs * self.steps_per_epoch
        warmup = 0.0 if info.own_rise else self.config.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return float(load(info.shape)(step - warmup, total - warmup))


def constant(step: float, steps: float) -> float:
    return 1.0


def cosine(step: float, steps: float) -> float:
    return _cosine(1.0, 0.0, step / max(1.0, steps))


def linear(step: float, steps: float) -> float:
    return max(0.0, 1.0 - step / max(1.0, steps))


def one_cycle(step: float, steps: float) -> float:
    """As torch.optim.lr_scheduler.OneCycleLR has it: the peak is at step 0.3 steps - 1 and the floor at the last step."""
    start, floor = 1 / ONECYCLE_START_DIVISOR, 1 / ONECYCLE_START_DIVISOR / ONECYCLE_FINAL_DIVISOR
    peak = ONECYCLE_WARMUP_FRAC * steps - 1
    if step <= peak:
        return _cosine(start, 1.0, step / peak)
    return _cosine(1.0, floor, (step - peak) / (steps - 1 - peak))


def milestones(step: float, steps: float) -> float:
    done_frac = step / max(1.0, steps)
    return float(STEP_FACTOR ** sum(done_frac >= milestone for milestone in STEP_MILESTONES_FRAC))


def block_rates(config: TrialConfig, info: ArchInfo, epoch: int) -> tuple[float | None, ...]:
    """The learning rate of each block in the middle of an epoch of STEPS steps, None where no parameter of it trains; shares of
    the peak where a range test is to find that."""
    schedule = LrSchedule(config, STEPS, 1.0 if config.lr == "auto" else float(config.lr))
    middle, heights = round((epoch - 0.5) * STEPS), range(len(info.blocks) - 1, -1, -1)
    trained = stepped_in(config, info, epoch)
    return tuple(schedule.rate(middle, height) if trains else None for trains, height in zip(trained, heights, strict=True))


def _cosine(start: float, end: float, done_frac: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, done_frac))) / 2
