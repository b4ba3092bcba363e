"""Comparison tables: a pivot of the leaderboard, the classes side by side, hours by axis. Text from numbers; computes none."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_hpc.collect.curves import best_over
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.pivot import Key, Pivot, choose_pivot, class_accuracies, make_pivot
from cifar_hpc.collect.sections import Section, one_section
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.collect.trials import Axis, value_text
from cifar_hpc.errors import CifarHpcError, RecordError, did_you_mean, nearest
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.page_tables import PageTable
from cifar_hpc.report.tables import estimate_text
from cifar_hpc.report.words import unlike_words
from cifar_hpc.status.words import device_text, hours_text, score_text

_MOST_POINTS = 8  # beside one another, class by class
_MOST_CLASSES = 12


def comparison_tables(found: Findings, layout: Layout) -> list[PageTable]:
    """What a course report compares, for the axes that this pool has; empty where there is nothing to compare."""
    pivot = choose_pivot(found.board)
    if pivot is None:
        return []
    splits = ["val", "test"] if any(row.test_acc for row in found.board.measured) else ["val"]
    tables = [pivot_table(pivot, found.board, split) for split in splits]
    return [*tables, *_classes_table(pivot, layout, splits[-1])]


def pivot_table(pivot: Pivot, board: Leaderboard, split: str) -> PageTable:
    """Accuracy of the split, percent. The points of both splits are the same: the best on validation."""
    shown = (*pivot.row_axes, *pivot.column_axes)
    header = [*pivot.row_axes, *(_key_text(pivot.column_axes, key) for key in pivot.columns)]
    rows = [
        [*_values(pivot.row_axes, row), *(_cell(pivot.cells.get((row, column)), split) for column in pivot.columns)]
        for row in pivot.rows
    ]
    across = f" by {', '.join(pivot.column_axes)}" if pivot.column_axes else ""
    words = {"val": "validation", "test": "test"}[split]
    over, unlike = best_over(board, *shown), unlike_words(pivot.cells.values())
    part = any(one.asked_n for one in pivot.cells.values())
    of_n = "; 1 of 4: the others are not in it" if part else ""
    note = f"Mean ± standard deviation (number of {board.runs}{of_n}), percent; empty: no measurement.{over}{unlike}"
    return PageTable(f"compare_{split}", f"{', '.join(pivot.row_axes)}{across}: {words} accuracy %", header, rows, note)


def asked_pivot(sections: Sequence[Section], axes: str) -> dict[str, PageTable]:
    """Split -> the table of `--pivot ROWS/COLUMNS`, whose first columns are the axes of the rows. Raises CifarHpcError where
    the sections are several, or an axis is none of theirs."""
    board = one_section(sections, "--pivot").board
    rows, columns = axes_of(axes)
    for axis in (*rows, *columns):
        if axis not in board.axes:
            near, there = nearest(axis, board.axes), ", ".join(board.axes) or "none"
            raise CifarHpcError(f"--pivot: {axis!r} is no axis here; axes: {there}.{did_you_mean(near)}")
    if not rows:
        raise CifarHpcError(f"--pivot {axes!r}: ROWS/COLUMNS, each axes with commas, at least one before the stroke")
    splits = ("val", "test") if any(row.test_acc for row in board.measured) else ("val",)
    pivot = make_pivot(board, rows, columns)
    return {split: pivot_table(pivot, board, split) for split in splits}


def axes_of(pivot: str) -> tuple[list[str], list[str]]:
    """Those of the rows and of the columns: 'arch/freeze,augment'."""
    rows, columns = ([axis for axis in side.split(",") if axis] for side in [*pivot.split("/", 1), ""][:2])
    return rows, columns


def hours_table(found: Findings) -> list[PageTable]:
    """Trials and hours at each value of each axis; empty where nothing varies among those that the sweep trained."""
    by_axis = {
        axis: entries for axis, entries in found.ledger.by_axis.items() if 1 < len({value for value, _ in entries}) <= 20
    }
    several = len({device for entries in by_axis.values() for _, device in entries}) > 1  # their hours are never added
    rows = [
        (axis, value, *([device_text(device)] if several else []), f"{entry.trials:,}", hours_text(entry.hours))
        for axis, entries in by_axis.items()
        for (value, device), entry in entries.items()
    ]
    without = ", without what other sweeps trained" if found.ledger.reused else ""
    note = f"Of the trials that have a result, those that a search ended early among them{without}."
    header = ("axis", "value", *(["device"] if several else []), "trials", "hours")
    return [PageTable("hours", "Hours by axis", header, rows, note)] if rows else []


def _best_of_each(pivot: Pivot) -> dict[Key, Row]:
    """The points to show class by class, by the shown axes' values: all cells where they are few, else each row's best, of so
    many rows the best ones; in the order of the pivot."""
    shown = set(pivot.cells)
    if len(shown) > _MOST_POINTS:
        best: dict[Key, Key] = {}
        for row, column in pivot.cells:  # best first
            best.setdefault(row, column)
        shown = set(list(best.items())[:_MOST_POINTS])
    keys = [(row, column) for row in pivot.rows for column in pivot.columns if (row, column) in shown]
    return {(*row, *column): pivot.cells[row, column] for row, column in keys}


def _classes_table(pivot: Pivot, layout: Layout, split: str) -> list[PageTable]:
    axes = (*pivot.row_axes, *pivot.column_axes)
    accuracy: dict[Key, dict[str, tuple[float, int]]] = {}
    unread: list[str] = []
    shown = _best_of_each(pivot)
    for key, row in shown.items():
        try:
            found = class_accuracies(row, layout, split)
        except RecordError as error:
            unread.append(f"{row.label} ({error})")
            continue
        if found:
            accuracy[key] = found
    classes = dict.fromkeys(label for found in accuracy.values() for label in found)
    if len(accuracy) < 2:
        return []
    order = sorted(classes, key=lambda label: min(found.get(label, (1.0, 0))[0] for found in accuracy.values()))[:_MOST_CLASSES]
    cells = [[*_values(axes, key), *(_share(found.get(label)) for label in order)] for key, found in accuracy.items()]
    left = f" These {_MOST_CLASSES} of {len(classes)}." if len(classes) > _MOST_CLASSES else ""
    words = "test" if split == "test" else "validation"
    rows = f", of its {len(pivot.rows)} rows the best {_MOST_POINTS}" if len(pivot.rows) > _MOST_POINTS else ""
    others = f" Of the table above each row's best{rows}." if len(pivot.cells) > _MOST_POINTS else ""
    note = (
        f"Percent of each class's {words} images that are right, mean over the runs of a row, which is the best"
        f" configuration of its kind; first the class with the lowest number of all.{left}{others}"
        f"{unlike_words(shown.values())}"
    ) + "".join(f" Left out: {one}." for one in unread)
    return [PageTable("by_class", f"Class by class: {words} accuracy %", [*axes, *order], cells, note)]


def _share(found: tuple[float, int] | None) -> str:
    return score_text(found[0], found[1], most=1) if found else ""


def _cell(row: Row | None, split: str) -> str:
    found: Estimate | None = getattr(row, f"{split}_acc") if row else None
    return estimate_text(found, row.asked_n if row else None)


def _values(axes: Sequence[Axis], key: Key) -> list[str]:
    return [value_text(value, axis) for axis, value in zip(axes, key, strict=True)]


def _key_text(axes: Sequence[Axis], key: Key) -> str:
    """'imagenet, 0.5, flip_crop', without what has no value."""
    parts = [
        f"{axis} {value_text(value)}" if _bare(value) else value_text(value, axis)
        for axis, value in zip(axes, key, strict=True)
        if value is not None or axis == "weights"
    ]
    return ", ".join(parts or [f"{axis} {value_text(None)}" for axis in axes]) or "best"


def _bare(value: object) -> bool:
    """Whether it does not say what it is of."""
    return isinstance(value, int | float) or value in ("none", "all")
