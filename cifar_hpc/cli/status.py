"""`status`, `logs`, `cancel`, `retry`: what stands on disk, and the two things to do about it. Starts through sweep's path."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cifar_hpc.cli.filters import flat_values, parse_filter
from cifar_hpc.cli.progress import name_of
from cifar_hpc.cli.states import SweepReader, open_jobs, resolve_trial, sweep_command
from cifar_hpc.cli.sweep import On, Where, run_plan, say
from cifar_hpc.errors import RecordError
from cifar_hpc.executors.base import JobState
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout, SweepFiles, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import ErrorRecord, JobEvent, PlannedTrial, PlanRecord, Status, TrialResult
from cifar_hpc.records.store import append_records, read_record, read_records, utc_now

LOG_LINES = 40


class Format(StrEnum):
    """How rows are printed on stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="the sweep's name")]
FilterText = Annotated[list[str] | None, typer.Argument(metavar="[FILTER...]", help="such as arch=resnet18 lr>1e-3, or ids")]


def status(
    name: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="none: all sweeps")] = None,
    terms: FilterText = None,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Show where the trials of a sweep stand, why some failed, and what to type next."""
    layout = Layout(results_root())
    if name is None:
        _write([_sweep_row(layout, sweep.name) for sweep in layout.sweeps()], format)
        return
    plan = read_plan(layout, name)
    states = SweepReader(layout, plan).read()
    rows = _select(plan, states, terms)
    if format is not Format.TABLE:
        _write([_row(trial, states[trial.trial_id]) for trial in rows], format)
        return
    _print_status(plan, {trial.trial_id: states[trial.trial_id] for trial in rows}, rows, detailed=bool(terms))


def logs(
    name: Annotated[str, typer.Argument(metavar="SWEEP|TRIAL", help="a sweep, or the beginning of a trial's id")],
    terms: FilterText = None,
) -> None:
    """Print why trials failed and what their processes said last."""
    layout = Layout(results_root())
    if layout.sweep(name).plan.exists():
        plan = read_plan(layout, name)
        states = SweepReader(layout, plan).read()
        chosen = [trial.trial_id for trial in _select(plan, states, terms)]
        if not terms:
            chosen = [trial_id for trial_id in chosen if states[trial_id].status in (Status.FAILED, Status.LOST)]
        if not chosen:
            say("no trial failed")
    else:
        chosen = [resolve_trial(name, layout.trial_ids())]
    for trial_id in chosen:
        typer.echo(_log_text(layout, trial_id), nl=False)


def cancel(name: SweepName) -> None:
    """Stop a sweep that runs: its trials save their state, and `sweep` goes on with them."""
    from cifar_hpc.executors import EXECUTORS, open_executor
    from cifar_hpc.executors.slurm_queue import SlurmQueue

    layout = Layout(results_root())
    read_plan(layout, name)
    stopped: list[JobEvent] = []
    jobs = open_jobs(layout.sweep(name))
    for executor_name in dict.fromkeys(job.executor for job in jobs if job.executor in (*EXECUTORS, "slurm")):
        executor = SlurmQueue(layout.queue) if executor_name == "slurm" else open_executor(executor_name)
        mine = [job for job in jobs if job.executor == executor_name]
        states = executor.states([job.handle for job in mine])
        foreign = {job.handle.split("/")[0] for job in mine if states[job.handle] is JobState.UNKNOWN}
        if foreign and executor_name == "slurm":
            say("Slurm does not answer: its jobs go on")
        elif foreign:
            say(f"jobs on {', '.join(sorted(foreign))} can be cancelled there only")
        running = [job for job in mine if states[job.handle] in (JobState.RUNNING, JobState.QUEUED)]
        executor.cancel([job.handle for job in running])
        stopped += running
    now = utc_now()
    append_records(
        layout.sweep(name).jobs,
        [
            JobEvent(at=now, event="cancelled", job_id=j.job_id, trial_ids=j.trial_ids, executor=j.executor, handle=j.handle)
            for j in stopped
        ],
    )
    say(f"{name}: {len(stopped)} jobs asked to stop" if stopped else f"{name}: nothing runs")


def retry(
    name: SweepName,
    terms: FilterText = None,
    on: Annotated[On, typer.Option(help="where, as for sweep")] = On.AUTO,
    profile: Annotated[str | None, typer.Option(help="the Slurm site, as for sweep")] = None,
) -> None:
    """Run the failed trials of a sweep again, all or those of a filter; each goes on from its last checkpoint.

    The old error stands until the new attempt ends, and attempts count on.
    """
    from cifar_hpc.plan import recorded_plan

    layout = Layout(results_root())
    plan = read_plan(layout, name)
    reader = SweepReader(layout, plan)
    states = reader.read()
    chosen = [t.trial_id for t in _select(plan, states, terms) if states[t.trial_id].status is Status.FAILED]
    if not chosen:
        say(f"{name}: no failed trial to run again")
        return
    for trial_id in chosen:
        _remove_torn_result(layout, trial_id)
    run_plan(layout, recorded_plan(plan), reader, Where(on, profile), again=chosen)


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


def _select(plan: PlanRecord, states: Mapping[str, TrialState], terms: Sequence[str] | None) -> list[PlannedTrial]:
    """The trials that a filter, or beginnings of ids, mean; all where nothing is given."""
    words = " ".join(terms or ()).split()
    prefixes = [word for word in words if not set(word) & set("=<>")]
    ids = {resolve_trial(prefix, [trial.trial_id for trial in plan.trials]) for prefix in prefixes}
    rows = {trial.trial_id: _facts(trial, states[trial.trial_id]) for trial in plan.trials}
    keys = {key for row in rows.values() for key in row}
    wanted = parse_filter(" ".join(word for word in words if set(word) & set("=<>")), keys)
    return [t for t in plan.trials if (not ids or t.trial_id in ids) and wanted.matches(rows[t.trial_id])]


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


def _sweep_row(layout: Layout, name: str) -> dict[str, Any]:
    plan = read_plan(layout, name)
    counts = Counter(state.status for state in SweepReader(layout, plan).read().values())
    return {"sweep": name, "trials": len(plan.trials), **{status.value: counts[status] for status in Status}}


def _print_status(plan: PlanRecord, states: Mapping[str, TrialState], rows: Sequence[PlannedTrial], *, detailed: bool) -> None:
    counts = Counter(state.status for state in states.values())
    typer.echo(f"{plan.sweep}: " + ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status]))
    if detailed:
        _write([_row(trial, states[trial.trial_id]) for trial in rows], Format.TABLE)
    for trial in rows:
        state = states[trial.trial_id]
        if state.status is Status.RUNNING and not detailed:
            epoch = f"epoch {state.epochs_done}/{trial.config['epochs']}"
            typer.echo(f"  running  {trial.trial_id}  {name_of(trial)}  {epoch}")
    failures = Counter(state.reason for state in states.values() if state.status is Status.FAILED)
    for reason, n in failures.most_common():
        typer.echo(f"  failed   {n} x {reason}")
    if failures:
        say(f"next: cifar-hpc logs {plan.sweep}, and once mended cifar-hpc retry {plan.sweep}")
    elif any(counts[status] for status in (Status.PLANNED, Status.LOST, Status.CANCELLED)):
        say(f"next: {sweep_command(plan)}")
    elif counts[Status.COMPLETED]:
        say(f"next: cifar-hpc report {plan.sweep}")


def _log_text(layout: Layout, trial_id: str) -> str:
    files = layout.trial(trial_id)
    lines = [f"== trial {trial_id}"]
    job = ""
    try:
        error = read_record(files.error, ErrorRecord)
        job = error.job
        lines += [f"attempt {error.attempt} on {error.host}, {error.failed_at}: {error.kind}: {error.message}"]
        lines += [error.traceback.rstrip()] if error.traceback else []
    except FileNotFoundError:
        try:
            job = read_record(files.result, TrialResult).job
        except FileNotFoundError:
            lines.append("no error is recorded")
    if "/" in job:
        sweep_name, job_id = job.split("/", 1)
        path = _log_file(layout.sweep(sweep_name), job_id)
        if path.is_file():
            printed = path.read_text(errors="replace").splitlines()
            lines += [f"-- {path}, last {min(LOG_LINES, len(printed))} of {len(printed)} lines", *printed[-LOG_LINES:]]
    return "\n".join(lines) + "\n"


def _log_file(sweep: SweepFiles, job_id: str) -> Path:
    """A job's own log, or that of the array element which ran it last."""
    handles = [e.handle for e in read_records(sweep.jobs, JobEvent) if e.job_id == job_id and e.executor == "slurm"]
    return sweep.element_log(handles[-1]) if handles else sweep.log(job_id)


def _write(rows: Sequence[Mapping[str, Any]], format: Format) -> None:
    """Rows with equal keys, on stdout. Absent is null in JSON and an empty cell elsewhere."""
    if format is Format.JSON:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if not rows:
        say("nothing to show")
        return
    titles = list(dict.fromkeys(key for row in rows for key in row))
    cells = [["" if row.get(title) is None else str(row[title]) for title in titles] for row in rows]
    if format is Format.CSV:
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([titles, *cells])
        typer.echo(stream.getvalue(), nl=False)
    elif format is Format.MD:
        for line in (titles, ["---"] * len(titles), *cells):
            typer.echo(f"| {' | '.join(line)} |")
    else:
        table = Table(box=None, pad_edge=False)
        for title in titles:
            table.add_column(title, overflow="fold")
        for line in cells:
            table.add_row(*line)
        Console(highlight=False).print(table, markup=False)
