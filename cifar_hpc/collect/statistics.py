"""The statistics of the report: intervals, paired tests, the winner's optimism. Knows arrays only, neither trials nor files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtrit

CONFIDENCE = 0.95
LEVEL = 0.05  # of a test
MIN_SEEDS = 3  # fewer: no ±, no claim of a ranking


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n seeds. sd: with n - 1 in the denominator. low, high: 95 % interval. None: n does not allow it."""

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float], images: int | None = None) -> Estimate | None:
    """Mean and t interval over seeds; for one seed Wilson's over `images`, where the value is a share of them.

    None where there are no values. sd only from MIN_SEEDS values on.
    """
    n = len(values)
    if n == 0:
        return None
    mean = float(np.mean(values))
    if n == 1:
        low, high = wilson_interval(mean, images) if images else (None, None)
        return Estimate(mean, 1, None, low, high)
    sd = float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return Estimate(mean, n, sd if n >= MIN_SEEDS else None, mean - half, mean + half)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n images (Wilson 1927)."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mcnemar_test(right_a_N: NDArray[np.bool_], right_b_N: NDArray[np.bool_]) -> float:
    """Two-sided exact p-value that two classifiers err equally often on the same images (McNemar 1947)."""
    only_a = int(np.sum(right_a_N & ~right_b_N))
    only_b = int(np.sum(~right_a_N & right_b_N))
    if only_a + only_b == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of a minus accuracy of b on the same images, with its 95 % interval and two-sided p-value."""

    difference: float
    low: float | None
    high: float | None
    p_value: float
    test: str  # 'McNemar' or 'paired bootstrap'


def paired_difference(right_a_SN: NDArray[np.bool_], right_b_SN: NDArray[np.bool_], draws: int = 4000) -> PairedDifference:
    """Compares two points that classified the same N images. Rows are seeds; paired where both have as many.

    One seed each: McNemar. Else a bootstrap that draws seeds and images anew (Efron and Tibshirani 1993, ch. 16). What drawing
    images anew does to the seeds' accuracies is their joint normal limit, so its cost does not grow with the draws.
    Deterministic.
    """
    observed = float(right_a_SN.mean() - right_b_SN.mean())
    seeds_a, seeds_b, images = len(right_a_SN), len(right_b_SN), right_a_SN.shape[1]
    if seeds_a == seeds_b == 1:
        return PairedDifference(observed, None, None, mcnemar_test(right_a_SN[0], right_b_SN[0]), "McNemar")
    rng = np.random.default_rng(0)
    both_SN = np.concatenate([right_a_SN, right_b_SN]).astype(np.float64)
    acc_RS = rng.multivariate_normal(both_SN.mean(1), np.cov(both_SN) / images, size=draws, method="eigh")
    weights_a_RS = rng.multinomial(seeds_a, np.full(seeds_a, 1 / seeds_a), size=draws) / seeds_a
    weights_b_RS = weights_a_RS
    if seeds_a != seeds_b:
        weights_b_RS = rng.multinomial(seeds_b, np.full(seeds_b, 1 / seeds_b), size=draws) / seeds_b
    differences_R = (acc_RS * np.concatenate([weights_a_RS, -weights_b_RS], axis=1)).sum(1)
    low, high = np.quantile(differences_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    tail = min(np.mean(differences_R <= 0), np.mean(differences_R >= 0))
    return PairedDifference(observed, float(low), float(high), min(1.0, 2 * max(float(tail), 1 / draws)), "paired bootstrap")


def winners_optimism(right_PN: NDArray[np.float64], draws: int = 500) -> float | None:
    """By how much the best of P points looks better than it is, because the images that chose it also measured it.

    right_PN: each point's share of seeds that were right on each image. Points are chosen on a bootstrap sample of the images
    and measured on those not drawn (Tsamardinos, Greasidou and Borboudakis 2018). Not below 0; None where the images are too
    few to leave one out. Deterministic.
    """
    points, images = right_PN.shape
    if points < 2:
        return 0.0
    rng = np.random.default_rng(0)
    counts_RN = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    chosen_R = (counts_RN @ right_PN.T).argmax(1)
    outside_RN = counts_RN == 0
    measured_R = outside_RN.any(1)
    if not measured_R.any():
        return None
    outside_RN, chosen_R = outside_RN[measured_R], chosen_R[measured_R]
    honest_R = (outside_RN * right_PN[chosen_R]).sum(1) / outside_RN.sum(1)
    return max(0.0, float(right_PN.mean(1).max() - honest_R.mean()))
