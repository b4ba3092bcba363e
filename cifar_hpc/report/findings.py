"""All that one section of a report says, computed once: what the page, the tables and the summary share."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_hpc.collect.comparison import Comparison, compare_with_best
from cifar_hpc.collect.effects import Effects, measure_effects
from cifar_hpc.collect.ensemble import USUAL
from cifar_hpc.collect.ensemble_pool import Ensembles, make_ensembles
from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.ledger import Ledger, make_ledger
from cifar_hpc.collect.refitted import Refitted, refitted_ensembles
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.sections import Section
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.places import report_folder


@dataclass(frozen=True, slots=True)
class Findings:
    """Of one data set and split, its name. comparison: None where nothing was measured; ensembles: None where there are no two
    members."""

    name: str
    pool: Pool
    board: Leaderboard
    comparison: Comparison | None
    effects: Effects
    ledger: Ledger
    ensembles: Ensembles | None
    refitted: tuple[Refitted, ...] = ()


def find(section: Section, layout: Layout, terms: str = "") -> Findings:
    """Computes all but the leaderboard, which the terminal shows first. terms: the filter that made the pool."""
    pool, board = section.pool, section.board
    soups = report_folder(layout, pool.sweeps, terms) / "soups"
    return Findings(
        name=section.name,
        pool=pool,
        board=board,
        comparison=compare_with_best(board, layout),
        effects=measure_effects(board),
        ledger=make_ledger(pool, board),
        ensembles=make_ensembles(board, layout, pool.ensemble or USUAL, soups),
        refitted=refitted_ensembles(pool, layout),
    )
