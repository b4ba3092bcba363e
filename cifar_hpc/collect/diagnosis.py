"""What one trial gets wrong: confusions, per-class accuracy, calibration, its most confident errors. From its logits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.config.metrics import taken_of
from cifar_hpc.errors import RecordError

BINS = 15
_MOST = 10  # confusions, and confident errors, that are named


@dataclass(frozen=True, slots=True)
class Reliability:
    """Images binned by the confidence of their prediction; ece: expected calibration error 0..1 (Guo et al. 2017, eq. 3)."""

    confidence: NDArray[np.float64]  # mean of each bin that holds images
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    ece: float


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class. images: of it; recall: the share of them that was found; precision: the share of what was taken for it that
    is, None where nothing was; f1: their harmonic mean."""

    images: int
    precision: float | None
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """confusion: K x K counts, rows are the true class, without images with a logit that is NaN, which were taken for none;
    untold: K, how many these are of each class; confusions: (true, taken for, images), most frequent first;
    confident_errors: (place in the official split or in the test split, true, taken for, confidence), most confident first;
    unread: why it is of validation and not of the test images, which were measured; empty where there is nothing to say."""

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    untold: NDArray[np.int64]
    confusions: tuple[tuple[str, str, int], ...]
    reliability: Reliability
    confident_errors: tuple[tuple[int, str, str, float], ...]
    unread: str = ""

    @property
    def totals(self) -> NDArray[np.int64]:
        """How many images each class has, K."""
        found: NDArray[np.int64] = self.confusion.sum(1) + self.untold
        return found

    @property
    def scores(self) -> dict[str, ClassScores]:
        """Of each class that has images."""
        totals, taken = self.totals, self.confusion.sum(0)
        found = {}
        for k, name in enumerate(self.classes):
            right, of_it, for_it = int(self.confusion[k, k]), int(totals[k]), int(taken[k])
            if of_it:
                precision = right / for_it if for_it else None
                found[name] = ClassScores(of_it, precision, right / of_it, 2 * right / (of_it + for_it))
        return found


def diagnose(predictions: SplitPredictions, classes: Sequence[str]) -> Diagnosis:
    """classes: K names in the order of the logits. Raises RecordError where there are not K."""
    if len(classes) != predictions.logits.shape[1]:
        raise RecordError(f"logits of {predictions.logits.shape[1]} classes for {len(classes)} names")
    probabilities_NK = softmax(predictions.logits.astype(np.float64), axis=1)
    taken_N, confidence_N = taken_of(predictions.logits), probabilities_NK.max(1)
    told_N = taken_N >= 0
    k = predictions.logits.shape[1]
    confusion = np.bincount((predictions.labels * k + taken_N)[told_N], minlength=k * k).reshape(k, k)
    wrong = confusion - np.diag(np.diag(confusion))
    pairs = [divmod(int(i), k) for i in np.argsort(-wrong, axis=None, kind="stable")[:_MOST]]
    errors_N = np.flatnonzero(told_N & ~predictions.right)
    errors_N = errors_N[np.argsort(-confidence_N[errors_N], kind="stable")][:_MOST]
    place = predictions.index if predictions.index is not None else np.arange(len(taken_N))
    return Diagnosis(
        classes=tuple(classes),
        confusion=confusion,
        untold=np.bincount(predictions.labels[~told_N], minlength=k),
        confusions=tuple((classes[a], classes[b], int(wrong[a, b])) for a, b in pairs if wrong[a, b]),
        reliability=measure_reliability(confidence_N[told_N], predictions.right[told_N]),
        confident_errors=tuple(
            (int(place[i]), classes[predictions.labels[i]], classes[taken_N[i]], float(confidence_N[i])) for i in errors_N
        ),
    )


def measure_reliability(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> Reliability:
    """Over BINS bins of equal width, open below and closed above."""
    bin_N = np.clip(np.ceil(confidence_N * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(bin_N, minlength=BINS)
    held = count > 0
    confidence = np.bincount(bin_N, confidence_N, BINS)[held] / count[held]
    accuracy = np.bincount(bin_N, right_N.astype(float), BINS)[held] / count[held]
    ece = float((count[held] * np.abs(confidence - accuracy)).sum() / max(count.sum(), 1))
    return Reliability(confidence, accuracy, count[held], ece)
