"""The statistics of the report: intervals, tests of two networks or two configurations. Knows arrays only, neither trials nor
files.

An accuracy varies with the seeds that trained a configuration and with the images that measured it. Intervals and tests here
cover both; neither covers the split of the labelled images into training and validation, which all seeds of a sweep share.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from cifar_hpc.records.plans import MIN_SEEDS

CONFIDENCE = 0.95
LEVEL = 0.05  # of a test
NO_ERROR = 1e-9  # a standard error that is none but for rounding
NONE_OF_IMAGE = 0.05  # share of what one image counts: seeds that agree but for less, as in F1, agree in number
Floats = NDArray[np.floating]
WithInterval = TypeVar("WithInterval", "Estimate", "Difference")
FOLDS_TEST = "paired t-test over splits and images, corrected for the training images that they share"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n seeds. sd: with n - 1 in the denominator. low, high: 95 % interval. None: n does not allow it.

    images: how many measured it, None where that is not known. of_images: whether the interval covers what other images would
    have given; it does of shares of them. too_few: whether there is none because it would be the whole scale (see within).
    """

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    images: int | None = None
    of_images: bool = False
    too_few: bool = False


def estimate(
    values: Sequence[float],
    images: int | None = None,
    *,
    counted: bool = True,
    share: float = 0.0,
    splits: Sequence[Hashable] | None = None,
) -> Estimate | None:
    """Mean and interval of a quantity that each seed measured once on so many images; of new seeds and, where it is counted as
    the share of the images that are right, of new images.

    One seed: Wilson's interval over the images. Several: t over the seeds, to which the variance of the mean share over as many
    other images is added; that counts the part of it which differs from seed to seed twice, and is a little too wide. It ends
    no nearer than Wilson's: three seeds that are right on all of 20 images say as little of other images as one. Of what is
    not counted, seeds that agree in number leave no interval. share: of folds, or seeds with splits of their own, that are
    measured on the same images, validation over training images: their networks share training images as in
    `estimate_over_splits`; 0 where all train on the same images. splits: as there; None: each value has its own.
    None where there are no values. sd only from MIN_SEEDS values on.
    """
    n = len(values)
    if n == 0:
        return None
    mean = fmean(values)
    counted_n = images if counted else None
    if n == 1:
        low, high = wilson_interval(mean, counted_n) if counted_n else (None, None)
        return Estimate(mean, 1, None, low, high, images, counted_n is not None)
    sd = _sd(values)
    if sd == 0 and not counted_n:
        return Estimate(mean, n, sd if n >= MIN_SEEDS else None, None, None, images)
    means, share = (np.asarray(values), share) if splits is None else of_splits(values, splits, share)
    of_means = float(np.var(means, ddof=1)) * (1 / len(means) + share)
    half = half_interval(of_means, len(means) - 1, mean * (1 - mean) / counted_n if counted_n else 0.0, counted_n)
    low, high = mean - half, mean + half
    if counted_n:  # of shares near 0 and 1 the t interval knows too little of other images
        wilson_low, wilson_high = wilson_interval(mean, counted_n)
        low, high = min(low, wilson_low), max(high, wilson_high)
    found = Estimate(mean, n, sd if n >= MIN_SEEDS else None, low, high, images, counted_n is not None)
    return within(found, (0.0, 1.0)) if counted_n else found


def _sd(values: Sequence[float] | Floats) -> float:
    """Of a sample of two or more; 0 where they differ by rounding alone."""
    sd = float(np.std(values, ddof=1))
    return sd if sd >= NO_ERROR else 0.0


def of_splits(values: Sequence[float] | Floats, splits: Sequence[Hashable], share: float) -> tuple[Floats, float]:
    """What is independent of values, a number or a row of numbers each, and the share of it: of each split the mean over its
    seeds, whose networks trained on the same images; NaN counts as none. Where all have one split, the seeds themselves, which
    share all of it."""
    array, of_value = np.asarray(values), list(splits)
    different = list(dict.fromkeys(of_value))
    if len(different) < 2:
        return array, 0.0
    with warnings.catch_warnings(category=RuntimeWarning, action="ignore"):  # of a split that has only NaN
        means = [np.nanmean(array[[split == one for one in of_value]], 0, dtype=np.float64) for split in different]
    return np.stack(means), share


def _drawn_n(images: int, draws: int, share: float) -> int:
    """How many different images so many splits measure, as expected, which draw their validation images again from all there
    are: (1 + 1 / share) times as many."""
    return round(images * (1 + 1 / share) * (1 - (1 + share) ** -draws))


def estimate_over_splits(
    values: Sequence[float],
    weights: Sequence[int],
    rounds: int,
    share: float,
    splits: Sequence[Hashable],
    *,
    counted: bool = True,
) -> Estimate | None:
    """Mean and interval of what each of several splits measured: folds, or splits drawn again. values, weights: of each trial
    its measurement and its validation images; rounds: how often all images were measured; share: validation over training
    images; splits: which split each trial had: several seeds of one tell its mean better, and nothing of other splits; counted:
    as in `estimate`.

    Splits share most of their training images: the variance of their mean is (1 / J + share) of that between them (Nadeau and
    Bengio 2003, Machine Learning 52: 239), J the splits. It covers split, order and initialisation; images, too, as each split
    has its own. Of what is counted it ends no nearer than Wilson's over all these images: few splits may measure nearly the
    same by luck, and where all measure the same, that interval alone stands there. None where there are no values.
    """
    n = len(values)
    if n == 0:
        return None
    mean, images = fmean(values, weights), sum(weights) // max(rounds, 1)
    if n == 1:
        return Estimate(mean, 1, None, None, None, images)
    if len(set(splits)) == 1:
        return estimate(values, images, counted=counted)
    different_n = images if rounds < n else _drawn_n(images, n, share)
    means, _ = of_splits(values, splits, share)
    of_means = _sd(means)
    sd = _sd(values) if n >= MIN_SEEDS else None
    if of_means == 0:
        low, high = wilson_interval(mean, different_n) if counted else (None, None)
        return Estimate(mean, n, sd, low, high, images, of_images=counted)
    half = float(stdtrit(len(means) - 1, (1 + CONFIDENCE) / 2)) * of_means * math.sqrt(1 / len(means) + share)
    low, high = mean - half, mean + half
    if counted:
        wilson_low, wilson_high = wilson_interval(mean, different_n)
        low, high = min(low, wilson_low), max(high, wilson_high)
    return Estimate(mean, n, sd, low, high, images, of_images=True)


def within(found: WithInterval, bounds: tuple[float, float]) -> WithInterval:
    """With an interval that ends where its number cannot be beyond: bounds of an objective, or of the difference of two. One
    that would end there on both sides says nothing, and is none: so few seeds tell no interval. As it is where the number
    itself is beyond them, as of an objective of the user's own that calls itself a share."""
    least, most = bounds
    at = found.mean if isinstance(found, Estimate) else found.difference
    if found.low is None or found.high is None or not least <= at <= most:
        return found
    if found.low <= least and found.high >= most:
        return replace(found, low=None, high=None, too_few=True)
    return replace(found, low=max(found.low, least), high=min(found.high, most))


def half_interval(of_seeds: float, seeds_freedom: float, of_images: float, images: int | None) -> float:
    """Half a 95 % interval around a mean whose variance has these two parts."""
    freedom = joint_freedom((of_seeds, seeds_freedom), (of_images, image_freedom(images or 2)))
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(of_seeds + of_images)


def image_freedom(images: int) -> float:
    """Degrees of freedom of a variance between so many images. Of a single one nothing is left over: see image_variance."""
    return max(images - 1.0, 1.0)


def joint_freedom(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of independent variances, each (variance, freedom) (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in parts)
    if total <= 0:
        return max(freedom for _, freedom in parts)
    return 1 / max(sum((variance / total) ** 2 / freedom for variance, freedom in parts), 1e-12)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n images (Wilson 1927)."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)  # as rounded, the share is inside


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one is than the other on the same images, in the objective's unit: above 0 is better.

    error, freedom: standard error and degrees of freedom, None where the test has none; of_images: the part of the squared
    error that more seeds do not take away. low, high: 95 % interval. networks: whether it speaks of two networks alone, not of
    the configurations that they come from. images: on how many, None where that is not known. too_few: as in Estimate.
    """

    difference: float
    p_value: float
    test: str
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None
    of_images: float = 0.0
    networks: bool = False
    images: int | None = None
    too_few: bool = False

    @property
    def better(self) -> bool:
        """Whether one is better by more than chance."""
        return self.difference > 0 and self.p_value < LEVEL

    def chance_above(self, least: float) -> float | None:
        """Posterior probability, under a flat prior, that it is above `least`: Bayes' correlated t-test (Corani and Benavoli
        2015), whose correlation over the shared images is measured and not assumed."""
        if self.error is None or self.freedom is None:
            return None
        if self.error == 0:
            return float(self.difference > least)
        return float(stdtr(self.freedom, (self.difference - least) / self.error))


def mcnemar_test(right_a_N: NDArray[np.bool_], right_b_N: NDArray[np.bool_], sides: int = 2) -> float:
    """Exact p-value that two classifiers err equally often on the same images (McNemar 1947); of one side: that a errs as often
    as b or more often."""
    only_a = int(np.sum(right_a_N & ~right_b_N))
    only_b = int(np.sum(~right_a_N & right_b_N))
    if only_a + only_b == 0:
        return 1.0
    if sides == 1:
        return float(bdtr(only_b, only_a + only_b, 0.5))
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def stand_below(first_N: NDArray[np.bool_], other_N: NDArray[np.bool_]) -> tuple[float | None, str]:
    """How a classifier stands to one that is at least as accurate: the p-value of McNemar's test, and a word for it."""
    if len(first_N) != len(other_N):
        return None, "other images"
    p_value = mcnemar_test(first_N, other_N)
    return p_value, "below" if p_value < LEVEL else "not told apart"


def compare_networks(one_N: Floats | NDArray[np.bool_], other_N: Floats | NDArray[np.bool_], sides: int = 2) -> Difference:
    """Two networks on the same N images, by what each image counts: 1 or 0 for right or wrong, or minus its loss.

    McNemar's exact test where they are right or wrong, else a t-test of the images' differences.
    """
    n = len(one_N)
    difference_N = one_N.astype(np.float64) - other_N.astype(np.float64)
    mean = float(difference_N.mean())
    error = known_error(float(difference_N.std(ddof=1)) / math.sqrt(n), one_N, other_N) if n > 1 else None
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error if error is not None else None
    low, high = (mean - half, mean + half) if half is not None else (None, None)
    if np.isin(one_N, (0, 1)).all() and np.isin(other_N, (0, 1)).all():
        p_value, test = mcnemar_test(one_N.astype(bool), other_N.astype(bool), sides), "McNemar"
    else:
        p_value, test = _t_tail(mean, error, n - 1, sides), "t-test over the images"
    return Difference(mean, p_value, test, low, high, error, n - 1, networks=True, images=n)


def compare_chosen(one_SN: Floats, other_SN: Floats, share: float = 0.0) -> Difference:
    """Two configurations that were chosen before they were looked at, on the same N images; row s of both is the same seed.

    A paired t-test over the S seeds, two or more, two-sided, whose variance also has what the images alone contribute. share:
    as in `estimate`.
    """
    seeds, images = one_SN.shape
    by_seed_S = one_SN.mean(1, dtype=np.float64) - other_SN.mean(1, dtype=np.float64)
    mean, of_seeds = float(by_seed_S.mean()), float(by_seed_S.var(ddof=1)) * (1 / seeds + share)
    of_images = image_variance(one_SN, other_SN)
    error, freedom = math.sqrt(of_seeds + of_images), joint_freedom((of_seeds, seeds - 1), (of_images, image_freedom(images)))
    error = known_error(error, one_SN, other_SN)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p_value = _t_tail(mean, error, freedom, 2)
    test = FOLDS_TEST if share else "paired t-test over their own seeds and the images"
    return Difference(mean, p_value, test, mean - half, mean + half, error, freedom, of_images, images=images)


def compare_splits(difference_J: Floats, share: float, images_J: Sequence[int]) -> tuple[float, float, float]:
    """Mean, standard error and degrees of freedom of the difference between two configurations on the same J splits (the
    corrected resampled t-test of Nadeau and Bengio 2003). share: validation images over training images. images_J: validation
    images of each split, by which the mean is weighted, as in `estimate_over_splits`: groups make folds uneven."""
    splits = len(difference_J)
    error = float(np.std(difference_J, ddof=1)) * math.sqrt(1 / splits + share)
    return float(np.average(difference_J, weights=images_J)), error, splits - 1.0


def known_error(error: float, one: Floats | NDArray[np.bool_], other: Floats | NDArray[np.bool_]) -> float:
    """The standard error of a difference; where the images happen to leave none, what the one that counts most counts: seeds
    that agree in number, or two that are right on every image, do not make a difference certain. one, other: as an image
    counts for the objective, 0 or 1 for accuracy."""
    images: int = one.shape[-1]
    least = float(max(np.abs(one).max(), np.abs(other).max()) or 1.0) / images
    return error if error > NONE_OF_IMAGE * least else max(error, least)


def image_variance(one_SN: Floats, other_SN: Floats) -> float:
    """The variance of the mean difference that no number of seeds takes away: what other images, of the same kind and as many,
    would change in every seed. From the covariances between different seeds, so at least two each; not below 0. Of a single
    image, which tells nothing of others, the most that it can count."""
    images: int = one_SN.shape[1]
    if images < 2:
        return known_error(0.0, one_SN, other_SN) ** 2
    mean_one_N, mean_other_N = (values.mean(0, dtype=np.float64) for values in (one_SN, other_SN))
    shared = float(np.cov(mean_one_N, mean_other_N)[0, 1])
    lasting = lasting_variance(one_SN) + lasting_variance(other_SN) - 2 * shared
    return max(lasting, 0.0) / images


def lasting_variance(values_SN: Floats) -> float:
    """The variance between images of what they count on average over all seeds, from S >= 2 of them."""
    seeds = len(values_SN)
    total = float(values_SN.sum(0, dtype=np.float64).var(ddof=1))
    own = float(values_SN.var(axis=1, ddof=1, dtype=np.float64).sum())
    return (total - own) / (seeds * (seeds - 1))


def _t_tail(mean: float, error: float | None, freedom: float, sides: int) -> float:
    if not error:
        return 1.0 if error is None or mean == 0 or (sides == 1 and mean < 0) else 0.0
    tail = float(stdtr(freedom, -abs(mean / error) if sides == 2 else -mean / error))
    return min(sides * tail, 1.0)
