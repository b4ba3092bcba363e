"""`cifar-hpc sweep`, `retry`, `cancel`: trains what is missing, runs failures again, stops what runs."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import FilterText, OnOption, ProfileOption, SetOption, SpecName, SweepName, conclude, meant, say
from cifar_hpc.config.words import plural
from cifar_hpc.executors.slurm.usage import parse_budget
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import PlannedTrial
from cifar_hpc.status.advice import counts_text
from cifar_hpc.status.axes import axes_of
from cifar_hpc.status.names import short_ids
from cifar_hpc.status.query import spell
from cifar_hpc.sweep.where import On, Where, reader_of
from cifar_hpc.terminal.listener import Shown
from cifar_hpc.terminal.prose import laid_out
from cifar_hpc.terminal.tables import TextColumn, print_columns

if TYPE_CHECKING:
    from cifar_hpc.planning.plan import Plan

IT_SAMPLES = "a search samples its configurations as it goes: none is known before it runs"


def sweep(
    spec: SpecName,
    on: Annotated[
        On,
        typer.Option(
            metavar="WHERE", help="auto, inline (in this process), ray (side by side on this machine) or slurm (job arrays)"
        ),
    ] = On.AUTO,
    profile: Annotated[str | None, typer.Option(help="the Slurm site: slurm/NAME.yaml, or a path")] = None,
    canary: Annotated[bool, typer.Option(help="on Slurm: one trial's first epoch must succeed before the arrays start")] = True,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="on Slurm: stay until all has ended")] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="HOURS", help="on Slurm: no trial is begun beyond it, such as 20gpuh or 100cpuh; none")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="end trials that the spec dropped and that still wait or train")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="with --dry-run: the first batch script too")] = False,
    share: Annotated[bool, typer.Option("--share/--no-share", help="train trials with a common trunk side by side")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count, and start nothing")] = False,
    list_: Annotated[bool, typer.Option("--list", help="with --dry-run: every configuration too")] = False,
    set_: SetOption = None,
) -> None:
    """Train the trials of SPEC that are not finished yet. Typing it again goes on where it was interrupted."""
    from cifar_hpc.planning.plan import make_plan
    from cifar_hpc.sweep.driver import look_at_plan, run_spec
    from cifar_hpc.sweep.specs import load_named

    bound = None if budget is None else parse_budget(budget)
    layout, where, shown = Layout(results_root()), Where(on, profile, canary, wait, bound), Shown()
    loaded = load_named(layout, spec, set_ or (), shown.note)
    if dry_run:
        plan = make_plan(loaded, share=share)
        for line in look_at_plan(layout, plan, where, shown, verbose=verbose):
            typer.echo(laid_out(line, sys.stdout))
        if list_:
            _print_configurations(layout, plan)
        return
    conclude(run_spec(layout, loaded, where, shown, share=share, prune=prune))


def retry(name: SweepName, terms: FilterText = None, on: OnOption = On.AUTO, profile: ProfileOption = None) -> None:
    """Run the failed trials of a sweep again, all or those of a filter; each from its last checkpoint, if one stands.

    For what failed of the machine. What failed of the spec or the images: mend them and type `sweep`, which also starts what
    was cancelled, lost or never begun: `retry` leaves that alone, but a search goes on.
    """
    from cifar_hpc.sweep.retry import retry_failed

    layout = Layout(results_root())
    outcome = retry_failed(layout, *meant(layout, name, terms), Where(on, profile), Shown())
    if outcome is not None:
        conclude(outcome)


def cancel(name: SweepName, terms: FilterText = None) -> None:
    """Stop a sweep that runs, or the trials of a filter: they save their state, and `sweep` goes on with them."""
    from cifar_hpc.sweep.cancel import cancel_chosen

    layout = Layout(results_root())
    name, terms = meant(layout, name, terms)
    done = cancel_chosen(layout, name, terms)
    for note in done.notes:
        say(note)
    if done.trials or not done.unasked:
        stopped = f"{plural(len(done.trials), 'trial')} asked to stop" if done.trials else "nothing that was meant runs"
        say(f"{name}: {stopped}")
    if done.unasked:
        raise typer.Exit(2)


def _print_configurations(layout: Layout, plan: Plan) -> None:
    """A row for each: what the spec varies, its seeds, where they stand, and the id that names it."""
    from cifar_hpc.planning.plan import plan_record

    record = plan_record(plan)
    states = reader_of(layout, record).read()
    points: dict[str, list[PlannedTrial]] = {}
    for trial in record.trials:
        points.setdefault(trial.point_id, []).append(trial)
    if plan.spec.search is not None:
        say(f"a search samples its configurations as it goes; it begins with these {len(points)}" if points else IT_SAMPLES)
    if not points:
        return
    ids = short_ids(points)
    first = [trials[0] for trials in points.values()]
    columns = []
    axes = axes_of(first).values()
    for key in dict.fromkeys(key for own in axes for key in own if key != "seed"):
        cells = tuple(spell(own[key], key) if key in own else "" for own in axes)
        columns += [TextColumn(key, cells)] if len(set(cells)) > 1 else []
    stand = [counts_text(Counter(states[trial.trial_id].status for trial in trials)) for trials in points.values()]
    seeds = [{trial.config["seed"] for trial in trials} for trials in points.values()]
    columns.append(TextColumn("seeds", tuple(str(len(found)) for found in seeds), keep=6, right=True))
    if any(trial.config["dataset"].get("fold") for trial in first):
        columns.append(TextColumn("folds", tuple(str(len(trials)) for trials in points.values()), keep=6, right=True))
    columns += [
        TextColumn("now", tuple(stand), keep=8),
        TextColumn("id", tuple(ids[point] for point in points), keep=7),
    ]
    print_columns(columns)
