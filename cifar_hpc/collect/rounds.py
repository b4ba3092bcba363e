"""A point's predictions by its rounds (seed and repeat): whole, and as what each image counts for an objective.

Owns: which of its trials stand for a round, and whether two points were measured on the same images. Tests nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.predictions import SplitPredictions, join_folds, read_predictions
from cifar_hpc.collect.statistics import Floats
from cifar_hpc.collect.trials import Trial
from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.metrics import jackknife_counts
from cifar_hpc.config.registry import ObjectiveInfo, load
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.ties import files_of

_ROUNDED = 0.01  # of an objective: by so much at most rounding may have changed what is tested
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

    def of(self, rounds: Sequence[Round]) -> Read:
        """These of its rounds, in that order."""
        at = [self.rounds.index(one) for one in rounds]
        parts = None if self.parts is None else self.parts[at]
        return replace(
            self, rounds=tuple(rounds), values=self.values[at], images={one: self.images[one] for one in rounds}, parts=parts
        )

    @property
    def folds(self) -> NDArray[np.int64] | None:
        """Which fold measured each image; None where a round has but one, or rounds are dealt anew."""
        if self.parts is None or len(np.unique(self.parts[0])) < 2 or (self.parts != self.parts[0]).any():
            return None
        first_N: NDArray[np.int64] = self.parts[0]
        return first_N

    @property
    def splits_n(self) -> int:
        """How many networks have images of their own; 1 where all rounds have one split."""
        return 1 if self.parts is None else sum(len(np.unique(part_N)) for part_N in self.parts)

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


def on_images_of_both(
    first: Mapping[Round, SplitPredictions], second: Mapping[Round, SplitPredictions], *, apart: bool
) -> bool:
    """Whether both have the same images; apart, where each round has images of its own: in all rounds that both have, which
    must be one or more."""
    if not apart:
        return next(iter(first.values())).same_images(next(iter(second.values())))
    common = first.keys() & second.keys()
    return bool(common) and all(first[one].same_images(second[one]) for one in common)


def point_predictions(row: Row, layout: Layout, split: str) -> dict[Round, SplitPredictions]:
    """By round, of those that measured the split: of folds, on validation, all images of a round, each by the network that was
    trained without it; on test each fold by itself. Raises RecordError where a file is corrupt, is missing or contradicts the
    record, where rounds of one split saw different images, or where folds are missing."""
    measured = [trial for trial in row.trials if trial.told(split)]
    if split == "val" and row.config.get("dataset.folds") is not None:
        if not row.whole_rounds:
            hidden = "the filter leaves out some of its folds"
            raise RecordError(hidden if row.hidden_alone else "not all folds have measured it")
        rounds = {trial.round: [other for other in measured if other.round == trial.round] for trial in measured}
        return {key: read_rounds(trials, layout) for key, trials in rounds.items()}
    read = {
        (trial.seed, trial.fold or 0): read_predictions(files_of(layout, trial), split, trial.told(split), trial.classes)
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
        found = read_predictions(files_of(layout, trial), "val", trial.told("val"), trial.classes)
        if found is None:
            raise RecordError(f"{files_of(layout, trial).predictions}: no predictions of validation images")
        parts.append((trial, found))
    return join_folds([(trial.fold or 0, found) for trial, found in parts])


def point_counts(row: Row, layout: Layout, split: str, info: ObjectiveInfo) -> Read | str:
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
