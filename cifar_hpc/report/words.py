"""Configurations, p-values, differences and hours in words: what the sentences, the tables and the figures share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cifar_hpc.collect.leaderboard import Leaderboard, Row, runs_of
from cifar_hpc.collect.statistics import Difference, Estimate
from cifar_hpc.collect.trials import Axis, value_text
from cifar_hpc.config.registry import ObjectiveInfo
from cifar_hpc.records.schema import Outcome
from cifar_hpc.status.words import points_text

if TYPE_CHECKING:
    from cifar_hpc.collect.comparison import Comparison

_BELOW = {"cut": "ended early by the search", "diverged": "diverged", "seen": "on images seen before"}  # by field of Last

LOST = "lost with attempts that failed or were killed"


def words_of(row: Row) -> str:
    """'linear, no augmentation, lr 0.01': the point as a person says it, without what it has no value for, where it has one for
    anything; where nothing here tells it apart, by what does in its sweep."""
    told = {axis: value for axis, value in row.told_by.items() if value is not None or axis == "weights"} or row.told_by
    return ", ".join(axis_words(axis, value) for axis, value in told.items()) or str(row.config.get("arch", row.label))


def axis_words(axis: Axis, value: object) -> str:
    """'no augmentation', 'nothing frozen', 'lr 0.01', 'resnet18'."""
    said = {("augment", "none"): "no augmentation", ("freeze", "none"): "nothing frozen", ("freeze", "all"): "all frozen"}
    if axis == "weights" and value is None:
        return "no weights given"
    if isinstance(value, str) and (axis, value) in said:
        return said[axis, value]
    alone = axis in ("arch", "dataset", "optimizer", "classifier") or (axis in ("augment", "weights") and value != "imagenet")
    return value_text(value, axis) if alone else f"{axis} {value_text(value, axis)}"


def means_words(board: Leaderboard) -> str:
    """'Mean over seeds', 'one seed each': what the numbers of a figure are."""
    if all(row.score.n == 1 for row in board.measured if row.score):
        return "one seed each" if board.runs == "seeds" else "one fold each"
    return f"mean over {board.runs}"


def interval_words(board: Leaderboard) -> str:
    """What the bars beside the means of the objective are."""
    if not any(row.score and row.score.low is not None for row in board.measured):
        return "without an interval"
    without = "" if board.intervals_of_images else ", which counts the luck of the seeds and not that of the images"
    return f"with its 95 % interval{without}"


def overlap_words(comparison: Comparison | None, rows: Sequence[Row]) -> str:
    """What intervals of the rows that overlap do not tell; empty where no two have one, or nothing was tested over seeds or
    folds."""
    if comparison is None or comparison.test is None or sum(bool(row.score and row.score.low is not None) for row in rows) < 2:
        return ""
    return " Configurations whose intervals overlap may still be told apart: the tests compare them on the same images."


def unlike_words(rows: Iterable[Row]) -> str:
    """' By a part of its seeds only: lr 0.1 (1 of 4). Ended early by the search: lr 0.3.' of those rows of a figure or table
    that stand below others for more than their numbers (see Last); empty where there are none."""
    found = list({row.point_id: row for row in rows if any(row.last)}.values())
    part = [row for row in found if row.partial]
    runs = runs_of([trial for row in part for trial in row.trials])
    kinds = {
        f"By a part of {'its' if len(part) == 1 else 'their'} {runs} only": [
            f"{words_of(row)} ({row.seeds} of {row.asked_n})" for row in part
        ],
        **{kind.capitalize(): [words_of(row) for row in found if getattr(row.last, key)] for key, kind in _BELOW.items()},
    }
    return "".join(f" {kind}: {shortened(names)}." for kind, names in kinds.items() if names)


def marks_of(row: Row) -> tuple[str, ...]:
    """What a row's name says in brackets where no table stands beside it: '2 of 3' of the seeds or folds asked for, and why it
    stands below others for more than its number."""
    of_n = row.asked_n
    return (
        *([f"{row.seeds} of {of_n}"] if of_n else []),
        *(kind for key, kind in _BELOW.items() if getattr(row.last, key)),
    )


def diverged_later(row: Row) -> int:
    """How many of its trials diverged after they had been measured, so that their best epoch is in its numbers."""
    return sum(trial.outcome is Outcome.DIVERGED and trial.val_acc is not None for trial in row.trials)


def how_trained(config: Mapping[Axis, Any]) -> str:
    """How the training accuracy of a trial with this config was measured: ' (while it learned)'; '' of a classifier that is
    solved, not trained: as on validation."""
    if config.get("classifier", "linear") != "linear":
        return ""
    augmented = config.get("augment") not in (None, "none")
    return f" (while it learned{', on augmented images' if augmented else ''})"


def these_networks(one: Row, other: Row) -> str:
    """'these two networks' of those that were measured; of folds more."""
    n = sum(trial.val_acc is not None for trial in (*one.trials, *other.trials))
    return f"these {'two' if n == 2 else n} networks"


def test_of(row: Row, info: ObjectiveInfo) -> Estimate | None:
    """The objective on test, which may stand beside that on validation; None of a loss."""
    return row.test_acc if info.metric == "acc" else row.test_score


def p_text(p_value: float) -> str:
    """'= 0.04', '< 0.001'."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}" if p_value < 0.1 else f"= {p_value:.2f}"


def difference_text(found: Difference | None) -> str:
    """'+0.4 pp (p = 0.03)'; empty for None."""
    return f"{points_text(found.difference, found.images)} pp (p {p_text(found.p_value)})" if found else ""


def shortened(names: Sequence[str], most: int = 4) -> str:
    """'a, b, c, d and 6 more'; between semicolons where a name holds commas."""
    rest = len(names) - most
    between = "; " if any(", " in name for name in names[:most]) else ", "
    return between.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
