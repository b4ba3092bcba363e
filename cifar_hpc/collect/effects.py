"""What each axis does: effects and importance from an additive model, heat-map cells, the freezing curve. Draws nothing.

Effects come from least squares over points, so an unbalanced grid does not credit one axis with another's gain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from cifar_hpc.collect.curves import best_by
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.statistics import CONFIDENCE
from cifar_hpc.collect.trials import Axis


@dataclass(frozen=True, slots=True)
class Effect:
    """The objective at one value of an axis, all other axes averaged evenly, with its 95 % interval (None: no freedom left)."""

    value: Any
    mean: float
    half: float | None


@dataclass(frozen=True, slots=True)
class Effects:
    """axes: those with an effect of their own, which no others determine. effects: by axis. importance: share of the variance
    between points that leaves with the axis, 0..1; interactions: that a pair of axes adds to the additive model. The last three
    are absent where the grid has too few points for them."""

    axes: tuple[Axis, ...]
    effects: Mapping[Axis, tuple[Effect, ...]]
    importance: Mapping[Axis, float]
    interactions: Mapping[tuple[Axis, Axis], float]


def measure_effects(board: Leaderboard) -> Effects:
    """Fits the additive model to the points' means of the objective.

    An axis that others determine (weights, where an architecture has none) has no effect of its own and is left out. Nothing
    is said of several axes where there are no more points than the model has coefficients: it would fit anything.
    """
    rows = board.measured
    if not rows:
        return Effects((), {}, {}, {})
    y_P = np.array([row.score.mean for row in rows if row.score])
    total = float(((y_P - y_P.mean()) ** 2).sum())
    codes = {axis: _codes(rows, _measured_values(board, axis), axis) for axis in board.axes}
    varying = [axis for axis in board.axes if codes[axis].shape[1]]
    axes = _independent(codes, varying, board)
    full = _design(codes, axes) if axes else np.ones((len(rows), 1))
    if not axes or total == 0 or (len(varying) > 1 and np.linalg.matrix_rank(full) >= len(rows)):
        return Effects(tuple(axes), {}, {}, {})
    rss = _residual(full, y_P)
    importance = {axis: (_residual(_design(codes, [a for a in axes if a != axis]), y_P) - rss) / total for axis in axes}
    interactions = {}
    for one, other in itertools.combinations(axes, 2):
        product = (codes[one][:, :, None] * codes[other][:, None, :]).reshape(len(rows), -1)
        if np.linalg.matrix_rank(wide := np.hstack([full, product])) < min(len(rows), wide.shape[1] + 1):
            interactions[one, other] = (rss - _residual(wide, y_P)) / total
    effects = {axis: _effects(board, codes, axes, axis, y_P) for axis in axes}
    return Effects(tuple(axes), effects, importance, interactions)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """cells: best point for (row value, column value); a missing combination is absent. panel: value of the third axis."""

    row_axis: Axis
    column_axis: Axis
    panel_axis: Axis | None
    panel: Any
    cells: Mapping[tuple[Any, Any], Row]


def make_heat_maps(board: Leaderboard, row_axis: Axis, column_axis: Axis, panel_axis: Axis | None = None) -> list[HeatMap]:
    """One map for each value of the third axis; a cell is the best point over the axes that are not shown."""
    if panel_axis is None:
        cells = {(key[0], key[1]): row for key, row in best_by(board, row_axis, column_axis).items()}
        return [HeatMap(row_axis, column_axis, None, None, cells)]
    found = best_by(board, row_axis, column_axis, panel_axis)
    return [
        HeatMap(row_axis, column_axis, panel_axis, panel, {(k[0], k[1]): row for k, row in found.items() if k[2] == panel})
        for panel in board.values(panel_axis)
    ]


@dataclass(frozen=True, slots=True)
class FreezingCurve:
    """One architecture: points as (share of blocks frozen 0..1, best point), by share; scratch: its best without weights."""

    arch: str
    points: tuple[tuple[float, Row], ...]
    scratch: Row | None


def make_freezing_curves(board: Leaderboard) -> list[FreezingCurve]:
    """For each architecture that was frozen at two depths or more."""
    best: dict[tuple[str, float], Row] = {}
    scratch: dict[str, Row] = {}
    for row in board.measured:
        arch = str(row.config["arch"])
        if row.config.get("weights") is None and row.trials[0].frozen_blocks == 0:
            scratch.setdefault(arch, row)
        else:
            backbone = max(row.trials[0].total_blocks - 1, 1)
            best.setdefault((arch, row.trials[0].frozen_blocks / backbone), row)
    curves = []
    for arch in sorted({arch for arch, _ in best}):
        points = tuple(sorted(((share, row) for (a, share), row in best.items() if a == arch), key=lambda point: point[0]))
        if len(points) > 1:
            curves.append(FreezingCurve(arch, points, scratch.get(arch)))
    return curves


def _measured_values(board: Leaderboard, axis: Axis) -> list[Any]:
    present = {row.axes[axis] for row in board.measured}
    return [value for value in board.values(axis) if value in present]


def _independent(codes: Mapping[Axis, NDArray[np.float64]], axes: Sequence[Axis], board: Leaderboard) -> list[Axis]:
    """The axes less those that the others determine: numbers leave first (a learning rate follows its architecture), then axes
    with the fewest values, then the last ones."""

    def leaves(axis: Axis) -> tuple[bool, int, int]:
        words = any(isinstance(value, str) for value in board.values(axis))
        return words, codes[axis].shape[1], -axes.index(axis)

    sampled = {axis for axis in axes if not leaves(axis)[0] and len(axes) > 1 and codes[axis].shape[1] + 1 == len(codes[axis])}
    kept = [axis for axis in axes if axis not in sampled]  # a number that each point has for itself would determine them all
    for axis in sorted(kept, key=leaves):
        others = [other for other in kept if other != axis]
        ranks = [np.linalg.matrix_rank(_design(codes, chosen)) for chosen in (kept, others)]
        if others and ranks[0] == ranks[1]:
            kept = others
    return [axis for axis in axes if axis in kept or (axis in sampled and len(axes) > len(sampled))] or list(axes)


def _codes(rows: Sequence[Row], values: Sequence[Any], axis: Axis) -> NDArray[np.float64]:
    """Sum-to-zero coding, P x (values - 1): a coefficient is a value's distance from the mean of all values."""
    eye = np.vstack([np.eye(len(values) - 1), -np.ones(len(values) - 1)])
    return np.asarray(eye[[list(values).index(row.axes[axis]) for row in rows]])


def _design(codes: Mapping[Axis, NDArray[np.float64]], axes: Sequence[Axis]) -> NDArray[np.float64]:
    points = len(next(iter(codes.values())))
    return np.hstack([np.ones((points, 1)), *(codes[axis] for axis in axes)])


def _residual(design: NDArray[np.float64], y_P: NDArray[np.float64]) -> float:
    coefficients = np.linalg.lstsq(design, y_P, rcond=None)[0]
    return float(((y_P - design @ coefficients) ** 2).sum())


def _effects(
    board: Leaderboard, codes: Mapping[Axis, NDArray[np.float64]], axes: Sequence[Axis], axis: Axis, y_P: NDArray[np.float64]
) -> tuple[Effect, ...]:
    design = _design(codes, axes)
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ y_P
    freedom = len(y_P) - int(np.linalg.matrix_rank(design))
    variance = _residual(design, y_P) / freedom if freedom > 0 else None
    start = 1 + sum(codes[a].shape[1] for a in axes[: axes.index(axis)])
    width = codes[axis].shape[1]
    found = []
    for number, value in enumerate(_measured_values(board, axis)):
        contrast = np.zeros(design.shape[1])
        contrast[0] = 1
        contrast[start : start + width] = np.eye(width)[number] if number < width else -1
        half = None
        if variance is not None:
            spread = max(variance * float(contrast @ inverse @ contrast), 0.0)
            half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(spread)
        found.append(Effect(value, float(contrast @ coefficients), half))
    return tuple(found)
