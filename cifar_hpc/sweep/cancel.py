"""Cancels jobs: they are asked to stop, whoever runs them.

What is cancelled is a handle: a Slurm array with all its workers, or the process of a sweep with all its jobs; or a job of one
that goes on, which its workers then leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from cifar_hpc.config.words import plural
from cifar_hpc.executors import EXECUTORS, open_executor
from cifar_hpc.executors.base import Executor
from cifar_hpc.executors.slurm.names import settle_names
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.jobs import JobEvent, JobState, open_jobs
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan, read_plan
from cifar_hpc.records.schema import Status
from cifar_hpc.records.store import append_records, utc_now
from cifar_hpc.status.names import select_trials
from cifar_hpc.status.state import ENDED, read_states
from cifar_hpc.sweep.where import reader_of


@dataclass(frozen=True, slots=True)
class Cancelled:
    """stopped: jobs that were asked to stop; shared: jobs that go on since they carry other trials, too; unasked: jobs that may
    run and could not be asked; notes: sentences, on these two as well; trials: ids of those of the stopped jobs that had not
    ended and that no other sweep's job trains."""

    stopped: tuple[JobEvent, ...]
    shared: tuple[JobEvent, ...]
    unasked: tuple[JobEvent, ...]
    notes: tuple[str, ...]
    trials: tuple[str, ...]


def cancel_chosen(layout: Layout, sweep: str, words: Sequence[str] | None) -> Cancelled:
    """Cancels the trials of a filter, or all jobs where nothing is given. Raises CifarHpcError, SlurmError."""
    plan = read_plan(layout, sweep)
    states = reader_of(layout, plan).read()
    chosen, why = select_trials(plan, states, words)
    done = cancel_trials(layout, sweep, {trial.trial_id for trial in chosen} if words else None)
    return replace(done, notes=(*([why] if why else []), *done.notes))


def cancel_trials(layout: Layout, sweep: str, wanted: Collection[str] | None) -> Cancelled:
    """Cancels the open jobs that carry wanted trials (None: all jobs), where no other trial that has not ended goes with them.

    The workers of a handle that goes on with other jobs read in jobs.jsonl what is cancelled: they begin it no more, and save
    and leave it where they train it. A canary, behind which others wait, ends only with all of them. Raises SlurmError.
    """
    queue = SlurmQueue(layout.queue)
    settle_names([layout.sweep(sweep)], queue)
    executors, jobs, unasked, notes = _living(layout, open_jobs(layout.sweep(sweep)))
    plan = known_plan(layout, sweep)
    carried = {trial_id for job in jobs for trial_id in job.trial_ids}
    states = read_states(layout, carried, [plan] if plan else [], queue)
    over = {trial_id for trial_id, state in states.items() if state.status in (*ENDED, Status.FAILED)}
    shared: list[JobEvent] = []
    withdrawn: list[JobEvent] = []
    if wanted is not None:
        wanted, whole = {*wanted} - over, {*wanted, *over}
        kept = {job.handle for job in jobs if _trains(job) and not set(job.trial_ids) <= whole}
        meant = [job for job in jobs if _trains(job) and not wanted.isdisjoint(job.trial_ids)]
        withdrawn = [job for job in meant if job.handle in kept and set(job.trial_ids) <= whole]
        shared = [job for job in meant if job.handle in kept and job not in withdrawn]
        handles = {job.handle for job in meant} - kept
        jobs = [job for job in jobs if job.handle in handles or not (kept or _trains(job))]
    for name, executor in executors.items():
        executor.cancel([job.handle for job in jobs if job.executor == name])
    at, jobs = utc_now(), [*jobs, *withdrawn]
    append_records(layout.sweep(sweep).jobs, [replace(job, at=at, event="cancelled", detail="") for job in jobs])
    if shared:
        go_on = "1 job goes on: it carries" if len(shared) == 1 else f"{len(shared)} jobs go on: they carry"
        notes.append(f"{go_on} trials beside those that are meant")
    told = dict.fromkeys(trial_id for job in jobs for trial_id in job.trial_ids if trial_id not in over)
    elsewhere = {trial_id: other for trial_id in told if (other := _other_sweep(states[trial_id], sweep))}
    for other, n in Counter(elsewhere.values()).items():
        go_on = "1 trial goes on: jobs" if n == 1 else f"{n} trials go on: jobs"
        notes.append(f"{go_on} of {other} train {'it' if n == 1 else 'them'}")
    trials = [trial_id for trial_id in told if trial_id not in elsewhere]
    return Cancelled(tuple(jobs), tuple(shared), tuple(unasked), tuple(notes), tuple(trials))


def _other_sweep(state: TrialState, sweep: str) -> str | None:
    """The other sweep whose job trains it."""
    other = state.claim.job.split("/")[0] if state.claim and state.status is Status.RUNNING else sweep
    return other if other != sweep else None


def _trains(job: JobEvent) -> bool:
    """Whether it trains trials for good: a canary does not."""
    return job.job_id.startswith("job-")


def _living(
    layout: Layout, jobs: Collection[JobEvent]
) -> tuple[dict[str, Executor], list[JobEvent], list[JobEvent], list[str]]:
    """Who runs the jobs, each asked once; those that run or wait; those that nobody could be asked about, and why."""
    executors: dict[str, Executor] = {}
    living: list[JobEvent] = []
    unasked: list[JobEvent] = []
    notes = []
    for name in dict.fromkeys(job.executor for job in jobs if job.executor in EXECUTORS):
        executors[name] = open_executor(name, layout)
        mine = [job for job in jobs if job.executor == name]
        states = executors[name].states([job.handle for job in mine])
        unknown = [job for job in mine if states[job.handle] is JobState.UNKNOWN]
        if unknown and not executors[name].attached:
            words = executors[name].explain([job.handle for job in unknown])
            told = Counter(words.get(job.handle, "Slurm did not answer") for job in unknown)
            notes += [f"{plural(n, 'job')} could not be asked to stop: {why}" for why, n in told.items()]
        elif unknown:
            hosts = sorted({job.handle.split("/")[0] for job in unknown})
            notes.append(f"jobs on {', '.join(hosts)} can be cancelled there only")
        unasked += unknown
        living += [job for job in mine if states[job.handle] in (JobState.RUNNING, JobState.QUEUED)]
    return executors, living, unasked, notes
