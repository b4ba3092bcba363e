"""`logs`: why trials failed, what their processes printed, and with -f what they do now. Reads files only."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from cifar_hpc.cli.speech import FilterText, meant, say
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.jobs import newest_events
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.logs import newest, tail
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import Claim, EpochRecord, ErrorRecord, JobEvent, PlannedTrial, Status, TrialResult
from cifar_hpc.records.starts import task_of
from cifar_hpc.records.store import read_record, read_records
from cifar_hpc.status.advice import counts_text
from cifar_hpc.status.names import names_of, resolve_id, select_trials, short_ids
from cifar_hpc.status.state import SweepReader, is_going_on
from cifar_hpc.status.words import number_text, plural
from cifar_hpc.sweep.where import reader_of

LOG_LINES = 40
POLL_EVERY_S = 1.0
COST_FRAC = 0.05  # share of one core that following may take
UNENDED = (Status.PLANNED, Status.QUEUED, Status.RUNNING)


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
            raise CifarHpcError(f"logs -f: no sweep has the trial {trial_id}, and nobody trains it")
        typer.echo(_log_text(layout, trial_id), nl=False)
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
        typer.echo(_log_text(layout, trial.trial_id), nl=False)


def _log_text(layout: Layout, trial_id: str) -> str:
    files = layout.trial(trial_id)
    lines = [f"== trial {trial_id}"]
    job, task = "", None
    try:
        error = read_record(files.error, ErrorRecord)
        job, task = error.job, error.task
        lines += [f"attempt {error.attempt} on {error.host}, {error.failed_at}: {error.kind}: {error.message}"]
        lines += [error.traceback.rstrip()] if error.traceback else []
    except FileNotFoundError:
        try:
            result = read_record(files.result, TrialResult)
            job, task = result.job, result.task
            lines.append(f"{result.outcome.value} after {plural(len(result.curves), 'epoch')} on {result.hardware.host}")
        except FileNotFoundError:
            lines.append("neither finished nor failed: no error is recorded")
            job, task = _newest_job(layout, trial_id)
    if job:
        paths = newest(_log_files(layout, job, task))
        for path in paths:
            printed, more = tail(path, LOG_LINES)
            lines += [f"-- {path}, {'its last' if more else 'all'} {plural(len(printed), 'line')}", *printed]
        if not paths:
            lines.append(f"-- no log of {job}: it ran in the terminal of `sweep`, or has printed nothing yet")
    return "\n".join(lines) + "\n"


def _newest_job(layout: Layout, trial_id: str) -> tuple[str, str | None]:
    """Who had the trial last, or was to have it: its job, and the array task where that is known; '' where nobody was."""
    for path in reversed(layout.trial(trial_id).claims()):
        with contextlib.suppress(OSError, RecordError):
            claim = read_record(path, Claim)
            return claim.job, claim.restart_token
    events: list[tuple[str, str]] = []  # when, and the job
    for sweep in layout.sweeps():
        found = newest_events(read_records(sweep.jobs, JobEvent)).get(trial_id)
        events += [(found.at, f"{sweep.name}/{found.job_id}")] if found is not None and found.handle else []
    return max(events, default=("", ""))[1], None


def _log_files(layout: Layout, job: str, task: str | None) -> list[Path]:
    """A job's own log, or those of the array task that did it, one for each of its nodes. job: 'sweep/job-0001'; task: as a
    claim's restart_token; None: of all tasks of the array where it is one's job."""
    sweep_name, _, job_id = job.partition("/")
    sweep = layout.sweep(sweep_name)
    if (handle := task_of(task)) is not None:
        return sweep.task_logs(handle)
    handles = [e.handle for e in read_records(sweep.jobs, JobEvent) if e.job_id == job_id and e.executor == "slurm"]
    return sweep.task_logs(handles[-1]) if handles else [path for path in [sweep.log(job_id)] if path.is_file()]


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


class Told:
    """What has been printed so far: it begins with the last epoch of each trial, and with what is printed from now on."""

    def __init__(self, layout: Layout, trials: Collection[PlannedTrial]) -> None:
        self._layout = layout
        short = short_ids([trial.trial_id for trial in trials])
        self._names = {trial_id: f"{short[trial_id]}  {name}" for trial_id, name in names_of(trials).items()}
        self._epochs = {trial.trial_id: trial.config["epochs"] for trial in trials}
        self._last: dict[str, int] = {}
        self._statuses: dict[str, Status] = {}
        self._read: dict[Path, int] = {}

    def news(self, states: Mapping[str, TrialState]) -> Iterator[str]:
        for trial_id, name in self._names.items():
            state = states[trial_id]
            before = self._statuses.get(trial_id)
            if state.status is before and state.status is not Status.RUNNING:
                continue
            self._statuses[trial_id] = state.status
            if before is None and state.status not in UNENDED:
                continue  # it had ended before anybody looked
            yield from self._epoch_lines(trial_id, name, state)
            if state.claim is not None:
                yield from self._printed(state.claim)
            if state.status is not before and state.status not in UNENDED:
                yield f"{time.strftime('%H:%M:%S')}  {name}  {state.status.value}{f': {state.reason}' if state.reason else ''}"

    def _epoch_lines(self, trial_id: str, name: str, state: TrialState) -> Iterator[str]:
        curves = state.result.curves if state.result else read_records(self._layout.trial(trial_id).metrics, EpochRecord)
        begin = self._last.get(trial_id, max(0, len(curves) - 1))
        for epoch in curves[begin:]:
            values = {"train loss": epoch.train_loss, "val loss": epoch.val_loss}
            shown = "  ".join(f"{key} {number_text(value, 4)}" for key, value in values.items() if value is not None)
            acc = f"  val acc {100 * epoch.val_acc:.2f} %" if epoch.val_acc is not None else ""
            place = f"epoch {epoch.epoch}/{self._epochs[trial_id]}"
            yield f"{time.strftime('%H:%M:%S')}  {name}  {place}  {shown}{acc}  {epoch.train_s + epoch.val_s:.1f} s"
        self._last[trial_id] = len(curves)

    def _printed(self, claim: Claim) -> Iterator[str]:
        for path in _log_files(self._layout, claim.job, claim.restart_token):
            size = path.stat().st_size
            begin = self._read.setdefault(path, size)
            if size > begin:
                with path.open("rb") as stream:
                    stream.seek(begin)
                    whole, _, _ = stream.read(size - begin).rpartition(b"\n")
                self._read[path] = begin + len(whole) + bool(whole)
                yield from (f"{path.name}: {line}" for line in whole.decode(errors="replace").splitlines())
