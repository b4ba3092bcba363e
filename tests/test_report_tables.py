"""Tables for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.leaderboard import Leaderboard, make_leaderboard
from cifar_hpc.collect.ledger import make_ledger
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.figures import axis_title
from cifar_hpc.report.in_terminal import print_board, prose
from cifar_hpc.report.tables import (
    count_text,
    estimate_text,
    leaderboard_columns,
    leaderboard_latex,
    leaderboard_markdown,
    leaderboard_records,
    leaderboard_text,
    time_text,
)
from cifar_hpc.status.words import duration_text
from cifar_hpc.terminal.tables import TextColumn, fit_table, print_columns, to_csv, to_json


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    """Two architectures, three seeds; and one architecture that has not begun."""
    layout = Layout(tmp_path_factory.mktemp("results"))
    trials = list(configs(9, seeds=3, epochs=3))
    for config in trials[:6]:
        write_trial(layout, config, Images.draw(50, 20))
    write_plan(layout, trials)
    return make_leaderboard(scan(layout, ["pool"]))


def test_an_estimate_shows_its_spread_only_where_there_are_enough_seeds() -> None:
    assert estimate_text(Estimate(0.913, 5, 0.0021)) == "91.30 ± 0.21 (5)"
    assert estimate_text(Estimate(0.913, 2)) == "91.30 (2)"
    assert estimate_text(None) == ""


def test_durations_and_counts_read_at_a_glance() -> None:
    assert [duration_text(s) for s in (None, 2.34, 48, 750, 11_520)] == ["", "2.3 s", "48 s", "12.5 min", "3.2 h"]
    assert [count_text(n) for n in (812, 30_730, 11_689_512)] == ["812", "30.7k", "11.7M"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_of_the_terminal_table_is_wider_than_the_terminal(
    board: Leaderboard, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_columns(*leaderboard_text(board)[:1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(board.rows)  # and none is folded
    assert max(map(len, lines)) <= width


def test_in_a_pipe_no_column_leaves(
    board: Leaderboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_board(board, 2, prose())
    told = capsys.readouterr()
    titles = [column.title for column in leaderboard_columns(board)]
    assert all(title in told.out.splitlines()[0] for title in titles) and len(told.out.splitlines()) == 1 + 2
    assert "Left out" not in told.err and "1 configuration more" in told.err


def test_a_narrow_terminal_keeps_axes_and_validation_and_names_what_left(board: Leaderboard) -> None:
    table, left = fit_table(leaderboard_text(board)[0], 40)
    titles = [str(column.header) for column in table.columns]
    assert "arch" in titles
    assert "val acc %" in titles
    assert "gap" in left


@pytest.mark.parametrize(("val", "test", "lines"), [("81.0 (1)", "79.31 (1)", 5), ("81.00 ± 0.31 (3)", "79.31 ± 0.42 (3)", 6)])
def test_five_axes_at_80_columns_keep_test_accuracy_and_every_word_is_whole(val: str, test: str, lines: int) -> None:
    """Hashes and times leave first; then titles and words are folded, numbers last."""
    cells = {
        "#": ("1", "12"),
        "arch": ("mobilenet_v3_small", "simple_cnn"),
        "freeze": ("0.5", "none"),
        "augment": ("flip_crop", "none"),
        "lr": ("0.001", "0.003"),
        "weights": ("imagenet", "none given"),
    }
    numbers = [TextColumn("val acc %", (val,) * 2, right=True), TextColumn("test acc %", (test,) * 2, 8, right=True)]
    columns = [*(TextColumn(title, of) for title, of in cells.items()), *numbers]
    left_first = [TextColumn("time", ("76 s", "2.1 min"), 5), TextColumn("id", ("27sgdg2v", "qdtxvbow"), 7)]
    table, left = fit_table([*columns, *left_first], 80)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    shown = capture.get()
    words = {word for column in columns for text in (column.title, *column.cells) for word in text.split()}
    assert left == ["time", "id"]
    assert words <= set(shown.split())
    assert len(shown.splitlines()) == lines


def test_markdown_has_a_row_for_every_point_even_one_without_a_number(board: Leaderboard) -> None:
    lines = leaderboard_markdown(board).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| 3 | densenet121 |")
    assert "| 3 to go |" in lines[-1]


def test_json_and_csv_hold_fractions_and_leave_unmeasured_empty(board: Leaderboard) -> None:
    records = leaderboard_records(board)
    assert json.loads(to_json(records)) == records
    assert 0 < records[0]["val_acc"] <= 1
    assert records[-1]["val_acc"] is None
    rows = list(csv.DictReader(io.StringIO(to_csv(records))))
    assert float(rows[0]["val_acc"]) == records[0]["val_acc"]
    assert rows[-1]["val_acc"] == ""
    assert len(rows[-1]["unfinished"].split()) == 3


def test_trials_without_weights_are_told_as_given_none_wherever_they_stand_as_a_network_may_bring_its_own(
    tmp_path: Path,
) -> None:
    layout, (base,) = Layout(tmp_path), configs(1, seeds=1, epochs=3)
    for config in (base, replace(base, weights=None)):
        write_trial(layout, config, Images.draw(50, 20))
    pool = scan(layout)
    board = make_leaderboard(pool)
    assert sorted(row.label for row in board.rows) == ["weights=imagenet", "weights=none given"]
    assert "| none given |" in leaderboard_markdown(board)
    assert {value for value, _ in make_ledger(pool, board).by_axis["weights"]} == {"none given", "imagenet"}
    assert (axis_title("weights", None), axis_title("dropout", None)) == ("weights: none given", "dropout: -")


def test_latex_escapes_what_tex_would_read(board: Leaderboard) -> None:
    text = leaderboard_latex(board)
    assert r"vgg11\_bn" in text
    assert r"$\pm$" in text
    assert text.count(r"\\") == 1 + len(board.rows)


def test_epochs_stand_in_the_table_where_trials_ended_early(board: Leaderboard) -> None:
    row = board.rows[0]
    of = {n: replace(row.trials[0], epochs=n, best_epoch=n) for n in (1, 3, 9)}
    each = {9.0: (of[9],), 3.0: (of[3],), 2.0: (of[3], of[1])}  # whose seeds differ: their mean is no trial's
    whole, cut, apart = (replace(row, epochs=n, trials=told, config={**row.config, "epochs": 9}) for n, told in each.items())
    assert "epochs" not in leaderboard_markdown(replace(board, rows=(whole, whole))).replace("best epoch", "")
    solved = replace(row, epochs=1.0, config={**row.config, "epochs": None})  # a classifier that has no epochs
    assert "mean" not in leaderboard_markdown(replace(board, rows=(whole, cut)))
    shown = leaderboard_markdown(replace(board, rows=(whole, cut, apart, solved)))
    assert "| epochs done | mean time |" in shown and "| 9 of 9 |" in shown and "| 3 of 9 |" in shown and "None" not in shown
    assert "| 1 to 3 | 1 to 3 of 9 |" in shown
    assert [record["epochs_done"] for record in leaderboard_records(replace(board, rows=(whole, cut)))] == [9.0, 3.0]


def test_where_epochs_are_swept_the_records_tell_those_asked_for_and_those_done(board: Leaderboard) -> None:
    rows = [replace(board.rows[0], epochs=2.5, axes={"epochs": asked}) for asked in (4, 9)]
    records = leaderboard_records(replace(board, axes=("epochs",), rows=tuple(rows)))
    assert [(record["epochs"], record["epochs_done"]) for record in records] == [(4, 2.5), (9, 2.5)]


def test_a_childs_time_stands_with_that_of_the_trials_that_it_starts_from(tmp_path: Path) -> None:
    """A second stage that is quick and no better is no bargain where its parent took hours."""
    layout, images = Layout(tmp_path), Images.draw(100, 50)
    base = TrialConfig(dataset=DatasetConfig(name="cifar10"), arch="resnet18", epochs=20)
    parent = replace(base, arch="vgg11_bn", epochs=40)
    child = replace(base, weights=f"trial/{parent.trial_id}", epochs=2, lr=0.02)
    grandchild = replace(child, weights=f"trial/{child.trial_id}", lr=0.03)
    lost = replace(child, weights=f"trial/{'a' * len(parent.trial_id)}", lr=0.04)
    took = {
        config: write_trial(layout, config, images, 0.8, sweep="s").train_s
        for config in (base, parent, child, grandchild, lost)
    }
    write_plan(layout, [base, child, grandchild, lost], "s")  # the parent is of another sweep
    rows = {row.point_id: row for row in make_leaderboard(scan(layout, ["s"])).rows}
    assert rows[base.point_id].before_s is None and time_text(rows[base.point_id]) == "3.3 min"
    assert rows[child.point_id].before_s == took[parent]
    assert time_text(rows[grandchild.point_id]) == "20 s after 7.0 min"
    assert rows[lost.point_id].whole_s is None and time_text(rows[lost.point_id]) == "20 s after a start of unknown time"
    quickest = [row for row in rows.values() if row.pareto and row.point_id != rows[base.point_id].point_id]
    assert all(row.score.mean > rows[base.point_id].score.mean for row in quickest)


def test_seeds_are_counted_that_measured_anything_such_as_those_of_a_refit_on_test_alone(board: Leaderboard) -> None:
    assert [record["seeds"] for record in leaderboard_records(board)] == [3, 3, 0]
    first = board.rows[0]
    trials = tuple(replace(trial, val_acc=None, val_loss=None, val_n=None) for trial in first.trials)
    refitted = replace(board, rows=(replace(first, trials=trials),))
    assert leaderboard_records(refitted)[0]["seeds"] == 3
    untested = tuple(replace(trial, test_acc=None, test_n=None) for trial in trials)
    assert leaderboard_records(replace(board, rows=(replace(first, trials=untested),)))[0]["seeds"] == 0
