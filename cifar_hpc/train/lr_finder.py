"""The learning-rate range test (Smith 2017, arXiv:1506.01186, section 3.3): a trial's first steps at ever larger rates.

A copy of the member, thrown away afterwards, trains while the rate rises geometrically; the loss first falls, then explodes.
Two rules of fastai read a rate off the curve: `valley`, which `lr: auto` takes, and `steep`. All draws come from the trial's
own streams, so that a trial finds the same rate whenever it looks. Knows nothing of files and of drawing.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.batches import batches_for
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.zoo import build_model, in_channels, normalisation
from cifar_hpc.train.balance import weights_of_classes
from cifar_hpc.train.device import allow_tf32, choose_device, choose_precision
from cifar_hpc.train.features import Feed, Trunk
from cifar_hpc.train.member import Member
from cifar_hpc.train.steps import generator, steps_per_epoch

STEPS = 100
LOWEST, HIGHEST = 1e-7, 10.0  # rates of the first and the last step
SMOOTHING = 0.98  # of the running mean of the loss
EXPLODED = 4.0  # the test ends where the loss is so many times the least
SKIPPED_FIRST, SKIPPED_LAST = STEPS // 10, 5  # steps that the rules do not look at
FALLS_BY = 2.0  # standard errors of the first loss that the rules look at: less may be the luck of its batches
NO_FALL = "the loss falls at none of these rates by more than batches differ, so that no rate is known to learn"


@dataclass(frozen=True, slots=True)
class RangeTest:
    """rates: of the steps taken; losses: smoothed, of the same steps; valley, steep: what each rule suggests, None where it has
    nothing to go by; falls: whether the loss falls by more than batches differ: else valley is the middle of nothing."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    valley: float
    steep: float | None
    falls: bool


def run_range_test(
    member: Member, start: BlockModel, trunk: Trunk, train: Feed, look: Callable[[], None] = lambda: None
) -> RangeTest:
    """The test of a member that has not begun. start, trunk: what it was built from; look: called before each step.

    Raises CifarHpcError where the loss is not finite from the first steps on.
    """
    config = dataclasses.replace(
        member.config, lr=LOWEST, schedule="constant", warmup_epochs=0.0, unfreeze_epoch=member.config.unfreeze_epoch and STEPS
    )
    probe = Member(config, start, trunk, member.steps_per_epoch)
    probe.weigh_classes(member.micro_batches.class_weight_K)
    probe.join(member.world)
    probe.begin_epoch()
    rates: list[float] = []
    losses: list[float] = []
    of_batches: list[float] = []
    mean, least, needed = 0.0, math.inf, SKIPPED_FIRST + SKIPPED_LAST + 3
    for step, index_B in enumerate(_batches_of(config, len(train))):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        probe.progress.lr_found = rate
        draws = generator(config.draw_seed, "lr_finder_augment", step)
        look()
        features, target = train.train_batch(index_B, draws, {probe.depth})
        loss = probe.measured_step(features[probe.depth], target)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        exploded = smooth > EXPLODED * least
        if not math.isfinite(smooth) or (exploded and len(losses) >= needed):
            break
        least = smooth if exploded else min(least, smooth)  # at the first rates no loss explodes: its least was luck
        rates.append(rate)
        losses.append(smooth)
        of_batches.append(loss)
    if len(losses) < needed:
        raise CifarHpcError(f"lr: auto: the loss of {config.arch} is not finite at a rate of {rate:.0e}; give a number")
    first, last = SKIPPED_FIRST, len(losses) - SKIPPED_LAST
    seen_rates, seen_losses = rates[first:last], losses[first:last]
    return RangeTest(
        rates=tuple(rates),
        losses=tuple(losses),
        valley=find_valley(seen_rates, seen_losses),
        steep=find_steep(seen_rates, seen_losses),
        falls=does_fall(seen_losses, of_batches[: first + 1]),
    )


def does_fall(losses: Sequence[float], of_batches: Sequence[float]) -> bool:
    """Whether the smoothed losses come to lie below the first of them by more than the luck of its batches tells. of_batches:
    the losses of which that first one is the mean."""
    error = statistics.stdev(of_batches) / math.sqrt(len(of_batches))
    return losses[0] - min(losses) > FALLS_BY * error


def find_valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate halfway down the longest valley, as fastai's rule of that name has it: a valley has as many steps as the longest
    falling subsequence of the losses and ends where that does; the rate stands a third and a sixth of its steps from its start,
    both rounded down."""
    length = [1] * len(losses)
    for i, loss in enumerate(losses):
        length[i] = 1 + max((length[j] for j in range(i) if loss < losses[j]), default=0)
    steps = max(length)
    start = length.index(steps) - steps if steps > 1 else 0
    return rates[max(start + steps // 3 + steps // 6, 0)]


def find_steep(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate, of those up to the least loss, at which the loss falls fastest over the logarithm of the rate; None where it
    rises at all of them."""
    last = max(1, losses.index(min(losses)))
    slopes = [losses[i + 1] - losses[i] for i in range(last)]  # the rates are evenly spaced in their logarithm
    return rates[slopes.index(min(slopes))] if min(slopes) < 0 else None


def range_test_of(config: TrialConfig, root: Path, threads: int = 1) -> RangeTest:
    """The range test of a trial by itself, with the data under root, by as many threads as the trial trains with: of others the
    last bits differ, and so may the rate. Raises CifarHpcError."""
    torch.set_num_threads(threads)
    device = choose_device(None)
    data = load_dataset_of(config, root)
    channels, precision = in_channels(config, data.channels), choose_precision(config.precision, device)
    allow_tf32(config.precision == "tf32")
    start = build_model(config, len(data.classes), channels)
    start = start.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trunk = Trunk(start, precision)
    batches = batches_for(
        config,
        data.train,
        classes_n=len(data.classes),
        channels=channels,
        normalisation=normalisation(config) or (data.mean, data.std),
        device=device,
        augmented=True,
    )
    steps = steps_per_epoch(config, len(data.train.labels_N))
    member = Member(dataclasses.replace(config, lr=LOWEST), start, trunk, steps)
    member.weigh_classes(weights_of_classes(config, data.train.labels_N, data.classes))
    train = Feed(trunk, batches, member.depths, -(-len(data.train.labels_N) // steps), keep=config.augment == "none")
    return run_range_test(member, start, trunk, train)


def _batches_of(config: TrialConfig, train_n: int) -> Iterator[Tensor]:
    """STEPS batches of shuffled passes, as many as are needed."""
    steps = 0
    while steps < STEPS:
        order = torch.randperm(train_n, generator=generator(config.draw_seed, "lr_finder_order", steps))
        for index_B in torch.tensor_split(order, steps_per_epoch(config, train_n)):
            if steps < STEPS:
                yield index_B
            steps += 1
