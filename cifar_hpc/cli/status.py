"""`cifar-hpc status`: where sweeps and trials stand, and what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from cifar_hpc.cli.speech import FilterText, meant, say
from cifar_hpc.errors import RecordError
from cifar_hpc.executors.slurm.usage import spent_words, told_at
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlannedTrial, PlanRecord, SplitMetrics, Status
from cifar_hpc.status.advice import counts_text, dropped_line, left_out_line, next_lines, reasons_of, stage_lines
from cifar_hpc.status.axes import axes_of, settled_axes
from cifar_hpc.status.names import names_of, select_trials, short_ids
from cifar_hpc.status.progress import epochs_text
from cifar_hpc.status.query import measured, spell
from cifar_hpc.status.state import ENDED, GOING_ON
from cifar_hpc.status.words import allocated_text, moment_text, score_text
from cifar_hpc.sweep.accounting import look_up
from cifar_hpc.sweep.holding import living_owner
from cifar_hpc.sweep.names import going_on_without
from cifar_hpc.sweep.where import reader_of, spent_of
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, print_records

MOST_REASONS = 10


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="none: all sweeps; SWEEP#3, or an id: those trials of it")
    ] = None,
    terms: FilterText = None,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Show where the trials of a sweep stand, why some failed, and what to type next."""
    layout = Layout(results_root())
    if name is None:
        _print_sweeps(layout, format)
        return
    name, terms = meant(layout, name, terms)
    plan = read_plan(layout, name)
    states = reader_of(layout, plan).read()
    rows, why = select_trials(plan, states, terms)
    if why:
        say(why)
    if format in (Format.JSON, Format.CSV):
        axes = settled_axes(plan.trials)
        records = {
            t.trial_id: {"trial_id": t.trial_id, **axes[t.trial_id], **measured(states[t.trial_id])} for t in plan.trials
        }
        titles = [key for record in records.values() for key in record]  # whatever part is asked for
        print_records([records[trial.trial_id] for trial in rows], format, titles)
    elif not rows:
        return
    elif format is Format.TABLE:
        _print_status(plan, states, rows, detailed=bool(terms))
        if not terms and (found := look_up(layout, name, lambda: states)) is not None:
            typer.echo(f"  cluster    {allocated_text(found)}")
    else:
        print_columns(_trial_columns(plan, states, rows), format)


def _print_sweeps(layout: Layout, format: Format) -> None:
    counts: dict[str, Counter[Status]] = {}
    to_come: dict[str, int] = {}
    unread = []
    for name in (sweep.name for sweep in layout.sweeps()):
        try:
            plan = read_plan(layout, name)
            states = reader_of(layout, plan).read()
        except RecordError as error:
            unread.append(str(error))
        else:
            counts[name], to_come[name] = Counter(state.status for state in states.values()), plan.to_come
    if format in (Format.JSON, Format.CSV):
        records = [
            {"sweep": name, "trials": n.total(), "to_come": to_come[name], **{status.value: n[status] for status in Status}}
            for name, n in counts.items()
        ]
        print_records(records, format, ("sweep", "trials", "to_come", *(status.value for status in Status)))
    elif counts:
        columns = [
            TextColumn("sweep", tuple(counts)),
            TextColumn("trials", tuple(_of_at_most(n.total(), to_come[name]) for name, n in counts.items()), right=True),
            TextColumn("finished", tuple(str(sum(n[status] for status in ENDED)) for n in counts.values()), right=True),
            TextColumn("others", tuple(counts_text({s: k for s, k in n.items() if s not in ENDED}) for n in counts.values())),
        ]
        print_columns(columns, format)
    elif not layout.closed():
        say(f"no sweep under {layout.root}: `cifar-hpc sweep SPEC` starts one; ${RESULTS_VARIABLE} names another place")
    for folder in layout.closed():
        say(f"not read: you may not enter {folder}; whoever it belongs to can open it")
    for line in unread:
        say(f"not read: {line}")


def _of_at_most(trials_n: int, to_come: int) -> str:
    return f"up to {trials_n + to_come}" if to_come else str(trials_n)


def _print_status(plan: PlanRecord, states: Mapping[str, TrialState], rows: Sequence[PlannedTrial], *, detailed: bool) -> None:
    shown = {trial.trial_id: states[trial.trial_id] for trial in rows}
    counts = Counter(state.status for state in shown.values())
    more = f", up to {plan.to_come} more to sample" if plan.to_come and len(rows) == len(plan.trials) else ""
    typer.echo(f"{plan.sweep}: {counts_text(counts) or 'no trial'}{more}")
    for line in stage_lines(rows, states):
        typer.echo(line)
    layout = Layout(results_root())
    files = layout.sweep(plan.sweep)
    if spent := spent_words(files):
        told = told_at(files) if any(state.status in GOING_ON for state in states.values()) else None
        typer.echo(f"  budget     {spent} are spent{f', as of {moment_text(told)}' if told else ''}")
    if detailed and rows:
        print_columns(_trial_columns(plan, states, rows))
    running = [trial for trial in rows if shown[trial.trial_id].status is Status.RUNNING and not shown[trial.trial_id].waits]
    names = names_of(plan.trials) if running and not detailed else {}
    for trial in running if names else ():
        epochs = epochs_text(trial, shown[trial.trial_id])
        typer.echo(f"  running    {trial.trial_id}  {names[trial.trial_id]}{f'  epoch {epochs}' if epochs else ''}")
    reasons = Counter({key: n for key, n in reasons_of(shown.values()).items() if key[1]})
    for (word, reason), n in reasons.most_common(MOST_REASONS):
        typer.echo(f"  {word:<9}  {n} x {reason}")
    for line in left_out_line(plan, reasons, MOST_REASONS):
        say(line)
    if line := dropped_line(plan, len(going_on_without(layout, plan))):
        say(line)
    for line in next_lines(plan, shown, living_owner(files), spent_of(layout, plan)):
        say(line)


def _trial_columns(plan: PlanRecord, states: Mapping[str, TrialState], rows: Sequence[PlannedTrial]) -> list[TextColumn]:
    """What tells the trials apart and where they stand; a column that is empty, or the same in all of several, leaves."""
    ids = short_ids([trial.trial_id for trial in plan.trials])
    told = axes_of(plan.trials)
    axes = [told[trial.trial_id] for trial in rows]
    shown = [states[trial.trial_id] for trial in rows]
    columns = [TextColumn("trial", tuple(ids[trial.trial_id] for trial in rows), keep=5)]
    for key in dict.fromkeys(key for own in axes for key in own):
        cells = tuple(spell(own[key], key) if key in own else "" for own in axes)
        if len(set(cells)) > 1 or (len(rows) == 1 and cells[0]):
            columns.append(TextColumn(key, cells))
    epochs = tuple(epochs_text(trial, state) for trial, state in zip(rows, shown, strict=True))
    columns += [
        TextColumn("status", tuple(state.status.value for state in shown)),
        TextColumn("epochs", epochs, keep=4, right=True),
        TextColumn("val acc %", tuple(_score(state, "val") for state in shown), keep=8, right=True),
        TextColumn("test acc %", tuple(_score(state, "test") for state in shown), keep=7, right=True),
    ]
    return [column for column in columns if any(column.cells)]


def _score(state: TrialState, split: str) -> str:
    found: SplitMetrics | None = getattr(state.result, split) if state.result else None
    return score_text(found.acc, found.n) if found else ""
