"""Trains trials side by side in this process, or as one process of several, and has their records written.

Owns: Order, Trainer: the members of a set of attempts, what happens at the end of an epoch and of a trial. Knows neither who
owns the attempts nor how many processes there are beside its world's size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from cifar_hpc.config.sources import look_in
from cifar_hpc.config.trial import BY_RULE, TrialConfig
from cifar_hpc.distributed.rendezvous import Failure, MemberFailedError
from cifar_hpc.distributed.world import World
from cifar_hpc.errors import Interrupted
from cifar_hpc.planning.halving import Rungs
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.node import Node
from cifar_hpc.records.schema import EpochRecord, Outcome
from cifar_hpc.train.balance import weights_of_classes
from cifar_hpc.train.classifiers import FittedMember, build_member
from cifar_hpc.train.device import choose_device
from cifar_hpc.train.evaluation import evaluate
from cifar_hpc.train.features import Feed
from cifar_hpc.train.graphs import Graphs
from cifar_hpc.train.inspection import Insight
from cifar_hpc.train.loop import Hooks, train_cohort
from cifar_hpc.train.lr_finder import NO_FALL, run_range_test
from cifar_hpc.train.member import Member
from cifar_hpc.train.portions import is_out_of_memory
from cifar_hpc.worker.attempt import Attempt
from cifar_hpc.worker.halving import Judge
from cifar_hpc.worker.inputs import Inputs, Room
from cifar_hpc.worker.keeper import Keeper, keeper_of
from cifar_hpc.worker.results import WRITERS, Results

EpochHook = Callable[[str, EpochRecord], bool | str]  # True: go on; else the trial ends, a text says why


@dataclass(frozen=True)
class Order:
    """What is to be trained side by side. part_n: trials with which it began; features_on_device: see Feed; rungs: where they
    are judged, together with the others, which the same job trains apart."""

    job: Job
    layout: Layout
    executor: str
    attempts: tuple[Attempt, ...]
    part_n: int
    features_on_device: bool
    rungs: Rungs | None = None
    others: tuple[str, ...] = ()

    @property
    def keeps_on_gpu(self) -> bool:
        """Whether a GPU keeps the features of the training images. Makes no context there: a launcher may ask."""
        on_gpu = self.features_on_device and self.job.resources.gpus != 0 and torch.cuda.is_available()
        configs = [attempt.config for attempt in self.attempts]
        return on_gpu and any(c.augment == "none" and _may_have_trunk(c) for c in configs)

    @property
    def may_shrink(self) -> bool:
        """Whether fewer trials at once, or features kept elsewhere, would need less memory."""
        return self.part_n > 1 or self.keeps_on_gpu

    def is_too_much(self, error: Exception) -> bool:
        return is_out_of_memory(error) and self.may_shrink


def train_order(order: Order, node: Node, world: World, on_epoch: EpochHook | None, interrupted: Callable[[], bool]) -> None:
    """Trains the attempts to their ends, in this process of its world. Raises Interrupted."""
    look_in(order.layout.sources)
    device = choose_device(order.job.resources.gpus)
    graphs = Graphs(device, "" if world.size == 1 else "several processes")
    with graphs.one_stream():
        if world.leads:
            with ThreadPoolExecutor(WRITERS) as pool:
                list(pool.map(Attempt.describe, order.attempts))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        room = Room(order.features_on_device, node.memory_bytes)
        inputs = Inputs(order.attempts[0].config, order.layout, device, world, room)
        keeper = keeper_of(order.layout, order.job.sweep)
        try:
            for part in _by_fold(order):
                if world.leads:
                    _let_wait(part.attempts, False)
                inputs.enter(part.attempts[0].config)
                Trainer(part, world, inputs, graphs, keeper, on_epoch, interrupted).train()
                if world.leads and part.others:
                    _let_wait([attempt for attempt in part.attempts if not attempt.over], True)  # at a rung
        finally:
            if world.leads:
                keeper.settle()


def _let_wait(attempts: Sequence[Attempt], waits: bool) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda attempt: attempt.let_wait(waits), attempts))


def _by_fold(order: Order) -> list[Order]:
    """The order in parts of one fold each, one after another; the order itself where there are no folds."""
    parts: dict[int | None, list[Attempt]] = {}
    for attempt in order.attempts:
        parts.setdefault(attempt.config.dataset.fold, []).append(attempt)
    orders = []
    for fold, attempts in parts.items():
        others = tuple(a.claim.trial_id for a in order.attempts if a.config.dataset.fold != fold)
        orders.append(replace(order, attempts=tuple(attempts), others=(*order.others, *others)))
    return orders


class Trainer:
    """One process's part in the training of an order."""

    def __init__(
        self,
        order: Order,
        world: World,
        inputs: Inputs,
        graphs: Graphs,
        keeper: Keeper,
        on_epoch: EpochHook | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self.order, self.world, self.inputs, self.graphs = order, world, inputs, graphs
        self.keeper, self.on_epoch, self.interrupted = keeper, on_epoch, interrupted
        self.attempts = {attempt.claim.trial_id: attempt for attempt in order.attempts}
        self.began_at = time.monotonic()
        self.saved_at: dict[str, float] = {}
        self.members = [member for member in map(self._member, order.attempts) if member is not None]
        depths = {depth for member in self.members for depth in member.depths}
        self.train_feed = inputs.training_feed(depths)
        self.val = inputs.feed(inputs.data.val, depths, keep=True)
        test = inputs.data.test
        self.test = None if test is None else inputs.feed(test, depths, keep=len(self.members) > 1)
        self.results = Results(
            order.executor,
            order.part_n,
            inputs,
            keeper,
            graphs,
            Insight(self.val),
            world.size,
            order.job.resources.gpus,
        )
        self.judge = None if order.rungs is None else Judge(order.rungs, order.layout, order.others)

    def train(self) -> None:
        """Raises Interrupted."""
        members, train, val = self.members, self.train_feed, self.val
        if not members:
            return
        splits = [split for split in (val, self.test) if split is not None and len(split)]
        for images_n in (len(train) // self.inputs.steps_per_epoch, *map(len, splits)):
            self.world.require(images_n)
        hooks = Hooks(
            epoch_ended=self._epoch_ended,
            judged=self._judge,
            finished=self._finish,
            failed=lambda member, error: self._fail(self.attempts[member.config.trial_id], error),
            save=self._save,
            check=self._check,
            save_due=self._save_due,
            interrupted=self.interrupted,
        )
        fitted = [member for member in members if isinstance(member, FittedMember)]
        for unfitted in fitted:
            self._fit(unfitted, train, val)
        self._charge_features(members, train.filled_s + val.filled_s, len(members))
        self._charge_features(members, self.inputs.shared_s, self.order.part_n)
        for member in members:
            if member.config.lr == "auto" and member.progress.lr_found is None:
                self._find_lr(member, train)
        waiting = self._judge(members)
        self._finish([member for member in members if not member.active])  # also those that died between last epoch and result
        train_cohort(
            [m for m in members if m not in (*fitted, *waiting) and not self.attempts[m.config.trial_id].over],
            train,
            val,
            hooks,
            self.graphs,
        )

    def _find_lr(self, member: Member, train: Feed) -> None:
        try:
            start = self.inputs.starting_model(member.config)
            found = run_range_test(member, start, self.inputs.trunk, train, self._look)
            if not found.falls:
                member.progress.warnings = (f"lr: auto took {found.valley:.1e}, but {NO_FALL}: give lr a number",)
                if self.world.leads:
                    print(f"trial {member.config.trial_id}: {member.progress.warnings[0]}", file=sys.stderr, flush=True)
            member.progress.lr_found = found.valley
        except Interrupted:
            raise
        except Exception as error:
            self._fail(self.attempts[member.config.trial_id], error)

    def _fit(self, member: FittedMember, train: Feed, val: Feed) -> None:
        try:
            member.fit(train, val, len(self.inputs.data.classes), self._look)
        except Interrupted:
            raise
        except Exception as error:
            self._fail(self.attempts[member.config.trial_id], error)

    def _charge_features(self, members: Sequence[Member], seconds: float, users_n: int) -> None:
        """The features that were computed for the first classifier that was fitted, or the first fold that was trained, are of
        all their users: each is charged its share."""
        share = seconds / users_n
        for member in members if seconds else ():
            if not isinstance(member, FittedMember):
                member.progress.epoch_s += share
                if users_n > len(members):
                    member.progress.saved_s = (member.progress.saved_s or 0.0) + seconds - share
            elif member.progress.curves:
                member.charge(share, seconds - share)

    def _member(self, attempt: Attempt) -> Member | None:
        """The trial as its checkpoint left it, or at its beginning; None where it cannot be built."""
        try:
            inputs, start = self.inputs, self.inputs.starting_model(attempt.config)
            member = build_member(attempt.config, start, inputs.trunk, inputs.steps_per_epoch)
            member.weigh_classes(weights_of_classes(attempt.config, inputs.data.train.labels_N, inputs.data.classes))
            member.join(self.world)
            member.micro_batches.allowed = not self.order.may_shrink
            state = self.world.broadcast(attempt.load() if self.world.leads else None)
            if state is not None:
                member.load_state_dict(state)
            if self.world.leads:
                attempt.rewind(member)
        except Exception as error:
            self._fail(attempt, error)
            return None
        return member

    def _epoch_ended(self, member: Member) -> None:
        if not self.world.leads:
            return
        attempt = self.attempts[member.config.trial_id]
        record = member.progress.curves[-1]
        decision = True if self.on_epoch is None else self.on_epoch(member.config.trial_id, record)
        if decision is not True and member.active:
            reason = decision or f"ended by the scheduler after epoch {record.epoch}"
            member.progress.outcome, member.progress.reason = Outcome.PRUNED, reason
        if member.active and self._is_due(member.config.trial_id):  # an end needs none: its result follows at once
            self._save(member)
        attempt.append(record)

    def _judge(self, members: Sequence[Member]) -> list[Member]:
        """Ends those whose cohort's rungs they do not pass; saves and returns those that wait for others to come to one."""
        if self.judge is None:
            return []
        told: list[tuple[Outcome | None, str, bool]] = []
        if self.world.leads:
            living = [member for member in self.members if not self.attempts[member.config.trial_id].over]
            waiting = self.judge.look(living)
            for member in waiting:
                self._save(member)
                self.attempts[member.config.trial_id].wait_for_checkpoint()
            told = [(m.progress.outcome, m.progress.reason, m in waiting) for m in members]
        told = self.world.broadcast(told)
        for member, (outcome, reason, _) in zip(members, told, strict=True):
            member.progress.outcome, member.progress.reason = outcome, reason
        return [member for member, (_, _, waits) in zip(members, told, strict=True) if waits]

    def _save(self, member: Member) -> None:
        if self.world.leads:
            self.saved_at[member.config.trial_id] = time.monotonic()
            self.attempts[member.config.trial_id].save(member)

    def _check(self, member: Member) -> None:
        if self.world.leads:
            self.attempts[member.config.trial_id].check()

    def _save_due(self) -> bool:
        return any(not attempt.over and self._is_due(trial_id) for trial_id, attempt in self.attempts.items())

    def _is_due(self, trial_id: str) -> bool:
        since_s = time.monotonic() - self.saved_at.get(trial_id, self.began_at)
        return since_s >= self.order.job.resources.checkpoint_minutes * 60

    def _look(self) -> None:
        """Between batches of what is not training: started again, or after the last epoch, whose checkpoint stands."""
        if self.world.size == 1 and self.interrupted():
            raise Interrupted

    def _look_together(self) -> None:
        """The same where all processes of the world are at the same place."""
        if self.world.agree(self.interrupted(), False, False)[0]:  # as many flags as the loop asks about
            raise Interrupted

    def _finish(self, members: Sequence[Member]) -> None:
        """Measures the test split once with each member's best weights and writes the results."""
        measurable = [member for member in members if member.progress.best_epoch is not None]
        for member in measurable:
            member.load_best()
        logits: Sequence[torch.Tensor] = ()
        try:
            if self.test is not None and measurable:
                logits = list(evaluate(measurable, self.test, self._look_together))
        except Interrupted:
            for member in members:
                self._save(member)
            raise
        test_logits = dict(zip((member.config.trial_id for member in measurable), logits, strict=False))
        if self.world.leads:
            if any(member.config.keep == BY_RULE for member in members):
                reached = {m.config.trial_id: m.progress.best_value if len(self.val) else None for m in measurable}
                self.keeper.hear(reached)
            over = [(member, self.attempts[member.config.trial_id]) for member in members]
            self.results.write(over, test_logits, self._fail)

    def _fail(self, attempt: Attempt, error: Exception | Failure) -> None:
        """Records the failure and gives the trial up; memory that fewer trials would not lack is no failure, and raised.

        A rank leaves that to its launcher: raises MemberFailedError, since the other ranks cannot go on without it.
        """
        if isinstance(error, Exception) and self.order.is_too_much(error):
            raise error
        if self.world.size > 1 and isinstance(error, Exception):
            raise MemberFailedError(attempt.claim.trial_id) from error
        attempt.fail(error if isinstance(error, Failure) else Failure.of(error))


def _may_have_trunk(config: TrialConfig) -> bool:
    """Whether some epoch may leave its first blocks as they are."""
    return config.freeze not in ("none", 0) or bool(config.unfreeze_epoch or config.unfreeze) or isinstance(config.train, tuple)
