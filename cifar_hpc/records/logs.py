"""What the processes of jobs printed: which job had a trial, which files these are, their ends. Reads no more than an end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.errors import RecordError
from cifar_hpc.records.jobs import JobEvent, newest_events
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.schema import Claim
from cifar_hpc.records.starts import task_of
from cifar_hpc.records.store import read_record, read_records

END_BYTES = 64 * 1024
MOST_LETTERS = 160


def tail(path: Path, lines_n: int) -> tuple[list[str], bool]:
    """The last lines, at most so many, and whether lines stand before them. Raises OSError."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - END_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    cut = size > END_BYTES
    if cut:
        lines = lines[1:]  # its beginning is missing
    return lines[-lines_n:], cut or len(lines) > lines_n


def newest(paths: Sequence[Path]) -> list[Path]:
    """The logs of the job that printed last, one for each of its nodes: all that differ from the newest in the node alone."""
    if not paths:
        return []
    last = max(paths, key=_changed_at)
    job = last.name.rsplit("_", 2)[0]
    return [path for path in paths if path.parent == last.parent and path.name.rsplit("_", 2)[0] == job]


def job_logs(layout: Layout, job: str, task: str | None) -> list[Path]:
    """A job's own log, or those of the array task that did it, one for each of its nodes. job: 'sweep/job-0001'; task: as a
    claim's restart_token; None: of all tasks of the array where it is one's job."""
    sweep_name, _, job_id = job.partition("/")
    sweep = layout.sweep(sweep_name)
    if (handle := task_of(task)) is not None:
        return sweep.task_logs(handle)
    handles = [e.handle for e in read_records(sweep.jobs, JobEvent) if e.job_id == job_id and e.executor == "slurm"]
    return sweep.task_logs(handles[-1]) if handles else [path for path in [sweep.log(job_id)] if path.is_file()]


def newest_job(layout: Layout, trial_id: str) -> tuple[str, str | None]:
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


def last_words(sweep: SweepFiles, handle: str) -> str:
    """'; FILE ends: ModuleNotFoundError: ...' of the newest log of a job that is gone; nothing where it printed nothing."""
    for path in newest(sweep.task_logs(handle))[:1]:
        try:
            lines = [line.strip() for line in tail(path, 20)[0] if line.strip()]
        except OSError:
            return ""
        if lines:  # a process that was killed leaves srun's word alone, of which the first line tells most
            said = next((line for line in reversed(lines) if not _is_frame(line)), lines[0])
            whole = f" ... (whole: cifar-hpc logs {sweep.name})" if len(said) > MOST_LETTERS else ""
            return f"; its log ends: {said[:MOST_LETTERS]}{whole}"
    return ""


def _is_frame(line: str) -> bool:
    """What srun and the batch script add about a process that ended: its own words stand before."""
    return line.startswith(("srun: ", "slurmstepd: ", "its processes ended with status"))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
