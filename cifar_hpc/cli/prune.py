"""`cifar-hpc prune`: shows, and with --yes removes, what no sweep asks for any more."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.config.words import plural
from cifar_hpc.planning.estimate import size_text
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import Status
from cifar_hpc.status.state import GOING_ON
from cifar_hpc.terminal.tables import TextColumn, print_columns

if TYPE_CHECKING:
    from cifar_hpc.sweep.prune import Unnamed


def prune(yes: Annotated[bool, typer.Option("--yes", help="remove them; without it they are only counted")] = False) -> None:
    """Count, and with --yes remove, the trials of the pool that no sweep's plan names and that do not run.

    Kept too are trials from whose weights one of a sweep starts. Ensembles and soups made of removed trials can no longer
    label images.
    """
    from cifar_hpc.sweep.prune import find_unnamed, remove_trial

    layout = Layout(results_root())
    found = find_unnamed(layout)
    running = [trial for trial in found if trial.status in GOING_ON]
    idle = [trial for trial in found if trial.status not in GOING_ON]
    if running:
        go_on = "runs or waits, and stays" if len(running) == 1 else "run or wait, and stay"
        say(f"{plural(len(running), 'trial')} that no sweep names {go_on}")
    if not idle:
        say(f"nothing to remove from {layout.pool}")
        return
    _print(idle)
    total = size_text(sum(trial.size_bytes for trial in idle))
    if not yes:
        say(f"{plural(len(idle), 'trial')}, {total}, that no sweep names; `cifar-hpc prune --yes` removes them for good")
        return
    gone = sum(remove_trial(layout, trial) for trial in idle)
    shutil.rmtree(layout.leaving, ignore_errors=True)  # with what a killed one left
    say(f"removed {plural(gone, 'trial')} from {layout.pool}")
    if gone < len(idle):
        say(f"{plural(len(idle) - gone, 'trial')} began meanwhile: not removed")


def _print(trials: Collection[Unnamed]) -> None:
    groups: dict[Status, list[int]] = defaultdict(list)
    for trial in trials:
        groups[trial.status].append(trial.size_bytes)
    statuses = [status for status in Status if status in groups]
    columns = [
        TextColumn("status", tuple(status.value for status in statuses)),
        TextColumn("trials", tuple(f"{len(groups[status]):,}" for status in statuses), right=True),
        TextColumn("disk", tuple(size_text(sum(groups[status])) for status in statuses), right=True),
    ]
    print_columns(columns)
