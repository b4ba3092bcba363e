"""Intervals of what folds, or splits drawn again, measured: they count splits, and the luck of the images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from cifar_hpc.collect.curves import band_of
from cifar_hpc.collect.statistics import estimate, estimate_over_splits, of_splits, wilson_interval


def test_the_interval_is_that_of_nadeau_and_bengio():
    found = estimate_over_splits([0.8, 0.7, 0.9], [10, 10, 10], 1, 0.5, range(3))
    assert found.high - found.mean == pytest.approx(student.ppf(0.975, 2) * 0.1 * math.sqrt(1 / 3 + 0.5)) and found.images == 30


def test_seeds_of_the_same_folds_tell_nothing_of_other_folds():
    """Ten seeds of four folds made an interval half as wide as one seed, also where all ten measured the same."""
    values, share = [0.8, 0.7, 0.9, 0.85], 1 / 3
    one = estimate_over_splits(values, [10] * 4, 1, share, range(4))
    ten = estimate_over_splits(values * 10, [10] * 40, 10, share, [*range(4)] * 10)
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high)) and (one.n, ten.n) == (4, 40)
    on_test = [estimate(values * n, 1000, share=share, splits=[*range(4)] * n) for n in (1, 10)]
    assert (on_test[0].low, on_test[0].high) == pytest.approx((on_test[1].low, on_test[1].high))
    seeds_of_one = estimate_over_splits([0.8, 0.7, 0.9], [100] * 3, 3, share, [1, 1, 1])
    assert seeds_of_one == estimate([0.8, 0.7, 0.9], 100)


def test_an_interval_of_folds_that_nearly_agree_counts_the_luck_of_the_images():
    """Folds of 50 images that differed by one made four times as narrow an interval as folds that did not differ at all."""
    found = estimate_over_splits([0.8, 0.82, 0.8, 0.8], [50] * 4, 1, 1 / 3, range(4))
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.805, 200))
    drawn_again = estimate_over_splits([0.8, 0.82, 0.8, 0.8], [50] * 4, 4, 1 / 3, range(4))
    assert (drawn_again.low, drawn_again.high) == pytest.approx(wilson_interval(0.805, 137))  # of 200, 50 drawn four times


def test_folds_that_measure_the_same_do_not_make_a_number_certain():
    found = estimate_over_splits([1.0] * 5, [10] * 5, 1, 0.25, range(5))
    assert (found.low, found.high) == pytest.approx(wilson_interval(1.0, 50))
    found = estimate_over_splits([1 / 3] * 3, [27] * 3, 3, 0.43, range(3))
    assert (found.low, found.high) == pytest.approx(wilson_interval(1 / 3, 59))  # of 90, 27 drawn three times
    found = estimate_over_splits([0.5] * 3, [27] * 3, 3, 0.43, range(3), counted=False)
    assert found.low is None and found.high is None


def test_the_bands_of_learning_curves_are_as_wide_and_seeds_of_the_same_folds_make_them_no_narrower():
    """They counted each seed of each fold as independent: a third as wide as the interval of the same number in the table."""
    values = [0.7, 0.72, 0.68]
    half = student.ppf(0.975, 2) * 0.02 * math.sqrt(1 / 3 + 0.5)
    for seeds in (1, 4):
        values_SE = np.array([[value] for value in values * seeds], np.float32)
        band = band_of(*of_splits(values_SE, [1, 2, 3] * seeds, 0.5), bounds=(0.0, 1.0))
        assert (band.low[0], band.high[0]) == pytest.approx((0.7 - half, 0.7 + half), abs=1e-6)
    ended = of_splits(np.array([[0.7, np.nan], [0.8, 0.9]], np.float32), [1, 2], 0.5)[0]
    assert ended[1].tolist() == pytest.approx([0.8, 0.9]) and np.isnan(ended[0, 1])
