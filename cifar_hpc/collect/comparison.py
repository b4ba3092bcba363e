"""How sure the order is: points against the best on the same validation images, by the objective; the winner's optimism.

Owns: which points can be tested, and why one cannot. The arithmetic is in collect/statistics and collect/ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from cifar_hpc.collect.image_sets import image_set
from cifar_hpc.collect.index import Rejected
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.ranking import compare_with_first, fold_means, spread_of, step_down, winners_optimism
from cifar_hpc.collect.statistics import MIN_SEEDS, Difference, compare_chosen, compare_networks
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout

_FAR_BELOW = 8  # so many points in a row that are worse than the best: those below them are not read
_MOST = 100  # points read
FAR_BELOW = "far below the best"
FEW_SEEDS = f"fewer than {MIN_SEEDS} seeds"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best point against those below it. differences: by point id, the best's advantage over that point; of one seed each
    only for the second, and then of these two networks. untested: why there is none, for points that could not be tested.

    optimism: by how much the best's validation number flatters it, in the objective's unit; None where nothing could be read.
    of_networks: whether it speaks of these networks (one seed each), not of configurations.
    """

    best: str
    differences: Mapping[str, Difference]
    untested: Mapping[str, str]
    optimism: float | None
    of_networks: bool
    unreadable: tuple[Rejected, ...]

    def decision(self, point_id: str) -> str:
        """'best', 'worse' than it, 'tied' (tested, and not told apart) or 'not tested'."""
        found = self.differences.get(point_id)
        if point_id == self.best:
            return "best"
        if found is None or found.networks:
            return "not tested"
        return "worse" if found.better else "tied"


@dataclass(frozen=True, slots=True)
class Read:
    """The predictions of a point's seeds, by the seed's number, as what each image counts for the objective, S x N."""

    seeds: tuple[int, ...]
    values: NDArray[np.float32]
    images: SplitPredictions


def compare_with_best(board: Leaderboard, layout: Layout) -> Comparison | None:
    """Tests the points from the best downwards until far below it. None where no point was measured."""
    if not board.measured:
        return None
    best, objective = board.measured[0], board.objective
    ranked = _ranked(board)
    unreadable: list[Rejected] = []
    differences: dict[str, Difference] = {}
    untested: dict[str, str] = {}
    means: list[tuple[NDArray[np.float64], tuple[int, ...]]] = []
    first: Read | None = None
    below = 0
    far_below: Sequence[Row] = ()
    for number, row in enumerate(board.measured[:_MOST], 1):
        found, reason = _read(row, layout, objective, first, unreadable)
        if found is None:
            untested[row.point_id] = reason
            if row is best:
                untested |= dict.fromkeys((other.point_id for other in board.measured), reason)
                return Comparison(best.point_id, {}, untested, None, False, tuple(unreadable))
            continue
        means.append((fold_means(found.values), found.seeds))
        if first is None:
            first = found
            continue
        difference = _against(best, first, row, found, ranked)
        if difference is None:
            untested[row.point_id] = FEW_SEEDS
        elif not difference.networks or row is board.measured[1]:
            differences[row.point_id] = difference
        below = below + 1 if difference is not None and not difference.networks and difference.better else 0
        if below == _FAR_BELOW:
            far_below = board.measured[number:]
            break
    untested |= dict.fromkeys((row.point_id for row in board.measured[_MOST:]), f"only the first {_MOST} are read")
    untested |= dict.fromkeys((row.point_id for row in far_below), FAR_BELOW)
    over_seeds = {point: found for point, found in differences.items() if not found.networks}
    differences |= step_down(over_seeds, max(len(ranked) - sum(row.point_id in ranked for row in far_below), 2))
    optimism = winners_optimism([mean for mean, _ in means], [seeds for _, seeds in means])
    of_networks = all(len(seeds) == 1 for _, seeds in means)
    return Comparison(best.point_id, differences, untested, optimism, of_networks, tuple(unreadable))


def compare_points(one: Row, other: Row, layout: Layout, split: str = "val", objective: str = "val_acc") -> Difference:
    """One minus the other on the same images, two-sided: a test of two that were chosen beforehand.

    Raises CifarHpcError where they did not classify the same images or have no seeds to compare.
    """
    first, second = (_values(row, layout, split, objective) for row in (one, other))
    same = image_set(one.config) == image_set(other.config)
    if not same or not first or not second or not first.images.same_images(second.images):
        raise CifarHpcError(
            f"{one.label} and {other.label} did not classify the same {split} images: no paired test is possible."
        )
    if len(first.seeds) == len(second.seeds) == 1:
        return compare_networks(first.values[0], second.values[0])
    common = sorted({*first.seeds} & {*second.seeds})
    if len(common) < 2:
        raise CifarHpcError(
            f"{one.label} has the seeds {_numbers(first.seeds)}, {other.label} {_numbers(second.seeds)}: seeds are paired by"
            " number, and a test needs two in common."
        )
    return compare_chosen(*(read.values[[read.seeds.index(seed) for seed in common]] for read in (first, second)))


def point_predictions(row: Row, layout: Layout, split: str) -> dict[int, SplitPredictions]:
    """By seed, of those that measured the split. Raises RecordError where a file is corrupt, is missing or contradicts the
    record, or where the seeds saw different images."""
    read = {t.seed: read_predictions(layout.trial(t.trial_id), split, told) for t in row.trials if (told := t.told(split))}
    found = {seed: predictions for seed, predictions in read.items() if predictions is not None}
    every = list(found.values())
    if any(not every[0].same_images(predictions) for predictions in every[1:]):
        raise RecordError(f"the seeds of {row.label} did not classify the same {split} images")
    return found


def _read(row: Row, layout: Layout, objective: str, first: Read | None, unreadable: list[Rejected]) -> tuple[Read | None, str]:
    """The point's predictions, or why there are none to test."""
    try:
        found = _values(row, layout, "val", objective)
    except RecordError as error:
        unreadable.append(Rejected(str(layout.trial(row.trials[0].trial_id).predictions), str(error)))
        return None, str(error)
    if found is None:
        return None, "no predictions of validation images"
    if first is not None and not first.images.same_images(found.images):
        return None, "it was measured on other images"
    return found, ""


def _values(row: Row, layout: Layout, split: str, objective: str) -> Read | None:
    found = point_predictions(row, layout, split)
    if not found:
        return None
    values = np.stack([_counts(predictions, objective) for predictions in found.values()])
    return Read(tuple(found), values, next(iter(found.values())))


def _counts(predictions: SplitPredictions, objective: str) -> NDArray[np.float32]:
    """What each image adds to the objective's mean, more being better: 1 where it is right, or minus its cross-entropy."""
    if OBJECTIVES[objective].metric == "acc":
        return predictions.right.astype(np.float32)
    logits = predictions.logits.astype(np.float64)
    truth = logits[np.arange(len(logits)), predictions.labels]
    return np.asarray(truth - logsumexp(logits, axis=1), np.float32)


def _ranked(board: Leaderboard) -> dict[str, list[float]]:
    """What each seed of a point measured, by point, best first: of points with enough seeds for a test."""
    return {
        row.point_id: [value for trial in row.trials if (value := trial.metric(board.objective)) is not None]
        for row in board.measured
        if row.seeds >= MIN_SEEDS
    }


def _against(best: Row, first: Read, row: Row, found: Read, ranked: Mapping[str, Sequence[float]]) -> Difference | None:
    if len(first.seeds) == len(found.seeds) == 1:
        return compare_networks(first.values[0], found.values[0])
    if best.point_id not in ranked or row.point_id not in ranked or min(len(first.seeds), len(found.seeds)) < 2:
        return None
    points = list(ranked)
    spread = spread_of([ranked[point] for point in points], points.index(row.point_id))
    return compare_with_first(first.values, found.values, spread, len(points))


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
