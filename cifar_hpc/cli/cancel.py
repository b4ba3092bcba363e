"""`cancel`, and the part of it that `sweep --prune` needs: jobs are asked to stop, whoever runs them.

What is cancelled is a handle: an array element with all that is packed into it, or the process of a sweep with all its jobs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cifar_hpc.cli.status import FilterText, SweepName, select_trials
from cifar_hpc.cli.sweep import say
from cifar_hpc.executors.base import Executor, JobState
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import JobEvent, Status
from cifar_hpc.records.store import append_records, utc_now
from cifar_hpc.status.state import ENDED, SweepReader, open_jobs


@dataclass(frozen=True, slots=True)
class Cancelled:
    """stopped: jobs that were asked to stop; shared: jobs that go on since they carry other trials, too; notes: sentences."""

    stopped: tuple[JobEvent, ...]
    shared: tuple[JobEvent, ...]
    notes: tuple[str, ...]


def cancel(name: SweepName, terms: FilterText = None) -> None:
    """Stop a sweep that runs, or the trials of a filter: they save their state, and `sweep` goes on with them."""
    layout = Layout(results_root())
    plan = read_plan(layout, name)
    if not terms:
        done = cancel_trials(layout, name, None)
    else:
        states = SweepReader(layout, plan).read()
        wanted = {trial.trial_id for trial in select_trials(plan, states, terms)}
        over = {trial_id for trial_id, state in states.items() if state.status in (*ENDED, Status.FAILED)}
        done = cancel_trials(layout, name, wanted - over, wanted | over)
    for note in done.notes:
        say(note)
    if done.shared:
        say(f"{len(done.shared)} jobs go on: they carry trials beside those of the filter")
    say(f"{name}: {len(done.stopped)} jobs asked to stop" if done.stopped else f"{name}: nothing that was meant runs")


def cancel_trials(
    layout: Layout, sweep: str, wanted: Collection[str] | None, covered: Collection[str] | None = None
) -> Cancelled:
    """Cancels the open jobs that carry wanted trials (None: all jobs), where no trial beyond `covered` goes with them.

    covered: the wanted ones where nothing is given. A canary, behind which others wait, ends only with all of them. Raises
    SlurmError.
    """
    executors, jobs, notes = _living(layout, open_jobs(layout.sweep(sweep)))
    shared: list[JobEvent] = []
    if wanted is not None:
        kept = {job.handle for job in jobs if _trains(job) and not set(job.trial_ids) <= set(covered or wanted)}
        meant = [job for job in jobs if _trains(job) and not set(wanted).isdisjoint(job.trial_ids)]
        shared = [job for job in meant if job.handle in kept]
        handles = {job.handle for job in meant} - kept
        jobs = [job for job in jobs if job.handle in handles or not (kept or _trains(job))]
    for name, executor in executors.items():
        executor.cancel([job.handle for job in jobs if job.executor == name])
    at = utc_now()
    append_records(
        layout.sweep(sweep).jobs,
        [
            JobEvent(at=at, event="cancelled", job_id=j.job_id, trial_ids=j.trial_ids, executor=j.executor, handle=j.handle)
            for j in jobs
        ],
    )
    return Cancelled(tuple(jobs), tuple(shared), tuple(notes))


def _trains(job: JobEvent) -> bool:
    """Whether it trains trials for good: a canary does not."""
    return job.job_id.startswith("job-")


def _living(layout: Layout, jobs: Collection[JobEvent]) -> tuple[dict[str, Executor | SlurmQueue], list[JobEvent], list[str]]:
    """Who runs the jobs, each asked once; those that run or wait; and whom nobody could be asked about."""
    from cifar_hpc.executors import EXECUTORS, open_executor

    executors: dict[str, Executor | SlurmQueue] = {}
    living: list[JobEvent] = []
    notes = []
    for name in dict.fromkeys(job.executor for job in jobs if job.executor in (*EXECUTORS, "slurm")):
        executors[name] = SlurmQueue(layout.queue) if name == "slurm" else open_executor(name)
        mine = [job for job in jobs if job.executor == name]
        states = executors[name].states([job.handle for job in mine])
        foreign = {job.handle.split("/")[0] for job in mine if states[job.handle] is JobState.UNKNOWN}
        if foreign and name == "slurm":
            notes.append("Slurm does not answer: its jobs go on")
        elif foreign:
            notes.append(f"jobs on {', '.join(sorted(foreign))} can be cancelled there only")
        living += [job for job in mine if states[job.handle] in (JobState.RUNNING, JobState.QUEUED)]
    return executors, living, notes
