"""What each axis does: effects, shares of variance, heat-map cells, the freezing curve. Draws nothing.

An effect is shown from what was measured alone: of configurations that differ in nothing but the axis. No model fills in what a
grid is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from cifar_hpc.collect.curves import best_by
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.statistics import CONFIDENCE, NO_ERROR
from cifar_hpc.collect.trials import Axis
from cifar_hpc.config.sources import is_own


@dataclass(frozen=True, slots=True)
class Effect:
    """One axis over G matched groups: each holds one point for each of the values, alike in all else.

    scores: the objective of each, G x V. half: of the 95 % interval of each value's mean against the groups' (Loftus and Masson
    1994), None where one group leaves nothing to tell it from. unmatched: values of the axis of which no configuration has
    another that is alike in all else; left: values of which some do, but too few beside the others.
    """

    axis: Axis
    values: tuple[Any, ...]
    scores: NDArray[np.float64]
    half: float | None
    unmatched: tuple[Any, ...]
    left: tuple[Any, ...] = ()

    @property
    def means(self) -> NDArray[np.float64]:
        return np.asarray(self.scores.mean(0))


@dataclass(frozen=True, slots=True)
class Effects:
    """axes: those with an effect of their own, which no others determine. matched: of axes with matched configurations.

    importance: omega squared, the share of the variance between points that goes with the axis beyond chance, 0..1; only of a
    balanced design, every combination of values measured once, which leaves something over to tell chance from. no_shares:
    why there is none; "" where there is, and of one axis, which would have all.
    """

    axes: tuple[Axis, ...]
    matched: tuple[Effect, ...]
    importance: Mapping[Axis, float]
    no_shares: str = ""


def measure_effects(board: Leaderboard) -> Effects:
    """Of the points' means of the objective; the axis whose values differ most first. What stands below others for more than
    its number (see Last) is not among them: what a part of its folds or seeds has measured, what a search ended early."""
    board = replace(board, rows=board.rivals if board.measured else ())
    rows = board.measured
    if not rows:
        return Effects((), (), {})
    codes = {axis: _codes(rows, _measured_values(board, axis), axis) for axis in board.axes}
    varying = [axis for axis in board.axes if codes[axis].shape[1]]
    found = [effect for axis in varying if (effect := _matched(board, axis)) is not None]
    found.sort(key=lambda effect: -float(np.ptp(effect.means)))
    shares, why = _importance(board, codes, varying)
    return Effects(tuple(_independent(codes, varying, board)), tuple(found), shares, why)


def _matched(board: Leaderboard, axis: Axis) -> Effect | None:
    """The groups and the values of the axis that have all of them, chosen so that they hold the most comparisons."""
    groups: dict[tuple[Any, ...], dict[Any, float]] = {}
    for row in board.measured:
        key = tuple(row.axes[other] for other in board.axes if other != axis)
        if row.score is not None:
            groups.setdefault(key, {}).setdefault(row.axes[axis], row.score.mean)
    values = _measured_values(board, axis)
    by_coverage = sorted(values, key=lambda value: -sum(value in group for group in groups.values()))
    best: tuple[int, list[Any], list[dict[Any, float]]] = (0, [], [])
    for count in range(len(values), 1, -1):
        kept = by_coverage[:count]
        whole = [group for group in groups.values() if all(value in group for value in kept)]
        if (count - 1) * len(whole) > best[0]:
            best = ((count - 1) * len(whole), kept, whole)
    if not best[0]:
        return None
    shown = [value for value in values if value in best[1]]
    scores_GV = np.array([[group[value] for value in shown] for group in best[2]])
    matched = {value for group in groups.values() if len(group) > 1 for value in group}
    unmatched = tuple(value for value in values if value not in matched)
    left = tuple(value for value in values if value in matched and value not in shown)
    return Effect(axis, tuple(shown), scores_GV, _half_interval(scores_GV), unmatched, left)


def _half_interval(scores_GV: NDArray[np.float64]) -> float | None:
    groups, values = scores_GV.shape
    if groups < 2:
        return None
    rest = scores_GV - scores_GV.mean(1, keepdims=True) - scores_GV.mean(0) + scores_GV.mean()
    freedom = (groups - 1) * (values - 1)
    if np.abs(rest).max() < NO_ERROR:  # that all groups happen to agree makes nothing certain
        return None
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(float((rest**2).sum()) / freedom / groups)


def _importance(
    board: Leaderboard, codes: Mapping[Axis, NDArray[np.float64]], axes: Sequence[Axis]
) -> tuple[dict[Axis, float], str]:
    """Omega squared of each axis in the additive model (Hays 1963), or none and why: unless each combination was measured once,
    more points remain than the model has numbers, and it leaves something of them over: that few points, or numbers of few
    images, happen to fit it to the digit does not mean that chance gave nothing."""
    rows = board.measured
    combinations = math.prod(codes[axis].shape[1] + 1 for axis in axes)
    freedom = len(rows) - 1 - sum(codes[axis].shape[1] for axis in axes)
    balanced = len(rows) == combinations == len({tuple(row.axes[axis] for axis in axes) for row in rows})
    if len(axes) < 2:
        return {}, ""
    if not balanced or freedom < 1:
        return {}, "not every combination of the axes' values is among those compared here"
    y_P = np.array([row.score.mean for row in rows if row.score])
    if _residual(_design(codes, axes), y_P) < len(rows) * NO_ERROR**2:
        return {}, "the axes add up to the numbers to the digit, so that nothing tells what chance gave"
    total = float(((y_P - y_P.mean()) ** 2).sum())
    sums = {axis: total - _residual(_design(codes, [axis]), y_P) for axis in axes}
    error = max(total - sum(sums.values()), 0.0) / freedom
    return {axis: max(sums[axis] - codes[axis].shape[1] * error, 0.0) / (total + error) for axis in axes}, ""


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
        if (row.config.get("train") or "all") != "all" or row.config.get("lora"):
            continue  # more stays than a depth tells
        begins_at_random = row.config.get("weights") is None and not is_own(arch)  # one's own network may bring its weights
        if begins_at_random and row.trials[0].frozen_blocks == 0:
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
