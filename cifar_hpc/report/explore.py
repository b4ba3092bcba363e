"""What a page's interactive charts know: each point's numbers and axes, each trial's curves, as JSON. Draws nothing.

Accuracies are fractions of 65,534 in 16 bits (65,535: not measured); losses are the upper half of a float32, 0.4 % fine, which
no eye tells apart; ten thousand trials of thirty epochs are then five megabytes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.collect.trials import CURVES, Axis, Trial, Unfinished
from cifar_hpc.config.registry import ObjectiveInfo
from cifar_hpc.report.figures import calm_limits
from cifar_hpc.report.words import marks_of, test_of, words_of
from cifar_hpc.status.words import decimals_of

_ABSENT = 65_535
_WIDE = 10.0  # an axis whose largest value is so many times its smallest is drawn as a logarithm


def explorable(pool: Pool, board: Leaderboard) -> dict[str, Any]:
    """For page.js; empty where there are no two points to compare. Points and their numbers are in the leaderboard's order."""
    if len(board.measured) < 2:
        return {}
    info = board.info
    position = {trial.trial_id: place for place, trial in enumerate(pool.trials)}
    trained = [(point, row) for point, row in enumerate(board.rows) if row.epochs is not None]
    trials: list[tuple[int, Trial]] = [(point, trial) for point, row in trained for trial in row.trials]
    running = [(point, trial) for point, row in enumerate(board.rows) for trial in row.unfinished if trial.running]
    curves = pool.curves.take([position[trial.trial_id] for _, trial in trials])
    values = {name: np.concatenate([curves.values[name], *(_so_far(trial, name) for _, trial in running)]) for name in CURVES}
    ends = curves.start[-1] + np.cumsum([len(trial.running) for _, trial in running], dtype=np.int64)
    start = [*curves.start.tolist(), *ends.tolist()]
    return {
        "objective": info.noun,
        "share": info.share,
        "ends": calm_limits(board.measured, info),
        "decimals": decimals_of(board.images, share=info.share, most=1),
        "points": [_point(row, info) for row in board.rows],
        "axes": [_axis(board, axis) for axis in board.axes if _is_number(board, axis)],
        "trials": [
            *([point, t.run, t.trial_id] for point, t in trials),
            *([point, t.run, t.trial_id] for point, t in running),
        ],
        "curves": bool(max(np.diff(start), default=0) > 1),
        "start": start,
        "acc": [_packed(_fractions(values[f"{split}_acc"])) for split in ("train", "val")],
        "losses": [_packed(_upper_halves(values[f"{split}_loss"])) for split in ("train", "val")],
    }


def _point(row: Row, info: ObjectiveInfo) -> list[Any]:
    """[id, words, validation's mean, low and high, test's], all of the objective."""
    marks = marks_of(row)
    words = words_of(row) + (f" ({', '.join(marks)})" if marks else "")
    return [row.point_id, words, *_numbers(row.score), *_numbers(test_of(row, info))]


def _so_far(trial: Unfinished, name: str) -> NDArray[np.float32]:
    values = [getattr(epoch, name) for epoch in trial.running]
    return np.array([math.nan if value is None else value for value in values], np.float32)


def _numbers(found: Estimate | None) -> list[float | None]:
    values = (found.mean, found.low, found.high) if found else (None, None, None)
    return [None if value is None or not math.isfinite(value) else round(value, 5) for value in values]


def _is_number(board: Leaderboard, axis: Axis) -> bool:
    """Whether the axis is a number in every measured point and takes three values at least."""
    values = {row.axes[axis] for row in board.measured}
    return len(values) > 2 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _axis(board: Leaderboard, axis: Axis) -> dict[str, Any]:
    values = [row.axes[axis] if row.score else None for row in board.rows]
    known = [value for value in values if value is not None]
    wide = min(known) > 0 and max(known) / min(known) >= _WIDE
    return {"name": axis, "log": wide, "values": values}


def _fractions(values_E: NDArray[np.float32]) -> NDArray[np.uint16]:
    scaled_E = np.rint(np.clip(np.nan_to_num(values_E, nan=0.0), 0, 1) * (_ABSENT - 1)).astype(np.uint16)
    return np.where(np.isnan(values_E), np.uint16(_ABSENT), scaled_E)


def _upper_halves(values_E: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits_E = np.ascontiguousarray(values_E, np.float32).view(np.uint32).astype(np.uint64)
    return np.where(np.isfinite(values_E), np.minimum((bits_E + 0x8000) >> 16, 0x7F7F), _ABSENT).astype(np.uint16)


def _packed(values_E: Sequence[int] | NDArray[np.uint16]) -> str:
    return base64.b64encode(np.asarray(values_E).astype("<u2").tobytes()).decode()
