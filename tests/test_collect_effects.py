"""Effects of axes and heat maps against numbers worked out by hand: nothing is shown that nobody measured."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.pool import Images
from cifar_hpc.collect.curves import best_over
from cifar_hpc.collect.effects import make_heat_maps, measure_effects
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.records.schema import Outcome
from cifar_hpc.report.explore import _point
from cifar_hpc.report.figures_effects import _bars, draw_along, draw_effects, draw_parallel
from cifar_hpc.report.figures_ranking import draw_ranking
from cifar_hpc.report.words import words_of

IMAGES = Images.draw(500, 100)


def additive_board(cells: dict[tuple[str, float], float]) -> Leaderboard:
    """A leaderboard of (arch, lr) -> score, without trials."""
    rows = tuple(
        Row(
            number=None, place=None, point_id=f"{arch}{lr}", axes={"arch": arch, "lr": lr}, config={}, trials=(), failed=(),
            lost=(), unfinished=(), contradicted=(), rounds=(),
            score=Estimate(score, 3, 0.01), val_acc=None, test_acc=None, gap=None, best_epoch=None, epochs=None,
            train_s=None, device_hours=0.0, pareto=False,
        )
        for (arch, lr), score in sorted(cells.items(), key=lambda cell: -cell[1])
    )  # fmt: skip
    return Leaderboard(objective="val_acc", axes=("arch", "lr"), rows=rows)


def test_an_effect_is_over_configurations_that_differ_in_nothing_else() -> None:
    """b was only run at lr 2, where a and c were too: lr is told by a and c alone, arch by lr 2 alone. Nothing is filled in."""
    cells = {("a", 1.0): 0.50, ("a", 2.0): 0.52, ("b", 2.0): 0.62, ("c", 1.0): 0.50, ("c", 2.0): 0.54}
    lr, arch = sorted(measure_effects(additive_board(cells)).matched, key=lambda effect: effect.axis, reverse=True)
    assert (lr.values, lr.scores.tolist()) == ((1.0, 2.0), [[0.50, 0.54], [0.50, 0.52]])
    assert lr.means.tolist() == pytest.approx([0.50, 0.53])
    assert (arch.values, arch.scores.tolist(), arch.half) == (("a", "b", "c"), [[0.52, 0.62, 0.54]], None)


def test_every_value_that_an_effect_shows_was_measured() -> None:
    """The published sweep that showed `linear` at 59 %: its one point (32 %) has no match, so that it is in no panel."""
    cells = {("linear", 0.1): 0.32, **{(arch, lr): 0.7 + lr for arch in ("r", "m") for lr in (0.01, 0.02)}}
    found = {effect.axis: effect for effect in measure_effects(additive_board(cells)).matched}
    assert found["arch"].values == ("m", "r")
    assert found["arch"].unmatched == ("linear",)
    measured = set(cells.values())
    assert all(score in measured for effect in found.values() for score in effect.scores.flat)


def test_an_axis_without_a_match_has_no_effect_to_show() -> None:
    """lr follows arch: no two configurations differ in one of them alone."""
    assert measure_effects(additive_board({("a", 1.0): 0.5, ("b", 2.0): 0.6, ("c", 3.0): 0.7})).matched == ()


def test_of_axes_that_determine_each_other_the_one_of_numbers_leaves() -> None:
    board = additive_board({("a", 1.0): 0.5, ("b", 2.0): 0.6})
    assert measure_effects(dataclasses.replace(board, rows=board.rows * 2)).axes == ("arch",)
    assert measure_effects(additive_board({("a", 1.0): 0.5, ("a", 2.0): 0.6})).axes == ("lr",)


def test_a_rate_that_each_point_has_for_itself_takes_no_credit_and_hides_no_other_axis() -> None:
    found = measure_effects(additive_board({(arch, lr): 0.5 + lr for arch, lr in zip("ababa", (1.0, 2, 3, 4, 5), strict=True)}))
    assert found.axes == ("arch", "lr") and found.importance == {}


def test_shares_of_variance_are_of_balanced_designs_alone_and_none_of_chance() -> None:
    """Of sweeps of pure noise omega squared averages next to nothing, where raw shares average two of eleven degrees."""
    rng = np.random.default_rng(0)
    grid = [(arch, lr) for arch in "abc" for lr in (1.0, 2.0, 3.0, 4.0)]
    shares = [measure_effects(additive_board(dict(zip(grid, rng.random(12), strict=True)))).importance for _ in range(200)]
    assert np.mean([share["arch"] for share in shares]) < 0.09
    assert np.mean([share["arch"] + share["lr"] for share in shares]) < 0.17  # cut at 0, so a little above it
    exact = {(arch, lr): "abc".index(arch) * 0.1 + lr * 0.01 for arch, lr in grid}
    nearly = {cell: value + 1e-4 * rng.random() for cell, value in exact.items()}
    assert 0.99 < sum(measure_effects(additive_board(nearly)).importance.values()) < 1
    assert measure_effects(additive_board({cell: nearly[cell] for cell in grid[1:]})).importance == {}


def test_what_fits_the_axes_to_the_digit_tells_no_shares_of_variance() -> None:
    """Four numbers of few images that happen to be sums of two: nothing tells what chance gave, nor that it gave nothing."""
    exact = {(arch, lr): "ab".index(arch) * 0.1 + lr * 0.2 for arch in "ab" for lr in (1.0, 2.0)}
    for numbers in (exact, dict.fromkeys(exact, 0.7)):
        found = measure_effects(additive_board(numbers))
        assert found.importance == {} and len(found.matched) == 2


def test_the_caption_of_effects_says_why_no_share_of_the_variance_is_told() -> None:
    def caption(cells: dict[tuple[str, float], float]) -> str:
        board = additive_board(cells)
        return draw_effects(measure_effects(board), board).caption

    exact = {(arch, lr): "abc".index(arch) * 0.1 + lr * 0.2 for arch in "abc" for lr in (1.0, 2.0)}
    assert caption(exact).endswith(
        "No share of the variance is told: the axes add up to the numbers to the digit, so that nothing tells what chance gave."
    )
    holed = {cell: value for cell, value in exact.items() if cell != ("a", 1.0)}
    assert "No share of the variance is told: not every combination of the axes' values is among" in caption(holed)
    uneven = {**exact, ("a", 1.0): 0.9}
    assert "(omega squared)" in caption(uneven) and "No share" not in caption(uneven)
    assert "No share" not in caption({cell: value for cell, value in exact.items() if cell[0] == "a"})  # one axis


def test_values_that_a_panel_has_no_room_for_are_not_called_without_a_match() -> None:
    cells = {(arch, lr): 0.5 + 0.01 * lr for arch in "abcd" for lr in (1.0, 2.0, 3.0)} | {(arch, 4.0): 0.6 for arch in "ab"}
    cells |= {("e", 9.0): 0.2}
    board = additive_board(cells)
    found = {effect.axis: effect for effect in measure_effects(board).matched}["lr"]
    assert found.values == (1.0, 2.0, 3.0) and found.left == (4.0,) and found.unmatched == (9.0,)
    caption = draw_effects(measure_effects(board), board).caption
    assert "Without a match: lr 9, arch e." in caption and "Not shown, since too few match with the others: lr 4." in caption


@pytest.mark.parametrize("score", [0.7, 1.0])
def test_lines_of_equal_numbers_all_end_at_the_top_and_no_axis_goes_beyond_the_whole(score: float) -> None:
    board = additive_board({(arch, lr): score for arch in "abc" for lr in (1.0, 2.0, 3.0)})
    lines = draw_parallel(board).figure.axes[0].lines
    assert {np.asarray(line.get_ydata())[-1] for line in lines if len(line.get_xdata()) == 3} == {1.0}
    assert all(
        axes.get_ylim()[1] <= 1.02 for axes in draw_effects(measure_effects(board), board).figure.axes if axes.get_visible()
    )


def test_what_a_search_ended_early_is_in_no_effect_and_figures_say_which_it_is() -> None:
    board = additive_board({(arch, lr): 0.5 + 0.1 * lr for arch in "ab" for lr in (1.0, 2.0)})
    pruned = SimpleNamespace(outcome=Outcome.PRUNED, fold=None, seed=0, trial_id="a")
    last = dataclasses.replace(board.rows[-1], trials=(pruned,))
    cut = dataclasses.replace(board, rows=(*board.rows[:-1], last))
    found = {effect.axis: effect for effect in measure_effects(cut).matched}
    assert len(found["lr"].scores) == len(found["arch"].scores) == 1 and not measure_effects(cut).importance
    assert "Ended early by the search: " in draw_along("lr", "arch", cut).caption
    assert "Ended early" not in draw_along("lr", "arch", board).caption


@pytest.mark.parametrize(
    ("outcome", "why"), [(Outcome.PRUNED, "ended early by the search"), (Outcome.DIVERGED, "diverged"), (Outcome.FINISHED, "")]
)
def test_the_first_picture_and_the_page_say_why_a_row_stands_below_lower_numbers(outcome: Outcome, why: str) -> None:
    board = additive_board({("a", lr): 0.5 + 0.1 * lr for lr in (1.0, 2.0, 3.0)})
    trials = tuple(SimpleNamespace(outcome=outcome, fold=None, seed=seed, trial_id=str(seed)) for seed in range(3))
    last = dataclasses.replace(board.rows[-1], trials=trials, rounds=((0, 0), (1, 0), (2, 0)))
    drawing = draw_ranking(dataclasses.replace(board, rows=(*board.rows[:-1], last)), None)
    label = drawing.figure.axes[0].get_yticklabels()[-1].get_text()
    name, point = words_of(last), _point(last, board.info)[1]
    assert (label, point) == ((f"{name} (3, {why})", f"{name} ({why})") if why else (f"{name} (3)", name))
    assert drawing.caption.count(f" {why.capitalize()}: {name}.") == (why != "")


@pytest.mark.parametrize(("n", "words"), [(1, "One seed each, "), (3, "Mean over seeds, ")])
def test_a_caption_says_a_mean_only_where_there_are_several_seeds(n: int, words: str) -> None:
    board = additive_board({("a", lr): 0.5 + 0.1 * lr for lr in (1.0, 2.0, 3.0)})
    board = dataclasses.replace(
        board, rows=tuple(dataclasses.replace(r, score=dataclasses.replace(r.score, n=n)) for r in board.rows)
    )
    assert draw_along("lr", None, board).caption.startswith(words) and draw_ranking(board, None).caption.startswith(words)


def test_a_bar_of_an_effect_that_would_be_the_whole_scale_is_none() -> None:
    cells = {("a", 1.0): 0.5, ("b", 1.0): 0.6, ("a", 2.0): 0.7, ("b", 2.0): 0.4}
    board = additive_board(cells)
    (effect, _) = measure_effects(board).matched
    assert effect.half is not None and effect.half > 1
    assert np.isnan(_bars(effect, board)).all(), "not of no length, as that of a certain mean"


def test_a_missing_cell_of_a_heat_map_is_absent() -> None:
    (found,) = make_heat_maps(additive_board({("a", 1.0): 0.5, ("b", 2.0): 0.6}), "arch", "lr")
    assert set(found.cells) == {("a", 1.0), ("b", 2.0)}


def test_what_is_the_best_of_unlike_values_says_so() -> None:
    """arch b was tried at one lr alone: the best of each arch is not the best over the same lr."""
    whole = {(arch, lr): 0.5 for arch in "ab" for lr in (1.0, 2.0)}
    assert best_over(additive_board(whole), "arch") == " Of those that differ only in lr, the best by validation accuracy."
    sought = dataclasses.replace(additive_board(whole), objective="val_loss")  # beside accuracies, which did not choose
    assert best_over(sought, "arch").endswith("the best by validation loss.")
    holed = best_over(additive_board({key: whole[key] for key in list(whole)[:3]}), "arch")
    assert "Not each was chosen from the same values" in holed and "tried" not in holed, "a filter may hide one"
    assert best_over(additive_board(whole), "arch", "lr") == ""
    board = additive_board(whole)
    lost = dataclasses.replace(board, rows=(*board.rows[:3], dataclasses.replace(board.rows[3], score=None)))
    assert best_over(lost, "arch").endswith("Not all of these values have a number for each."), "nothing tells why"


def test_bars_of_a_loss_end_at_nothing() -> None:
    """Two lines far apart leave a wide interval, which is no reason to draw a loss below 0."""
    losses = {("a", 1.0): 0.1, ("a", 2.0): 0.2, ("b", 1.0): 3.0, ("b", 2.0): 0.1}
    board = dataclasses.replace(additive_board(losses), objective="val_loss")
    figure = draw_effects(measure_effects(board), board).figure
    lines = [segment for axes in figure.axes for held in axes.collections for segment in held.get_segments()]
    assert lines
    assert min(float(point[1]) for line in lines for point in line) >= 0
