"""The one training loop: a cohort of trials side by side, a trial alone being a cohort of one.

For each batch: draw and augment once, run the common frozen trunk once without gradients, tap it at every depth that a member
has, then let each member's suffix take its own step. The steps are steps.py's; here is their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from cifar_hpc.distributed.world import World
from cifar_hpc.errors import Interrupted
from cifar_hpc.train.clock import Clock, wait_for
from cifar_hpc.train.evaluation import Evaluator, evaluate
from cifar_hpc.train.features import Feed
from cifar_hpc.train.graphs import Graphs
from cifar_hpc.train.member import Member, epoch_sums, keep_best
from cifar_hpc.train.steps import Plan, Stepper

POLL_EVERY_S = 5.0  # how often the hooks that read the disk are called, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the runner does at the points where it may act.

    epoch_ended: after validation, may end the member; judged: all that ended the epoch, once it ended for all of them, may end
    some and returns those that train no further for now; finished: these members are over; failed: its step, or a hook that
    takes one member, raised: it takes no further part; save: write its checkpoint; check: raise where the member must not go
    on; save_due: whether it is time for a checkpoint within an epoch; interrupted: whether the job was asked to stop. In a
    world of several processes all of them call the hooks, at the same points.
    """

    epoch_ended: Callable[[Member], None]
    judged: Callable[[Sequence[Member]], Sequence[Member]]
    finished: Callable[[Sequence[Member]], None]
    failed: Callable[[Member, Exception], None]
    save: Callable[[Member], None]
    check: Callable[[Member], None]
    save_due: Callable[[], bool]
    interrupted: Callable[[], bool]


class Cohort:
    """Members in training. A member that fails is dropped from the list; the others go on."""

    def __init__(self, members: Sequence[Member], hooks: Hooks, world: World, graphs: Graphs) -> None:
        self.world = world
        self.graphs = graphs
        self.clock = Clock(graphs.device)
        self.lost_n = 0  # members that failed since the last look at who is running
        self._plan: Plan | None = None
        self._stepper: Stepper | None = None
        self._evaluator: Evaluator | None = None
        self.running = [member for member in members if member.active]
        self.hooks = hooks
        self.looked_at = time.monotonic()

    def plan_of(self, member: Member, train: Feed, epoch: int) -> Plan:
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = Plan(member.config, train, epoch)
        return self._plan

    def stepper(self, joined: Sequence[Member], train: Feed) -> Stepper:
        """Of these members as they stand; that of others, or at other depths, goes, and its memory with it."""
        if self._stepper is None or not self._stepper.serves(joined):
            self._stepper = None
            self._stepper = Stepper(joined, train, self.graphs, self.clock, self.drop)
        return self._stepper

    def evaluator(self, members: Sequence[Member], split: Feed) -> Evaluator | None:
        """Of these members as they stand, for the batches of a split."""
        if not members or not len(split):
            return None
        if self._evaluator is None or not self._evaluator.serves(members, split):
            self._evaluator = None
            self._evaluator = Evaluator(members, split, self.graphs)
        return self._evaluator

    def call(self, member: Member, action: Callable[[Member], None]) -> None:
        """Does one thing with one member; what it raises ends this member alone."""
        try:
            action(member)
        except Exception as error:
            self.drop(member, error)

    def still_running(self, members: Sequence[Member]) -> list[Member]:
        """Those of the members that are in training; from here on none is missing."""
        self.lost_n = 0
        running = set(self.running)
        return [member for member in members if member in running]

    def drop(self, member: Member, error: Exception) -> None:
        self.running.remove(member)
        self.lost_n += 1
        self.hooks.failed(member, error)

    def look(self) -> None:
        """Gives the outer world its chance between two steps. Raises Interrupted after saving every member."""
        due = time.monotonic() - self.looked_at >= POLL_EVERY_S
        interrupted, due, save_due = self.world.agree(self.hooks.interrupted(), due, due and self.hooks.save_due())
        if not interrupted and not due:
            return
        self.looked_at = time.monotonic()
        if interrupted or save_due:
            self.clock.settle(self.running)
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


def train_cohort(members: Sequence[Member], train: Feed, val: Feed, hooks: Hooks, graphs: Graphs | None = None) -> None:
    """Trains every member to its end, handing those that end together to hooks.finished.

    members share seed, batch size, data and starting weights; one that resumes joins at its own epoch and step. Raises
    Interrupted.
    """
    cohort = Cohort(members, hooks, train.world, graphs or Graphs(train.labels_N.device, "not asked for"))
    while cohort.running:
        epoch = min(member.progress.epoch for member in cohort.running)
        present = [member for member in cohort.running if member.progress.epoch == epoch]
        train_epoch(cohort, present, train, epoch)
        present = cohort.still_running(present)
        started = time.perf_counter()
        logits = evaluate(present, val, cohort.look, cohort.evaluator(present, val))
        wait_for(train.labels_N.device)
        val_s = (time.perf_counter() - started) / max(1, len(present))
        end_epoch(cohort, present, logits, val.labels_N, val_s)
        cohort.clock.began = time.perf_counter()  # records and checkpoints are no training
        waiting = hooks.judged(cohort.still_running(present))
        cohort.agree_on_ends(present)
        over = [member for member in cohort.running if not member.active]
        cohort.running = [member for member in cohort.running if member.active and member not in waiting]
        if over:
            hooks.finished(over)
        if cohort.running:
            cohort.look()


def end_epoch(cohort: Cohort, present: Sequence[Member], logits_MNK: Tensor, val_labels_N: Tensor, val_s: float) -> None:
    """Writes the epoch's record of every member that was not lost in the meantime, and keeps the weights of the best."""
    running = set(cohort.running)
    ending = [i for i, member in enumerate(present) if member in running]
    if not ending:
        return
    members = [present[i] for i in ending]
    if len(members) < len(present):
        logits_MNK = logits_MNK[ending]
    better: list[int] = []
    for i, (member, own) in enumerate(zip(members, epoch_sums(members, logits_MNK, val_labels_N), strict=True)):
        if member.end_epoch(own, logits_MNK[i], val_labels_N, val_s):
            better.append(i)
    keep_best([members[i] for i in better], [logits_MNK[i] for i in better])
    for member in members:
        cohort.call(member, cohort.hooks.epoch_ended)


def train_epoch(cohort: Cohort, present: Sequence[Member], train: Feed, epoch: int) -> None:
    """Takes the present members through the steps of one epoch that each has still before it."""
    for member in present:
        member.begin_epoch()
    train.fill()
    plan = cohort.plan_of(present[0], train, epoch)
    stepper: Stepper | None = None
    entries = {member.progress.step for member in present}  # where members begin: at 0, or where they were interrupted
    for step in range(min(entries), len(plan)):
        if stepper is None or step in entries or cohort.lost_n:
            joined = cohort.still_running([member for member in present if member.progress.step == step])
            stepper = cohort.stepper(joined, train) if joined else None
            if stepper is None:
                continue
            stepper.begin(plan, step)
        stepper.step(plan, step)
        cohort.look()
    left = cohort.still_running(present)
    if train.labels_N.is_cuda and any(member.config.epochs > epoch for member in left):
        cohort.plan_of(left[0], train, epoch + 1).make_ahead()
    for member in left:
        member.average_statistics()
    cohort.clock.settle(left)
