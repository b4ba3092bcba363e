"""Which sentence would more seeds change: the chance that the best beats the second, the seeds that would settle it, their cost
and the command. Formats what collect/ranking computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.ranking import MOST_SEEDS, no_difference, seeds_to_settle, seeds_vary
from cifar_hpc.collect.statistics import Difference
from cifar_hpc.config.words import plural
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.words import words_of
from cifar_hpc.status.advice import sweep_command
from cifar_hpc.status.words import duration_text

_LEAST_POINTS = 0.5  # percentage points that are worth telling apart


@dataclass(frozen=True, slots=True)
class NextSeed:
    """sentences: what stands on the page; command: to copy, None where there is none to give."""

    sentences: Sequence[str]
    command: str | None


def next_seed(found: Findings, layout: Layout) -> NextSeed | None:
    """Of the first two points, where both were tested over seeds; None elsewhere."""
    board, comparison = found.board, found.comparison
    if comparison is None or len(board.measured) < 2:
        return None
    first, second = board.measured[:2]
    difference = comparison.differences.get(second.point_id)
    if difference is None or difference.networks or first.trials[0].own_split:
        return None
    if no_difference(difference):
        return NextSeed(
            [f"{words_of(first)} and {words_of(second)} measure the same: that does not tell how many seeds would part them."],
            None,
        )
    sentences = [_chances(found, difference)]
    if comparison.decision(second.point_id) == "worse":
        return NextSeed([*sentences, "The first two are told apart."], None)
    alike_n = sum(comparison.decision(row.point_id) in ("best", "tied") for row in board.measured)
    seeds = seeds_to_settle(difference, min(first.seeds, second.seeds), alike_n)
    if seeds is None or seeds > MOST_SEEDS:
        limit = (
            f"it takes over {MOST_SEEDS}"
            if seeds is not None
            else "these validation images are too few to tell so small a difference"
            if seeds_vary(difference)
            else "the seeds of each measure the same"
        )
        return NextSeed([*sentences, f"No reasonable number of seeds would tell them apart: {limit}. Take either."], None)
    command, cost = _command(found, layout, seeds)
    sentences.append(f"About {seeds} seeds of each would tell them apart, if the difference is what it looks like{cost}.")
    return NextSeed(sentences, command)


def _chances(found: Findings, difference: Difference) -> str:
    first, second = (words_of(row) for row in found.board.measured[:2])
    any_chance = difference.chance_above(0.0) or 0.0
    text = f"The chance that {first} is better than {second} is {_percent(any_chance)}"
    if found.board.info.share:
        worth = difference.chance_above(_LEAST_POINTS / 100) or 0.0
        text += f", that it is better by more than {_LEAST_POINTS} pp {_percent(worth)}"
    return f"{text} (Bayesian t-test over the same images and seeds; that the first was chosen as the best is not allowed for)."


def _percent(chance: float) -> str:
    return "over 99 %" if chance > 0.99 else "under 1 %" if chance < 0.01 else f"{100 * chance:.0f} %"


def _command(found: Findings, layout: Layout, seeds: int) -> tuple[str | None, str]:
    """The command for one sweep's seeds, and what it costs in words; none where it would plan other trials than these and
    more seeds of each, or start none."""
    if len(found.pool.sweeps) != 1 or found.board.is_population or any(row.hidden for row in found.board.rows):
        return None, ""
    try:
        plan = read_plan(layout, found.pool.sweeps[0])
    except (RecordError, OSError):
        return None, ""
    if plan.search is not None or not _asks_for_seeds(plan, found.board):
        return None, ""
    drawn = [row for row in found.board.rows if not row.draws_nothing]
    to_train = [(row, seeds - len(row.trials) - len(row.failed) - len(row.contradicted)) for row in drawn]
    to_train = [(row, n) for row, n in to_train if n > 0]
    if not to_train:
        return None, ""  # those that are missing have failed
    return sweep_command(replace(plan, overrides=(*plan.overrides, f"seeds={seeds}"))), _cost(found.board, drawn, to_train)


def _cost(board: Leaderboard, drawn: Sequence[Row], to_train: Sequence[tuple[Row, int]]) -> str:
    """'; for all 6 configurations that is 20 s of training'. drawn: the configurations of which seeds are several trials;
    to_train: how many of each."""
    which = f"all {len(drawn)} configurations"
    if len(drawn) < len(board.rows):
        which = f"the {plural(len(drawn), 'configuration')} of which a seed draws anything"
    train_s = sum(n * (row.train_s or 0.0) for row, n in to_train)  # what they start from stays as it is
    at_least = "at least " if any(row.train_s is None for row, _ in to_train) else ""
    return f"; for {which} that is {at_least}{duration_text(train_s)} of training, less what the pool has of it"


def _asks_for_seeds(plan: PlanRecord, board: Leaderboard) -> bool:
    """Whether all that the sweep plans is on this board, with seeds from 0 on and without stages, each of which may have
    seeds of its own."""
    seeds: dict[str, set[int]] = {}
    for trial in plan.trials:
        seeds.setdefault(trial.point_id, set()).add(trial.config["seed"])
    counted = all(found == set(range(len(found))) for found in seeds.values())
    return counted and seeds.keys() == {row.point_id for row in board.rows} and "stage" not in plan.trials[0].axes
