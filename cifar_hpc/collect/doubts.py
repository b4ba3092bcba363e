"""Labels in doubt: images on which networks that did not train on them agree against the label.

Confident learning (Northcutt et al. 2021, arXiv:1911.00068) on the mean of several unlike networks' calibrated probabilities:
an image is counted for the class in which it is more confident than images of that class are on average; where that is not its
label, and most of the networks say so, the label is in doubt. Arrays and points only: knows no pixels, draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.collect.ensemble import calibrate, fit_temperature
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.collect.rounds import on_same_images, point_predictions
from cifar_hpc.collect.trials import Trial
from cifar_hpc.config.metrics import taken_of
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout

MOST_NETWORKS = 12
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Doubt:
    """An image whose label is in doubt. row: its place in the split; index: that in the official split, None of test images;
    margin: how much surer of the suggestion than of the label, 0..1; agree: networks that say the suggestion."""

    split: str
    row: int
    index: int | None
    label: int
    suggested: int
    confidence: float
    margin: float
    agree: int


@dataclass(frozen=True, slots=True)
class Doubts:
    """found: the clearest first, by split; images: looked at, by split; networks: configurations asked, in words; first: the
    best of them, whose images these are: where each seed has a split of its own, those of its first seed."""

    first: Row
    found: tuple[Doubt, ...]
    images: dict[str, int]
    networks: tuple[str, ...]

    @property
    def trial(self) -> Trial:
        """Whose images these are."""
        return next(trial for trial in self.first.trials if trial.told("val"))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.trial.classes

    def counts(self) -> dict[tuple[str, str], int]:
        """(label, suggestion) -> images, the most frequent first."""
        pairs: dict[tuple[str, str], int] = {}
        for one in self.found:
            pair = self.classes[one.label], self.classes[one.suggested]
            pairs[pair] = pairs.get(pair, 0) + 1
        return dict(sorted(pairs.items(), key=lambda item: (-item[1], item[0])))


def find_doubts(board: Leaderboard, layout: Layout) -> Doubts | None:
    """Over validation images, which are all labelled ones of folds, and test images. None where fewer than two configurations
    left predictions of the same images."""
    rows = unlike_rows(board)
    shares: dict[str, list[Shares]] = {"val": [], "test": []}
    images: dict[str, SplitPredictions] = {}
    asked: list[Row] = []
    for row in rows:
        try:
            read = {split: on_same_images(point_predictions(row, layout, split)) for split in ("val", "test")}
        except RecordError:
            continue
        if not all(one.all_told for found in read.values() for one in found):
            continue
        if not read["val"] or (images and not read["val"][0].same_images(images["val"])):
            continue
        asked.append(row)
        for split, found in read.items():
            if found and (split not in images or found[0].same_images(images[split])):
                images.setdefault(split, found[0])
                shares[split].append(_mean_shares(found))
    if len(asked) < 2:
        return None
    found_doubts = [doubt for split, known in images.items() for doubt in doubts_of(split, shares[split], known)]
    return Doubts(
        first=asked[0],
        found=tuple(sorted(found_doubts, key=lambda one: -one.margin)),
        images={split: len(known.labels) for split, known in images.items()},
        networks=tuple(row.label for row in asked),
    )


def unlike_rows(board: Leaderboard) -> list[Row]:
    """The best configuration of each architecture; then the others, the best first. None of those that may have trained on
    what validates them."""
    measured = [row for row in board.measured if not row.seen]
    best = {id(row) for row in {str(row.config["arch"]): row for row in reversed(measured)}.values()}
    return sorted(measured, key=lambda row: id(row) not in best)[:MOST_NETWORKS]


def doubts_of(split: str, shares: Sequence[Shares], known: SplitPredictions) -> list[Doubt]:
    """Of the images of one split. shares: M networks' probabilities, N x K."""
    mean_NK = np.mean(shares, axis=0)
    suggested_N = confident_class(mean_NK, known.labels)
    votes_NM = np.stack([taken_of(one) for one in shares], axis=1)
    found = []
    for row in np.flatnonzero((suggested_N >= 0) & (suggested_N != known.labels)):
        label, suggested = int(known.labels[row]), int(suggested_N[row])
        agree = int((votes_NM[row] == suggested).sum())
        if 2 * agree > len(shares):
            confidence = float(mean_NK[row, suggested])
            index = None if known.index is None else int(known.index[row])
            margin = confidence - float(mean_NK[row, label])
            found.append(Doubt(split, int(row), index, label, suggested, confidence, margin, agree))
    return found


def confident_class(shares_NK: Shares, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class that each image is counted for: the most probable of those of which it is as sure as images of that label are
    on average; -1: of none."""
    k = shares_NK.shape[1]
    there = np.bincount(labels_N, minlength=k) > 0
    threshold_K = np.array([shares_NK[labels_N == label, label].mean() if there[label] else np.inf for label in range(k)])
    sure_NK = np.where(shares_NK >= threshold_K, shares_NK, -1.0)
    return np.where(sure_NK.max(1) >= 0, sure_NK.argmax(1), -1)


def _mean_shares(rounds: Sequence[SplitPredictions]) -> Shares:
    """Over the seeds, or folds, of one configuration."""
    known = rounds[0]
    return np.asarray(
        np.mean([calibrate(one.logits, fit_temperature(one.logits, known.labels)) for one in rounds], axis=0), np.float64
    )
