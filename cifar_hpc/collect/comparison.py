"""How sure the order is: points against the best on the same validation images, by the objective; the winner's optimism.

Owns: which points can be tested, and why one cannot. The arithmetic is in collect/statistics and collect/ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from cifar_hpc.collect.image_sets import data_of, image_set
from cifar_hpc.collect.leaderboard import SEEN, Leaderboard, Row
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.collect.ranking import (
    compare_with_first,
    fold_means,
    fold_shares,
    range_tail,
    spread_of,
    step_down,
    winners_optimism,
)
from cifar_hpc.collect.rounds import Read, Round, on_images_of_both, point_counts, point_predictions
from cifar_hpc.collect.statistics import (
    Difference,
    compare_chosen,
    compare_networks,
    compare_splits,
    half_interval,
    known_error,
    of_splits,
    within,
)
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import MIN_SEEDS

_FAR_BELOW = 8  # so many points in a row that are worse than the best: those below them are not read
_MOST = 100  # points read
FAR_BELOW = "far below the best"
CUT = "the search ended trials of it early"
SPLITS_TEST = "t-test over splits, corrected for the training images that they share"
FEW_SEEDS = f"{MIN_SEEDS} seeds or folds of each are needed"
FEW_IN_COMMON = "fewer than 2 splits in common"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best point against those below it. differences: by point id, the best's advantage over that point; of one seed each
    only for the second, and then of these two networks. untested: why there is none, for points that could not be tested.

    optimism: by how much the best's validation number flatters it, in the objective's unit; None where nothing could be read,
    and where there was no other that could have been the best.
    of_networks: whether it speaks of these networks (one seed each), not of configurations; by_folds: whether it is what
    leaving out a fold, with its networks, takes away, not a tenth of the images.
    """

    best: str
    differences: Mapping[str, Difference]
    untested: Mapping[str, str]
    optimism: float | None
    of_networks: bool
    by_folds: bool = False

    @property
    def test(self) -> str | None:
        """The test over seeds or folds that was made, of several what they have in common; None where none was."""
        tests = {found.test for found in self.differences.values() if not found.networks}
        return "tests over seeds or folds" if len(tests) > 1 else next(iter(tests), None)

    def is_clear(self, rivals: Iterable[Row]) -> bool:
        """Whether the best is told from every rival that is not far below it."""
        told = (self.decision(row.point_id) for row in rivals if self.untested.get(row.point_id) != FAR_BELOW)
        return all(decision in ("best", "worse") for decision in told)

    def decision(self, point_id: str) -> str:
        """'best', 'worse' than it, 'tied' (tested, and not told apart) or 'not tested'."""
        found = self.differences.get(point_id)
        if point_id == self.best:
            return "best"
        if found is None or found.networks:
            return "not tested"
        return "worse" if found.better else "tied"


def compare_with_best(board: Leaderboard, layout: Layout) -> Comparison | None:
    """Tests the points from the best downwards until far below it. None where no point was measured."""
    if not board.measured:
        return None
    best, info = board.measured[0], board.info
    ranked = _ranked(board)
    differences: dict[str, Difference] = {}
    untested: dict[str, str] = {}
    means: list[tuple[NDArray[np.float64], tuple[Round, ...]]] = []
    folds: list[NDArray[np.float64] | None] = []  # as means, of those that have one deal of folds
    first: Read | None = None
    rivals = {row.point_id for row in board.rivals}
    below = 0
    for number, row in enumerate(board.measured):
        far_below = below >= _FAR_BELOW and row.point_id in rivals  # the others' numbers stand last for another reason
        if far_below or number >= _MOST:
            untested[row.point_id] = FAR_BELOW if far_below else f"only the first {_MOST} are read"
            continue
        found, reason = _read(row, layout, info, first)
        if found is None:
            untested[row.point_id] = reason
            if row is best:
                untested |= dict.fromkeys((other.point_id for other in board.measured), reason)
                return Comparison(best.point_id, {}, untested, None, False)
            continue
        if row.point_id in rivals:
            means.append((fold_means(found.values), found.rounds))
            folds.append(None if found.folds is None else fold_means(found.values, found.folds))
        if first is None:
            first = found
            continue
        difference = _against(best, first, row, found, ranked)
        if isinstance(difference, str):
            untested[row.point_id], below = difference, 0
            continue
        if not difference.networks or row is board.measured[1]:
            differences[row.point_id] = difference
        below = below + 1 if difference.better and not difference.networks else 0
    over_seeds = {point: found for point, found in differences.items() if not found.networks}
    differences |= step_down(over_seeds, max(sum(untested.get(point) != FAR_BELOW for point in ranked), 2))
    differences = {point: within(found, info.difference_bounds) for point, found in differences.items()}
    dealt = [mean for mean in folds if mean is not None] if first and first.folds is not None else []
    by_folds = bool(dealt) and len(dealt) == len(means)
    shares_K = fold_shares(first.values.shape[1], first.folds if by_folds else None) if first else None
    rounds = [rounds for _, rounds in means]
    optimism = winners_optimism(dealt if by_folds else [mean for mean, _ in means], rounds, shares_K)
    of_networks = all(len(rounds) == 1 for _, rounds in means) and first.splits_n == 1 if first else True
    return Comparison(best.point_id, differences, untested, optimism, of_networks, by_folds)


def compare_points(
    one: Row, other: Row, layout: Layout, split: str = "val", info: ObjectiveInfo = OBJECTIVES["val_acc"]
) -> Difference:
    """One minus the other on the same images, two-sided: a test of two that were chosen beforehand.

    Raises CifarHpcError where they did not classify the same images or have no seeds to compare.
    """
    first, second = (_needed(row, layout, split, info) for row in (one, other))
    if not _same_images(one, other, split) or not on_images_of_both(first.images, second.images, apart=first.parts is not None):
        raise _on_other_images(one, other, split, first.images, second.images)
    if len(first.rounds) == len(second.rounds) == first.splits_n == 1:
        return within(compare_networks(first.values[0], second.values[0]), info.difference_bounds)
    common = sorted({*first.rounds} & {*second.rounds})
    ours, theirs = first.of(common), second.of(common)
    if max(len(common), ours.splits_n) < 2:
        raise CifarHpcError(
            f"{one.label} has the seeds {_numbers(first.rounds)}, {other.label} {_numbers(second.rounds)}: seeds are paired by"
            " number, and a test needs two in common."
        )
    if ours.parts is not None:
        found = _over_splits(ours, theirs, lambda t, freedom: 2 * float(stdtr(freedom, -abs(t))))
    else:
        # on test they have the same images, and yet trained on others
        share = max(read.share if row.trials[0].own_split else 0.0 for row, read in ((one, first), (other, second)))
        splits = common if first.by_seed or second.by_seed else [fold for _, fold in common]
        (one_SN, share), (other_SN, _) = (of_splits(read.values, splits, share) for read in (ours, theirs))
        found = compare_chosen(one_SN, other_SN, share)
    found = within(found, info.difference_bounds)
    if len(common) == len(first.rounds) == len(second.rounds):
        return found
    runs, runs_n = "folds" if one.trials[0].fold else "seeds", max(len(common), ours.splits_n)
    return replace(found, test=f"{found.test}, of the {runs_n} {runs} that both have")


def split_of_both(one: Row, other: Row, layout: Layout) -> str:
    """On whose images both were measured: val, or test where those of validation are others. Raises CifarHpcError where they
    share none, and as point_predictions."""
    validated = [_validated(row, layout) for row in (one, other)]
    for row, rounds in zip((one, other), validated, strict=True):
        if not rounds:
            raise CifarHpcError(f"{row.label} has no measured validation split")
    for split in ("val", "test"):
        read = validated if split == "val" else [point_predictions(row, layout, split) for row in (one, other)]
        apart = split == "val" and one.trials[0].own_split
        if split == "val" and (one.seen or other.seen):
            continue
        if all(read) and _same_images(one, other, split) and on_images_of_both(*read, apart=apart):
            return split
    if seen := [row for row in (one, other) if row.seen]:
        raise _untestable(seen[0], SEEN)
    raise _on_other_images(one, other, "val", *validated)


def _validated(row: Row, layout: Layout) -> Mapping[Round, SplitPredictions]:
    try:
        return point_predictions(row, layout, "val")
    except RecordError as error:
        raise _untestable(row, str(error)) from error


def _same_images(one: Row, other: Row, split: str) -> bool:
    """As their configs have it."""
    own_val = next((trial.own_val for row in (one, other) for trial in row.trials if trial.own_val is not None), None)
    return image_set(one.config, own_val, split) == image_set(other.config, own_val, split)


def _on_other_images(
    one: Row, other: Row, split: str, first: Mapping[Round, SplitPredictions], second: Mapping[Round, SplitPredictions]
) -> CifarHpcError:
    """What their predictions prove is said plainly; records of two data sets may be of the same images all the same."""
    both = f"{one.label} and {other.label}"
    common = [(found, second[key]) for key, found in first.items() if key in second]
    pairs = common or [(next(iter(first.values())), next(iter(second.values())))]
    one_data = data_of(one.config) == data_of(other.config)
    one_naming = one.trials[0].classes == other.trials[0].classes  # else a label's number is of another class
    if any(_are_others(*pair, one_data=one_data, one_naming=one_naming) for pair in pairs):
        said = f"{both} did not classify the same {split} images"
    elif one_data and all(found.index is not None and found.same_images(others) for found, others in pairs):
        said = f"{both} did not have the same splits of their {split} images"  # such as in 5 folds and in 10
    else:
        said = f"no record says that {both} classified the same {split} images"
    return CifarHpcError(f"{said}: no paired test is possible.")


def _are_others(one: SplitPredictions, other: SplitPredictions, *, one_data: bool, one_naming: bool) -> bool:
    """Whether they prove that they are of other images. Labels stand in the order of the images' names wherever these lie; an
    index means places in one data set, and one_naming that a label has one meaning in both."""
    if len(one.labels) != len(other.labels) or (one_naming and not np.array_equal(one.labels, other.labels)):
        return True
    return one_data and one.index is not None and other.index is not None and not np.array_equal(one.index, other.index)


def _read(row: Row, layout: Layout, info: ObjectiveInfo, first: Read | None) -> tuple[Read | None, str]:
    """The point's predictions, or why there are none to test."""
    if row.seen or row.cut:
        return None, SEEN if row.seen else CUT
    try:
        found = point_counts(row, layout, "val", info)
    except RecordError as error:
        return None, str(error)
    if isinstance(found, str):
        return None, found
    if first is not None and not on_images_of_both(first.images, found.images, apart=first.parts is not None):
        return None, "measured on other images"
    return found, ""


def _needed(row: Row, layout: Layout, split: str, info: ObjectiveInfo) -> Read:
    if split == "val" and row.seen:
        raise _untestable(row, SEEN)
    try:
        found = point_counts(row, layout, split, info)
    except RecordError as error:
        raise _untestable(row, str(error)) from error
    if isinstance(found, str):
        raise _untestable(row, found)
    return found


def _untestable(row: Row, why: str) -> CifarHpcError:
    return CifarHpcError(f"{row.label}: {why}: no paired test is possible.")


def _ranked(board: Leaderboard) -> dict[str, list[float]]:
    """What each seed of a point measured, by point, best first: of points with enough seeds for a test."""
    return {
        row.point_id: [value for trial in row.trials if (value := trial.metric(board.objective)) is not None]
        for row in board.measured
        if row.seeds >= MIN_SEEDS
    }


def _against(best: Row, first: Read, row: Row, found: Read, ranked: Mapping[str, Sequence[float]]) -> Difference | str:
    """Or why they cannot be tested."""
    points = list(ranked)
    if first.parts is not None and best.point_id in ranked and row.point_id in ranked:
        if len(first.of_splits().keys() & found.of_splits().keys()) < 2:
            return FEW_IN_COMMON
        k = max(len(points), 2)
        return _over_splits(first, found, lambda t, freedom: range_tail(math.sqrt(2) * t, k, freedom) if t > 0 else 1.0)
    if len(first.rounds) == len(found.rounds) == 1:
        return compare_networks(first.values[0], found.values[0])
    if best.point_id not in ranked or row.point_id not in ranked or min(len(first.rounds), len(found.rounds)) < 2:
        return FEW_SEEDS
    spread = spread_of([ranked[point] for point in points], points.index(row.point_id))
    return compare_with_first(first.values, found.values, spread, len(points))


def _over_splits(first: Read, found: Read, tail: Callable[[float, float], float]) -> Difference:
    """Both on the same splits, two of them or more. tail: p-value of a t with so many degrees of freedom."""
    one, other = first.of_splits(), found.of_splits()
    common = [key for key in one if key in other]
    difference_J = np.array([one[key][0] - other[key][0] for key in common])
    mean, error, freedom = compare_splits(difference_J, first.share, [one[key][1] for key in common])
    error = known_error(error, first.values, found.values)
    more = error**2 * first.share / (first.share + 1 / len(common))  # what more repeats do not take away
    half = half_interval(error**2, freedom, 0.0, None)
    part = "" if len(common) == len(one) == len(other) else f", of the {len(common)} that both have"
    return Difference(
        mean,
        tail(mean / error if error else 0.0, freedom),
        f"{SPLITS_TEST}{part}",
        mean - half,
        mean + half,
        error=error,
        freedom=freedom,
        of_images=more,
        images=first.values.shape[1],
    )


def _numbers(rounds: Sequence[Round]) -> str:
    return ", ".join(dict.fromkeys(str(seed) for seed, _ in rounds))
