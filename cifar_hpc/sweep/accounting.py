"""What a sweep's jobs took of a cluster, by the cluster's own accounting, beside what of it was training.

Owns: accounting.json of a sweep, which remembers the answer: the cluster is asked once a minute at most while a trial of it
waits or trains, and not again once its accounting says that the last job has ended. Where there is no accounting, or no job
ever ran there, there is no such file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from cifar_hpc.errors import RecordError
from cifar_hpc.executors.slurm.accounting import Allocation, read_allocations
from cifar_hpc.executors.slurm.handles import cluster_of, is_place, job_of
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.plans import state_for
from cifar_hpc.records.starts import is_beside_others
from cifar_hpc.records.store import read_record, read_records, utc_now, write_record
from cifar_hpc.records.usage import Accounting, Usage
from cifar_hpc.status.state import GOING_ON
from cifar_hpc.sweep.missing import States

FRESH_S = 60.0


def look_up(layout: Layout, sweep: str, read_states: Callable[[], States]) -> Accounting | None:
    """None where nothing is known; raises nothing for want of an answer or of room. read_states: of all trials; called where
    they are needed."""
    files = layout.sweep(sweep)
    events = [e for e in read_records(files.jobs, JobEvent) if e.event == "submitted" and e.executor == "slurm"]
    handles = {event.handle for event in events if event.handle and not is_place(event.handle)}
    if not handles:
        return None
    known: Accounting | None = None
    with contextlib.suppress(OSError, RecordError):
        known = read_record(files.accounting, Accounting)
    if known is not None and known.jobs == len(handles) and (known.ended or _is_fresh(known, read_states)):
        return known
    own = SlurmQueue(layout.queue).cluster
    jobs = {job_of(handle) for handle in handles if cluster_of(handle) in (None, own)}
    allocations = read_allocations(jobs)
    if not allocations or not any(one.began for one in allocations):
        return known
    states = read_states()
    submitted = {trial_id for event in events for trial_id in event.trial_ids}  # some may have left the spec since
    found_states = [states.get(one) or _state_of(layout, one) for one in submitted]
    trained = [state for state in found_states if state is not None and _is_own(state, sweep)]
    trained_s = None if any(map(_is_beside_others, trained)) else sum(map(_trained_s, trained))
    found = _add_up(allocations, _gpus_of_jobs(files), len(handles), trained_s)
    with contextlib.suppress(OSError):
        write_record(files.accounting, found)
    return found


def _gpus_of_jobs(files: SweepFiles) -> dict[str, float]:
    """What each worker of a job or array was given, by its own word, for clusters whose accounts leave GPUs out."""
    with contextlib.suppress(OSError, RecordError):
        return {job_of(line.task): line.gpus for line in read_records(files.usage, Usage)}
    return {}


def _add_up(allocations: list[Allocation], gpus: Mapping[str, float], jobs: int, trained_s: float | None) -> Accounting:
    return Accounting(
        at=utc_now(),
        jobs=jobs,
        starts=sum(one.began for one in allocations),
        hours=sum(one.seconds for one in allocations) / 3600,
        gpu_hours=sum(one.seconds * _gpus(one, gpus) for one in allocations) / 3600,
        cpu_hours=sum(one.seconds * one.cpus for one in allocations) / 3600,
        trained_hours=None if trained_s is None else trained_s / 3600,
        ended=all(one.ended for one in allocations),
    )


def _gpus(one: Allocation, told: Mapping[str, float]) -> float:
    return told.get(one.job, 0) if one.gpus is None else one.gpus


def _state_of(layout: Layout, trial_id: str) -> TrialState | None:
    with contextlib.suppress(OSError, RecordError):
        return state_for(layout, trial_id, ())
    return None


def _is_own(state: TrialState, sweep: str) -> bool:
    """Whether a job of the sweep itself trains or trained it: another sweep's may have come to a trial first."""
    if state.result is not None:
        return state.result.executor == "slurm" and state.result.job.startswith(f"{sweep}/")
    return state.claim is None or state.claim.job.startswith(f"{sweep}/")


def _is_beside_others(state: TrialState) -> bool:
    return is_beside_others(state.result.task if state.result else state.claim.restart_token if state.claim else None)


def _trained_s(state: TrialState) -> float:
    return state.result.train_s if state.result else sum(epoch.train_s + epoch.val_s for epoch in state.epochs)


def _is_fresh(known: Accounting, read_states: Callable[[], States]) -> bool:
    """Of what is over the whole is wanted at once."""
    age_s = abs((datetime.now(UTC) - datetime.fromisoformat(known.at)).total_seconds())
    return age_s < FRESH_S and any(state.status in GOING_ON for state in read_states().values())
