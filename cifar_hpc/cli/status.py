"""`status`, `retry`: what stands on disk, and failed trials anew. Starts through sweep's path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cifar_hpc.cli.progress import names_of
from cifar_hpc.cli.stages import stage_lines
from cifar_hpc.cli.sweep import On, Where, run_plan, say
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlannedTrial, PlanRecord, Status, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.report.forms import Format, TextColumn, percent_text, print_columns, print_records
from cifar_hpc.status.query import flat_values, parse_filter, values_there
from cifar_hpc.status.state import (
    ENDED,
    SweepReader,
    failure_lines,
    first_line,
    resolve_trial,
    short_ids,
    sweep_command,
)

MOST_REASONS = 10


SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="the sweep's name")]
FilterText = Annotated[list[str] | None, typer.Argument(metavar="FILTER", help="such as arch=resnet18 lr>1e-3, or ids")]


def status(
    name: Annotated[str | None, typer.Argument(metavar="SWEEP", help="none: all sweeps")] = None,
    terms: FilterText = None,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Show where the trials of a sweep stand, why some failed, and what to type next."""
    layout = Layout(results_root())
    if name is None:
        _print_sweeps(layout, format)
        return
    plan = read_plan(layout, name)
    states = SweepReader(layout, plan).read()
    rows = select_trials(plan, states, terms)
    if format in (Format.JSON, Format.CSV):
        print_records([_row(trial, states[trial.trial_id]) for trial in rows], format)
    elif not rows:
        return
    elif format is Format.TABLE:
        _print_status(plan, states, rows, detailed=bool(terms))
    else:
        print_columns(_trial_columns(plan, states, rows), format)


def retry(
    name: SweepName,
    terms: FilterText = None,
    on: Annotated[On, typer.Option(metavar="WHERE", help="as for sweep")] = On.AUTO,
    profile: Annotated[str | None, typer.Option(help="the Slurm site, as for sweep")] = None,
) -> None:
    """Run the failed trials of a sweep again, all or those of a filter; each goes on from its last checkpoint.

    For what failed of the machine. What failed of a mistake in the spec: mend the spec and type `sweep`.
    """
    from cifar_hpc.planning.plan import recorded_plan

    layout = Layout(results_root())
    plan = read_plan(layout, name)
    reader = SweepReader(layout, plan)
    states = reader.read()
    chosen = [t.trial_id for t in select_trials(plan, states, terms) if states[t.trial_id].status is Status.FAILED]
    if not chosen:
        say(f"{name}: no failed trial to run again")
        return
    _refuse_changed_spec(layout, plan)
    for trial_id in chosen:
        _remove_torn_result(layout, trial_id)
    if plan.search is not None:
        from cifar_hpc.cli.search import retry_search

        retry_search(layout, plan, Where(on, profile), chosen)
    else:
        run_plan(layout, recorded_plan(plan), reader, Where(on, profile), again=chosen)


def _refuse_changed_spec(layout: Layout, plan: PlanRecord) -> None:
    """A spec that was mended since is what its writer wants to run, not the plan of before."""
    try:
        changed = Path(plan.spec_path).read_bytes() != layout.sweep(plan.sweep).spec.read_bytes()
    except OSError:  # moved, or typed from another folder: the plan is all there is
        return
    if changed:
        raise CifarHpcError(
            f"retry: {plan.spec_path} has changed since {plan.sweep} was planned, and retry runs what was planned; "
            f"type {sweep_command(plan)} first: it runs what the change makes new, and retry then what still fails"
        )


def _remove_torn_result(layout: Layout, trial_id: str) -> None:
    """A result that cannot be read keeps its trial from running; one of a newer program is left alone."""
    path = layout.trial(trial_id).result
    try:
        foreign = read_record(path, TrialResult).trial_id != trial_id
    except FileNotFoundError:
        return
    except RecordError as torn:
        if "newer than this program" in str(torn):
            raise
        foreign = True
    if foreign:
        say(f"removed {path}, which is no result of this trial")
        path.unlink()


def select_trials(plan: PlanRecord, states: Mapping[str, TrialState], terms: Sequence[str] | None) -> list[PlannedTrial]:
    """The trials that a filter, or beginnings of ids, mean; all where nothing is given. Says why where it means none."""
    words = " ".join(terms or ()).split()
    prefixes = [word for word in words if not set(word) & set("=<>")]
    ids = {resolve_trial(prefix, [trial.trial_id for trial in plan.trials]) for prefix in prefixes}
    rows = {trial.trial_id: _facts(trial, states[trial.trial_id]) for trial in plan.trials}
    keys = {key for row in rows.values() for key in row}
    wanted = parse_filter(" ".join(word for word in words if set(word) & set("=<>")), keys)
    chosen = [t for t in plan.trials if (not ids or t.trial_id in ids) and wanted.matches(rows[t.trial_id])]
    if words and not chosen:
        say(f"no trial matches {' '.join(words)!r}; {values_there(rows.values(), wanted)}")
    return chosen


def _facts(trial: PlannedTrial, state: TrialState) -> dict[str, Any]:
    """What a filter may ask of a trial: its config, its swept keys, where it stands, what it measured."""
    return {**flat_values(trial.config), **trial.axes, **_measured(trial, state), "id": trial.trial_id}


def _measured(trial: PlannedTrial, state: TrialState) -> dict[str, Any]:
    result = state.result
    return {
        "status": state.status.value,
        "outcome": result.outcome.value if result else None,
        "epochs_done": state.epochs_done,
        "val_acc": result.val.acc if result and result.val else None,
        "test_acc": result.test.acc if result and result.test else None,
        "reason": state.reason or None,
    }


def _row(trial: PlannedTrial, state: TrialState) -> dict[str, Any]:
    return {"trial_id": trial.trial_id, **trial.axes, **_measured(trial, state)}


def _print_sweeps(layout: Layout, format: Format) -> None:
    counts: dict[str, Counter[Status]] = {}
    unread = []
    for name in (sweep.name for sweep in layout.sweeps()):
        try:
            states = SweepReader(layout, read_plan(layout, name)).read()
        except RecordError as error:
            unread.append(str(error))
        else:
            counts[name] = Counter(state.status for state in states.values())
    if format in (Format.JSON, Format.CSV):
        records = [
            {"sweep": name, "trials": n.total(), **{status.value: n[status] for status in Status}} for name, n in counts.items()
        ]
        print_records(records, format)
    elif counts:
        columns = [
            TextColumn("sweep", tuple(counts)),
            TextColumn("trials", tuple(str(n.total()) for n in counts.values()), right=True),
            TextColumn("finished", tuple(str(sum(n[status] for status in ENDED)) for n in counts.values()), right=True),
            TextColumn("others", tuple(counts_text({s: k for s, k in n.items() if s not in ENDED}) for n in counts.values())),
        ]
        print_columns(columns, format)
    else:
        say(f"no sweep under {layout.root}: cifar-hpc sweep SPEC starts one; ${RESULTS_VARIABLE} names another place")
    for line in unread:
        say(f"not read: {line}")


def counts_text(counts: Mapping[Status, int]) -> str:
    """'3 running, 2 failed'."""
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts.get(status))


def _print_status(plan: PlanRecord, states: Mapping[str, TrialState], rows: Sequence[PlannedTrial], *, detailed: bool) -> None:
    shown = {trial.trial_id: states[trial.trial_id] for trial in rows}
    counts = Counter(state.status for state in shown.values())
    typer.echo(f"{plan.sweep}: {counts_text(counts) or 'no trial'}")
    for line in stage_lines(rows, states):
        typer.echo(line)
    if detailed and rows:
        print_columns(_trial_columns(plan, states, rows))
    names = names_of(plan.trials)
    for trial in rows:
        state = states[trial.trial_id]
        if state.status is Status.RUNNING and not detailed:
            epoch = f"epoch {state.epochs_done}/{trial.config['epochs']}"
            typer.echo(f"  running    {trial.trial_id}  {names[trial.trial_id]}  {epoch}")
    reasons = Counter((s.status, first_line(s.reason)) for s in shown.values() if s.reason and s.status not in ENDED)
    for (status, reason), n in reasons.most_common(MOST_REASONS):
        typer.echo(f"  {status.value:<9}  {n} x {reason}")
    if len(reasons) > MOST_REASONS:
        say(f"... and {len(reasons) - MOST_REASONS} more reasons: --format json")
    for line in _next_lines(plan, shown):
        say(line)


def _next_lines(plan: PlanRecord, states: Mapping[str, TrialState]) -> list[str]:
    """What to type now."""
    by_status = {status: [s for s in states.values() if s.status is status] for status in Status}
    if by_status[Status.FAILED]:
        return failure_lines(plan)
    open_ = [state for status in (Status.PLANNED, Status.LOST, Status.CANCELLED) for state in by_status[status]]
    if open_:
        kept = "   (begun trials go on after their last epoch)" if any(state.epochs for state in open_) else ""
        return [f"next: {sweep_command(plan)}{kept}"]
    return [f"next: cifar-hpc report {plan.sweep}"] if by_status[Status.COMPLETED] else []


def _trial_columns(plan: PlanRecord, states: Mapping[str, TrialState], rows: Sequence[PlannedTrial]) -> list[TextColumn]:
    """What tells the trials apart and where they stand; a column that is empty, or the same in all of several, leaves."""
    ids = short_ids([trial.trial_id for trial in plan.trials])
    axes = dict.fromkeys(key for trial in rows for key in trial.axes)
    measured = [_measured(trial, states[trial.trial_id]) for trial in rows]
    columns = [TextColumn("trial", tuple(ids[trial.trial_id] for trial in rows))]
    for key in axes:
        cells = tuple("" if trial.axes.get(key) is None else str(trial.axes[key]) for trial in rows)
        if len(set(cells)) > 1 or (len(rows) == 1 and cells[0]):
            columns.append(TextColumn(key, cells))
    epochs = tuple(f"{row['epochs_done']}/{trial.config['epochs']}" for row, trial in zip(measured, rows, strict=True))
    columns += [
        TextColumn("status", tuple(row["status"] for row in measured)),
        TextColumn("epochs", epochs, keep=6, right=True),
        TextColumn("val acc %", tuple(percent_text(row["val_acc"]) for row in measured), keep=8, right=True),
        TextColumn("test acc %", tuple(percent_text(row["test_acc"]) for row in measured), keep=5, right=True),
    ]
    return [column for column in columns if any(column.cells)]
