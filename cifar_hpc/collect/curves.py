"""Learning curves for small multiples: mean and band over seeds, for any two axes and a third. Draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.statistics import CONFIDENCE, of_splits
from cifar_hpc.collect.trials import CURVES, Axis, Curves, Trial
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.records.plans import MIN_SEEDS


@dataclass(frozen=True, slots=True)
class Band:
    """One metric over epochs 1..E: mean over the seeds, or splits, that reached the epoch, and its 95 % interval, NaN below
    three of them."""

    mean: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Series:
    """The curves of one point. best_epoch: mean over seeds."""

    row: Row
    bands: Mapping[str, Band]  # by name in CURVES
    best_epoch: float | None


@dataclass(frozen=True, slots=True)
class CurveGrid:
    """Panels by (row value, column value); in each, one series a colour. Missing combinations are absent.

    Where other axes vary too, a series is the best point of those that share its three values.
    """

    row_axis: Axis | None
    column_axis: Axis | None
    color_axis: Axis | None
    panels: Mapping[tuple[Any, Any], Mapping[Any, Series]]


def make_curve_grid(
    pool: Pool, board: Leaderboard, row_axis: Axis | None, column_axis: Axis | None, color_axis: Axis | None
) -> CurveGrid:
    """The grid over those axes; None leaves a dimension out. A classifier that is solved, not trained, has no curve."""
    position = {trial.trial_id: row for row, trial in enumerate(pool.trials)}
    panels: dict[tuple[Any, Any], dict[Any, Series]] = {}
    for row in board.measured:  # best first, so the first to take a place is the best
        if row.epochs is None:
            continue
        key = (_value(row, row_axis), _value(row, column_axis))
        series = panels.setdefault(key, {})
        if (color := _value(row, color_axis)) not in series:
            trials = [position[trial.trial_id] for trial in row.trials]
            series[color] = Series(row, _bands(pool.curves, trials, row.trials), row.best_epoch)
    return CurveGrid(row_axis, column_axis, color_axis, panels)


def best_by(board: Leaderboard, *axes: Axis) -> dict[tuple[Any, ...], Row]:
    """The best point for each combination of the axes' values that some measured point has."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in board.measured:
        best.setdefault(tuple(row.axes[axis] for axis in axes), row)
    return best


def best_over(board: Leaderboard, *axes: Axis) -> str:
    """Of what the points of `best_by` are the best, as a sentence; and whether each was chosen from the same values. Empty
    where no other axis varies."""
    others = [axis for axis in board.axes if axis not in axes]
    if not others:
        return ""
    unlike = ""
    if not _are_alike(board.rows, axes, others):
        unlike = " Not each was chosen from the same values of these: they differ in them too."
    elif not _are_alike(board.measured, axes, others):
        unlike = " Not all of these values have a number for each."
    return f" Of those that differ only in {', '.join(others)}, the best by validation {board.info.noun}.{unlike}"


def _are_alike(rows: Iterable[Row], axes: Sequence[Axis], others: Sequence[Axis]) -> bool:
    """Whether the rows have the same values of the others for each combination of the axes."""
    found: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for row in rows:
        found.setdefault(tuple(row.axes[axis] for axis in axes), set()).add(tuple(row.axes[other] for other in others))
    return len({frozenset(values) for values in found.values()}) < 2


def rank_axes(board: Leaderboard) -> list[Axis]:
    """The axes, those whose choice moves the objective most first (spread of the best point over the axis' values)."""

    def spread(axis: Axis) -> float:
        scores = [row.score.mean for row in best_by(board, axis).values() if row.score]
        return max(scores) - min(scores) if scores else 0.0

    return sorted(board.axes, key=spread, reverse=True)


def _value(row: Row, axis: Axis | None) -> Any:
    return row.axes[axis] if axis else None


def _bands(curves: Curves, positions: Sequence[int], trials: Sequence[Trial]) -> dict[str, Band]:
    bands = {}
    for name in CURVES:
        seeds = [curves.of(name, position) for position in positions]
        values_SE: NDArray[np.floating[Any]] = np.full((len(seeds), max(map(len, seeds), default=0)), np.nan, np.float32)
        for seed, values in enumerate(seeds):
            values_SE[seed, : len(values)] = values
        values_SE = values_SE[:, ~np.isnan(values_SE).all(0)]
        share = 0.0
        if trials[0].own_split:
            share = (trials[0].val_n or 1) / max(trials[0].train_n or 0, 1)
            values_SE, share = of_splits(values_SE, [trial.split for trial in trials], share)
        bands[name] = band_of(values_SE, share, OBJECTIVES["val_acc" if name.endswith("_acc") else "val_loss"].bounds)
    return bands


def band_of(values_SE: NDArray[np.floating[Any]], share: float, bounds: tuple[float, float]) -> Band:
    """Of S seeds, or splits, over E epochs; NaN where a seed had ended. bounds: the least and the largest that a value can be;
    an interval that would reach from one to the other says nothing, and is NaN. share: of splits, validation over training
    images, as in statistics.estimate_over_splits."""
    values_SE = values_SE.astype(np.float64)  # a diverging loss overflows the squares of float32
    mean_E, seeds_E = np.nanmean(values_SE, 0), (~np.isnan(values_SE)).sum(0)
    variance_E = np.nansum((values_SE - mean_E) ** 2, 0) / np.maximum(seeds_E - 1, 1)
    spread_E = np.sqrt(variance_E * (1 / seeds_E + np.where(seeds_E > 1, share, 0.0)))
    half_E = np.where(seeds_E >= MIN_SEEDS, stdtrit(np.maximum(seeds_E - 1, 1), (1 + CONFIDENCE) / 2) * spread_E, np.nan)
    half_E[(mean_E - half_E <= bounds[0]) & (mean_E + half_E >= bounds[1])] = np.nan
    low_E, high_E = np.maximum(mean_E - half_E, bounds[0]), np.minimum(mean_E + half_E, bounds[1])
    return Band(mean_E.astype(np.float32), low_E.astype(np.float32), high_E.astype(np.float32))
