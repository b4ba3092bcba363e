"""Curves, comparisons, calibration and the ledger against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import Images, configs, measure, write_plan, write_trial
from cifar_hpc.collect.comparison import compare_points, compare_with_best
from cifar_hpc.collect.curves import band_of, make_curve_grid
from cifar_hpc.collect.diagnosis import diagnose, measure_reliability
from cifar_hpc.collect.effects import make_freezing_curves
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.ledger import Entry, Ledger
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import chosen_sections, make_sections
from cifar_hpc.collect.statistics import Estimate, within
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.metrics import macro_f1
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_record
from cifar_hpc.report.caveats import covers_text
from cifar_hpc.report.comparisons import hours_table
from cifar_hpc.report.explore import explorable
from cifar_hpc.report.figures_ranking import draw_ranking
from cifar_hpc.report.findings import find
from cifar_hpc.report.page_tables import ledger_table
from cifar_hpc.report.summary import best_text, headline, in_short
from cifar_hpc.report.tables import leaderboard_columns

IMAGES = Images.draw(500, 100)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_a_band_of_losses_that_run_away_is_no_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        band = band_of(np.array([[1.0, 1e25], [1.1, 3e25]], np.float32), 0.0, (0.0, math.inf))
    assert float(band.mean[1]) == pytest.approx(2e25)


def test_an_interval_ends_where_its_number_cannot_be_beyond(layout: Layout) -> None:
    """Two seeds far apart leave a wide one, of a difference of shares too: -9 to +119 pp is none."""
    for config, accuracy in zip(configs(4, seeds=2, epochs=2), (0.85, 0.75, 0.25, 0.25), strict=True):
        write_trial(layout, config, IMAGES, accuracy=accuracy)
    one, other = make_leaderboard(scan(layout)).rows
    for first, second in ((one, other), (other, one)):
        found = compare_points(first, second, layout)
        assert found.low is not None and found.high is not None and found.error is not None and found.error > 0.04
        assert -1 <= found.low < found.difference < found.high <= 1 and 1 in (-found.low, found.high)
    high = band_of(np.array([[0.7], [0.9], [0.9]], np.float32), 0.0, OBJECTIVES["val_acc"].bounds)
    assert float(high.low[0]) == pytest.approx(0.546, abs=1e-3) and float(high.high[0]) == 1.0
    far = band_of(np.array([[0.1], [0.9], [0.9]], np.float32), 0.0, OBJECTIVES["val_acc"].bounds)
    assert np.isnan(far.low[0]) and np.isnan(far.high[0]), "the whole scale says nothing"
    assert OBJECTIVES["val_loss"].bounds == (0.0, math.inf) and OBJECTIVES["val_loss"].difference_bounds[1] == math.inf
    of_own = Estimate(3.0, 3, low=-2.0, high=8.0)  # of who says share and measures none
    assert within(of_own, (0.0, 1.0)) == of_own


def test_the_points_tied_with_the_best_are_found_on_the_same_images(layout: Layout) -> None:
    trials = list(configs(9, seeds=3, epochs=2))
    for config, accuracy in zip(trials, [0.9] * 6 + [0.6] * 3, strict=True):
        write_trial(layout, config, IMAGES, accuracy=accuracy)
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert [found.decision(row.point_id) for row in board.rows] == ["best", "tied", "worse"]
    assert found.optimism is not None
    assert found.optimism < 0.02
    assert not found.of_networks
    chosen = compare_points(board.rows[0], board.rows[2], layout, "test")
    assert (chosen.test, chosen.difference > 0.1) == ("paired t-test over their own seeds and the images", True)


def test_of_one_seed_each_only_two_networks_are_compared_and_nothing_is_tied(layout: Layout) -> None:
    for config, accuracy in zip(configs(3, seeds=1, epochs=2), (0.9, 0.8, 0.7), strict=True):
        write_trial(layout, config, IMAGES, accuracy=accuracy)
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert [found.decision(row.point_id) for row in board.rows] == ["best", "not tested", "not tested"]
    assert [d.networks for d in found.differences.values()] == [True]
    assert found.of_networks


def test_what_is_ranked_is_what_is_tested(layout: Layout) -> None:
    """By the loss the unsure one is best, though it is right less often: the test is of the loss and says the same."""
    trials = list(configs(6, seeds=3, epochs=2))
    for config, accuracy in zip(trials, [0.9] * 3 + [0.7] * 3, strict=True):
        config = dataclasses.replace(config, objective="val_loss")
        result = write_trial(layout, config, IMAGES, accuracy=accuracy)
        files = layout.trial(config.trial_id)
        arrays = dict(np.load(files.predictions))
        arrays["val_logits"] = arrays["val_logits"] * np.float16(40 if accuracy == 0.9 else 0.4)
        np.savez(files.predictions, **arrays)
        val = dataclasses.replace(result.val, loss=measure(arrays["val_logits"], arrays["val_labels"]).loss)
        write_record(files.result, dataclasses.replace(result, val=val))
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert board.rows[0].val_acc.mean < board.rows[1].val_acc.mean
    difference = found.differences[board.rows[1].point_id]
    scores = [row.score.mean for row in board.rows]
    assert difference.difference == pytest.approx(scores[1] - scores[0], rel=0.01)
    assert difference.better


def test_seeds_are_paired_by_their_numbers(layout: Layout) -> None:
    """Of (0, 1, 2) and (1, 2, 3) the common ones are compared: 1 with 1 and 2 with 2."""
    one, other = (dataclasses.replace(next(configs(1, 1, 2)), lr=lr) for lr in (0.01, 0.1))
    for seed, accuracy in ((0, 0.5), (1, 0.9), (2, 0.7)):
        write_trial(layout, dataclasses.replace(one, seed=seed), IMAGES, accuracy=accuracy)
    for seed, accuracy in ((1, 0.85), (2, 0.65), (3, 0.99)):
        write_trial(layout, dataclasses.replace(other, seed=seed), IMAGES, accuracy=accuracy)
    rows = {row.config["lr"]: row for row in make_leaderboard(scan(layout)).rows}
    found = compare_points(rows[0.01], rows[0.1], layout)
    assert found.difference == pytest.approx(0.05, abs=0.015) and found.test.endswith("of the 2 seeds that both have")
    lone = dataclasses.replace(one, lr=0.5, seed=7)
    write_trial(layout, lone, IMAGES, accuracy=0.9)
    rows = {row.config["lr"]: row for row in make_leaderboard(scan(layout)).rows}
    with pytest.raises(CifarHpcError, match="seeds are paired by number"):
        compare_points(rows[0.01], rows[0.5], layout)


def test_the_end_of_what_a_sweep_tried_is_told_of_the_sweep_and_not_of_what_a_filter_shows(layout: Layout) -> None:
    base = next(configs(1, 1, 2))
    for lr, accuracy in ((0.001, 0.3), (0.01, 0.5), (0.1, 0.9), (1.0, 0.4)):
        for seed in range(3):
            write_trial(layout, dataclasses.replace(base, lr=lr, seed=seed), IMAGES, accuracy=accuracy)
    (part,) = chosen_sections(layout, [], "lr<=0.1")
    assert part.board.values("lr") == (0.001, 0.01, 0.1) and part.board.measured[0].config["lr"] == 0.1
    assert not any("largest value tried" in line for line in in_short(find(part, layout)))
    all_tried = dataclasses.replace(part, board=dataclasses.replace(part.board, tried={}))
    assert any("lr=0.1 is the largest value tried" in line for line in in_short(find(all_tried, layout)))


def test_only_values_that_something_measured_count_as_tried(layout: Layout) -> None:
    """A sweep that was killed after its first configuration was told to look beyond the smallest rate tried."""
    base = next(configs(1, 1, 2))
    trials = [dataclasses.replace(base, lr=lr, seed=seed) for lr in (0.01, 0.1, 1.0) for seed in range(3)]
    write_plan(layout, trials, "killed")
    for n, told in ((3, False), (7, False), (9, True)):
        for config, accuracy in zip(trials[:n], (0.9,) * 3 + (0.6,) * 6, strict=False):
            write_trial(layout, config, IMAGES, accuracy=accuracy)
        (section,) = chosen_sections(layout, ["killed"], "")
        assert any("value tried" in line for line in in_short(find(section, layout))) is told, n


def test_points_of_other_images_are_never_compared(layout: Layout) -> None:
    one, other = list(configs(2, seeds=1, epochs=2))
    write_trial(layout, one, IMAGES)
    write_trial(layout, other, Images.draw(400, 100))
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert (found.differences, list(found.untested.values())) == ({}, ["measured on other images"])
    with pytest.raises(CifarHpcError, match="did not classify the same val images"):
        compare_points(*board.rows, layout)


def test_the_page_says_that_intervals_of_other_objectives_than_accuracy_leave_out_the_images(layout: Layout) -> None:
    for config, objective in zip(configs(2, seeds=1, epochs=2), ("val_acc", "val_loss"), strict=True):
        write_trial(layout, dataclasses.replace(config, objective=objective), IMAGES, accuracy=0.7)
    accuracy, loss = sorted(scan(layout).trials, key=lambda trial: str(trial.config["objective"]))
    assert "Those of other objectives" in covers_text([accuracy, loss])
    assert "Those of other objectives" not in covers_text([accuracy])
    own = dataclasses.replace(accuracy, config={**accuracy.config, "dataset.split_seed": "seed"}, own_val=None)
    of_all = " A trial's validation figure is that of its best epoch"  # said once, after what is said of each kind
    of_own, of_one = (covers_text([each]).partition(of_all)[0] for each in (own, accuracy))
    assert covers_text([accuracy, own]).partition(of_all)[0] == (
        f"Of configurations whose seeds have splits of their own: {of_own} Of those on one split: {of_one}"
    )
    assert covers_text([accuracy, own]).count(of_all) == 1


def test_another_objective_has_the_digits_of_its_images_and_an_interval_that_says_what_it_leaves_out(layout: Layout) -> None:
    few = Images.draw(60, 60)
    for config in configs(6, seeds=3, epochs=2):
        config = dataclasses.replace(config, objective="macro_f1")
        write_trial(layout, config, few, accuracy=0.7)
        files = layout.trial(config.trial_id)
        record = json.loads(files.result.read_text())
        del record["digest"]
        for split in ("val", "test"):
            found = read_predictions(files, split)
            assert found is not None
            record[split]["more"] = {"macro_f1": macro_f1(found.logits, found.labels)}
        files.result.write_text(json.dumps(record))
    found = find(make_sections(scan(layout), layout)[0], layout)
    best = found.board.rows[0]
    assert best.score is not None and best.test_score is not None and best.val_acc is not None
    assert best.score.images == 60 and not best.score.of_images and best.val_acc.of_images
    cells = {column.title: column.text(best) for column in leaderboard_columns(found.board)}
    assert re.fullmatch(r"\d\d ± \d+ \(3\)", cells["val macro F1 %"]) and re.fullmatch(
        r"\d\d ± \d+ \(3\)", cells["test macro F1 %"]
    )
    told = best_text(found.board)
    assert re.search(
        r": \d\d % validation macro F1 \(mean of 3 seeds, \d\d to \d\d without the luck of the images\), accuracy \d\d % on va",
        told,
    )
    drawn = draw_ranking(found.board, found.comparison)
    assert "which counts the luck of the seeds and not that of the images" in drawn.caption
    explored = explorable(found.pool, found.board)
    assert explored["decimals"] == 0 and explored["points"][0][5] == pytest.approx(best.test_score.mean, abs=1e-5)


def test_what_was_measured_on_other_images_stands_in_a_section_of_its_own(layout: Layout) -> None:
    """Two folders with as many images of as many classes, and two splits of one data set; folders go by their names."""
    base = dataclasses.replace(next(configs(1, 1, 2)), weights="imagenet")
    for name, mark in (("ants_bees", "a"), ("cats_dogs", "b")):
        dataset = DatasetConfig(name="folder", folder=f"/home/ann/{name}", fingerprint=mark * 64)
        write_trial(layout, dataclasses.replace(base, dataset=dataset), IMAGES)
    moved = DatasetConfig(name="folder", folder="/scratch/ants_bees", fingerprint="a" * 64)
    write_trial(layout, dataclasses.replace(base, dataset=moved, lr=0.5), IMAGES)
    for split_seed in (0, 1):
        write_trial(layout, dataclasses.replace(base, dataset=DatasetConfig(name="cifar10", split_seed=split_seed)), IMAGES)
    sections = {section.name: section.board for section in make_sections(scan(layout), layout)}
    assert set(sections) == {"ants_bees", "cats_dogs", "cifar10, split_seed 0", "cifar10, split_seed 1"}
    assert [len(board.rows) for board in sections.values()] == [2, 1, 1, 1]
    assert sections["ants_bees"].axes == ("lr",)
    everyone = make_leaderboard(scan(layout))
    assert not [axis for axis in everyone.axes if "fingerprint" in axis]
    by_set = {row.config["dataset"]: row for row in everyone.rows}
    with pytest.raises(CifarHpcError, match=r"^no record says that .* classified the same val images:"):
        compare_points(by_set["ants_bees"], by_set["cats_dogs"], layout)  # one may be a copy of the other that has grown


def test_a_curve_is_the_mean_over_seeds_with_its_interval(layout: Layout) -> None:
    trials = list(configs(3, seeds=3, epochs=4))
    results = [write_trial(layout, config, IMAGES) for config in trials]
    pool = scan(layout)
    grid = make_curve_grid(pool, make_leaderboard(pool), None, None, None)
    band = grid.panels[None, None][None].bands["val_acc"]
    values = np.array([[epoch.val_acc for epoch in result.curves] for result in results], float)
    assert band.mean.tolist() == pytest.approx(values.mean(0).tolist(), abs=1e-6)
    half = 4.302653 * values.std(0, ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert band.low.tolist() == pytest.approx((values.mean(0) - half).tolist(), abs=1e-5)
    solved = dataclasses.replace(trials[0], classifier="svm", freeze="all")
    write_trial(layout, solved, IMAGES)
    pool = scan(layout)
    board = make_leaderboard(pool)
    drawn = make_curve_grid(pool, board, None, None, "classifier").panels[None, None]
    shown = {trial_id for _, _, trial_id in explorable(pool, board)["trials"]}
    assert set(drawn) == {"linear"} and solved.trial_id not in shown, "one that is solved has no curve"


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
    for freeze in ("none", "all"):
        write_trial(layout, dataclasses.replace(scratch, arch="net.py:own", freeze=freeze), IMAGES)
    own = next(one for one in make_freezing_curves(make_leaderboard(scan(layout))) if one.arch == "net.py:own")
    assert own.scratch is None and len(own.points) == 2, "one's own network may bring its weights"


def test_calibration_error_is_the_weighted_gap_of_confidence_and_accuracy() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55])
    right = np.array([True, True, True, False, True])
    assert measure_reliability(confidence, right).ece == pytest.approx(4 / 5 * 0.20 + 1 / 5 * 0.45)


def test_the_confusion_matrix_counts_true_against_taken_for() -> None:
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05], [0.3, 0.6, 0.1]], np.float32))
    found = diagnose(SplitPredictions(logits, np.array([0, 1, 1, 0]), np.array([10, 11, 12, 13])), ("cat", "dog", "ship"))
    assert found.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    recall = {name: scores.recall for name, scores in found.scores.items()}
    assert recall == {"cat": 0.5, "dog": 0.5}  # no ship was there: absent, not zero
    assert set(found.confusions) == {("cat", "dog", 1), ("dog", "cat", 1)}
    assert found.confident_errors[0] == (12, "dog", "cat", pytest.approx(0.9))


def test_what_sweeps_cost_adds_up_to_every_hour_once(layout: Layout) -> None:
    """In the ledger, its table, the cost in words and the hours by axis: what came through the pool was cost and saved."""
    trials = list(configs(4, seeds=2, epochs=3))
    results = [write_trial(layout, config, IMAGES, sweep=name) for config, name in zip(trials, "abab", strict=True)]
    hours = [2.0, 3.0, 5.0, 7.0]
    for result, n in zip(results, hours, strict=True):
        write_record(layout.trial(result.trial_id).result, dataclasses.replace(result, train_s=3600 * n))
    cost: dict[str, float] = {}
    for name, chosen in (("a", trials[::2]), ("b", trials), ("c", trials[::2])):
        write_plan(layout, chosen, name)
        found = find(make_sections(scan(layout, [name]), layout)[0], layout)
        ledger, told = found.ledger, [row for table in ledger_table(found) for row in table.rows]
        cost[name] = ledger.hours("cuda")
        assert sum(float(row[3]) for row in told if "not in the above" not in row[1]) == cost[name]
        assert sum(entry.hours for entry in ledger.by_axis["arch"].values()) == cost[name]
        assert (hours_table(found) == []) is (name == "c")
        others = [row[2:] for row in told if row[1] == "trained by other sweeps, not in the above"]
        assert others == ([] if name == "a" else [("2", "7.0")])
        said = "2 trials came through the pool from other sweeps, which spent 7.0 GPU-hours on them."
        expected = {
            "a": "Training took 7.0 GPU-hours.",
            "b": f"Training took 10.0 GPU-hours. {said}",
            "c": f"Nothing was trained here. {said}",
        }
        assert expected[name] in headline(found)
    assert sum(cost.values()) == sum(hours)


def test_hours_of_unlike_devices_are_never_added_by_axis_either(layout: Layout) -> None:
    trials = list(configs(4, seeds=2, epochs=3))
    for config, device in zip(trials, ("cuda", "cpu", "cuda", "cpu"), strict=True):
        result = write_trial(layout, config, IMAGES, sweep="a")
        on = dataclasses.replace(result.hardware, device=device)
        write_record(layout.trial(result.trial_id).result, dataclasses.replace(result, hardware=on, train_s=3600.0))
    write_plan(layout, trials, "a")
    (table,) = hours_table(find(make_sections(scan(layout, ["a"]), layout)[0], layout))
    assert table.header == ("axis", "value", "device", "trials", "hours")
    assert {(device, n, hours) for _, _, device, n, hours in table.rows} == {("GPU", "1", "1.0"), ("CPU", "1", "1.0")}


def test_the_ledger_shows_what_killed_attempts_lost_and_cohorts_saved_only_where_measured(layout: Layout) -> None:
    trials = list(configs(4, seeds=2, epochs=3))
    results = [write_trial(layout, config, IMAGES, sweep="a") for config in trials]
    write_plan(layout, trials, "a")

    def tell() -> tuple[Ledger, list[str], str]:
        pool = scan(layout, ["a"])
        found = find(make_sections(pool, layout)[0], layout)
        return found.ledger, [row[1] for row in ledger_table(found)[0].rows], " ".join(headline(found))

    ledger, rows, text = tell()
    assert (ledger.lost, ledger.saved) == ({}, {})  # records of an older program, which have neither key
    assert not [row for row in rows if "lost with" in row or "saved by" in row] and "lost with attempts" not in text
    known = [{"lost_s": 3600.0, "saved_s": 36_000.0}, {"lost_s": 0.0, "saved_s": 1800.0}, {"lost_s": None, "saved_s": None}]
    for result, values in zip(results, known, strict=False):
        write_record(layout.trial(result.trial_id).result, dataclasses.replace(result, **values))
    ledger, rows, text = tell()
    assert (ledger.lost, ledger.saved) == ({"cuda": Entry(1, 1.0)}, {"cuda": Entry(2, 10.5)})
    assert ledger.hours("cuda") == pytest.approx(1 + sum(result.train_s for result in results) / 3600)
    assert rows[-2:] == [
        "lost with attempts that failed or were killed, not in the above",
        "saved by cohorts, not in the above",
    ]
    assert "1.0 of them lost with attempts that failed or were killed" in text
