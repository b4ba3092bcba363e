"""The one training loop: a cohort of trials side by side, a trial alone being a cohort of one.

For each batch: draw and augment once, run the common frozen trunk once without gradients, tap it at every depth that a member
has, then let each member's suffix take its own step. Every random draw is seeded from (seed, purpose, epoch, step), so a
member's numbers depend neither on who trains beside it nor on where it was interrupted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.distributed.world import World
from cifar_hpc.errors import Interrupted
from cifar_hpc.train.features import Feed
from cifar_hpc.train.member import Member
from cifar_hpc.train.probes import Probes, can_step

EVAL_BATCH_SIZE = 500
LOOK_EVERY_S = 5.0  # how often the hooks that read the disk are called, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the runner does at the points where it may act.

    epoch_ended: after validation, may end the member; finished: these members are over; failed: its step, or a hook that takes
    one member, raised: it takes no further part; save: write its checkpoint; check: raise where the member must not go on;
    save_due: whether it is time for a checkpoint within an epoch; interrupted: whether the job was asked to stop. In a world
    of several processes all of them call the hooks, at the same points.
    """

    epoch_ended: Callable[[Member], None]
    finished: Callable[[Sequence[Member]], None]
    failed: Callable[[Member, Exception], None]
    save: Callable[[Member], None]
    check: Callable[[Member], None]
    save_due: Callable[[], bool]
    interrupted: Callable[[], bool]


class Cohort:
    """Members in training. A member that fails is dropped from the list; the others go on."""

    def __init__(self, members: Sequence[Member], hooks: Hooks, world: World) -> None:
        self.world = world
        self.running = [member for member in members if member.active]
        self.hooks = hooks
        self.looked_at = time.monotonic()

    def call(self, member: Member, action: Callable[[Member], None]) -> None:
        """Does one thing with one member; what it raises ends this member alone."""
        try:
            action(member)
        except Exception as error:
            self.drop(member, error)

    def drop(self, member: Member, error: Exception) -> None:
        self.running.remove(member)
        self.hooks.failed(member, error)

    def look(self) -> None:
        """Gives the outer world its chance between two steps. Raises Interrupted after saving every member."""
        due = time.monotonic() - self.looked_at >= LOOK_EVERY_S
        interrupted, due, save_due = self.world.agree(self.hooks.interrupted(), due, due and self.hooks.save_due())
        if not interrupted and not due:
            return
        self.looked_at = time.monotonic()
        for member in list(self.running):
            if interrupted or save_due:
                member.gather_sums()
                self.call(member, self.hooks.save)
            else:
                self.call(member, self.hooks.check)
        if interrupted:
            raise Interrupted

    def agree_on_ends(self, present: Sequence[Member]) -> None:
        """Rank 0's word on which members are over holds for all: its clock and its scheduler may have ended some."""
        ends = self.world.broadcast([(member.progress.outcome, member.progress.reason) for member in present])
        for member, (outcome, reason) in zip(present, ends, strict=True):
            member.progress.outcome, member.progress.reason = outcome, reason


def train_cohort(members: Sequence[Member], train: Feed, val: Feed, hooks: Hooks) -> None:
    """Trains every member to its end, handing those that end together to hooks.finished.

    members share seed, batch size, data and starting weights; one that resumes joins at its own epoch and step. Raises
    Interrupted.
    """
    cohort = Cohort(members, hooks, train.world)
    while cohort.running:
        epoch = min(member.progress.epoch for member in cohort.running)
        present = [member for member in cohort.running if member.progress.epoch == epoch]
        train_epoch(cohort, present, train, epoch)
        present = [member for member in present if member in cohort.running]
        started = time.perf_counter()
        logits = evaluate(present, val, cohort.look)
        val_s = (time.perf_counter() - started) / max(1, len(present))
        for member, logits_NK in zip(present, logits, strict=True):
            if member in cohort.running:  # and not lost in the meantime
                member.end_epoch(logits_NK, val.labels_N, val_s)
                cohort.call(member, hooks.epoch_ended)
        cohort.agree_on_ends(present)
        over = [member for member in cohort.running if not member.active]
        cohort.running = [member for member in cohort.running if member.active]
        if over:
            hooks.finished(over)
        if cohort.running:
            cohort.look()


def train_epoch(cohort: Cohort, present: Sequence[Member], train: Feed, epoch: int) -> None:
    """Takes the present members through the steps of one epoch that each has still before it."""
    for member in present:
        member.begin_epoch()
    clock = _Clock(train.labels_N.device)
    probes: list[Probes] = []  # bound to this epoch's sums
    for step, index_B in steps_of_epoch(present[0].config, len(train), epoch):
        joined = [member for member in present if member.progress.step == step and member in cohort.running]
        if not joined:
            continue
        draws = generator(joined[0].config.seed, "augment", epoch, step)
        with clock.common_to(joined):
            taps, target = train.train_batch(index_B, draws, {member.depth for member in joined})
        probes = batch_probes(probes, joined)
        clock.charge(joined)
        for group in probes:
            try:
                group.step(taps[group.members[0].depth], target)
            except Exception as error:
                for member in group.members:
                    cohort.drop(member, error)
            clock.charge(group.members)
        for member in [member for member in joined if not can_step(member)]:
            cohort.call(member, lambda m: m.train_step(taps[m.depth], target))  # noqa: B023 - called at once
            clock.charge([member])
        cohort.look()
    left = [member for member in present if member in cohort.running]
    for member in left:
        member.average_statistics()
    clock.settle()
    clock.charge(left)


class _Clock:
    """Divides the time that passes between calls evenly among those for whom it was spent, and adds up what they saved.

    What is common to n members each of them would have spent alone: it saved (n - 1) / n of that. A GPU runs behind this
    process: there its own clock measures it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()
        self._common: list[tuple[torch.cuda.Event, torch.cuda.Event, Sequence[Member]]] = []

    def charge(self, members: Sequence[Member]) -> None:
        now = time.perf_counter()
        for member in members:
            member.progress.epoch_s += (now - self._last) / len(members)
        self._last = now

    @contextlib.contextmanager
    def common_to(self, members: Sequence[Member]) -> Iterator[None]:
        """What is done inside is done once for all of them."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._common.append((start, end, members))
        else:
            began = time.perf_counter()
            yield
            _save(members, time.perf_counter() - began)

    def settle(self) -> None:
        """Waits until the device has done all that was asked of it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for start, end, members in self._common:
            _save(members, start.elapsed_time(end) / 1000)
        self._common.clear()


def _save(members: Sequence[Member], seconds: float) -> None:
    for member in members:
        member.progress.saved_s = (member.progress.saved_s or 0.0) + seconds * (len(members) - 1) / len(members)


def batch_probes(probes: list[Probes], joined: Sequence[Member]) -> list[Probes]:
    """The members that are mere linear classifiers, a batch for each optimiser; the same batches while none joins or leaves."""
    kinds: dict[str, list[Member]] = {}
    for member in joined:
        if can_step(member):
            kinds.setdefault(member.config.optimizer, []).append(member)
    if [group.members for group in probes] == list(kinds.values()):
        return probes
    return [Probes(members) for members in kinds.values()]


def steps_of_epoch(config: TrialConfig, train_n: int, epoch: int) -> Iterator[tuple[int, Tensor]]:
    """(step, indices B) over one shuffled pass: every image once, batches of batch_size or a little less, all alike."""
    order = torch.randperm(train_n, generator=generator(config.seed, "order", epoch))
    yield from enumerate(torch.tensor_split(order, steps_per_epoch(config, train_n)))


def steps_per_epoch(config: TrialConfig, train_n: int) -> int:
    """Optimiser steps in one pass over train_n images."""
    return -(-train_n // config.batch_size)


@torch.no_grad()
def evaluate(members: Sequence[Member], split: Feed, look: Callable[[], None] = lambda: None) -> list[Tensor]:
    """Logits NK, float32, of every member over a whole split, in its order; the trunk runs once for all.

    look: called between two batches where one process evaluates alone; it may raise Interrupted. Several have spans of their
    own, of different numbers of batches, so that they could not agree there.

    Each process of a world computes its span of the split, and all get all. Of an empty split: 0 x 0.
    """
    if not members or not len(split):
        return [torch.zeros(0, 0, device=split.labels_N.device) for _ in members]
    for member in members:
        member.eval_mode()
    parts: list[list[Tensor]] = [[] for _ in members]
    span = split.world.span(len(split))
    for start in range(span.start, span.stop, EVAL_BATCH_SIZE):
        if split.world.size == 1 and start:
            look()
        taps = split.eval_batch(start, min(start + EVAL_BATCH_SIZE, span.stop), {member.depth for member in members})
        for member, logits in zip(members, parts, strict=True):
            logits.append(member.eval_logits(taps[member.depth]))
    return [split.world.join_rows(torch.cat(logits), len(split)) for logits in parts]


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU generator for one named stream of draws, the same on every device."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *counters))
