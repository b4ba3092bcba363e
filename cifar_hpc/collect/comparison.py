"""How sure the order is: points against the best on the same validation images, by the objective; the winner's optimism.

Owns: which points can be tested, and why one cannot. The arithmetic is in collect/statistics and collect/ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, stdtr

from cifar_hpc.collect.image_sets import data_of, image_set
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.predictions import SplitPredictions, join_folds, read_predictions
from cifar_hpc.collect.ranking import compare_with_first, fold_means, range_tail, spread_of, step_down, winners_optimism
from cifar_hpc.collect.statistics import (
    Difference,
    Floats,
    compare_chosen,
    compare_networks,
    compare_splits,
    known_error,
    within,
)
from cifar_hpc.collect.trials import Trial
from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.metrics import jackknife_counts
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo, load
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import MIN_SEEDS

_FAR_BELOW = 8  # so many points in a row that are worse than the best: those below them are not read
_MOST = 100  # points read
_ROUNDED = 0.01  # of an objective: by so much at most rounding may have changed what is tested
FAR_BELOW = "far below the best"
SPLITS_TEST = "t-test over splits, corrected for the training images that they share"
FEW_SEEDS = f"fewer than {MIN_SEEDS} seeds"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best point against those below it. differences: by point id, the best's advantage over that point; of one seed each
    only for the second, and then of these two networks. untested: why there is none, for points that could not be tested.

    optimism: by how much the best's validation number flatters it, in the objective's unit; None where nothing could be read,
    and where there was no other that could have been the best.
    of_networks: whether it speaks of these networks (one seed each), not of configurations.
    """

    best: str
    differences: Mapping[str, Difference]
    untested: Mapping[str, str]
    optimism: float | None
    of_networks: bool

    def decision(self, point_id: str) -> str:
        """'best', 'worse' than it, 'tied' (tested, and not told apart) or 'not tested'."""
        found = self.differences.get(point_id)
        if point_id == self.best:
            return "best"
        if found is None or found.networks:
            return "not tested"
        return "worse" if found.better else "tied"


Round = tuple[int, int]  # seed and repeat: see Trial.round


@dataclass(frozen=True, slots=True)
class Read:
    """The predictions of a point's rounds, as what each image counts for the objective, S x N. parts: where each round has
    images of its own the number of the split that measured each image, S x N, and share its validation images over those that
    it trained on; None: all rounds have one split. by_seed: whether each seed has splits, or folds, of its own."""

    rounds: tuple[Round, ...]
    values: NDArray[np.float32]
    images: Mapping[Round, SplitPredictions]
    parts: NDArray[np.int64] | None
    share: float
    by_seed: bool

    def same_images(self, other: Read) -> bool:
        """Whether both have the same images in all rounds that both have, and have one in common."""
        if self.parts is None:
            return next(iter(self.images.values())).same_images(next(iter(other.images.values())))
        common = set(self.images) & set(other.images)
        return bool(common) and all(self.images[one].same_images(other.images[one]) for one in common)

    def of_splits(self) -> dict[tuple[int, ...], tuple[float, int]]:
        """Of each split the mean over the seeds that have it, and its images: by repeat and fold, and by seed where each has
        its own."""
        assert self.parts is not None
        found: dict[tuple[int, ...], list[float]] = {}
        images: dict[tuple[int, ...], int] = {}
        for (seed, repeat), values_N, part_N in zip(self.rounds, self.values, self.parts, strict=True):
            for part in np.unique(part_N):
                split = (seed, repeat, int(part)) if self.by_seed else (repeat, int(part))
                found.setdefault(split, []).append(float(values_N[part_N == part].mean(dtype=np.float64)))
                images[split] = int((part_N == part).sum())
        return {key: (float(np.mean(means)), images[key]) for key, means in found.items()}


def compare_with_best(board: Leaderboard, layout: Layout) -> Comparison | None:
    """Tests the points from the best downwards until far below it. None where no point was measured."""
    if not board.measured:
        return None
    best, info = board.measured[0], board.info
    ranked = _ranked(board)
    differences: dict[str, Difference] = {}
    untested: dict[str, str] = {}
    means: list[tuple[NDArray[np.float64], tuple[Round, ...]]] = []
    first: Read | None = None
    rivals = {row.point_id for row in board.rivals}
    below = 0
    far_below: Sequence[Row] = ()
    for number, row in enumerate(board.measured[:_MOST], 1):
        found, reason = _read(row, layout, info, first)
        if found is None:
            untested[row.point_id] = reason
            if row is best:
                untested |= dict.fromkeys((other.point_id for other in board.measured), reason)
                return Comparison(best.point_id, {}, untested, None, False)
            continue
        if row.point_id in rivals:
            means.append((fold_means(found.values), found.rounds))
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
    differences = {point: within(found, info.difference_bounds) for point, found in differences.items()}
    optimism = winners_optimism([mean for mean, _ in means], [rounds for _, rounds in means])
    of_networks = all(len(rounds) == 1 for _, rounds in means) and first.parts is None if first else True
    return Comparison(best.point_id, differences, untested, optimism, of_networks)


def compare_points(
    one: Row, other: Row, layout: Layout, split: str = "val", info: ObjectiveInfo = OBJECTIVES["val_acc"]
) -> Difference:
    """One minus the other on the same images, two-sided: a test of two that were chosen beforehand.

    Raises CifarHpcError where they did not classify the same images or have no seeds to compare.
    """
    first, second = (_needed(row, layout, split, info) for row in (one, other))
    if not _same_images(one, other, split) or not first.same_images(second):
        raise _on_other_images(one, other, split, first.images, second.images)
    if first.parts is not None:
        found = _over_splits(first, second, lambda t, freedom: 2 * float(stdtr(freedom, -abs(t))))
        return within(found, info.difference_bounds)
    if len(first.rounds) == len(second.rounds) == 1:
        return within(compare_networks(first.values[0], second.values[0]), info.difference_bounds)
    common = sorted({*first.rounds} & {*second.rounds})
    if len(common) < 2:
        raise CifarHpcError(
            f"{one.label} has the seeds {_numbers(first.rounds)}, {other.label} {_numbers(second.rounds)}: seeds are paired by"
            " number, and a test needs two in common."
        )
    share = first.share if one.trials[0].own_split else 0.0  # on test they have the same images, and yet trained on others
    one_SN, other_SN = (read.values[[read.rounds.index(seed) for seed in common]] for read in (first, second))
    found = within(compare_chosen(one_SN, other_SN, share), info.difference_bounds)
    if len(common) == len(first.rounds) == len(second.rounds):
        return found
    return replace(
        found, test=f"{found.test}, of the {len(common)} {'folds' if one.trials[0].fold else 'seeds'} that both have"
    )


def split_of_both(one: Row, other: Row, layout: Layout) -> str:
    """On whose images both were measured: val, or test where those of validation are others. Raises CifarHpcError where they
    share none, RecordError as point_predictions."""
    validated = [point_predictions(row, layout, "val") for row in (one, other)]
    for row, rounds in zip((one, other), validated, strict=True):
        if not rounds:
            raise CifarHpcError(f"{row.label} has no measured validation split")
    for split in ("val", "test"):
        read = validated if split == "val" else [point_predictions(row, layout, split) for row in (one, other)]
        found = [list(rounds.values()) for rounds in read]
        if all(found) and _same_images(one, other, split) and found[0][0].same_images(found[1][0]):
            return split
    raise _on_other_images(one, other, "val", *validated)


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


def point_predictions(row: Row, layout: Layout, split: str) -> dict[Round, SplitPredictions]:
    """By round, of those that measured the split: of folds, on validation, all images of a round, each by the network that was
    trained without it; on test each fold by itself. Raises RecordError where a file is corrupt, is missing or contradicts the
    record, where rounds of one split saw different images, or where folds are missing."""
    measured = [trial for trial in row.trials if trial.told(split)]
    if split == "val" and row.config.get("dataset.folds") is not None:
        if not row.whole_rounds:
            raise RecordError("not all folds have measured it")
        rounds = {trial.round: [other for other in measured if other.round == trial.round] for trial in measured}
        return {key: read_rounds(trials, layout) for key, trials in rounds.items()}
    read = {
        (trial.seed, trial.fold or 0): read_predictions(layout.trial(trial.trial_id), split, trial.told(split), trial.classes)
        for trial in measured
    }
    found = {key: predictions for key, predictions in read.items() if predictions is not None}
    every = list(found.values())
    apart = split == "val" and any(trial.own_split for trial in measured)
    if not apart and any(not every[0].same_images(predictions) for predictions in every[1:]):
        raise RecordError(f"the seeds of {row.label} did not classify the same {split} images")
    return found


def on_same_images(rounds: Mapping[Round, SplitPredictions]) -> list[SplitPredictions]:
    """The rounds on the first one's images: what is said image by image is of these alone. Where each seed has a split of its
    own, the first seed's."""
    found = list(rounds.values())
    return [one for one in found if one.same_images(found[0])]


def read_rounds(trials: Sequence[Trial], layout: Layout) -> SplitPredictions:
    """The out-of-fold predictions of a round's folds as one split, in the order of its images. Raises RecordError."""
    parts = []
    for trial in trials:
        found = read_predictions(layout.trial(trial.trial_id), "val", trial.told("val"), trial.classes)
        if found is None:
            raise RecordError(f"{layout.trial(trial.trial_id).predictions}: no predictions of validation images")
        parts.append((trial, found))
    return join_folds([(trial.fold or 0, found) for trial, found in parts])


def _read(row: Row, layout: Layout, info: ObjectiveInfo, first: Read | None) -> tuple[Read | None, str]:
    """The point's predictions, or why there are none to test."""
    try:
        found = _values(row, layout, "val", info)
    except RecordError as error:
        return None, str(error)
    if isinstance(found, str):
        return None, found
    if first is not None and not first.same_images(found):
        return None, "measured on other images"
    return found, ""


def _needed(row: Row, layout: Layout, split: str, info: ObjectiveInfo) -> Read:
    try:
        found = _values(row, layout, split, info)
    except RecordError as error:
        raise CifarHpcError(f"{row.label}: {error}: no paired test is possible.") from error
    if isinstance(found, str):
        raise CifarHpcError(f"{row.label}: {found}: no paired test is possible.")
    return found


def _values(row: Row, layout: Layout, split: str, info: ObjectiveInfo) -> Read | str:
    """Or why there are none. Raises RecordError as point_predictions."""
    found = point_predictions(row, layout, split)
    if not found:
        return f"no predictions of {'validation' if split == 'val' else split} images"
    if any(predictions.cut_off for predictions in found.values()):  # they are not those that were measured
        return "logits are larger than predictions.npz can hold"
    counts = [_counts(predictions, info) for predictions in found.values()]
    if any(counts_N is None for counts_N in counts):
        return f"predictions do not say what each image counts for {info.noun}"
    values = np.stack([counts_N for counts_N in counts if counts_N is not None])
    parts = None
    if split == "val" and row.trials[0].own_split:
        parts = np.stack([np.zeros(len(p.labels), np.int64) if p.fold is None else p.fold for p in found.values()])
    first = row.trials[0]
    share = (first.val_n or 0) / max(first.train_n or 0, 1)
    return Read(tuple(found), values, found, parts, share, by_seed=row.config.get("dataset.split_seed") == BY_SEED)


def _counts(predictions: SplitPredictions, info: ObjectiveInfo) -> NDArray[np.float32] | None:
    """What each image adds to the objective's mean, more being better: 1 where it is right, minus its cross-entropy, or what
    the objective's entry says; of one of the user's own, or one that takes more than rounded logits tell, what the trial has
    written. None: nothing, and its logits do not tell."""
    if predictions.counts is not None and (info.sha256 is not None or info.between is not None):
        return None if np.isnan(predictions.counts).any() else predictions.counts
    if info.sha256 is not None:
        return None
    if info.metric == "acc":
        return predictions.right.astype(np.float32)
    logits = predictions.logits.astype(np.float64)
    if info.metric is None:
        counts_N = np.empty(len(logits))
        for part in _parts(predictions):
            least, most = SplitPredictions(predictions.logits[part], predictions.labels[part], None).between(info) or (0.0, 0.0)
            if most - least > _ROUNDED:  # of an older version
                return None
            counts_N[part] = _counts_of(info, logits[part], predictions.labels[part])
        return None if np.isnan(counts_N).any() else np.asarray(counts_N, np.float32)
    truth = logits[np.arange(len(logits)), predictions.labels]
    return np.asarray(truth - logsumexp(logits, axis=1), np.float32)


def _parts(predictions: SplitPredictions) -> Iterator[NDArray[np.int64]]:
    """The rows that one network measured: of out-of-fold predictions each fold's, since what ranks is the mean of what the
    folds measured, and the scores of two networks have no scale in common."""
    fold_N = np.zeros(len(predictions.labels), np.int64) if predictions.fold is None else predictions.fold
    return (np.flatnonzero(fold_N == fold) for fold in np.unique(fold_N))


def _counts_of(info: ObjectiveInfo, logits_NK: Floats, labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    if info.counts is not None:
        return np.asarray(load(info.counts)(logits_NK, labels_N), np.float64)
    assert info.measure is not None
    sign = 1 if info.mode == "max" else -1
    return sign * jackknife_counts(load(info.measure), logits_NK, labels_N)


def _ranked(board: Leaderboard) -> dict[str, list[float]]:
    """What each seed of a point measured, by point, best first: of points with enough seeds for a test."""
    return {
        row.point_id: [value for trial in row.trials if (value := trial.metric(board.objective)) is not None]
        for row in board.measured
        if row.seeds >= MIN_SEEDS
    }


def _against(best: Row, first: Read, row: Row, found: Read, ranked: Mapping[str, Sequence[float]]) -> Difference | None:
    points = list(ranked)
    if first.parts is not None and best.point_id in ranked and row.point_id in ranked:
        k = max(len(points), 2)
        return _over_splits(first, found, lambda t, freedom: range_tail(math.sqrt(2) * t, k, freedom) if t > 0 else 1.0)
    if len(first.rounds) == len(found.rounds) == 1:
        return compare_networks(first.values[0], found.values[0])
    if best.point_id not in ranked or row.point_id not in ranked or min(len(first.rounds), len(found.rounds)) < 2:
        return None
    spread = spread_of([ranked[point] for point in points], points.index(row.point_id))
    return compare_with_first(first.values, found.values, spread, len(points))


def _over_splits(first: Read, found: Read, tail: Callable[[float, float], float]) -> Difference:
    """Both on the same splits. tail: p-value of a t with so many degrees of freedom."""
    one, other = first.of_splits(), found.of_splits()
    common = [key for key in one if key in other]
    difference_J = np.array([one[key][0] - other[key][0] for key in common])
    mean, error, freedom = compare_splits(difference_J, first.share, [one[key][1] for key in common])
    error = known_error(error, first.values, found.values)
    more = error**2 * first.share / (first.share + 1 / len(common))  # what more repeats do not take away
    return Difference(
        mean,
        tail(mean / error if error else 0.0, freedom),
        SPLITS_TEST,
        error=error,
        freedom=freedom,
        of_images=more,
        images=first.values.shape[1],
    )


def _numbers(rounds: Sequence[Round]) -> str:
    return ", ".join(dict.fromkeys(str(seed) for seed, _ in rounds))
