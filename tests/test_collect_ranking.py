"""How sure the order is, on sweeps of which the truth is known: equal configurations, and unequal ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri

from benchmarks import pool
from benchmarks.null_sweeps import CELLS, claims_of, draw_sweep, measure
from cifar_hpc.collect.comparison import compare_with_best
from cifar_hpc.collect.ranking import (
    compare_means,
    compare_with_first,
    fold_means,
    fold_shares,
    moderate_variances,
    range_quantile,
    range_tail,
    seeds_to_settle,
    spread_of,
    step_down,
    winners_optimism,
)
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.collect.statistics import Difference, compare_chosen, compare_networks
from cifar_hpc.records.layout import Layout


def ranked(right_PSN: NDArray[np.float32]) -> tuple[int, dict[str, Difference]]:
    """The best, and the others against it by their numbers, as a report compares them."""
    order = np.argsort(-right_PSN.mean((1, 2), dtype=np.float64), kind="stable")
    best, k = int(order[0]), len(order)
    values = right_PSN.mean(2, dtype=np.float64)[order].tolist()
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


@pytest.fixture(scope="module")
def null_sweeps() -> dict[tuple[int, int, int, float], NDArray[np.float64]]:
    """Of sweeps of equal configurations (90 %): any called worse, all called worse, optimism told, optimism true, one a row."""
    return {cell: measure(cell, 24 if cell[0] * cell[2] <= 10_000 else 6) for cell in CELLS}


def test_of_equal_configurations_hardly_any_is_called_worse_and_none_the_best(null_sweeps) -> None:
    """By the sweep, not by the configuration: in at most 7 % of the sweeps is one called worse, in 5 % is one called best."""
    tested = np.concatenate([rows for (_, seeds, _, _), rows in null_sweeps.items() if seeds > 1])
    n = len(tested)
    worse, best = tested[:, :2].sum(0)
    assert n > 400
    assert worse / n <= 0.07
    assert best / n <= 0.05


def test_the_winners_optimism_is_what_other_seeds_and_images_take_away(null_sweeps) -> None:
    for seeds_of in ((1,), (3, 5)):
        rows = np.concatenate([rows for (_, seeds, _, _), rows in null_sweeps.items() if seeds in seeds_of])
        told, true = rows[:, 2:].mean(0)
        assert told == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize(
    ("sd", "sizes"),
    [(0.01, (400,) * 5), (0.02, (400,) * 5), (0.003, (1200, 500, 200, 60, 40)), (0.003, (1700, 200, 60, 20, 20))],
)
def test_in_folds_of_one_seed_the_optimism_counts_the_luck_of_their_networks(sd: float, sizes: tuple[int, ...]) -> None:
    """It fell where they varied more, as the same networks chose and measured; groups make folds uneven."""
    rng, part_N = np.random.default_rng(4), np.repeat(np.arange(5), sizes)
    told, true = [], []
    for _ in range(60):
        networks_PSN = draw_sweep(rng, np.full(8, 0.9), 5, 2000, sd).right
        right_PN = networks_PSN[:, part_N, np.arange(2000)]  # each image by the network of its fold
        means = [fold_means(right_N[None], part_N) for right_N in right_PN]
        told.append(winners_optimism(means, [(0,)] * 8, fold_shares(2000, part_N)))
        true.append(right_PN.mean(1).max() - right_PN.mean())
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.2)


def test_what_is_measured_in_bulk_is_what_the_program_says_of_each_sweep() -> None:
    rng = np.random.default_rng(1)
    for truth in ([0.9] * 8, [0.95, 0.9, 0.9, 0.85]):
        sweep = draw_sweep(rng, np.array(truth), 3, 997, 0.01)
        claims, others = claims_of(sweep), ranked(sweep.right)[1].values()
        assert claims.worse == any(other.better for other in others)
        assert claims.best == all(other.better for other in others)
        assert claims.told == pytest.approx(optimism_of(sweep.right), abs=2e-3)  # where two are equal either is chosen


def test_what_the_program_says_of_arrays_is_what_it_says_of_records(tmp_path, monkeypatch) -> None:
    right_PSN = draw_sweep(np.random.default_rng(2), np.array([0.95, 0.93, 0.7, 0.5]), 3, 200, 0.01).right
    images = pool.Images(np.zeros(200, int), np.zeros(200), 200)
    rows = iter(right_PSN.reshape(-1, 200))
    monkeypatch.setattr(pool, "draw_logits", lambda *_: np.eye(10, dtype=np.float16)[1 - next(rows).astype(int)])
    layout = Layout(tmp_path)
    for config in pool.configs(12, 3, 2):
        pool.write_trial(layout, config, images)
    board = make_sections(scan(layout), layout)[0].board
    found = compare_with_best(board, layout)
    assert found is not None
    said = [found.decision(row.point_id) for row in board.measured[1:]]
    by_mean = sorted(ranked(right_PSN)[1].values(), key=lambda one: one.difference)
    assert said == ["worse" if one.better else "tied" for one in by_mean] == ["tied", "worse", "worse"]
    assert found.optimism == pytest.approx(optimism_of(right_PSN))


def test_a_clear_winner_is_best_and_not_flattered() -> None:
    right_PSN = draw_sweep(np.random.default_rng(3), np.array([0.95, 0.8, 0.8, 0.8]), 3, 1000, 0.003).right
    best, others = ranked(right_PSN)
    assert best == 0
    assert all(other.better for other in others.values())
    assert abs(optimism_of(right_PSN)) < 0.005


def test_a_real_difference_is_found_among_many_that_are_far_below() -> None:
    """Three points apart, with seeds of a spread of 0.2: twenty bad configurations of a wide spread do not hide it."""
    rng = np.random.default_rng(5)
    good = draw_sweep(rng, np.array([0.92, 0.89]), 5, 2000, 0.002)
    bad = draw_sweep(rng, np.full(20, 0.6), 5, 2000, 0.05)
    best, others = ranked(np.concatenate([good.right, bad.right]))
    assert best == 0
    assert others["1"].better


def test_configurations_that_err_on_other_images_are_not_told_apart_by_few_images() -> None:
    """Equal ones that differ from image to image in every seed: the images' share of the error keeps them tied."""
    rng = np.random.default_rng(6)
    called = []
    for _ in range(40):
        level_PS = 3**0.5 * ndtri(0.9 + 0.002 * rng.standard_normal((3, 3)))
        ease_PN = rng.standard_normal(300) + rng.standard_normal((3, 300))
        right_PSN = rng.standard_normal((3, 3, 300)) < level_PS[:, :, None] + ease_PN[:, None]
        called.append(any(other.better for other in ranked(right_PSN.astype(np.float32))[1].values()))
    assert np.mean(called) <= 0.12


def test_the_range_of_equal_means_is_scipys_studentised_range() -> None:
    for q, k, freedom in ((3.5, 2, 4.0), (4.0, 8, 14.0), (5.0, 20, 6.5), (3.0, 3, 1e9)):
        expected = stats.studentized_range.sf(q, k, min(freedom, 1e5))
        assert range_tail(q, k, freedom) == pytest.approx(expected, abs=2e-4)
    assert range_quantile(2, 4.0) / 2**0.5 == pytest.approx(stats.t.ppf(0.975, 4), abs=1e-3)  # of two: a two-sided t-test


def test_variances_lean_on_one_another_as_far_as_they_are_alike() -> None:
    """Three seeds have 2 degrees of freedom, a difference 4, all thirty configurations 60."""
    draws_DPS = np.random.default_rng(0).normal(0, 1, (40, 30, 3))
    scale_DP1 = 10.0 ** np.random.default_rng(1).integers(-3, 3, (40, 30, 1))
    alike, unlike = (
        [moderate_variances(values_PS.tolist()) for values_PS in values_DPS]
        for values_DPS in (draws_DPS, draws_DPS * scale_DP1)
    )
    assert np.median([one.of_difference(0, 1)[1] for one in alike]) > 8
    assert np.median([one.of_difference(0, 1)[1] for one in unlike]) < 4
    two = moderate_variances([[0.1, 0.2, 0.3], [0.1, 0.1, 0.4]])
    assert two.variances == pytest.approx([0.01, 0.03])


def test_configurations_of_unequal_spread_are_hardly_ever_called_worse_either() -> None:
    """Twelve equal ones, three seeds each, whose spreads differ by factors: the best of them is likely one that varies much."""
    rng, wrong, least = np.random.default_rng(4), 0, range_quantile(12, 1e6) / 2**0.5  # standard errors, or it is chance
    for _ in range(400):
        values = rng.normal(0, np.exp(0.35 * rng.standard_normal((12, 1))), (12, 3))
        values = values[np.argsort(-values.mean(1))]
        means, spreads = values.mean(1).tolist(), [spread_of(values.tolist(), place) for place in range(1, 12)]
        far = [(means[0] - mean, spread) for mean, spread in zip(means[1:], spreads, strict=True)]
        wrong += any(
            compare_means(mean, 0.0, spread, 12, 10**6).better for mean, spread in far if mean > least * spread[0] ** 0.5
        )
    assert wrong / 400 <= 0.08  # 0.10 where variances are taken for as alike as they look


def test_seeds_that_agree_in_number_do_not_make_the_others_unlike() -> None:
    """The variance of three times 37/40 is 1e-32 as computed, of three times 1/2 it is 0: neither tells a spread."""
    others = [[0.9, 0.91, 0.92], [0.9, 0.92, 0.91], [0.9, 0.925, 0.91], [0.89, 0.91, 0.92]]
    rounded, exact = (moderate_variances([[tied] * 3, *others]) for tied in (37 / 40, 1 / 2))
    assert rounded.prior == exact.prior
    assert rounded.variances == pytest.approx(exact.variances)


def test_more_seeds_settle_a_difference_that_the_images_can_tell_and_no_other() -> None:
    error = (2 * 0.01**2 / 3) ** 0.5
    found = Difference(0.01, 0.3, "", error=error, freedom=4)
    assert seeds_to_settle(found, 3) == 17  # (2.04 + 0.84) ** 2 * 2 * 0.01 ** 2 / 0.01 ** 2 = 16.6: t with 2 * 16 degrees
    assert seeds_to_settle(found, 3, k=8) == 32  # by the range of 8, 4.44: (4.44 / 2 ** 0.5 + 0.84) ** 2 * 2 = 31.7
    assert seeds_to_settle(Difference(0.01, 0.3, "", error=0.02, freedom=4, of_images=0.01**2), 3) is None
    assert seeds_to_settle(Difference(0.04, 0.3, "", error=0.01, freedom=4, of_images=0.01**2), 3) is None  # seeds alike


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
