"""The report in words: what won, by how much, how sure, what is missing. Computes nothing that collect does not know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import Unfinished
from cifar_hpc.records.schema import Status


def progress_text(pool: Pool, board: Leaderboard) -> str:
    """'12 of 20 trials finished (5 points of 7): 1 failed, 2 running, 5 planned.'"""
    total = len(pool.trials) + len(pool.unfinished)
    counts = {status: sum(trial.status is status for trial in pool.unfinished) for status in Status}
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    points = f"{len(board.measured)} of {plural(len(board.rows), 'point')}"
    rest = f": {', '.join(parts)}." if parts else "."
    return f"{len(pool.trials):,} of {plural(total, 'trial')} finished, {points} measured{rest}"


def caveats(pool: Pool, board: Leaderboard) -> list[str]:
    """What a reader must know before trusting the order of the rows."""
    notes = []
    if board.measured and not board.claims_ranking:
        notes.append("Fewer than three seeds: rows are in the order of their numbers, and no ranking is claimed.")
    if board.image_sets > 1:
        notes.append(f"{board.image_sets} different validation sets: compare only points with the same data set.")
    return [*notes, *(f"Left out: {line}" for line in _by_reason((r.reason, r.path) for r in pool.rejected))]


def failures(trials: Sequence[Unfinished]) -> list[str]:
    """One line for each reason: the failed trials of that kind, named."""
    return _by_reason((t.reason, t.trial_id) for t in trials if t.status in (Status.FAILED, Status.LOST))


def _by_reason(pairs: Iterable[tuple[str, str]]) -> list[str]:
    names: dict[str, list[str]] = {}
    for reason, name in pairs:
        names.setdefault(reason, []).append(name)
    return [f"{reason} [{shortened(who)}]" for reason, who in names.items()]


def shortened(names: Sequence[str], most: int = 4) -> str:
    """'a, b, c, d and 6 more'."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def plural(count: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
