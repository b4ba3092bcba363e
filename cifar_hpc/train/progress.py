"""Where a member stands: its progress, which checkpoints hold, and the sums of its present epoch.

Owns: Progress, Sums. Knows no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cifar_hpc.distributed.world import World
from cifar_hpc.records.schema import EpochRecord, Outcome


@dataclass
class Progress:
    """Where a member stands and what it has measured. epoch counts from 1; step counts within the epoch from 0."""

    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    epoch_s: float = 0.0
    saved_s: float | None = None  # see TrialResult; None: nothing of it was trained in steps
    curves: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best_value: float = -math.inf  # of the objective, larger is better
    value_to_beat: float = -math.inf  # by min_delta: the value at which the count of epochs without gain began again
    epochs_without_gain: int = 0
    outcome: Outcome | None = None
    reason: str = ""
    lr_found: float | None = None  # by the range test of lr: auto
    c_found: float | None = None  # see TrialResult
    warnings: tuple[str, ...] = ()  # of how it was fitted, beside those of its network

    def state_dict(self) -> dict[str, Any]:
        """Numbers and strings only."""
        return {**vars(self), "curves": [r.to_json() for r in self.curves], "outcome": self.outcome and self.outcome.value}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """The inverse of `state_dict`."""
        curves = [EpochRecord.from_json(record) for record in state["curves"]]
        return cls(**{**state, "curves": curves, "outcome": Outcome(state["outcome"]) if state["outcome"] else None})


class Sums:
    """The summed loss (float64) and the hits of the images seen in an epoch, on the device. They stay where they lie: captured
    steps add to these very tensors."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.seen_n = 0

    def lie_at(self, loss: Tensor, hits: Tensor) -> None:
        """From here on these are the sums; they hold what has been added up."""
        self.loss, self.hits = loss, hits

    @torch.no_grad()
    def add(self, mean_loss: Tensor, images_n: int, guesses_N: Tensor, labels_N: Tensor) -> None:
        """Of a step; its images are counted apart. In few kernels: products of so few digits are exact in float64."""
        self.loss.add_(mean_loss, alpha=images_n)
        right_N = torch.empty_like(labels_N)
        self.hits += torch.eq(guesses_N, labels_N, out=right_N).sum()

    def put(self, loss: Tensor | float, hits: Tensor | int, seen_n: int) -> None:
        self.loss.copy_(torch.as_tensor(loss))
        self.hits.copy_(torch.as_tensor(hits))
        self.seen_n = seen_n

    def clear(self) -> None:
        clear([self])

    @torch.no_grad()
    def add_up(self, world: World) -> None:
        """Become those of all processes, in each."""
        if world.size == 1:
            return
        sums = torch.stack([self.loss, self.hits.double(), self.loss.new_full((), self.seen_n)])
        world.add_up([sums])
        self.put(sums[0], sums[1], int(sums[2].item()))


def clear(all_sums: Sequence[Sums]) -> None:
    """Begins all of them again, in few kernels."""
    torch._foreach_zero_([sums.loss for sums in all_sums])
    torch._foreach_zero_([sums.hits for sums in all_sums])
    for sums in all_sums:
        sums.seen_n = 0
