"""The statistics against SciPy, numbers worked out by hand, and simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cifar_hpc.collect.statistics import estimate, mcnemar_test, paired_difference, wilson_interval, winners_optimism


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


def test_mcnemar_is_the_exact_binomial_test_of_the_disagreements() -> None:
    a, b = np.zeros(100, bool), np.zeros(100, bool)
    a[:15], b[15:20], a[50:], b[50:] = True, True, True, True
    assert mcnemar_test(a, b) == pytest.approx(stats.binomtest(5, 20, 0.5).pvalue)
    assert mcnemar_test(a, a) == 1.0


def test_the_fast_paired_bootstrap_says_what_plain_two_way_resampling_says() -> None:
    """Against the same bootstrap written out: draw images, draw seeds, average."""
    rng = np.random.default_rng(5)
    a_SN, b_SN = rng.random((4, 300)) < 0.85, rng.random((4, 300)) < 0.80
    fast = paired_difference(a_SN, b_SN)
    plain = []
    for _ in range(3000):
        seeds, images = rng.integers(0, 4, 4), rng.integers(0, 300, 300)
        plain.append((a_SN[seeds][:, images].mean() - b_SN[seeds][:, images].mean()).item())
    low, high = np.quantile(plain, [0.025, 0.975])
    assert fast.low is not None
    assert fast.high is not None
    assert (fast.low, fast.high) == pytest.approx((low, high), abs=0.003)
    assert fast.difference == pytest.approx(a_SN.mean() - b_SN.mean())


def test_equal_points_are_rarely_told_apart_and_unequal_ones_are() -> None:
    rng = np.random.default_rng(1)
    easy_N = rng.random(1000)
    called_different = sum(
        paired_difference(rng.random((3, 1000)) < easy_N, rng.random((3, 1000)) < easy_N).p_value < 0.05 for _ in range(60)
    )
    assert called_different <= 9  # 5 % of 60 is 3; the bootstrap over three seeds is a little bold
    better = paired_difference(rng.random((3, 1000)) < 0.9, rng.random((3, 1000)) < 0.8)
    assert better.p_value < 0.01
    assert better.low is not None
    assert better.low > 0


def test_points_of_different_seed_counts_can_be_compared() -> None:
    found = paired_difference(np.ones((3, 50), bool), np.zeros((1, 50), bool))
    assert (found.difference, found.test) == (1.0, "paired bootstrap")


def test_the_winners_optimism_is_what_fresh_images_take_away() -> None:
    """40 points of the same true accuracy 0.8: the best of them looks better on 500 images by a known amount."""
    rng = np.random.default_rng(2)
    looks = []
    found = []
    for _ in range(10):
        right_PN = (rng.random((40, 500)) < 0.8).astype(float)
        looks.append(right_PN.mean(1).max() - 0.8)
        found.append(winners_optimism(right_PN))
    assert np.mean(found) == pytest.approx(np.mean(looks), rel=0.25)


def test_a_clear_winner_is_not_called_optimistic() -> None:
    rng = np.random.default_rng(3)
    right_PN = np.stack([rng.random(2000) < 0.95, *(rng.random(2000) < 0.5 for _ in range(5))]).astype(float)
    assert winners_optimism(right_PN) < 0.002
    assert winners_optimism(right_PN[:1]) == 0.0


def test_of_images_too_few_to_leave_one_out_no_optimism_is_told() -> None:
    assert winners_optimism(np.array([[1.0], [0.0]])) is None
    assert winners_optimism(np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])) >= 0  # some draws leave none out: they do not count
