"""Tables: the columns of a leaderboard, and numbers as text. Formats numbers; computes none.

For people (rich, Markdown, LaTeX) accuracy is in percent; for programs (CSV, JSON) it is a fraction, as on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.collect.trials import Axis, Trial, Unfinished, value_text
from cifar_hpc.config.registry import measured_objectives
from cifar_hpc.report.words import diverged_later, shortened
from cifar_hpc.status.names import short_ids
from cifar_hpc.status.words import decimals_of, digits_of, duration_text, fixed_text
from cifar_hpc.terminal.tables import Format, TextColumn, heading, to_latex, to_markdown


class Ranked(Protocol):
    """What has the name of a data set and split, and the leaderboard of its trials."""

    @property
    def name(self) -> str: ...

    @property
    def board(self) -> Leaderboard: ...


@dataclass(frozen=True, slots=True)
class Column:
    """One column for people. key: what it sorts by, None last. keep: a narrow terminal loses those with the smallest first,
    none from terminal.tables.NEVER_LEAVES on; one below 9 is not shown where nothing of it was measured. under: what a page has
    below the text in smaller letters."""

    title: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    keep: int = 9
    right: bool = True
    under: Callable[[Row], str] = lambda row: ""


def leaderboard_columns(board: Leaderboard) -> list[Column]:
    """The columns that say something: only axes that vary, only measurements that some point has. `#` and `id` name a row."""
    ids = short_ids([row.point_id for row in board.rows])
    time = "mean time" if any(len(row.trials) > 1 for row in board.rows) else "time"
    columns = [
        Column("#", lambda row: str(row.number or ""), lambda row: row.number),
        *(_axis_column(axis) for axis in board.axes),
        *_objective_columns(board),
        _measured_column("val acc %", lambda row: row.val_acc),
        _measured_column("test acc %", lambda row: row.test_acc, keep=8),
        Column("gap", gap_text, lambda row: row.gap, 2),
        Column("trained", params_text, _trained, 4),
        Column("best epoch", best_epoch_text, lambda row: row.best_epoch, 3),
        *(
            [Column("epochs done", epochs_text, lambda row: row.epochs, 3)]
            if any(row.ended_early for row in board.rows)
            else []
        ),
        Column(time, time_text, lambda row: row.train_s if row.whole_s is None else row.whole_s, 5),
        Column("folds" if "folds" in board.runs else "seeds", seeds_text, lambda row: seeds_text(row) or None, 6, False),
        Column("id", lambda row: ids[row.point_id], lambda row: row.point_id, 7, False),
    ]
    return [column for column in columns if column.keep == 9 or any(column.text(row) for row in board.rows)]


def _objective_columns(board: Leaderboard) -> list[Column]:
    """The objective, where it is not the accuracy."""
    info = board.info
    if info.metric == "acc":
        return []
    if info.metric == "loss":
        return [_measured_column("val loss", lambda row: row.score, share=False)]
    unit, share = " %" if info.share else "", info.share
    return [
        _measured_column(f"val {info.noun}{unit}", lambda row: row.score, share=share),
        _measured_column(f"test {info.noun}{unit}", lambda row: row.test_score, share=share, keep=8),
    ]


def _measured_column(
    title: str,
    found: Callable[[Row], Estimate | None],
    *,
    share: bool = True,
    keep: int = 9,
) -> Column:
    """Of what was measured, with its interval."""
    return Column(
        title,
        lambda row: estimate_text(found(row), row.asked_n, share=share),
        lambda row: mean_of(found(row)),
        keep,
        under=lambda row: interval_text(found(row), share=share),
    )


def leaderboard_text(board: Leaderboard, top: int | None = None) -> tuple[list[TextColumn], list[str | None]]:
    """The columns of the first `top` rows for a terminal, and the rows' styles."""
    rows = board.rows[:top]
    return _as_text(board, rows), [None if row.score and not row.partial else "dim" for row in rows]


def leaderboard_markdown(board: Leaderboard) -> str:
    """A GitHub table."""
    return to_markdown(_as_text(board, board.rows))


def leaderboard_latex(board: Leaderboard) -> str:
    """A tabular of the booktabs package."""
    return to_latex(_as_text(board, board.rows))


def leaderboard_records(board: Leaderboard) -> list[dict[str, Any]]:
    """One flat mapping a point, for CSV, JSON and the page: fractions, seconds, null where nothing was measured."""
    ids = short_ids([row.point_id for row in board.rows])
    objectives = dict.fromkeys((*measured_objectives(), *((board.objective,) if board.own else ())))
    return [{"#": row.number, "id": ids[row.point_id], **_record(row, objectives, board)} for row in board.rows]


def sections_markdown(sections: Sequence[Ranked]) -> str:
    """The table, or one for each data set and split under its name."""
    if len(sections) == 1:
        return leaderboard_markdown(sections[0].board)
    return "\n".join(f"{heading(section.name, Format.MD)}\n{leaderboard_markdown(section.board)}" for section in sections)


def section_records(sections: Sequence[Ranked]) -> list[dict[str, Any]]:
    """`leaderboard_records`; of several data sets and splits with their names under `images`."""
    if len(sections) == 1:
        return leaderboard_records(sections[0].board)
    return [{"images": section.name, **record} for section in sections for record in leaderboard_records(section.board)]


def estimate_text(estimate: Estimate | None, of_n: int | None = None, *, share: bool = True) -> str:
    """'91.30 ± 0.21 (5)', '91 (1 of 5)': mean, standard deviation and number of seeds, as many digits as the images can
    tell; without ± where there are too few seeds; empty where nothing was measured. of_n: how many seeds were to measure it;
    share: one of 0..1, in percent."""
    if estimate is None:
        return ""
    scale, digits = 100 if share else 1, decimals_of(estimate.images, share=share)
    spread = f" ± {fixed_text(scale * estimate.sd, digits)}" if estimate.sd is not None else ""
    runs = f"{estimate.n} of {of_n}" if of_n else str(estimate.n)
    return f"{fixed_text(scale * estimate.mean, digits)}{spread} ({runs})"


def interval_text(found: Estimate | None, *, share: bool = True) -> str:
    """'88.1 to 93.2'; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    scale, digits = 100 if share else 1, decimals_of(found.images, share=share, most=1)
    return f"{fixed_text(scale * found.low, digits)} to {fixed_text(scale * found.high, digits)}"


def gap_text(row: Row) -> str:
    """Points that training accuracy is above validation accuracy."""
    digits = digits_of(row.val_acc.images if row.val_acc else None, most=1)
    return fixed_text(100 * row.gap, digits, "+") if row.gap is not None else ""


def params_text(row: Row) -> str:
    """Trained parameters of all: '0.5M of 11.7M', or '11.7M' where all are trained; empty where that is not known."""
    if (trained := _trained(row)) is None:
        return ""
    total = row.trials[0].params_total
    return count_text(total) if trained == total else f"{count_text(trained)} of {count_text(total)}"


def _trained(row: Row) -> int | None:
    """Parameters; None where no trial finished, or one ended before it was to unfreeze some, which records may count."""
    missed = any(trial.missed_unfreezing for trial in row.trials)
    return row.trials[0].params_trained if row.trials and not missed else None


def count_text(count: int) -> str:
    """'11.7M', '30.7k', '812'."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def time_text(row: Row) -> str:
    """Of a trial: '80 s'; '80 s after 3.3 min' of the trials that it started from."""
    own = duration_text(row.train_s)
    if not row.begun or row.train_s is None:
        return own
    return f"{own} after {duration_text(row.before_s) or 'a start of unknown time'}"


def epochs_text(row: Row) -> str:
    """Trained of those asked for: '3 of 9', '1 to 3 of 9' where seeds differ; empty where none finished, and of a classifier
    that is solved, not trained."""
    wanted = row.config["epochs"]
    return "" if row.epochs is None or wanted is None else f"{_span_text([trial.epochs for trial in row.trials])} of {wanted}"


def best_epoch_text(row: Row) -> str:
    """'4', '1 to 9' where seeds differ; empty where validation chose none."""
    return "" if row.best_epoch is None else _span_text([t.best_epoch for t in row.trials if t.best_epoch is not None])


def _span_text(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def seeds_text(row: Row) -> str:
    """What became of the seeds that did not train to their end, '1 failed (seed 2), 2 to go', and which were validated with
    images that are not new; empty where neither is. '2 of these diverged, 1 diverged': in the number beside it two count, by
    their best epoch, and one has none."""
    parts = []
    for word, trials in (("failed", row.failed), ("lost", row.lost)):
        every = len(trials) > 1 and len(trials) == row.runs_n + row.hidden
        names = "" if every else f" ({_each(trials)})"
        parts += [f"{'all ' if every else ''}{len(trials)} {word}{names}"] if trials else []
    if row.diverged and row.diverged == row.runs_n + row.hidden:
        parts.append("diverged" if row.diverged == 1 else f"all {row.diverged} diverged")
    else:
        later = diverged_later(row)
        parts += [f"{later} of these diverged"] if later else []
        parts += [f"{row.diverged - later} diverged"] if row.diverged > later else []
    if row.cut:
        parts.append(f"{row.cut} stopped by the search")
    if row.contradicted:
        parts.append(f"{len(row.contradicted)} left out ({_each(row.contradicted)})")
    if row.unfinished:
        parts.append(f"{len(row.unfinished)} to go")
    if row.seen:
        parts.append(f"{row.seen} on images seen before")
    return ", ".join(parts)


def _each(trials: Sequence[Trial | Unfinished]) -> str:
    return shortened([trial.run for trial in trials], len(trials))


def _as_text(board: Leaderboard, rows: Sequence[Row]) -> list[TextColumn]:
    return [
        TextColumn(column.title, tuple(column.text(row) for row in rows), column.keep, column.right)
        for column in leaderboard_columns(board)
    ]


def _axis_column(axis: Axis) -> Column:
    def key(row: Row) -> float | str | None:
        value = row.axes[axis]
        return value if isinstance(value, int | float) else value_text(value, axis)

    return Column(axis, lambda row: value_text(row.axes[axis], axis), key, 9, False)


def mean_of(estimate: Estimate | None) -> float | None:
    return estimate.mean if estimate else None


def _record(row: Row, objectives: Iterable[str], board: Leaderboard) -> dict[str, Any]:
    record: dict[str, Any] = {"place": row.place, "point_id": row.point_id}
    record |= row.axes
    for name, found in (("val_acc", row.val_acc), ("test_acc", row.test_acc)):
        record |= {name: found and found.mean, **_spread(name, found)}
    ranked = {f"val_{board.info.metric or board.objective}": row.score}  # what ranks has its spread, as accuracies have
    ranked |= {f"test_{board.objective}": row.test_score} if board.info.metric is None else {}
    for name in (f"{split}_{objective}" for objective in (*objectives, "loss") for split in ("val", "test")):
        record |= {name: _mean_metric(row, name), **(_spread(name, ranked[name]) if name in ranked else {})}
    trial = row.trials[0] if row.trials else None
    return record | {
        "seeds": len({one.seed for one in row.trials if {one.metric("val_acc"), one.metric("test_acc")} != {None}}),
        **({"folds": row.val_acc.n if row.val_acc else 0} if "folds" in board.runs else {}),
        "partial": row.partial,
        "val_seen": row.seen,  # trials that may be validated with images that trained what they start from
        "gap": row.gap,
        "best_epoch": row.best_epoch,
        "epochs_done": row.epochs,  # `epochs` is what was asked for, where it is swept
        "params_trained": _trained(row),
        "params_total": trial and trial.params_total,
        "train_s": row.train_s,
        "before_s": row.before_s,
        "device_hours": row.device_hours,
        "pareto": row.pareto,
        "diverged": row.diverged,
        "failed": [trial.trial_id for trial in row.failed],
        "failed_why": [trial.reason for trial in row.failed],
        "lost": [trial.trial_id for trial in row.lost],
        "lost_why": [trial.reason for trial in row.lost],
        "unfinished": [trial.trial_id for trial in row.unfinished],
        "left_out": [trial.trial_id for trial in row.contradicted],
        "trials": [trial.trial_id for trial in row.trials],
    }


def _spread(name: str, found: Estimate | None) -> dict[str, float | None]:
    values = (None, None, None) if found is None else (found.sd, found.low, found.high)
    return dict(zip((f"{name}_sd", f"{name}_low", f"{name}_high"), values, strict=True))


def _mean_metric(row: Row, name: str) -> float | None:
    """Over all images, as the accuracy's: folds are not of one size."""
    found = [(value, trial) for trial in row.trials if (value := trial.metric(name)) is not None]
    if not found:
        return None
    images = [(trial.test_n if name.startswith("test_") else trial.val_n) or 1 for _, trial in found]
    return fmean([value for value, _ in found], images)
