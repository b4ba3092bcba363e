"""How sure the order is: points compared on the same images, those tied with the best, the winner's optimism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.collect.index import Rejected
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.statistics import LEVEL, PairedDifference, paired_difference, winners_optimism
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout

_FAR_BELOW = 8  # so many points in a row that differ from the best: those below them are not read
_MOST = 100  # points read


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best point against those below it, on validation images. differences: by point id, best minus that point.

    optimism: by how much the best's validation accuracy flatters it; None where nothing could be read.
    """

    best: str
    differences: Mapping[str, PairedDifference]
    optimism: float | None
    unreadable: tuple[Rejected, ...]

    def tied(self, point_id: str) -> bool:
        """Whether the test cannot tell the point from the best at the 5 % level (not corrected for many points)."""
        found = self.differences.get(point_id)
        return point_id == self.best or (found is not None and found.p_value >= LEVEL)


def compare_with_best(board: Leaderboard, layout: Layout) -> Comparison | None:
    """Tests the points from the best downwards until far below it. None where no point was measured."""
    if not board.measured:
        return None
    best, unreadable = board.measured[0], []
    differences: dict[str, PairedDifference] = {}
    shares: list[NDArray[np.float64]] = []
    reference: list[SplitPredictions] = []
    below = 0
    for row in board.measured[:_MOST]:
        try:
            found = point_predictions(row, layout, "val")
        except RecordError as error:
            unreadable.append(Rejected(str(layout.trial(row.trials[0].trial_id).predictions), str(error)))
            continue
        if row is best:
            reference = found
        elif not reference or not found or not reference[0].same_images(found[0]):
            continue
        else:
            differences[row.point_id] = paired_difference(_right(reference), _right(found))
            below = below + 1 if differences[row.point_id].p_value < LEVEL else 0
        shares.append(_right(found).mean(0))
        if below == _FAR_BELOW:
            break
    optimism = winners_optimism(np.stack(shares)) if reference else None
    return Comparison(best.point_id, differences, optimism, tuple(unreadable))


def compare_points(one: Row, other: Row, layout: Layout, split: str = "val") -> PairedDifference:
    """One minus the other on the same images. Raises CifarHpcError where they did not classify the same ones."""
    first, second = (point_predictions(row, layout, split) for row in (one, other))
    if not first or not second or not first[0].same_images(second[0]):
        raise CifarHpcError(
            f"{one.label} and {other.label} did not classify the same {split} images: no paired test is possible."
        )
    return paired_difference(_right(first), _right(second))


def point_predictions(row: Row, layout: Layout, split: str) -> list[SplitPredictions]:
    """Of each seed that measured the split. Raises RecordError where a file is torn or the seeds saw different images."""
    acc = {"val": "val_acc", "test": "test_acc"}[split]
    measured = [trial for trial in row.trials if trial.metric(acc) is not None]
    read = [read_predictions(layout.trial(trial.trial_id), split, trial.metric(acc)) for trial in measured]
    found = [predictions for predictions in read if predictions is not None]
    if any(not found[0].same_images(predictions) for predictions in found[1:]):
        raise RecordError(f"the seeds of {row.label} did not classify the same {split} images")
    return found


def _right(predictions: list[SplitPredictions]) -> NDArray[np.bool_]:
    return np.stack([split.right for split in predictions])
