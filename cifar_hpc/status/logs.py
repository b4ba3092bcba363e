"""What trials say of themselves in words: why one failed and what its processes printed last, and news of those that go on.

Reads files only, and gives lines; knows no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from cifar_hpc.config.words import plural
from cifar_hpc.errors import RecordError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.logs import job_logs, newest, newest_job, tail
from cifar_hpc.records.schema import Claim, EpochRecord, ErrorRecord, PlannedTrial, Status, epochs_in
from cifar_hpc.records.store import read_record, read_records
from cifar_hpc.records.ties import read_valid
from cifar_hpc.status.names import names_of, short_ids
from cifar_hpc.status.words import fixed_text, percent_text

_LINES = 40
_UNENDED = (Status.PLANNED, Status.QUEUED, Status.RUNNING)


def log_text(layout: Layout, trial_id: str, reason: str = "") -> str:
    """Why a trial failed or how it ended, and what its processes printed last; whole lines. reason: what is known of one that
    neither finished nor failed. Raises OSError."""
    ended, job, task = _how_it_ended(layout, trial_id, reason)
    lines = [f"== trial {trial_id}", *ended]
    if job:
        paths = newest(job_logs(layout, job, task))
        for path in paths:
            printed, more = tail(path, _LINES)
            lines += [f"-- {path}, {'its last' if more else 'all'} {plural(len(printed), 'line')}", *printed]
        if not paths:
            lines.append(f"-- no log of {job}: it ran in the terminal of `sweep`, or has printed nothing yet")
    return "\n".join(lines) + "\n"


def _how_it_ended(layout: Layout, trial_id: str, reason: str) -> tuple[list[str], str, str | None]:
    """In lines, and whose logs say more: a job, and its array task where that is known. An error beside a result is of an
    earlier attempt."""
    files = layout.trial(trial_id)
    try:
        result, _ = read_valid(files, trial_id)
        because = f": {result.reason}" if result.reason else ""
        after = f" after {plural(len(result.curves), 'epoch')}" if epochs_in(result.config) else ""
        trained = f"{result.outcome.value}{after} on {result.hardware.host}{because}"
        return [trained, *result.warnings], result.job, result.task
    except RecordError as refused:
        return [f"its result is refused: {refused}"], *newest_job(layout, trial_id)
    except FileNotFoundError:
        pass
    try:
        error = read_record(files.error, ErrorRecord)
    except RecordError as corrupt:
        return [f"its error is not known: {corrupt}"], *newest_job(layout, trial_id)
    except FileNotFoundError:
        return [f"neither finished nor failed: {reason or 'no error is recorded'}"], *newest_job(layout, trial_id)
    attempt = f"attempt {error.attempt} " if error.attempt else ""  # else nobody had begun one
    told = f"{attempt}on {error.host}, {error.failed_at}: {error.kind}: {error.message}"
    return [told, *([error.traceback.rstrip()] if error.traceback else [])], error.job, error.task


class Told:
    """What has been printed so far: it begins with the last epoch of each trial, and with what is printed from now on."""

    def __init__(self, layout: Layout, trials: Collection[PlannedTrial]) -> None:
        self._layout = layout
        short = short_ids([trial.trial_id for trial in trials])
        self._names = {trial_id: f"{short[trial_id]}  {name}" for trial_id, name in names_of(trials).items()}
        self._epochs = {trial.trial_id: trial.epochs for trial in trials}
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
            if before is None and state.status not in _UNENDED:
                continue  # it had ended before anybody looked
            yield from self._epoch_lines(trial_id, name, state)
            if state.claim is not None:
                yield from self._printed(state.claim)
            if state.status is not before and state.status not in _UNENDED:
                yield f"{time.strftime('%H:%M:%S')}  {name}  {state.status.value}{f': {state.reason}' if state.reason else ''}"

    def _epoch_lines(self, trial_id: str, name: str, state: TrialState) -> Iterator[str]:
        curves = state.result.curves if state.result else read_records(self._layout.trial(trial_id).metrics, EpochRecord)
        begin = self._last.get(trial_id, max(0, len(curves) - 1))
        for epoch in curves[begin:]:
            values = {"train loss": epoch.train_loss, "val loss": epoch.val_loss}
            shown = "  ".join(f"{key} {fixed_text(value, 4)}" for key, value in values.items() if value is not None)
            acc = f"  val acc {percent_text(epoch.val_acc)} %" if epoch.val_acc is not None else ""
            place = f"epoch {epoch.epoch}/{self._epochs[trial_id]}" if self._epochs[trial_id] else "fitted"
            yield f"{time.strftime('%H:%M:%S')}  {name}  {place}  {shown}{acc}"
        self._last[trial_id] = len(curves)

    def _printed(self, claim: Claim) -> Iterator[str]:
        for path in job_logs(self._layout, claim.job, claim.restart_token):
            size = path.stat().st_size
            begin = self._read.setdefault(path, size)
            if size > begin:
                with path.open("rb") as stream:
                    stream.seek(begin)
                    whole, _, _ = stream.read(size - begin).rpartition(b"\n")
                self._read[path] = begin + len(whole) + bool(whole)
                yield from (f"{path.name}: {line}" for line in whole.decode(errors="replace").splitlines())
