"""How sure the order is, on sweeps of which the truth is known: equal configurations, and unequal ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri

from cifar_hpc.collect.ranking import (
    compare_with_first,
    fold_means,
    moderate_variances,
    range_quantile,
    range_tail,
    seeds_to_settle,
    spread_of,
    step_down,
    winners_optimism,
)
from cifar_hpc.collect.statistics import Difference, compare_chosen, compare_networks

Draw = tuple[NDArray[np.float32], NDArray[np.float64]]


def draw_sweep(
    rng: np.random.Generator, truth_P: NDArray[np.float64], seeds: int, images: int, sd: float, own: float = 0.0
) -> Draw:
    """Right or wrong, P x S x N, of networks whose accuracies lie around their configuration's; those accuracies, P x S.

    Images are hard or easy for all alike, and, with `own`, for each configuration by itself too.
    """
    accuracy_PS = np.clip(truth_P[:, None] + sd * rng.standard_normal((len(truth_P), seeds)), 0.02, 0.995)
    ease_N = rng.standard_normal(images, dtype=np.float32)
    own_PN = own * rng.standard_normal((len(truth_P), images), dtype=np.float32)
    level_PS = (np.sqrt(2 + own**2) * ndtri(accuracy_PS)).astype(np.float32)
    noise_PSN = rng.standard_normal((len(truth_P), seeds, images), dtype=np.float32)
    right_PSN = noise_PSN < level_PS[:, :, None] + ease_N + own_PN[:, None]
    return right_PSN.astype(np.float32), accuracy_PS


def ranked(right_PSN: NDArray[np.float32]) -> tuple[int, dict[str, Difference]]:
    """The best, and the others against it by their numbers, as a report compares them."""
    order = np.argsort(-right_PSN.mean((1, 2)))
    best, k = int(order[0]), len(order)
    values = right_PSN.mean(2)[order].tolist()
    found = {
        str(other): compare_with_first(right_PSN[best], right_PSN[other], spread_of(values, place), k)
        for place, other in enumerate(order)
        if place
    }
    return best, step_down(found, k, intervals=False)


def optimism_of(right_PSN: NDArray[np.float32]) -> float:
    seeds = range(right_PSN.shape[1])
    found = winners_optimism([fold_means(right_SN) for right_SN in right_PSN], [seeds] * len(right_PSN))
    assert found is not None
    return found


NULL = [(k, seeds, images, sd) for k in (2, 8, 20) for seeds in (1, 3, 5) for images in (500, 5000) for sd in (0.003, 0.01)]


@pytest.fixture(scope="module")
def null_sweeps() -> dict[tuple[int, int, int, float], NDArray[np.float64]]:
    """Of sweeps of equal configurations (90 %): (any called worse, all called worse, optimism told, optimism true) a sweep."""
    found = {}
    for k, seeds, images, sd in NULL:
        rng = np.random.default_rng([k, seeds, images, int(1000 * sd)])
        rows = []
        for _ in range(40 if k * seeds * images < 20_000 else 6 if k * seeds * images < 200_000 else 1):
            right_PSN, accuracy_PS = draw_sweep(rng, np.full(k, 0.9), seeds, images, sd)
            worse = [False]
            if seeds > 1:
                best, others = ranked(right_PSN)
                worse = [other.better for other in others.values()]
            best = int(right_PSN.mean((1, 2)).argmax())
            true = accuracy_PS[best, 0] if seeds == 1 else 0.9  # of one seed each the sentence is about these networks
            rows.append((any(worse), all(worse), optimism_of(right_PSN), float(right_PSN[best].mean()) - true))
        found[k, seeds, images, sd] = np.array(rows, float)
    return found


def test_of_equal_configurations_hardly_any_is_called_worse_and_none_the_best(null_sweeps) -> None:
    """By the sweep, not by the configuration: in at most 7 % of the sweeps is one called worse, in 5 % is one called best."""
    tested = np.concatenate([rows for (_, seeds, _, _), rows in null_sweeps.items() if seeds > 1])
    n = len(tested)
    worse, best = tested[:, :2].sum(0)
    assert n > 200
    assert worse / n <= 0.07
    assert best / n <= 0.05


def test_the_winners_optimism_is_what_other_seeds_and_images_take_away(null_sweeps) -> None:
    for seeds_of in ((1,), (3, 5)):
        rows = np.concatenate([rows for (_, seeds, _, _), rows in null_sweeps.items() if seeds in seeds_of])
        told, true = rows[:, 2:].mean(0)
        assert told == pytest.approx(true, rel=0.2)


def test_a_clear_winner_is_best_and_not_flattered() -> None:
    right_PSN, _ = draw_sweep(np.random.default_rng(3), np.array([0.95, 0.8, 0.8, 0.8]), 3, 1000, 0.003)
    best, others = ranked(right_PSN)
    assert best == 0
    assert all(other.better for other in others.values())
    assert abs(optimism_of(right_PSN)) < 0.005


def test_a_real_difference_is_found_among_many_that_are_far_below() -> None:
    """Three points apart, with seeds of a spread of 0.2: twenty bad configurations of a wide spread do not hide it."""
    rng = np.random.default_rng(5)
    good, _ = draw_sweep(rng, np.array([0.92, 0.89]), 5, 2000, 0.002)
    bad, _ = draw_sweep(rng, np.full(20, 0.6), 5, 2000, 0.05)
    best, others = ranked(np.concatenate([good, bad]))
    assert best == 0
    assert others["1"].better


def test_configurations_that_err_on_other_images_are_not_told_apart_by_few_images() -> None:
    """Equal ones that differ from image to image in every seed: the images' share of the error keeps them tied."""
    rng = np.random.default_rng(6)
    called = [
        any(o.better for o in ranked(draw_sweep(rng, np.full(3, 0.9), 3, 300, 0.002, own=1.0)[0])[1].values())
        for _ in range(40)
    ]
    assert np.mean(called) <= 0.12


def test_the_range_of_equal_means_is_scipys_studentised_range() -> None:
    for q, k, freedom in ((3.5, 2, 4.0), (4.0, 8, 14.0), (5.0, 20, 6.5), (3.0, 3, 1e9)):
        expected = stats.studentized_range.sf(q, k, min(freedom, 1e5))
        assert range_tail(q, k, freedom) == pytest.approx(expected, abs=2e-4)
    assert range_quantile(2, 4.0) / 2**0.5 == pytest.approx(stats.t.ppf(0.975, 4), abs=1e-3)  # of two: a two-sided t-test


def test_variances_lean_on_one_another_as_far_as_they_are_alike() -> None:
    rng = np.random.default_rng(0)
    alike = moderate_variances(rng.normal(0, 1, (30, 3)).tolist())
    assert alike.variances == pytest.approx(np.ones(30), rel=0.9)
    assert alike.of_difference(0, 1)[1] > 30
    unlike = moderate_variances((rng.normal(0, 1, (30, 3)) * 10.0 ** rng.integers(-3, 3, (30, 1))).tolist())
    assert unlike.of_difference(0, 1)[1] < 8
    two = moderate_variances([[0.1, 0.2, 0.3], [0.1, 0.1, 0.4]])
    assert two.variances == pytest.approx([0.01, 0.03])


def test_more_seeds_settle_a_difference_that_the_images_can_tell_and_no_other() -> None:
    error = (2 * 0.01**2 / 3) ** 0.5
    found = Difference(0.01, 0.3, "", error=error, freedom=4)
    assert seeds_to_settle(found, 3) == 16  # 2.8 ** 2 * 2 * 0.01 ** 2 / 0.01 ** 2 = 15.7
    assert seeds_to_settle(Difference(0.01, 0.3, "", error=0.02, freedom=4, of_images=0.01**2), 3) is None


def test_the_chance_that_one_is_better_is_the_posteriors_of_the_t_test() -> None:
    found = Difference(0.01, 0.3, "", error=0.01, freedom=4)
    assert found.chance_above(0.0) == pytest.approx(stats.t.cdf(1.0, 4))
    assert found.chance_above(0.01) == pytest.approx(0.5)


def test_seeds_that_agree_in_number_leave_the_images_doubt() -> None:
    """Three seeds right on all of 20 images, against three that miss another image each, and against three that miss none."""
    right_SN, missing_SN = np.ones((3, 20), np.float32), np.ones((3, 20), np.float32)
    missing_SN[[0, 1, 2], [3, 7, 11]] = 0
    for other_SN in (right_SN, missing_SN):
        chosen = compare_chosen(right_SN, other_SN)
        spread = spread_of([right_SN.mean(1).tolist(), other_SN.mean(1).tolist()], 1)
        best = step_down({"other": compare_with_first(right_SN, other_SN, spread, 2)}, 2)["other"]
        for found in (chosen, best):
            assert found.p_value > 0.05
            assert found.low is not None and found.high is not None
            assert found.low < 0 < found.high
        assert seeds_to_settle(best, 3) is None
    assert compare_with_first(right_SN, right_SN, (0.0, 4.0), 2).chance_above(0.0) == pytest.approx(0.5)
    assert compare_chosen(right_SN, np.zeros((3, 20), np.float32)).p_value < 0.001
    networks = compare_networks(right_SN[0], right_SN[1])
    assert networks.low is not None and networks.low < 0


def test_seeds_are_paired_by_number_where_the_choice_is_made_again() -> None:
    """Seed 1 is lucky in both: left out, it leaves both rows that bear its number, wherever they stand."""
    one, other = np.array([[0.5] * 5, [0.9] * 5]), np.array([[0.9] * 5, [0.5] * 5])
    assert winners_optimism([one, other], [(0, 1), (1, 0)]) == pytest.approx(0.0)
    assert winners_optimism([one, other], [(0, 1), (0, 1)]) == pytest.approx(0.2)
