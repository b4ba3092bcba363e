"""The leaderboard as a comparison table: the best point for each combination of some axes. Any axes; formats nothing.

Owns: which axes are choices that one compares, and which are settings that are tuned within each choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cifar_hpc.collect.curves import best_by, rank_axes
from cifar_hpc.collect.diagnosis import ClassScores, diagnose
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.rounds import Round, point_predictions
from cifar_hpc.collect.trials import Axis
from cifar_hpc.records.layout import Layout

_ACROSS = ("dataset", "arch")
_MOST_COLUMNS, _MOST_ROWS = 8, 24
Key = tuple[Any, ...]  # values of some axes


@dataclass(frozen=True, slots=True)
class Pivot:
    """cells: the best point over all axes that are not shown; a combination without a measurement is absent."""

    row_axes: tuple[Axis, ...]
    column_axes: tuple[Axis, ...]
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Row]


def make_pivot(board: Leaderboard, row_axes: Sequence[Axis], column_axes: Sequence[Axis]) -> Pivot:
    """The table over those axes; combinations that no measured point has get neither row nor column."""
    n = len(row_axes)
    best = {(key[:n], key[n:]): row for key, row in best_by(board, *row_axes, *column_axes).items()}
    rows, columns = ({key[side]: None for key in best} for side in (0, 1))
    return Pivot(
        tuple(row_axes),
        tuple(column_axes),
        _in_order(board, row_axes, rows),
        _in_order(board, column_axes, columns),
        best,
    )


def choose_pivot(board: Leaderboard) -> Pivot | None:
    """The table that a reader most likely wants: data sets or architectures across, what else is a choice down.

    Axes that hold numbers alone are tuned within each choice. None where nothing is a choice.
    """
    choices = [axis for axis in rank_axes(board) if _is_choice(board, axis)]
    across: list[Axis] = [axis for axis in choices if axis in _ACROSS and len(best_by(board, axis)) <= _MOST_COLUMNS][:1]
    down: list[Axis] = []
    for axis in choices:
        if axis not in across and len(best_by(board, *down, axis)) <= _MOST_ROWS:
            down.append(axis)
    if not down:
        down, across = across, []
    return make_pivot(board, down, across) if down else None


def class_accuracies(
    row: Row, layout: Layout, split: str, rounds: Collection[Round] | None = None
) -> dict[str, tuple[float, int]]:
    """Share of each class' images that the point classified rightly, mean over its rounds that have some (those that are given,
    else all), and how many images these are; empty where the split was not measured.

    Raises RecordError on corrupt predictions.
    """
    predictions = point_predictions(row, layout, split)
    chosen = [found for key, found in predictions.items() if rounds is None or key in rounds]
    seeds: dict[str, list[ClassScores]] = {}
    for found in chosen:
        for name, score in diagnose(found, row.trials[0].classes).scores.items():
            seeds.setdefault(name, []).append(score)
    return {name: (fmean(score.recall for score in scores), scores[0].images) for name, scores in seeds.items()}


def _is_choice(board: Leaderboard, axis: Axis) -> bool:
    values = {row.axes[axis] for row in board.measured}
    return len(values) > 1 and any(isinstance(value, str) for value in values)


def _in_order(board: Leaderboard, axes: Sequence[Axis], keys: Mapping[Key, None]) -> tuple[Key, ...]:
    values = [board.values(axis) for axis in axes]
    return tuple(sorted(keys, key=lambda key: [known.index(value) for known, value in zip(values, key, strict=True)]))
