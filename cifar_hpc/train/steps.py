"""The steps of an epoch: what they read, made ahead; and a step of a cohort, eager or captured.

Owns: Plan, the batches and draws of an epoch; Stepper, one step of some members on batches of one size. Every random draw is
seeded from (seed, purpose, epoch, step), so a member's numbers depend neither on who trains beside it nor on where it was
interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.train.clock import Clock, Shares, Span, divided_as
from cifar_hpc.train.features import Feed
from cifar_hpc.train.graphs import Captured, Graphs, drawing_from
from cifar_hpc.train.member import Member
from cifar_hpc.train.probes import Probes, can_step
from cifar_hpc.train.tables import Table

Fail = Callable[[Member, Exception], None]


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU generator for one named stream of draws, the same on every device."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *counters))


def steps_per_epoch(config: TrialConfig, train_n: int) -> int:
    """Optimiser steps in one pass over train_n images."""
    return -(-train_n // config.batch_size)


def epoch_order(config: TrialConfig, labels_N: Tensor, epoch: int) -> Tensor:
    """Which images the steps of an epoch take, one after another: each once, or of each class alike many on average."""
    draws = generator(config.draw_seed, "order", epoch)
    if config.sampler is None:
        return torch.randperm(len(labels_N), generator=draws)
    labels_N = labels_N.cpu()
    share_N = 1 / torch.bincount(labels_N)[labels_N].double()
    cumulated_N = (share_N / share_N.sum()).cumsum(0)
    at_N = torch.searchsorted(cumulated_N, torch.rand(len(labels_N), generator=draws, dtype=torch.float64), right=True)
    return at_N.clamp_max(len(labels_N) - 1)


class Plan:
    """One shuffled pass over a split, and its draws: every image once, or as the sampler says, in batches of batch_size or a
    little less, all alike."""

    def __init__(self, config: TrialConfig, train: Feed, epoch: int) -> None:
        self.epoch = epoch
        order = epoch_order(config, train.labels_N, epoch)
        self.index = torch.tensor_split(order, steps_per_epoch(config, len(train)))
        self._config, self._train = config, train
        self._values: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.index)

    def size(self, step: int) -> int:
        return len(self.index[step])

    def count(self, size: int) -> int:
        """How many of its batches are of that size: as many in every epoch."""
        return sum(len(index_B) == size for index_B in self.index)

    def values(self, step: int) -> list[Tensor]:
        """What the batch of a step is made from, on the CPU."""
        if step not in self._values:
            draws = generator(self._config.draw_seed, "augment", self.epoch, step)
            self._values[step] = self._train.values(self.index[step], draws)
        return self._values[step]

    def make_ahead(self) -> None:
        """While a GPU is busy with another epoch."""
        for step in range(len(self)):
            self.values(step)


class Stepper:
    """A step of some members, side by side.

    All that it reads and writes lies in the same place in every step. In an eager one a member that fails falls alone; a
    captured one is a single piece.
    """

    def __init__(self, members: Sequence[Member], train: Feed, graphs: Graphs, clock: Clock, fail: Fail) -> None:
        """clock: is told how long it took; fail: is told of a member whose step raised."""
        self.members = list(members)
        self.depths = [member.depth for member in members]
        self._train, self._graphs = train, graphs
        self._clock, self._fail = clock, fail
        kinds: dict[str, list[Member]] = {}
        for member in members:
            if can_step(member):
                kinds.setdefault(member.config.optimizer, []).append(member)
        self._probes = [Probes(kind) for kind in kinds.values()]
        self._apart = [member for member in members if not can_step(member)]
        self._common = Shares.common_to(self.members)
        self._shares = [Shares.spent_by(piece.members) for piece in self._probes]
        self._shares += [Shares.spent_by([member]) for member in self._apart]
        self._sizes: dict[int, _Sized] = {}
        self._generators: dict[int, torch.Generator] = {}

    def serves(self, members: Sequence[Member]) -> bool:
        return self.members == list(members) and self.depths == [member.depth for member in members]

    def begin(self, plan: Plan, first: int) -> None:
        """Reads ahead what the steps from `first` on have."""
        by_size: dict[int, list[int]] = {}
        for step in range(first, len(plan)):
            by_size.setdefault(plan.size(step), []).append(step)
        for size, steps in by_size.items():
            numbers = self._numbers_of(steps)
            rows = [[*plan.values(step), own] for step, own in zip(steps, numbers, strict=True)]
            if size in self._sizes:
                self._sizes[size].table.fill(rows)
            else:
                table = Table(rows, plan.count(size), self._train.labels_N.device)
                self._sizes[size] = _Sized(table, self._graphs, self._eager, self._whole, self._own_generators)

    def step(self, plan: Plan, step: int) -> None:
        size = plan.size(step)
        sized = self._sizes[size]
        self._train.stage(plan.index[step], set(self.depths))
        if not sized.captured.prepare():
            sized.captured.run()
            return
        for i, own in self._generators.items():
            self._apart[i].seed_draws(step, own)
        sized.divided = sized.divided or divided_as(sized.spans, self.members)
        with self._clock.span(sized.divided):
            sized.captured.run()
        for member in self.members:
            member.count(size)

    def _numbers_of(self, steps: Sequence[int]) -> Tensor:
        pieces: list[Probes | Member] = [*self._probes, *self._apart]
        numbers = torch.cat([piece.numbers_of(steps) for piece in pieces], 1)
        return numbers.float() if self._train.labels_N.is_cuda else numbers

    def _own_generators(self) -> list[torch.Generator]:
        """One for each member that was seen to draw: all have the same seed in a step, and each begins at its first number."""
        device = self._train.labels_N.device
        for i, member in enumerate(self._apart):
            if member.draws and i not in self._generators:
                self._generators[i] = torch.Generator(device)
        return list(self._generators.values())

    def _inputs(self, table: Table) -> tuple[dict[int, Tensor], Tensor, list[Tensor]]:
        """The features, the targets, and the numbers of each batch of probes and of each other member."""
        *values, numbers = table.take()
        features, target = self._train.batch(values, set(self.depths))
        pieces: list[Probes | Member] = [*self._probes, *self._apart]
        return features, target, list(torch.split(numbers, [piece.numbers_n for piece in pieces]))

    def _eager(self, sized: _Sized) -> None:
        with self._clock.span(self._common) as common:
            features, target, numbers = self._inputs(sized.table)
        spans = [common]
        shares = iter(self._shares)
        for group, own in zip(self._probes, numbers, strict=False):
            with self._clock.span(next(shares)) as span:
                try:
                    group.compute(features[group.members[0].depth], target, own)
                    group.count(len(target))
                except Exception as error:
                    for member in group.members:
                        self._fail(member, error)
            spans.append(span)
        for member, own in zip(self._apart, numbers[len(self._probes) :], strict=True):
            with self._clock.span(next(shares)) as span:
                try:
                    member.set_numbers(own)
                    member.train_step(features[member.depth], target)
                except Exception as error:
                    self._fail(member, error)
            spans.append(span)
        sized.spans = spans

    def _whole(self, sized: _Sized) -> None:
        features, target, numbers = self._inputs(sized.table)
        pieces = [
            partial(group.compute, features[group.members[0].depth], target, own)
            for group, own in zip(self._probes, numbers, strict=False)
        ]
        for i, (member, own) in enumerate(zip(self._apart, numbers[len(self._probes) :], strict=True)):
            pieces.append(partial(self._whole_of, i, member, features[member.depth], target, own))
        self._graphs.side_by_side(pieces)

    def _whole_of(self, i: int, member: Member, tap: Tensor, target: Tensor, numbers: Tensor) -> None:
        with drawing_from(self._generators.get(i), tap.device):
            member.set_numbers(numbers)
            member.compute(tap, target, None)


class _Sized:
    """What the steps on batches of one size have of their own. spans: of the last eager step; divided: how the time of a
    replayed one is."""

    def __init__(
        self,
        table: Table,
        graphs: Graphs,
        eager: Callable[[_Sized], None],
        whole: Callable[[_Sized], None],
        generators: Callable[[], Sequence[torch.Generator]],
    ) -> None:
        self.table = table
        self.captured = Captured(graphs, partial(eager, self), partial(whole, self), generators)
        self.spans: list[Span] = []
        self.divided: Shares | None = None
