"""The statistics against SciPy, numbers worked out by hand, and simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cifar_hpc.collect.statistics import (
    FOLDS_TEST,
    compare_chosen,
    compare_networks,
    estimate,
    estimate_over_splits,
    image_variance,
    mcnemar_test,
    wilson_interval,
    within,
)


def test_mean_sd_and_t_interval_are_scipys() -> None:
    values = [0.91, 0.93, 0.92, 0.95]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert found is not None
    assert found.sd is not None
    assert (found.mean, found.sd) == pytest.approx((0.9275, 0.01707825), abs=1e-8)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_fewer_than_three_seeds_have_no_standard_deviation() -> None:
    for values in ([0.9], [0.9, 0.8]):
        found = estimate(values)
        assert found
        assert found.sd is None


def test_one_seed_has_wilsons_interval_over_its_images() -> None:
    found = estimate([0.9], images=200)
    expected = stats.binomtest(180, 200).proportion_ci(method="wilson")
    assert found
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1.0)


def test_nothing_measured_is_no_estimate() -> None:
    assert estimate([]) is None


def test_an_interval_holds_its_mean_also_as_numbers_are_rounded():
    for n in range(1, 300):
        for share in (0.0, 1 / n, (n - 1) / n, 1.0):
            low, high = wilson_interval(share, n)
            assert 0 <= low <= share <= high <= 1


def test_mcnemar_is_the_exact_binomial_test_of_the_disagreements() -> None:
    a, b = np.zeros(100, bool), np.zeros(100, bool)
    a[:15], b[15:20], a[50:], b[50:] = True, True, True, True
    assert mcnemar_test(a, b) == pytest.approx(stats.binomtest(5, 20, 0.5).pvalue)
    assert mcnemar_test(a, a) == 1.0


def test_an_interval_over_seeds_also_covers_the_images(values: tuple[float, ...] = (0.80, 0.81, 0.79)) -> None:
    """Five seeds that agree on 60 images say little of other images."""
    alone, of_images = estimate(values), estimate(values, images=60)
    assert alone and of_images and alone.low and of_images.low and of_images.high
    assert of_images.low < alone.low
    spread = (np.var(values, ddof=1) / 3 + 0.8 * 0.2 / 60) ** 0.5
    assert of_images.high - of_images.mean == pytest.approx(2.0 * spread, rel=0.05)
    assert estimate([1.0, 0.98, 0.99], images=20).high == 1.0


def test_seeds_that_are_right_on_every_image_leave_the_images_doubt() -> None:
    """Three times 20 of 20 is no interval from 100 to 100 %."""
    for share in (0.0, 1.0):
        one, several = estimate([share], images=20), estimate([share] * 3, images=20)
        assert one and several
        assert (several.low, several.high) == pytest.approx((one.low, one.high))
        assert several.high is not None and several.low is not None
        assert several.high - several.low > 0.15


@pytest.mark.parametrize("counts", [(1.0, 0.0), (2.5, 0.0), (-0.3, -0.2)])
def test_equal_answers_do_not_make_a_difference_certain_whatever_the_objective(counts: tuple[float, float]) -> None:
    """Accuracy, balanced accuracy of uneven classes, the loss."""
    same_SN = np.tile(np.array([counts[0]] * 9 + [counts[1]]), (3, 1))
    found = compare_chosen(same_SN, same_SN)
    assert found.difference == 0 and found.p_value == 1 and found.error == pytest.approx(abs(counts[0]) / 10)
    assert found.low is not None and found.low < 0


def test_two_seeds_that_agree_but_for_a_hair_do_not_make_a_difference_certain() -> None:
    """Each of the second is right on one image more; the F1 of that is another hair in each seed."""
    one_SN = np.ones((2, 144))
    one_SN[0, 0] = one_SN[1, 1] = 0.0
    other_SN = np.ones((2, 144)) + np.array([[0.0], [0.0002]])
    found = compare_chosen(one_SN, other_SN)
    assert found.difference == pytest.approx(-1 / 144, abs=2e-4) and found.p_value > 0.3


def test_seeds_that_agree_in_number_leave_no_interval_of_what_is_not_counted() -> None:
    found = estimate([2 / 3] * 3, 10, counted=False)
    assert found is not None and found.sd == pytest.approx(0) and found.low is None and found.high is None


def test_networks_that_share_training_images_are_fewer_than_they_are_many_on_the_same_images_too() -> None:
    """Folds on test images: the variance between them is (1 / J + share) of that of their mean, as on validation."""
    apart, shared = (estimate([0.80, 0.84, 0.82], counted=False, share=share) for share in (0.0, 0.5))
    assert apart is not None and apart.high is not None and shared is not None and shared.high is not None
    assert (shared.high - shared.mean) / (apart.high - apart.mean) == pytest.approx(((1 / 3 + 0.5) / (1 / 3)) ** 0.5)
    one_SN, other_SN = np.random.default_rng(0).integers(0, 2, (2, 5, 40)).astype(float)
    found, alone = compare_chosen(one_SN, other_SN, 0.25), compare_chosen(one_SN, other_SN)
    assert found.test == FOLDS_TEST and found.p_value > alone.p_value and found.difference == alone.difference


def test_one_side_of_mcnemar_is_that_the_first_is_better() -> None:
    a, b = np.zeros(100, bool), np.zeros(100, bool)
    a[:15], b[15:20] = True, True
    assert mcnemar_test(a, b, sides=1) == pytest.approx(stats.binomtest(5, 20, 0.5, alternative="less").pvalue)
    assert mcnemar_test(b, a, sides=1) > 0.5
    assert (compare_networks(a, b).test, compare_networks(a, b).networks) == ("McNemar", True)


def test_two_networks_are_compared_by_their_losses_where_the_objective_is_one() -> None:
    rng = np.random.default_rng(0)
    one_N, other_N = -rng.exponential(0.5, 400), -rng.exponential(0.7, 400)
    found = compare_networks(one_N, other_N)
    expected = stats.ttest_rel(one_N, other_N)
    assert found.difference > 0
    assert found.p_value == pytest.approx(expected.pvalue)
    assert compare_networks(other_N, one_N, sides=1).p_value > 0.9


def test_two_chosen_configurations_are_compared_by_a_paired_t_test_over_seeds() -> None:
    """Images that are drawn again for each seed leave nothing to the images alone: then it is scipy's test."""
    rng = np.random.default_rng(3)
    one_SN, other_SN = rng.random((4, 5000)) < 0.9, rng.random((4, 5000)) < 0.88
    found = compare_chosen(one_SN.astype(float), other_SN.astype(float))
    expected = stats.ttest_rel(one_SN.mean(1), other_SN.mean(1))
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.02)
    assert found.low is not None and found.low < found.difference < (found.high or 0)


def test_what_images_change_in_every_seed_is_in_the_error_of_a_difference() -> None:
    """Two configurations whose errors lie on different images in every seed: no number of seeds tells which is better."""
    rng = np.random.default_rng(4)
    easy_one_N, easy_other_N = rng.random(300) < 0.8, rng.random(300) < 0.8
    one_SN, other_SN = np.tile(easy_one_N, (5, 1)).astype(float), np.tile(easy_other_N, (5, 1)).astype(float)
    difference_N = easy_one_N.astype(float) - easy_other_N
    assert image_variance(one_SN, other_SN) == pytest.approx(difference_N.var(ddof=1) / 300)
    assert compare_chosen(one_SN, other_SN).p_value > 0.05


def test_an_interval_that_would_be_the_whole_scale_is_none_and_says_that_seeds_are_too_few() -> None:
    wide = estimate_over_splits([0.2, 0.8], [10, 10], 1, 0.5, range(2))
    found = within(wide, (0.0, 1.0))
    assert (found.low, found.high, found.too_few) == (None, None, True) and found.mean == 0.5
    assert within(wide, (0.0, math.inf)).high == wide.high  # of a loss the other end tells something
    told = estimate([0.0, 1.0], 10)  # of seeds, as of splits
    assert (told.low, told.high, told.too_few) == (None, None, True)
    difference = compare_chosen(np.array([[1, 1, 0.0], [0, 0, 1]]), np.array([[0, 0, 1.0], [1, 0, 0]]))
    assert within(difference, (-1.0, 1.0)).too_few and within(difference, (-1.0, 1.0)).high is None
    assert not within(estimate([0.5, 0.52], 100), (0.0, 1.0)).too_few
