"""Effects, curves, comparisons, calibration and the ledger against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.comparison import compare_points, compare_with_best
from cifar_hpc.collect.curves import make_curve_grid
from cifar_hpc.collect.diagnosis import diagnose, measure_reliability
from cifar_hpc.collect.effects import make_freezing_curves, make_heat_maps, measure_effects
from cifar_hpc.collect.leaderboard import Leaderboard, Row, make_leaderboard
from cifar_hpc.collect.ledger import Entry, Ledger, make_ledger
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_record
from cifar_hpc.report.findings import find
from cifar_hpc.report.page import ledger_table
from cifar_hpc.report.summary import headline

IMAGES = Images.draw(500, 100)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def additive_board(cells: dict[tuple[str, float], float]) -> Leaderboard:
    """A leaderboard of (arch, lr) -> score, without trials."""
    rows = tuple(
        Row(
            place=None, point_id=f"{arch}{lr}", axes={"arch": arch, "lr": lr}, config={}, trials=(), failed=(), unfinished=(),
            score=Estimate(score, 3, 0.01), val_acc=None, test_acc=None, gap=None, best_epoch=None, epochs=None,
            train_s=None, device_hours=0.0, pareto=False,
        )
        for (arch, lr), score in sorted(cells.items(), key=lambda cell: -cell[1])
    )  # fmt: skip
    return Leaderboard(objective="val_acc", axes=("arch", "lr"), rows=rows, image_sets=1)


def test_effects_of_an_unbalanced_grid_do_not_credit_one_axis_with_anothers_gain() -> None:
    """score = arch (a 0, b 0.10) + lr (1: 0, 2: 0.02); b was only run at lr 2, so plain means would give lr 0.06 too much."""
    cells = {("a", 1.0): 0.50, ("a", 2.0): 0.52, ("b", 2.0): 0.62, ("c", 1.0): 0.50, ("c", 2.0): 0.52}
    effects = measure_effects(additive_board(cells)).effects
    lr = {effect.value: effect.mean for effect in effects["lr"]}
    arch = {effect.value: effect.mean for effect in effects["arch"]}
    assert lr[2.0] - lr[1.0] == pytest.approx(0.02)
    assert arch["b"] - arch["a"] == pytest.approx(0.10)


def test_an_axis_that_another_determines_takes_none_of_its_importance() -> None:
    """lr follows arch: it is left out, and arch explains everything."""
    board = additive_board({("a", 1.0): 0.5, ("b", 1.0): 0.6, ("c", 2.0): 0.7})
    found = measure_effects(dataclasses.replace(board, rows=board.rows * 2))
    assert found.importance == pytest.approx({"arch": 1.0})


def test_of_axes_that_determine_each_other_the_one_of_numbers_leaves() -> None:
    board = additive_board({("a", 1.0): 0.5, ("b", 2.0): 0.6})
    assert measure_effects(dataclasses.replace(board, rows=board.rows * 2)).axes == ("arch",)
    assert measure_effects(additive_board({("a", 1.0): 0.5, ("a", 2.0): 0.6})).axes == ("lr",)


def test_a_rate_that_each_point_has_for_itself_takes_no_credit_and_hides_no_other_axis() -> None:
    found = measure_effects(additive_board({(arch, lr): 0.5 + lr for arch, lr in zip("ababa", (1.0, 2, 3, 4, 5), strict=True)}))
    assert found.axes == ("arch", "lr") and found.importance == {}


def test_an_interaction_is_what_the_additive_model_leaves_unexplained() -> None:
    board = additive_board({("a", 1.0): 0.0, ("a", 2.0): 1.0, ("b", 1.0): 1.0, ("b", 2.0): 0.0})
    assert measure_effects(board).interactions == {}  # four points for four numbers: anything would fit
    found = measure_effects(dataclasses.replace(board, rows=board.rows * 2))
    assert found.importance == pytest.approx({"arch": 0.0, "lr": 0.0}, abs=1e-9)
    assert found.interactions == pytest.approx({("arch", "lr"): 1.0})


def test_a_missing_cell_of_a_heat_map_is_absent() -> None:
    (found,) = make_heat_maps(additive_board({("a", 1.0): 0.5, ("b", 2.0): 0.6}), "arch", "lr")
    assert set(found.cells) == {("a", 1.0), ("b", 2.0)}


def test_the_points_tied_with_the_best_are_found_on_the_same_images(layout: Layout) -> None:
    trials = list(configs(9, seeds=3, epochs=2))
    for config, accuracy in zip(trials, [0.9] * 6 + [0.6] * 3, strict=True):
        write_trial(layout, config, IMAGES, accuracy=accuracy)
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert [found.tied(row.point_id) for row in board.rows] == [True, True, False]
    assert found.optimism is not None
    assert found.optimism < 0.02
    worst = compare_points(board.rows[0], board.rows[2], layout, "test")
    assert worst.low is not None
    assert worst.low > 0.1


def test_points_of_other_images_are_never_compared(layout: Layout) -> None:
    one, other = list(configs(2, seeds=1, epochs=2))
    write_trial(layout, one, IMAGES)
    write_trial(layout, other, Images.draw(400, 100))
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert found.differences == {}
    with pytest.raises(CifarHpcError, match="did not classify the same val images"):
        compare_points(*board.rows, layout)


@pytest.mark.parametrize("damage", ["torn", "missing", "of another trial"])
def test_predictions_that_do_not_fit_the_record_are_named(layout: Layout, damage: str) -> None:
    config, other = list(configs(2, seeds=2, epochs=2))
    result = write_trial(layout, config, IMAGES, accuracy=0.9)
    write_trial(layout, other, IMAGES, accuracy=0.5)
    files = layout.trial(config.trial_id)
    if damage == "torn":
        files.predictions.write_bytes(files.predictions.read_bytes()[:500])
    elif damage == "missing":
        files.predictions.unlink()
    else:
        files.predictions.write_bytes(layout.trial(other.trial_id).predictions.read_bytes())
    assert result.val
    with pytest.raises(RecordError, match=r"predictions\.npz"):
        read_predictions(files, "val", result.val.acc)
    found = compare_with_best(make_leaderboard(scan(layout)), layout)
    assert found is not None
    assert len(found.unreadable) == 1


def test_a_curve_is_the_mean_over_seeds_and_its_band_spans_them(layout: Layout) -> None:
    trials = list(configs(3, seeds=3, epochs=4))
    results = [write_trial(layout, config, IMAGES) for config in trials]
    pool = scan(layout)
    grid = make_curve_grid(pool, make_leaderboard(pool), None, None, None)
    band = grid.panels[None, None][None].bands["val_acc"]
    values = np.array([[epoch.val_acc for epoch in result.curves] for result in results], float)
    assert band.mean.tolist() == pytest.approx(values.mean(0).tolist(), abs=1e-6)
    assert band.low.tolist() == pytest.approx(values.min(0).tolist(), abs=1e-6)


def test_the_freezing_curve_keeps_what_was_trained_from_scratch_apart(layout: Layout) -> None:
    (base,) = configs(1, seeds=1, epochs=2)
    for freeze in ("none", 0.5, "all"):
        write_trial(layout, dataclasses.replace(base, freeze=freeze), IMAGES)
    scratch = dataclasses.replace(base, weights=None)
    write_trial(layout, scratch, IMAGES)
    (curve,) = make_freezing_curves(make_leaderboard(scan(layout)))
    assert [share for share, _ in curve.points] == [0.0, 0.5, 1.0]
    assert curve.scratch is not None
    assert curve.scratch.point_id == scratch.point_id


def test_calibration_error_is_the_weighted_gap_of_confidence_and_accuracy() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55])
    right = np.array([True, True, True, False, True])
    assert measure_reliability(confidence, right).ece == pytest.approx(4 / 5 * 0.20 + 1 / 5 * 0.45)


def test_the_confusion_matrix_counts_true_against_taken_for() -> None:
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05], [0.3, 0.6, 0.1]], np.float32))
    found = diagnose(SplitPredictions(logits, np.array([0, 1, 1, 0]), np.array([10, 11, 12, 13])), ("cat", "dog", "ship"))
    assert found.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert found.class_accuracy == {"cat": 0.5, "dog": 0.5}  # no ship was there: absent, not zero
    assert set(found.confusions) == {("cat", "dog", 1), ("dog", "cat", 1)}
    assert found.confident_errors[0] == (12, "dog", "cat", pytest.approx(0.9))


def test_the_ledger_adds_every_hour_once_and_names_what_the_pool_saved(layout: Layout) -> None:
    trials = list(configs(4, seeds=2, epochs=3))
    results = [write_trial(layout, config, IMAGES, sweep=name) for config, name in zip(trials, "aabb", strict=True)]
    write_plan(layout, trials, "b")
    pool = scan(layout, ["b"])
    ledger = make_ledger(pool, make_leaderboard(pool))
    hours = [result.train_s / 3600 for result in results]
    assert ledger.hours("cuda") == pytest.approx(sum(hours))
    assert (ledger.reused.trials, ledger.reused.hours) == (2, pytest.approx(sum(hours[:2])))
    assert sum(entry.hours for entry in ledger.by_axis["arch"].values()) == pytest.approx(sum(hours))


def test_the_ledger_shows_what_killed_attempts_lost_and_cohorts_saved_only_where_measured(layout: Layout) -> None:
    trials = list(configs(4, seeds=2, epochs=3))
    results = [write_trial(layout, config, IMAGES, sweep="a") for config in trials]
    write_plan(layout, trials, "a")

    def tell() -> tuple[Ledger, list[str], str]:
        pool = scan(layout, ["a"])
        found = find(pool, make_leaderboard(pool), layout)
        return found.ledger, [row[1] for row in ledger_table(found).rows], " ".join(headline(found))

    ledger, rows, text = tell()
    assert (ledger.lost, ledger.saved) == ({}, {})  # records of an older program, which have neither key
    assert not [row for row in rows if "lost to" in row or "saved by" in row] and "lost to preemption" not in text
    known = [{"lost_s": 3600.0, "saved_s": 36_000.0}, {"lost_s": 0.0, "saved_s": 1800.0}, {"lost_s": None, "saved_s": None}]
    for result, values in zip(results, known, strict=False):
        write_record(layout.trial(result.trial_id).result, dataclasses.replace(result, **values))
    ledger, rows, text = tell()
    assert (ledger.lost, ledger.saved) == ({"cuda": Entry(1, 1.0)}, {"cuda": Entry(2, 10.5)})
    assert ledger.hours("cuda") == pytest.approx(1 + sum(result.train_s for result in results) / 3600)
    assert rows[-2:] == ["lost to preemption, not in the above", "saved by cohorts, not in the above"]
    assert "1.0 of them lost to preemption" in text


def test_of_fewer_points_than_coefficients_no_axis_is_given_the_credit() -> None:
    cells = {("a", 1.0): 0.5, ("b", 1.0): 0.6, ("a", 2.0): 0.9}
    assert measure_effects(additive_board(cells)).importance == {}
    assert set(measure_effects(additive_board({**cells, ("b", 2.0): 0.7})).importance) == {"arch", "lr"}
