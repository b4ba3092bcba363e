"""How sure the order of many configurations is: each against the best of them, and how much the best's number flatters it.

Arrays only. The best is chosen by the very numbers that are compared, and out of k: a configuration counts as worse only where
the largest of all k (k - 1) / 2 differences would rarely be so large among equals (Tukey's studentised range); what is found
worse then counts no more among the k (a step down, as Holm's). The seeds' variances are moderated (Smyth 2004, Stat. Appl.
Genet. Mol. Biol. 3: 3): three seeds hardly tell one, so that they lean on one another as far as they are alike. Three things
are not as there. How much they are alike is estimated from few of them, and the best tends to be one of those that vary most:
they are taken for less alike than they look, by 0.7 to 0.8 of the estimate's standard error for 8 configurations of 3 to 5
seeds (sqrt(2 / (n - 1)) is that of normal values, and logarithms of variances are skewed), chosen so that null sweeps hold.
Where they still look alike, all have their pooled variance. And a difference has the prior's freedom plus that of the
variance that is known less. benchmarks/null_sweeps.py measures how often a claim is wrong.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import digamma, gammaln, ndtr, zeta

from cifar_hpc.collect.statistics import (
    CONFIDENCE,
    NO_ERROR,
    NONE_OF_IMAGE,
    Difference,
    Floats,
    image_freedom,
    image_variance,
    joint_freedom,
    known_error,
)

_ALIKE = 8  # configurations from the top whose variances between seeds lean on one another
FOLDS = 10  # of the images, for the winner's optimism
_POWER = 0.84  # standard errors beyond what a test asks, with which it finds a difference in 80 of 100 cases
MOST_SEEDS = 100  # that anybody would train
TEST = "t-test over the seeds of all and the images, corrected for the choice of the best"


@dataclass(frozen=True, slots=True)
class Spread:
    """The variances between seeds of k configurations. variances, freedoms: of each; pooled: freedom of all together."""

    variances: NDArray[np.float64]
    freedoms: NDArray[np.float64]
    prior: float  # degrees of freedom that each takes from the others, 0 to infinity
    pooled: float

    def of_difference(self, one: int, other: int) -> tuple[float, float]:
        """Variance of the difference of two means, each over freedom + 1 seeds, and its degrees of freedom: of the variance
        that is known less, or of both (Welch 1947) where they hardly lean on others."""
        parts = [(self.variances[i] / (self.freedoms[i] + 1), self.freedoms[i]) for i in (one, other)]
        freedom = max(self.prior + min(self.freedoms[one], self.freedoms[other]), joint_freedom(*parts))
        return float(parts[0][0] + parts[1][0]), float(min(self.pooled, freedom))


def moderate_variances(values: Sequence[Sequence[float]]) -> Spread:
    """values: of each configuration the mean of each seed, two or more seeds. Fewer than three variances do not tell how much
    they are alike: each stands by itself (Welch 1947)."""
    variances = np.array([_variance(seeds) for seeds in values])
    freedoms = np.array([len(seeds) - 1.0 for seeds in values])
    pooled = float(freedoms.sum())
    known = variances > NO_ERROR**2  # not of seeds that agree in number
    if known.sum() < 3:
        return Spread(variances, freedoms, 0.0, pooled)
    v, d = variances[known], freedoms[known]
    logs = np.log(v) - digamma(d / 2) + np.log(d / 2)
    of_one_size = float(_trigamma(d / 2).mean())  # how much the logs of variances of one size vary
    excess = float(logs.var(ddof=1)) - of_one_size * (1 - math.sqrt(2 / (len(v) - 1)))
    if excess <= _trigamma(1e6):  # they differ clearly less than that
        return Spread(np.full(len(variances), float((d * v).sum() / d.sum())), freedoms, math.inf, pooled)
    prior = 2 * float(brentq(lambda half: _trigamma(half) - excess, 1e-4, 1e6))
    centre = math.exp(float(logs.mean()) + float(digamma(prior / 2)) - math.log(prior / 2))
    return Spread((prior * centre + freedoms * variances) / (prior + freedoms), freedoms, prior, pooled)


def _variance(values: Sequence[float]) -> float:
    """Of a few: numpy takes longer to begin."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _trigamma(x: Any) -> Any:
    return zeta(2.0, x)


def spread_of(values: Sequence[Sequence[float]], other: int) -> tuple[float, float]:
    """Variance and freedom of the difference between the first and another configuration of `values`, which are best first.

    Only the variances down to the other lean on one another, and the first few in any case: what trains badly varies more, and
    says nothing of the variance at the top.
    """
    return _moderated(tuple(map(tuple, values[: max(other + 1, _ALIKE)]))).of_difference(0, other)


@lru_cache(maxsize=1)  # the first few others have it in common
def _moderated(values: tuple[tuple[float, ...], ...]) -> Spread:
    return moderate_variances(values)


def compare_with_first(first_SN: Floats, other_SN: Floats, spread: tuple[float, float], k: int) -> Difference:
    """The best of k configurations against another of them on the same images, before the step down. spread: as
    spread_of gives it."""
    images = first_SN.shape[1]
    mean = float(first_SN.mean(dtype=np.float64) - other_SN.mean(dtype=np.float64))
    of_images = image_variance(first_SN, other_SN)
    least = known_error(0.0, first_SN, other_SN)
    return compare_means(mean, of_images, spread, k, images, least)


def compare_means(
    mean: float, of_images: float, spread: tuple[float, float], k: int, images: int, least: float = 0.0
) -> Difference:
    """The same of the difference of their means and what the images add to its variance. least: its error where both add to
    none."""
    error, freedom = math.sqrt(spread[0] + of_images), joint_freedom(spread, (of_images, image_freedom(images)))
    error = error if error > max(NO_ERROR, NONE_OF_IMAGE * least) else max(error, least)
    of_images = max(of_images, error**2 - spread[0])
    p_value = _tail_of(mean, error, k, freedom)
    return Difference(mean, p_value, TEST, error=error, freedom=freedom, of_images=of_images, images=images)


def step_down(found: Mapping[str, Difference], k: int, *, intervals: bool = True) -> dict[str, Difference]:
    """The differences of `compare_with_first` with their final p-values and intervals: the clearest first, and each that is
    worse leaves one fewer to choose among. k: of how many the best is, the best included. intervals: they take most of the
    time."""
    done: dict[str, Difference] = {}
    least = 0.0
    for name, one in sorted(found.items(), key=lambda item: item[1].p_value):
        assert one.error is not None
        assert one.freedom is not None
        least = max(least, _tail_of(one.difference, one.error, k, one.freedom))
        done[name] = replace(one, p_value=least)
        if intervals:
            half = range_quantile(k, float(f"{one.freedom:.2g}")) / math.sqrt(2) * one.error
            done[name] = replace(done[name], low=one.difference - half, high=one.difference + half)
        k = max(k - done[name].better, 2)
    return done


def _tail_of(mean: float, error: float, k: int, freedom: float) -> float:
    """The p-value of the best of k being no better than another, from their mean difference and its standard error."""
    if mean <= 0:
        return 1.0
    return range_tail(math.sqrt(2) * mean / error, k, freedom) if error else 0.0


def seeds_to_settle(found: Difference, seeds: int, k: int = 2) -> int | None:
    """Seeds of each at which `step_down` would tell a difference of this size from none in four of five cases.

    seeds: as many as each has now; k: among how many the best is chosen, itself included. None where no number would do: the
    images are too few, there is no difference, or the seeds all measure the same. At most MOST_SEEDS + 1, for all above.
    """
    if found.error is None or found.freedom is None or no_difference(found) or not seeds_vary(found):
        return None
    of_one_seed, now = (found.error**2 - found.of_images) * seeds, found.freedom / max(seeds - 1, 1)

    def is_told(seeds_n: float) -> bool:
        freedom = 1e6 if math.isinf(seeds_n) else float(f"{now * (seeds_n - 1):.2g}")
        needed = range_quantile(k, freedom) / math.sqrt(2) + _POWER
        return abs(found.difference) >= needed * math.sqrt(found.of_images + of_one_seed / seeds_n)

    if not is_told(math.inf):
        return None
    return bisect_left(range(MOST_SEEDS + 1), True, lo=seeds + 1, key=is_told)


def no_difference(found: Difference) -> bool:
    """Whether both measure the same, but for rounding."""
    return abs(found.difference) < NO_ERROR


def seeds_vary(found: Difference) -> bool:
    """Whether the seeds have a part in the error of the difference."""
    return found.error is None or found.error**2 - found.of_images > NO_ERROR**2


def range_tail(q: float, k: int, freedom: float) -> float:
    """The chance that the range of k equal normal means, over an estimate of their standard error, is above q."""
    z = np.linspace(-7.5, 7.5, 76)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    scale_X, weight_X = _scales(freedom)
    inside_XZ = ndtr(z) - ndtr(z - q * scale_X[:, None])
    return float(min(max(1 - (k * (inside_XZ ** (k - 1) @ density) @ weight_X), 0.0), 1.0))


@lru_cache(maxsize=4096)
def range_quantile(k: int, freedom: float) -> float:
    """The q that `range_tail` gives a chance of 5 %."""
    return float(brentq(lambda q: range_tail(q, k, freedom) - (1 - CONFIDENCE), 1e-3, 1e4, xtol=1e-3))


def _scales(freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of an estimated standard deviation over the true one, and the chance of each."""
    if freedom > 1e5:
        return np.ones(1), np.ones(1)
    nodes, weights = _gauss_legendre()
    width = min(8 / math.sqrt(2 * freedom), 6.0)
    low, high = max(1 - width, 0.0), 1 + width
    s = (high - low) / 2 * nodes + (high + low) / 2
    log_density = math.log(2) + freedom / 2 * math.log(freedom / 2) - gammaln(freedom / 2)
    chance = np.exp(log_density + (freedom - 1) * np.log(s) - freedom * s * s / 2) * weights * (high - low) / 2
    return s, chance / chance.sum()


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(32)


def fold_means(values_SN: Floats, part_N: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Each seed's mean over each tenth of the images, S x FOLDS: what the optimism needs of a configuration. Of fewer images
    than that, each image by itself. part_N: in folds, which of them measured each image: S x their number."""
    part_N = _tenths(values_SN.shape[1]) if part_N is None else part_N
    return np.stack([values_SN[:, part_N == part].mean(1, dtype=np.float64) for part in np.unique(part_N)], axis=1)


def fold_shares(images: int, part_N: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """The share of the images that each column of `fold_means` has: groups make folds uneven."""
    part_N = _tenths(images) if part_N is None else part_N
    return np.unique(part_N, return_counts=True)[1] / images


def _tenths(images: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(images) % min(FOLDS, images)


def winners_optimism(
    means: Sequence[NDArray[np.float64]], seeds: Sequence[Sequence[Hashable]], shares_K: NDArray[np.float64] | None = None
) -> float | None:
    """By how much the number of the best of P configurations is above what it is worth, because it was chosen by that number.

    means: P arrays S x FOLDS; seeds: the number of each row; shares_K: of the images in each fold, alike where None. The choice
    is made again without one seed and a tenth of the images, and the chosen one measured on just these; averaged over all seeds
    and tenths. Of networks with one seed each, only the images are left out: it then speaks of these networks. In folds it is a
    fold, with the networks that measured it, in place of a tenth. None where there are no two, of networks or of images.
    """
    if len(means) < 2 or means[0].shape[1] < 2:
        return None
    folds = means[0].shape[1]
    share_K = np.full(folds, 1 / folds) if shares_K is None else shares_K
    honest = []
    for seed in dict.fromkeys(number for numbers in seeds for number in numbers):
        held = [_rows(numbers, seed) for numbers in seeds]
        stay_PK = np.stack([share_K * mean[stay].mean(0) for mean, (stay, _) in zip(means, held, strict=True)])
        out_PK = np.stack([share_K * mean[out].mean(0) for mean, (_, out) in zip(means, held, strict=True)])
        rest_PK = stay_PK.sum(1, keepdims=True) - stay_PK
        honest.append(np.take_along_axis(out_PK, rest_PK.argmax(0)[None], axis=0).sum())
    return float(max((mean @ share_K).mean() for mean in means) - np.mean(honest))


def _rows(numbers: Sequence[Hashable], seed: Hashable) -> tuple[list[int], list[int]]:
    """The rows that choose without one seed, and those that measure; all where no others are left, or there is no such seed."""
    stay = [row for row, number in enumerate(numbers) if number != seed]
    out = [row for row, number in enumerate(numbers) if number == seed]
    everything = list(range(len(numbers)))
    return stay or everything, out or everything
