"""The one training loop: a cohort of trials side by side, a trial alone being a cohort of one.

For each batch: draw and augment once, run the common frozen trunk once without gradients, tap it at every depth that a member
has, then let each member's suffix take its own step. Every random draw is seeded from (seed, purpose, epoch, step), so a
member's numbers depend neither on who trains beside it nor on where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_hpc.data.batches import Batches
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.freezing import freeze_blocks
from cifar_hpc.train.member import Member
from cifar_hpc.trial import TrialConfig, stream_seed

EVAL_BATCH_SIZE = 500
LOOK_EVERY_S = 5.0  # how often the hooks that read the disk are called, at most


class Interrupted(Exception):  # noqa: N818 - not an error: an orderly stop on request
    """The job was asked to stop; every member was saved before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the runner does at the points where it may act.

    epoch_ended: after validation, may end the member; finished: the member is over; failed: its step or one of these hooks
    raised, it takes no further part; save: write its checkpoint; check: raise where the member must not go on;
    save_due: whether it is time for a checkpoint within an epoch; interrupted: whether the job was asked to stop.
    """

    epoch_ended: Callable[[Member], None]
    finished: Callable[[Member], None]
    failed: Callable[[Member, Exception], None]
    save: Callable[[Member], None]
    check: Callable[[Member], None]
    save_due: Callable[[], bool]
    interrupted: Callable[[], bool]


class Trunk:
    """The weights that all members of a cohort start from, frozen: run once a batch for all of them."""

    def __init__(self, model: BlockModel, precision: torch.dtype) -> None:
        self.model = model
        self.precision = precision
        freeze_blocks(model, len(model.blocks))
        model.eval()

    @torch.no_grad()
    def taps(self, x_NCHW: Tensor, depths: set[int]) -> dict[int, Tensor]:
        """The output after each of the given numbers of blocks (0: the input itself), from one forward pass."""
        taps, reached = {0: x_NCHW}, 0
        with torch.autocast(x_NCHW.device.type, self.precision, enabled=self.precision is not torch.float32):
            for depth in sorted(depths - {0}):
                taps[depth] = self.model.forward_blocks(taps[reached], reached, depth)
                reached = depth
        return taps


class Cohort:
    """Members in training. A member that fails is dropped from the list; the others go on."""

    def __init__(self, members: Sequence[Member], hooks: Hooks) -> None:
        self.running = [member for member in members if member.active]
        self.hooks = hooks
        self.looked_at = time.monotonic()

    def call(self, member: Member, action: Callable[[Member], None]) -> None:
        """Does one thing with one member; what it raises ends this member alone."""
        try:
            action(member)
        except Exception as error:
            self.running.remove(member)
            self.hooks.failed(member, error)

    def look(self) -> None:
        """Gives the outer world its chance between two steps. Raises Interrupted after saving every member."""
        interrupted = self.hooks.interrupted()
        if not interrupted and time.monotonic() - self.looked_at < LOOK_EVERY_S:
            return
        self.looked_at = time.monotonic()
        save = interrupted or self.hooks.save_due()
        for member in list(self.running):
            self.call(member, self.hooks.save if save else self.hooks.check)
        if interrupted:
            raise Interrupted


def train_cohort(trunk: Trunk, members: Sequence[Member], train: Batches, val: Batches, hooks: Hooks) -> None:
    """Trains every member to its end, calling hooks.finished for each.

    members share seed, batch size, data and starting weights; one that resumes joins at its own epoch and step. Raises
    Interrupted.
    """
    cohort = Cohort(members, hooks)
    while cohort.running:
        epoch = min(member.progress.epoch for member in cohort.running)
        present = [member for member in cohort.running if member.progress.epoch == epoch]
        train_epoch(trunk, cohort, present, train, epoch)
        present = [member for member in present if member in cohort.running]
        started = time.perf_counter()
        logits = evaluate(trunk, present, val)
        val_s = (time.perf_counter() - started) / max(1, len(present))
        for member, logits_NK in zip(present, logits, strict=True):
            member.end_epoch(logits_NK, val.labels_N, val_s)
            cohort.call(member, hooks.epoch_ended)
        for member in [member for member in cohort.running if not member.active]:
            cohort.call(member, hooks.finished)
        cohort.running = [member for member in cohort.running if member.active]
        if cohort.running:
            cohort.look()


def train_epoch(trunk: Trunk, cohort: Cohort, present: Sequence[Member], train: Batches, epoch: int) -> None:
    """Takes the present members through the steps of one epoch that each has still before it."""
    for member in present:
        member.begin_epoch()
    epoch_started = time.perf_counter()
    for step, index_B in steps_of_epoch(present[0].config, len(train), epoch):
        joined = [member for member in present if member.progress.step == step and member in cohort.running]
        if not joined:
            continue
        x_NCHW, target = train.train_batch(index_B, generator(joined[0].config.seed, "augment", epoch, step))
        taps = trunk.taps(x_NCHW, {member.depth for member in joined})
        for member in joined:
            started = time.perf_counter()
            cohort.call(member, lambda m: m.train_step(taps[m.depth], target))  # noqa: B023 - called at once
            member.progress.epoch_s += time.perf_counter() - started
        cohort.look()
    trained = [member for member in present if member in cohort.running]
    shared_s = time.perf_counter() - epoch_started - sum(member.progress.epoch_s for member in trained)
    for member in trained:
        member.progress.epoch_s += max(0.0, shared_s) / len(trained)


def steps_of_epoch(config: TrialConfig, train_n: int, epoch: int) -> Iterator[tuple[int, Tensor]]:
    """(step, indices B) over one shuffled pass: every image once, batches of batch_size or a little less, all alike."""
    order = torch.randperm(train_n, generator=generator(config.seed, "order", epoch))
    yield from enumerate(torch.tensor_split(order, steps_per_epoch(config, train_n)))


def steps_per_epoch(config: TrialConfig, train_n: int) -> int:
    """Optimiser steps in one pass over train_n images."""
    return -(-train_n // config.batch_size)


@torch.no_grad()
def evaluate(trunk: Trunk, members: Sequence[Member], batches: Batches) -> list[Tensor]:
    """Logits NK, float32, of every member over a whole split, in its order; the trunk runs once for all."""
    for member in members:
        member.eval_mode()
    parts: list[list[Tensor]] = [[] for _ in members]
    for index_B in torch.split(torch.arange(len(batches)), EVAL_BATCH_SIZE):
        x_NCHW, _ = batches.eval_batch(index_B)
        taps = trunk.taps(x_NCHW, {member.depth for member in members})
        for member, logits in zip(members, parts, strict=True):
            logits.append(member.eval_logits(taps[member.depth]))
    return [torch.cat(logits) for logits in parts]


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU generator for one named stream of draws, the same on every device."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *counters))
