"""Arrays whose sbatch was begun and whose id stands nowhere: the process that sent them was killed, or Slurm went silent.

Owns: how an open line "sending" of jobs.jsonl is closed. The array's name is asked of Slurm: it is there, and its id is
written down; or it is not, and its trials are free again. Sends nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from cifar_hpc.executors.slurm.handles import cluster_of, handle_of, name_of
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.sender import unsent
from cifar_hpc.records.jobs import JobEvent, JobState, open_jobs, process_states
from cifar_hpc.records.layout import SweepFiles
from cifar_hpc.records.store import append_records, utc_now

SENT_WITHIN_S = 600.0  # so long a sender on another machine may still be at it


def settle_names(sweeps: Iterable[SweepFiles], queue: SlurmQueue) -> None:
    """Closes what is open in the sweeps' lists of jobs, one squeue for all; what Slurm does not answer to stays open."""
    found = [(files, event) for files in sweeps for event in _open_places(files) if not _is_being_sent(event)]
    mine = [(files, event) for files, event in found if cluster_of(event.handle) in (None, queue.cluster)]
    if not mine:
        return
    ids = queue.find(sorted({name_of(event.handle) for _, event in mine}))
    if ids is None:
        return
    for files in dict.fromkeys(files for files, _ in mine):
        events = [event for other, event in mine if other == files]
        with contextlib.suppress(OSError):  # another user's results: its owner's next command closes them
            _close(files, events, ids)


def _open_places(files: SweepFiles) -> list[JobEvent]:
    try:
        if b'"sending"' not in files.jobs.read_bytes():
            return []
    except OSError:
        return []
    return [event for event in open_jobs(files) if event.event == "sending"]


def _is_being_sent(event: JobEvent) -> bool:
    """Whether its sender may still live. detail: the sender, as own_handle()."""
    state = process_states([event.detail])[event.detail]
    if state is not JobState.UNKNOWN:
        return state is JobState.RUNNING
    with contextlib.suppress(ValueError):
        return time.time() - datetime.fromisoformat(event.at).timestamp() < SENT_WITHIN_S
    return False


def _close(files: SweepFiles, events: list[JobEvent], ids: Mapping[str, str]) -> None:
    closed: list[JobEvent] = []
    for event in events:
        if job_id := ids.get(name_of(event.handle)):
            handle = handle_of(job_id, cluster_of(event.handle))
            closed.append(dataclasses.replace(event, at=utc_now(), event="submitted", detail="", handle=handle))
        else:
            closed += unsent([event])
    append_records(files.jobs, closed)
