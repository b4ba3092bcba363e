"""The report in words: what won, by how much, how sure, what is missing. Computes nothing that collect does not know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cifar_hpc.collect.comparison import Comparison
from cifar_hpc.collect.ensemble_pool import Ensembles
from cifar_hpc.collect.leaderboard import Leaderboard, Row, value_text
from cifar_hpc.collect.ledger import Ledger
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.statistics import PairedDifference
from cifar_hpc.collect.trials import Unfinished
from cifar_hpc.records.schema import Status
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.tables import estimate_text
from cifar_hpc.status.words import percent_text, plural


def progress_text(pool: Pool, board: Leaderboard) -> str:
    """'12 of 20 trials finished (5 points of 7): 1 failed, 2 running, 5 planned.'"""
    total = len(pool.trials) + len(pool.unfinished)
    counts = {status: sum(trial.status is status for trial in pool.unfinished) for status in Status}
    parts = [f"{count:,} {status}" for status, count in counts.items() if count]
    points = f"{len(board.measured):,} of {plural(len(board.rows), 'point')}"
    rest = f": {', '.join(parts)}." if parts else "."
    return f"{len(pool.trials):,} of {plural(total, 'trial')} finished, {points} measured{rest}"


def caveats(pool: Pool, board: Leaderboard) -> list[str]:
    """What a reader must know before trusting the order of the rows."""
    notes = list(pool.notes)
    refits = [row for row in board.rows if row.config.get("dataset.val_frac") == 0]
    if refits:
        notes.append(f"{plural(len(refits), 'point')} trained on the validation images too: nothing ranks them.")
    placed = sum(row.place is not None for row in board.measured)
    if board.measured and not placed:
        notes.append("Fewer than three seeds: rows are in the order of their numbers, and no ranking is claimed.")
    elif placed < len(board.measured):
        few = plural(len(board.measured) - placed, "point")
        notes.append(f"Fewer than three seeds: no place is claimed for {few}, which stand by their numbers.")
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


def headline(found: Findings) -> list[str]:
    """What won, by how much, how sure, what it cost, what to try next: a sentence or two each."""
    board, comparison = found.board, found.comparison
    if not board.measured:
        refitted = any(row.test_acc and row.config.get("dataset.val_frac") == 0 for row in board.rows)
        why = "These trials had no validation images" if refitted else "No trial has finished with a measurement yet"
        return [f"{why}.", _cost(found.ledger)]
    best = board.measured[0]
    test = f"; on test {estimate_text(best.test_acc)} %" if best.test_acc else ""
    lines = [f"{best.label} {_verb(board, comparison)}: {estimate_text(best.val_acc)} % validation accuracy{test}."]
    if comparison and len(board.measured) > 1:
        lines.append(_certainty(board, comparison))
    if comparison and comparison.optimism is not None and len(board.measured) > 1:
        flattery = f"flatters it by {_about(comparison.optimism)} points"
        lines.append(f"Being the best of {plural(len(board.measured), 'point')} on the same validation images {flattery}.")
    if found.ensembles:
        lines.append(_ensemble(found.ensembles))
    lines.append(_cost(found.ledger))
    lines += _next_steps(board, comparison)
    return lines


def _verb(board: Leaderboard, comparison: Comparison | None) -> str:
    """What may be said of the first point: only one that no other is tied with is best, and only with enough seeds."""
    if len(board.measured) == 1:
        return "is the only point measured"
    if not board.claims_ranking:
        return "has the best number so far"
    tied = comparison is None or any(comparison.tied(row.point_id) for row in board.measured[1:])
    unsure = comparison is not None and board.measured[1].point_id not in comparison.differences
    return "has the best mean, with others tied" if tied else "has the best mean" if unsure else "is best"


def _certainty(board: Leaderboard, comparison: Comparison) -> str:
    second = board.measured[1]
    tied = [row for row in board.measured[1:] if comparison.tied(row.point_id)]
    found = comparison.differences.get(second.point_id)
    if found is None:
        return f"The second, {second.label}, did not classify the same images: no paired test is possible."
    sure = f"{found.test} on the same images, p {p_text(found.p_value)}"
    text = f"The second, {second.label}, is {100 * found.difference:.2f} points behind ({sure})."
    if not tied:
        return f"{text} No other point is tied with the best."
    return f"{text} {plural(len(tied), 'other point')} {'is' if len(tied) == 1 else 'are'} tied with the best at the 5 % level."


def _ensemble(found: Ensembles) -> str:
    best = found.highest
    test = f"; on test {difference_text(best.test)}" if best.test else ""
    against = f"{difference_text(best.val)} on validation against the best trial{test}"
    if not found.gains:
        return f"No ensemble is measurably better than the best trial: the highest, {best.record.method}, is {against}."
    members = plural(len(best.record.members), "trial")
    return f"Best ensemble: {best.record.method} of {members}, {percent_text(best.record.val_acc)} %, {against}."


def _about(share: float) -> str:
    return f"about {100 * share:.2f}" if share >= 0.0001 else "less than 0.01"


def _cost(ledger: Ledger) -> str:
    parts = []
    for device in ledger.devices:
        name = "GPU" if device == "cuda" else device.upper() if device == "cpu" else device
        entries = {outcome: entry for (where, outcome), entry in ledger.by_outcome.items() if where == device}
        lost = sum(
            entry.hours for outcome, entry in entries.items() if outcome not in ("finished", "stopped early by patience")
        )
        waste = f", {hours_text(lost)} of them in trials that diverged, failed or were stopped" if lost else ""
        killed = f", {hours_text(ledger.lost[device].hours)} of them lost to preemption" if device in ledger.lost else ""
        parts.append(f"{hours_text(ledger.hours(device))} {name}-hours{waste}{killed}")
    reused = (
        f" {plural(ledger.reused.trials, 'trial')} came from other sweeps through the pool." if ledger.reused.trials else ""
    )
    return (f"It cost {' and '.join(parts)}." if parts else "It has cost nothing yet.") + reused


def _next_steps(board: Leaderboard, comparison: Comparison | None) -> list[str]:
    best = board.measured[0]
    if not board.claims_ranking and len(board.measured) > 1:
        again = "the same under other names with other values of search.seed" if board.is_population else "(`seeds: 3`)"
        return [f"Next: three seeds or more {again}, so that an order of the points means something."]
    steps = []
    for axis in board.axes:
        numbers = [value for value in board.values(axis) if isinstance(value, int | float)]
        value = best.axes[axis]
        if len(numbers) == len(board.values(axis)) > 2 and value in (numbers[0], numbers[-1]):
            end = "smallest" if value == numbers[0] else "largest"
            steps.append(f"Next: {axis}={value_text(value)} is the {end} value tried; look beyond it.")
    if comparison and len(board.measured) > 1 and comparison.tied(board.measured[1].point_id):
        seeds = seeds_to_separate(best, board.measured[1])
        if seeds is not None:
            steps.append(
                f"Next: about {seeds} seeds each would tell the first two apart, if their difference is what it looks like."
            )
    return steps


def seeds_to_separate(one: Row, other: Row) -> int | None:
    """Seeds a point for an 80 % chance of p < 0.05, from the spread seen. None below three seeds, or above a thousand."""
    a, b = one.val_acc, other.val_acc
    if a is None or b is None or a.sd is None or b.sd is None or a.mean == b.mean:
        return None
    seeds = math.ceil((1.96 + 0.84) ** 2 * (a.sd**2 + b.sd**2) / (a.mean - b.mean) ** 2)
    return max(seeds, a.n + 1) if seeds <= 1000 else None


def p_text(p_value: float) -> str:
    """'= 0.04', '< 0.001'."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}" if p_value < 0.1 else f"= {p_value:.2f}"


def difference_text(found: PairedDifference | None) -> str:
    """'+0.42 (p = 0.03)'; empty for None."""
    return f"{100 * found.difference:+.2f} (p {p_text(found.p_value)})" if found else ""


def hours_text(hours: float) -> str:
    """'under 0.01', '0.02', '1.5', '140'."""
    if 0 < hours < 0.01:
        return "under 0.01"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
