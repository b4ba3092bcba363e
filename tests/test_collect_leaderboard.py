"""The ranking against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.comparison import CUT, FAR_BELOW, Comparison, compare_with_best
from cifar_hpc.collect.leaderboard import Leaderboard, make_leaderboard
from cifar_hpc.collect.ledger import Entry, Ledger
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.collect.statistics import Difference
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.trial import StopConfig, TrialConfig
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import Outcome
from cifar_hpc.records.store import write_record
from cifar_hpc.report.caveats import caveats
from cifar_hpc.report.figures_effects import draw_along, draw_parallel
from cifar_hpc.report.findings import find
from cifar_hpc.report.summary import _cheapest, best_text, certainty_text, cost_text, in_short
from cifar_hpc.report.tables import leaderboard_records, leaderboard_text, seeds_text
from cifar_hpc.status.advice import reasons_of
from cifar_hpc.status.progress import best_point
from cifar_hpc.status.state import read_states

BASE = TrialConfig(dataset=DatasetConfig(name="cifar10"), arch="resnet18", epochs=3)
IMAGES = Images.draw(100, 50)


def write(
    layout: Layout, config: TrialConfig, val: float | None, test: float = 0.5, loss: float = 1.0, **values: object
) -> None:
    """A finished trial whose validation and test accuracy are these. val None: it diverged at once."""
    write_trial(layout, config, IMAGES, sweep="s")
    path = layout.trial(config.trial_id).result
    record = json.loads(path.read_text())
    del record["digest"]
    if val is None:
        record |= {"best_epoch": None, "train": None, "val": None, "test": None, "outcome": "diverged"}
    else:
        record["train"]["acc"] = min(val + 0.05, 1.0)
        record["curves"][record["best_epoch"] - 1] |= {"val_acc": val, "train_acc": record["train"]["acc"]}
        record["val"] |= {"acc": val, "loss": loss}
        record["test"]["acc"] = test
    path.write_text(json.dumps(record | values))


def board_of(layout: Layout, results: dict[float, list[float | None]], planned_seeds: int | None = None) -> Leaderboard:
    """A sweep over lr: for each, the validation accuracy of its seeds 0, 1, ..."""
    trials = []
    for lr, accuracies in results.items():
        for seed in range(planned_seeds or len(accuracies)):
            trials.append(dataclasses.replace(BASE, lr=lr, seed=seed))
            if seed < len(accuracies):
                write(layout, trials[-1], accuracies[seed])
    write_plan(layout, trials, "s")
    return make_leaderboard(scan(layout, ["s"]))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_points_are_ranked_by_the_mean_over_seeds_not_by_the_best_seed(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.90, 0.60, 0.60], 0.2: [0.80, 0.81, 0.82], 0.3: [0.70, 0.71, 0.72]})
    assert [(row.place, row.axes["lr"]) for row in board.rows] == [(1, 0.2), (2, 0.3), (3, 0.1)]
    first = board.rows[0].val_acc
    assert first
    assert first.sd is not None
    assert first.low is not None
    assert (first.mean, first.sd, first.n) == pytest.approx((0.81, 0.01, 3))
    assert first.low == pytest.approx(
        0.7222, abs=1e-3
    )  # Wilson's of 81 of 100 images, further than seeds and images by themselves
    assert board.claims_ranking
    assert board.rows[0].label == "lr=0.2"


def test_fewer_than_three_seeds_claim_no_place(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.8, 0.9], 0.2: [0.7, 0.7, 0.7]})
    assert [row.place for row in board.rows] == [None, 1]  # a place among those that may claim one
    assert not board.claims_ranking


def test_a_row_that_has_its_seeds_is_not_said_to_lack_them_where_the_best_does(layout: Layout) -> None:
    write_trial(layout, BASE, IMAGES, accuracy=0.9)
    others = [dataclasses.replace(BASE, lr=0.2, seed=seed) for seed in range(3)]
    for config in others:
        write_trial(layout, config, IMAGES, accuracy=0.5)
    write_plan(layout, [BASE, *others], "s")
    comparison = compare_with_best(make_leaderboard(scan(layout, ["s"])), layout)
    assert comparison and comparison.untested == {others[0].point_id: "3 seeds or folds of each are needed"}


def test_what_a_part_of_its_seeds_measured_stands_below_the_complete_however_high(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.99], 0.2: [0.80, 0.81, 0.82], 0.3: [0.95, 0.97]}, planned_seeds=3)
    assert [(row.axes["lr"], row.partial, row.place) for row in board.rows] == [
        *((0.2, False, 1), (0.1, True, None), (0.3, True, None)),
    ]
    assert [row["val_acc"] for row in leaderboard_records(board)] == [0.81, 0.99, 0.96]
    shown = next(column for column in leaderboard_text(board)[0] if column.title == "val acc %")
    assert [cell.rpartition("(")[2] for cell in shown.cells] == ["3)", "1 of 3)", "2 of 3)"]
    told = "Below the others, whatever the numbers: 2 configurations measured by a part of the seeds only."
    assert caveats(scan(layout, ["s"]), board)[0] == told
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    assert best is not None and best.name == "lr=0.2" and best.score.endswith("(mean of 3)")


def test_the_best_of_several_that_measured_the_same_is_said_to_equal_them(layout: Layout) -> None:
    board_of(layout, {0.1: [0.9, 0.9], 0.2: [0.9, 0.9], 0.3: [0.8, 0.8]})
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    assert best is not None and best.score.endswith("(mean of 2), equal to 1 other")


def test_equals_have_one_order_in_a_sweep_in_the_whole_pool_and_at_a_sweeps_end(layout: Layout) -> None:
    board = board_of(layout, {lr: [0.9, 0.9] for lr in (0.5, 0.1, 0.4, 0.2, 0.3)})
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    pool = make_leaderboard(scan(layout))
    assert [row.point_id for row in pool.rows] == [row.point_id for row in board.rows]
    assert best is not None and best.name == board.rows[0].label


def test_a_configuration_without_a_value_on_any_axis_is_not_called_the_only_one(layout: Layout) -> None:
    write(layout, BASE, 0.9)
    write(layout, dataclasses.replace(BASE, stop=StopConfig(patience=3)), 0.8)
    assert [row.label for row in make_leaderboard(scan(layout)).rows] == ["stop.patience=-", "stop.patience=3"]


def test_no_interval_of_a_loss_ends_below_none(layout: Layout) -> None:
    for seed, loss in enumerate((0.01, 0.02, 0.2)):
        write(layout, dataclasses.replace(BASE, seed=seed, objective="val_loss"), 0.5, loss=loss)
    score = make_leaderboard(scan(layout)).rows[0].score
    assert score is not None and score.low == 0.0


def test_what_diverged_is_not_the_best_of_a_sweep_that_runs_nor_of_its_report(layout: Layout) -> None:
    trials = [dataclasses.replace(BASE, lr=lr) for lr in (1.0, 0.1)]
    write(layout, trials[0], 0.95, outcome="diverged")
    write(layout, trials[1], 0.6)
    write_plan(layout, trials, "s")
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    assert best is not None and best.name == make_leaderboard(scan(layout, ["s"])).rows[0].label == "lr=0.1"


def test_means_that_differ_by_the_order_of_adding_alone_are_equal(layout: Layout) -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 to the last digit: fewer trained parameters put one first, here the id."""
    boards = [board_of(layout, {lr: [0.1, 0.2, 0.3][:: 1 if lr < 0.3 else -1] for lr in (0.1, 0.2, 0.3, 0.4)})]
    assert [row.point_id for row in boards[0].rows] == sorted(row.point_id for row in boards[0].rows)
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    assert best is not None and best.equals == 3


def test_one_finished_fold_does_not_win_by_its_luck(layout: Layout) -> None:
    trials = []
    for lr, accuracies in {0.1: [0.99], 0.2: [0.80, 0.82]}.items():
        for fold in (1, 2):
            dataset = dataclasses.replace(BASE.dataset, folds=2, fold=fold)
            trials.append(dataclasses.replace(BASE, lr=lr, dataset=dataset))
            if fold <= len(accuracies):
                write(layout, trials[-1], accuracies[fold - 1])
    write_plan(layout, trials, "s")
    whole, part = make_leaderboard(scan(layout, ["s"])).rows
    assert (whole.axes["lr"], whole.partial, part.partial) == (0.2, False, True)
    plan = read_plan(layout, "s")
    states = read_states(layout, [trial.trial_id for trial in plan.trials], [plan])
    assert str(best_point(plan, states)) == "lr=0.2  val acc 81.0 % (mean of 2)"
    waiting = dict.fromkeys(whole.trial_ids, states[trials[1].trial_id])
    alone = best_point(plan, {**states, **waiting})
    assert alone is not None and alone.score == "val acc 99.0 % (1 of 2)"


def test_the_best_says_how_many_of_its_seeds_measured_it_and_what_became_of_the_others(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.9, None, 0.9, None, 0.9], 0.2: [0.8] * 5})
    assert "(3 of 5 seeds, 2 diverged, " in best_text(board)
    shown = next(column for column in leaderboard_text(board)[0] if column.title == "val acc %")
    assert [cell.rpartition("(")[2] for cell in shown.cells] == ["3 of 5)", "5)"]
    plan = read_plan(layout, "s")
    states = read_states(layout, [trial.trial_id for trial in plan.trials], [plan])
    best = best_point(plan, states)
    assert best is not None and best.score == "val acc 90.0 % (3 of 5)"
    assert reasons_of(states.values())["diverged", "all 3 epochs"] == 2


def test_more_seeds_are_advised_only_where_fewer_than_three_were_asked_for(layout: Layout) -> None:
    def advice(name: str) -> str:
        (section,) = make_sections(scan(layout, [name]), layout)
        return " ".join(in_short(find(section, layout)))

    trials = [dataclasses.replace(BASE, lr=lr, seed=seed) for lr in (0.1, 0.2) for seed in range(3)]
    for trial in trials:
        write_trial(layout, trial, IMAGES, sweep="s")
    write_plan(layout, [trial for trial in trials if trial.seed == 0], "one")
    assert "seeds: 3" in advice("one")
    for trial in trials[1:3]:
        write(layout, trial, None)
    write_plan(layout, trials, "three")
    assert advice("three") and "seeds: 3" not in advice("three")


def test_what_a_search_cut_off_is_said_to_stand_below_and_is_no_rival_of_the_first(layout: Layout) -> None:
    for lr, accuracy in ((0.1, 0.6), (0.2, 0.9), (0.3, 0.5)):
        cut = {"outcome": "pruned"} if lr == 0.2 else {}
        write(layout, dataclasses.replace(BASE, lr=lr), accuracy, **cut)
    board = make_leaderboard(scan(layout))
    assert [row.axes["lr"] for row in board.rows] == [0.1, 0.3, 0.2]
    assert [row.axes["lr"] for row in board.rivals] == [0.1, 0.3]
    notes = " ".join(caveats(scan(layout), board))
    assert "Below the others, whatever the numbers: 1 configuration of which the search ended a trial early." in notes
    assert "in the order of their numbers" not in notes
    assert seeds_text(board.rows[2]) == "1 stopped by the search"
    ahead = {board.rows[1].point_id: Difference(-0.3, 0.01, "McNemar", networks=True)}  # as of one that was cut off
    assert ", is not behind: of" in certainty_text(board, Comparison(board.rows[0].point_id, ahead, {}, None, True))


def test_what_a_search_cut_off_is_not_called_cheap_to_train(layout: Layout) -> None:
    for seed in range(3):
        for lr, train_s in ((0.1, 100.0), (0.2, 60.0), (0.3, 1.0)):
            cut = {"outcome": "pruned"} if lr == 0.3 else {}
            write(layout, dataclasses.replace(BASE, lr=lr, seed=seed), 0.6, train_s=train_s, **cut)
    board = make_leaderboard(scan(layout))
    tied = dict.fromkeys((row.point_id for row in board.rows[1:]), Difference(0.0, 1.0, "t-test"))
    assert "a trial against" not in certainty_text(board, Comparison(board.rows[0].point_id, tied, {}, None, False))


def test_of_times_that_read_alike_none_is_called_the_cheapest(layout: Layout) -> None:
    for seed in range(3):
        for lr, train_s in ((0.1, 0.04), (0.2, 0.01)):
            write(layout, dataclasses.replace(BASE, lr=lr, seed=seed), 0.6, train_s=train_s)
    board = make_leaderboard(scan(layout))
    tied = dict.fromkeys((row.point_id for row in board.rows[1:]), Difference(0.0, 1.0, "t-test"))
    assert "a trial against" not in certainty_text(board, Comparison(board.rows[0].point_id, tied, {}, None, False))


def test_folds_of_unequal_size_have_one_mean_in_table_csv_and_sweep(layout: Layout) -> None:
    """That over all images, each counted once."""
    trials = []
    for fold, (accuracy, loss, images) in enumerate(((0.5, 1.0, 30), (1.0, 0.1, 10)), 1):
        dataset = dataclasses.replace(BASE.dataset, folds=2, fold=fold)
        trials.append(dataclasses.replace(BASE, objective="val_loss", dataset=dataset))
        write(layout, trials[-1], accuracy, loss=loss)
        path = layout.trial(trials[-1].trial_id).result
        record = json.loads(path.read_text())
        record["val"]["n"] = images
        path.write_text(json.dumps(record))
    write_plan(layout, trials, "s")
    (row,) = leaderboard_records(make_leaderboard(scan(layout, ["s"])))
    assert (row["val_acc"], row["val_loss"]) == (pytest.approx(0.625), pytest.approx(0.775))
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    assert best is not None and (best.metric, best.value) == ("val_acc", pytest.approx(0.625))


def test_a_point_whose_seeds_all_failed_or_diverged_stands_last_without_a_number(layout: Layout) -> None:
    board = board_of(layout, {0.1: [None, None, None], 0.2: [0.1, 0.1, 0.1], 0.3: []}, planned_seeds=3)
    assert [row.axes["lr"] for row in board.rows] == [0.2, 0.1, 0.3]
    assert [row.score is None for row in board.rows] == [False, True, True]
    assert (board.rows[1].diverged, len(board.rows[2].unfinished)) == (3, 3)


def test_a_point_of_which_every_trial_diverged_takes_no_place(layout: Layout) -> None:
    """Its best epoch was good, and then it was lost: it stands below what can be trained."""
    for seed in range(3):
        write(layout, dataclasses.replace(BASE, lr=1.0, seed=seed), 0.95, outcome="diverged")
        write(layout, dataclasses.replace(BASE, lr=0.1, seed=seed), 0.6)
    board = make_leaderboard(scan(layout))
    assert [(row.axes["lr"], row.place) for row in board.rows] == [(0.1, 1), (1.0, None)]
    told = "Below the others, whatever the numbers: 1 configuration of which every finished trial diverged."
    assert told in caveats(scan(layout), board)


def test_a_seed_that_diverged_counts_by_its_best_epoch_and_the_page_says_which_are_in_the_number(layout: Layout) -> None:
    trials = [dataclasses.replace(BASE, lr=lr, seed=seed) for lr in (0.1, 0.2, 0.3) for seed in range(4)]
    for trial in trials:
        value = None if (trial.lr, trial.seed) == (0.1, 3) else 0.6 + (trial.lr == 0.1) * 0.3
        lost = value is not None and (trial.lr == 0.3 or (trial.lr == 0.1 and trial.seed < 2))
        write(layout, trial, value, **({"outcome": "diverged"} if lost else {}))
    write_plan(layout, trials, "s")
    board = make_leaderboard(scan(layout, ["s"]))
    assert board.rows[0].score and (board.rows[0].score.n, board.rows[0].score.mean) == (3, pytest.approx(0.9))
    assert [seeds_text(row) for row in board.rows] == ["2 of these diverged, 1 diverged", "", "all 4 diverged"]
    assert "(3 of 4 seeds, 2 of these diverged, 1 diverged, " in best_text(board)
    assert any(
        note.startswith("A trial that diverged counts by its best epoch") for note in caveats(scan(layout, ["s"]), board)
    )


def test_a_missing_seed_is_counted_and_never_a_zero(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.8, 0.8, 0.8]}, planned_seeds=5)
    row = board.rows[0]
    assert row.score
    assert (row.score.n, row.score.mean, len(row.unfinished)) == (3, pytest.approx(0.8), 2)


def test_a_loss_as_the_objective_ranks_downwards(layout: Layout) -> None:
    for lr, loss in ((0.1, 0.5), (0.2, 0.3)):
        write(layout, dataclasses.replace(BASE, lr=lr, objective="val_loss"), 0.5, loss=loss)
    board = make_leaderboard(scan(layout))
    assert board.objective == "val_loss"
    assert [row.axes["lr"] for row in board.rows] == [0.2, 0.1]


def test_the_test_split_never_changes_the_order(layout: Layout) -> None:
    write(layout, dataclasses.replace(BASE, lr=0.1), 0.9, test=0.1)
    write(layout, dataclasses.replace(BASE, lr=0.2), 0.8, test=0.9)
    assert [row.axes["lr"] for row in make_leaderboard(scan(layout)).rows] == [0.1, 0.2]


def test_the_pareto_front_holds_what_nothing_beats_in_accuracy_and_time(layout: Layout) -> None:
    for lr, acc, train_s in ((0.1, 0.9, 100.0), (0.2, 0.8, 50.0), (0.25, 0.8, 50.0), (0.3, 0.7, 60.0), (0.4, 0.9, 200.0)):
        write(layout, dataclasses.replace(BASE, lr=lr), acc, train_s=train_s)
    front = {row.axes["lr"] for row in make_leaderboard(scan(layout)).rows if row.pareto}
    assert front == {0.1, 0.2, 0.25}
    write(layout, dataclasses.replace(BASE, lr=0.5), 0.6, train_s=1.0, outcome="diverged")
    for seed in range(3):
        outcome = {} if seed else {"outcome": "diverged"}
        write(layout, dataclasses.replace(BASE, lr=0.6, seed=seed), 0.85, train_s=40.0 if seed else 1.0, **outcome)
    assert front == {row.axes["lr"] for row in make_leaderboard(scan(layout)).rows if row.pareto}, (
        "it was quick for that reason"
    )
    path = layout.trial(dataclasses.replace(BASE, lr=0.6).trial_id).result
    record = json.loads(path.read_text())
    for unlike in ({"name": "another GPU"}, {"world_size": 2}, {"gpu_share": 0.5}):
        path.write_text(json.dumps(record | {"hardware": record["hardware"] | unlike}))
        assert not any(row.pareto for row in make_leaderboard(scan(layout)).rows), unlike


def test_the_thick_line_of_all_configurations_ends_at_the_first_rows_own_number(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.8, 0.8, 0.8], 0.2: [0.6, 0.6, 0.6], 0.3: [1.0]}, planned_seeds=3)
    assert board.rows[0].axes["lr"] == 0.1 and board.rows[2].partial
    thick = max(draw_parallel(board).figure.axes[0].lines, key=lambda line: (line.get_linewidth(), len(line.get_xdata())))
    assert np.asarray(thick.get_ydata())[-1] == pytest.approx(0.5)  # of 0.6 to 1.0


def test_figures_say_which_configurations_a_part_of_their_seeds_has_measured(layout: Layout) -> None:
    board = board_of(layout, {0.1: [0.8, 0.8, 0.8], 0.2: [0.6, 0.6, 0.6], 0.3: [1.0]}, planned_seeds=3)
    for drawing in (draw_parallel(board), draw_along("lr", None, board)):
        assert "By a part of its seeds only: lr 0.3 (1 of 3)." in drawing.caption


@pytest.mark.parametrize(
    ("quick_s", "slow_s", "beside", "told"),
    [(0.05, 0.5, 1, False), (5.0, 50.0, 1, True), (30.0, 50.0, 1, False), (5.0, 50.0, 2, False)],
)
def test_the_cheapest_is_told_where_times_are_of_training_and_not_of_beginning_it_nor_parts_of_others(
    layout: Layout, quick_s: float, slow_s: float, beside: int, told: bool
) -> None:
    board = board_of(layout, {0.1: [0.8, 0.8, 0.8], 0.2: [0.7, 0.7, 0.7]})
    first, second = board.measured
    timed = dataclasses.replace(board, rows=(dataclasses.replace(first, train_s=slow_s), second))
    trials = tuple(dataclasses.replace(trial, trunk_shared_by=beside) for trial in second.trials)
    assert bool(_cheapest(timed, [dataclasses.replace(second, train_s=quick_s, trials=trials)])) is told


def test_what_a_search_ended_early_is_not_tested_against_what_went_on(layout: Layout) -> None:
    for trial in configs(6, seeds=3, epochs=2):
        write_trial(layout, trial, IMAGES, accuracy=0.9 if trial.freeze == "none" else 0.5)
    board = make_leaderboard(scan(layout))
    second = board.measured[1]
    assert (whole := compare_with_best(board, layout)) and whole.decision(second.point_id) != "not tested"
    cut = dataclasses.replace(second, trials=tuple(dataclasses.replace(t, outcome=Outcome.PRUNED) for t in second.trials))
    found = compare_with_best(dataclasses.replace(board, rows=(board.rows[0], cut)), layout)
    assert found is not None and found.decision(second.point_id) == "not tested"
    assert found.untested[second.point_id] == "the search ended trials of it early"


def test_a_limit_of_time_that_a_spec_gives_is_no_waste() -> None:
    spent = {("cpu", "finished"): Entry(1, 1.0), ("cpu", "out of its own time"): Entry(1, 0.5)}
    assert cost_text(Ledger(spent, {}, {}, {}, {})) == "Training took 1.5 hours on CPU."


def test_what_a_search_ended_below_many_that_are_worse_is_not_called_far_below_the_best(layout: Layout) -> None:
    trials = [dataclasses.replace(BASE, lr=0.1 * (n + 1), seed=seed) for n in range(12) for seed in range(3)]
    for config in trials:
        result = write_trial(layout, config, IMAGES, accuracy=0.9 if config.lr in (0.1, trials[-1].lr) else 0.1)
        if config.lr == trials[-1].lr:
            write_record(layout.trial(config.trial_id).result, dataclasses.replace(result, outcome=Outcome.PRUNED))
    board = make_leaderboard(scan(layout))
    *_, below, cut = board.measured
    found = compare_with_best(board, layout)
    assert found and (found.untested[below.point_id], found.untested[cut.point_id]) == (FAR_BELOW, CUT)
