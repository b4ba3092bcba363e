"""What the commands have in common: prose on stderr, how a sweep is shown while it runs, and what is said of its end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.words import plural
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import PlanRecord, Status
from cifar_hpc.status.advice import failure_lines, go_on_command, left_out_line, reasons_of, sweep_command
from cifar_hpc.status.progress import Best, Counts
from cifar_hpc.status.words import total_text
from cifar_hpc.sweep.listener import SweepOutcome
from cifar_hpc.sweep.where import On, spent_of
from cifar_hpc.terminal.prose import laid_out

SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="the sweep's name; SWEEP#3, or an id: those trials of it")]
FilterText = Annotated[
    list[str] | None, typer.Argument(metavar="FILTER", help="such as arch=resnet18 lr>1e-3, beginnings of ids, or #3")
]
OnOption = Annotated[On, typer.Option(metavar="WHERE", help="as for sweep")]
ProfileOption = Annotated[str | None, typer.Option(help="the Slurm site, as for sweep")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change the spec for this call")]
ONE_NAME = "an id's beginning, SWEEP (its best), SWEEP#3, or 'SWEEP arch=resnet18'"  # what collect/names.py understands
MOST_REASONS = 5  # in a command's last lines
SpecName = Annotated[str, typer.Argument(metavar="SPEC|SWEEP", help="the sweep's YAML file, or its name")]


def meant(layout: Layout, name: str, words: list[str] | None) -> tuple[str, list[str]]:
    """The sweep and the filter that SWEEP and FILTER ask for; a leaderboard is read only where a row is named by its number."""
    if layout.has_sweep(name) and not any("#" in word for word in words or ()):
        return name, list(words or ())
    from cifar_hpc.collect.names import in_sweep

    return in_sweep(layout, name, words)


def say(line: str) -> None:
    """One line of prose, on stderr."""
    typer.echo(laid_out(line, sys.stderr), err=True)


def _gone_networks(plan: PlanRecord, best: Best) -> str:
    """Of the best configuration, which is to keep its networks: how many are not here, such as of folds that had ended
    while others were ahead, and what brings them back. Empty where all are there."""
    keeps = {t.trial_id for t in plan.trials if CLASSIFIERS[str(t.config.get("classifier", "linear"))].keeps_weights}
    layout, ids = Layout(results_root()), [one for one in best.trial_ids if one in keeps]
    gone = [one for one in ids if not layout.trial(one).weights.exists()]
    if plan.keep is None or not gone:
        return ""
    back = f"`cifar-hpc reproduce {best.point_id}` brings them back"
    return f"of its {plural(len(ids), 'network')} {len(gone)} {'is' if len(gone) == 1 else 'are'} not here: {back}"


def conclude(outcome: SweepOutcome, then: str | None = None) -> None:
    """The last lines; raises typer.Exit: 1 where a trial has no result, 130 where it was interrupted. then: what to do with its
    trials once they have finished, where that is not to rank them."""
    plan, states = outcome.plan, outcome.states
    if outcome.submitted:
        say(f"next: cifar-hpc status {plan.sweep}")
        if then:
            say(f"once it has finished, {then}")
        return
    if outcome.interrupted:
        going = outcome.elsewhere
        if not going or set(outcome.unfinished) - {*going, *outcome.failed}:
            say(f"interrupted: {Counts.of(plan, states)} are kept. To go on: {sweep_command(plan)}")
        if going:
            say(f"no longer waiting; what goes on: {plural(len(going), 'trial')}: cifar-hpc status {plan.sweep}")
            say(f"to stop that, too: cifar-hpc cancel {plan.sweep}")
        raise typer.Exit(130)
    if not outcome.started:
        say(f"{plan.sweep}: nothing to start.")
    stopped_n = sum(state.status is Status.STOPPED for state in states.values())
    if stopped_n:
        trained = sum(states[trial.trial_id].epochs_done for trial in plan.trials if trial.epochs)
        whole = sum(trial.epochs for trial in plan.trials)
        say(f"{plan.sweep}: the search stopped {plural(stopped_n, 'trial')}; {trained} of {whole} epochs were trained")
    say(f"{plan.sweep}: {len(outcome.completed)} of {total_text(len(states), plan.to_come)} finished")
    if outcome.best:
        seen = ", on images that what it starts from may have trained on" if outcome.best.seen else ""
        say(f"best configuration: {outcome.best}{seen}")
        if gone := _gone_networks(plan, outcome.best):
            say(gone)
    reasons = reasons_of(states.values())
    for (word, reason), n in reasons.most_common(MOST_REASONS):
        say(f"  {n} {word}: {reason}".rstrip(": "))
    for line in left_out_line(plan, reasons, MOST_REASONS):
        say(line)
    if outcome.failed:
        for line in failure_lines(plan, states.values()):
            say(line)
    elif outcome.unfinished:
        say(f"to go on: {go_on_command(plan, spent_of(Layout(results_root()), plan))}")
    if outcome.completed:
        say(then or f"the leaderboard: cifar-hpc report {plan.sweep}")
    if outcome.unfinished:
        raise typer.Exit(1)
