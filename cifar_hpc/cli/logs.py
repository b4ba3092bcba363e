"""`logs`: why trials failed, what their processes printed, and with -f what they do now. Reads files only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Annotated

import typer

from cifar_hpc.cli.speech import FilterText, meant, say
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlannedTrial, Status
from cifar_hpc.status.advice import counts_text
from cifar_hpc.status.logs import Told, log_text
from cifar_hpc.status.names import resolve_id, select_trials
from cifar_hpc.status.state import SweepReader, is_going_on
from cifar_hpc.sweep.where import reader_of

POLL_EVERY_S = 1.0
COST_FRAC = 0.05  # share of one core that following may take


def logs(
    name: Annotated[str, typer.Argument(metavar="SWEEP|TRIAL", help="a sweep; SWEEP#3, or an id: all its seeds")],
    terms: FilterText = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what the trials do until they have ended")] = False,
) -> None:
    """Print why trials failed and what their processes said last; with -f each epoch as it ends."""
    layout = Layout(results_root())
    name, terms = meant(layout, name, terms)
    trials = layout.trial_ids()
    if not layout.has_sweep(name) and any(trial_id.startswith(name.lower()) for trial_id in trials):
        trial_id = resolve_id(name, trials)
        if follow:
            raise CifarHpcError(f"logs -f: no sweep has the trial {trial_id}")
        typer.echo(log_text(layout, trial_id), nl=False)
        return
    reader = reader_of(layout, read_plan(layout, name))
    states = reader.read()
    chosen, why = select_trials(reader.plan, states, terms)
    if why:
        say(why)
    if follow:
        _follow(layout, reader, chosen)
        return
    if not terms:
        chosen = [trial for trial in chosen if states[trial.trial_id].status in (Status.FAILED, Status.LOST)]
    if not chosen and not terms:
        counts = Counter(states[trial.trial_id].status for trial in reader.plan.trials)
        say(f"no trial failed or was lost ({counts_text(counts)}); an id shows its log")
    for trial in chosen:
        typer.echo(log_text(layout, trial.trial_id, states[trial.trial_id].reason), nl=False)


def _follow(layout: Layout, reader: SweepReader, chosen: Collection[PlannedTrial]) -> None:
    """Prints epochs, the jobs' own output and ends as they come, until every chosen trial has ended or nobody trains."""
    told = Told(layout, chosen)
    while True:
        began = time.perf_counter()
        states = reader.read()
        for line in told.news(states):
            typer.echo(line)
        if not is_going_on(layout, [states[trial.trial_id] for trial in chosen]):
            return
        time.sleep(max(POLL_EVERY_S, (time.perf_counter() - began) / COST_FRAC))
