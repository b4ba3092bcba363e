"""What `sweep` does where the trials run on Slurm: submit and leave, show the arrays beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import typer

from cifar_hpc.cli.states import next_number, reserve_numbers
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm import SlurmExecutor
from cifar_hpc.executors.slurm_arrays import Submission, job_minutes
from cifar_hpc.executors.slurm_profile import SlurmProfile
from cifar_hpc.executors.slurm_queue import SlurmError
from cifar_hpc.executors.slurm_site import DEFAULT_ARRAY_SIZE, Limits, read_limits
from cifar_hpc.plan import Job, Plan, jobs_for
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import JobEvent
from cifar_hpc.records.store import append_records, read_records, utc_now


def submit(layout: Layout, plan: Plan, todo: Collection[str], profile: SlurmProfile, *, canary: bool) -> None:
    """Submits jobs for the trials, records each, and says in a few lines what became of them. Raises CifarHpcError."""
    name = plan.spec.name
    if not todo:
        typer.echo(f"{name}: nothing to submit. Where it stands: cifar-hpc status {name}", err=True)
        return
    jobs = jobs_for(plan, todo, reserve_numbers(layout.sweep(name), len(jobs_for(plan, todo, 1))))
    executor = SlurmExecutor(profile, layout, canary=canary)
    sent: list[tuple[Job, str]] = []
    try:
        executor.start(layout, jobs, lambda job, handle: sent.append((job, handle)))
    except SlurmError as error:
        raise CifarHpcError(f"{error}. Profile {profile.name!r}; `cifar-hpc doctor` looks at the cluster") from error
    finally:
        events = [_event("submitted", job, handle, executor.marks.get(handle, "")) for job, handle in sent]
        waiting = [_event("waiting", job, "", executor.notes[0] if executor.notes else "") for job in executor.waiting]
        append_records(layout.sweep(name).jobs, [*events, *waiting])
    handles = {event.handle for event in events}
    trials = {trial_id for event in events for trial_id in event.trial_ids}
    arrays = {handle.split("_")[0] for handle in handles}
    typer.echo(f"{name}: {len(trials)} trials submitted in {len(handles)} jobs, {len(arrays)} sbatch calls", err=True)
    for note in executor.notes:
        typer.echo(note, err=True)
    typer.echo(f"next: cifar-hpc status {name}", err=True)


def print_arrays(
    layout: Layout, plan: Plan, todo: Collection[str], profile: SlurmProfile, *, verbose: bool, canary: bool
) -> None:
    """The arrays that `submit` would send, what they may cost, and with `verbose` the batch script of the first."""
    executor = SlurmExecutor(profile, layout, canary=canary)
    jobs = jobs_for(plan, todo, next_number(read_records(layout.sweep(plan.spec.name).jobs, JobEvent)))
    lines = [f"  slurm     profile {profile.name}"]
    try:
        limits = read_limits(profile)
    except SlurmError as error:
        limits = Limits(DEFAULT_ARRAY_SIZE, None)
        lines.append(f"  limits    not known ({error}); MaxArraySize taken as {DEFAULT_ARRAY_SIZE}")
    submission = executor.plan(jobs, limits)
    lines += _array_lines(submission, profile, executor.order(submission, plan.spec.name).canaries_n)
    if submission.waiting:
        lines.append(f"  waiting   {sum(len(job.trial_ids) for job in submission.waiting)} trials: {limits.why}")
    for reason, n in Counter(submission.given_up.values()).items():
        lines.append(f"  given up  {n} trials: {reason}")
    jobs_n = sum(len(array.elements) for array in submission.arrays)
    lines.append(f"  files     {3 * len(todo)} of results, {jobs_n} logs, one copy of the package")
    typer.echo("\n".join(lines))
    if verbose and submission.arrays:
        typer.echo(executor.script(submission.arrays[0], plan.spec.name))


def _array_lines(submission: Submission, profile: SlurmProfile, canaries_n: int) -> list[str]:
    lines = []
    gpu_hours = 0.0
    for array in submission.arrays:
        needs = array.needs
        trials = sum(len(job.trial_ids) for element in array.elements for job in element.jobs)
        minutes = sum(job_minutes(job, profile) for element in array.elements for job in element.jobs) / needs.at_once
        gpu_hours += needs.nodes * needs.gpus * minutes / 60
        memory = f"{needs.memory_gb:g} GB" if needs.memory_gb else "the site's memory"
        each = f"{needs.nodes} nodes, each " if needs.nodes > 1 else ""
        side = f", {needs.at_once} at once on a GPU" if needs.at_once > 1 else ""
        lines.append(
            f"  array     {len(array.elements)} jobs, {trials} trials{side}: {each}{needs.gpus} GPU, {needs.cpus} CPU, "
            f"{memory}, limit {needs.minutes} min"
        )
    if canaries_n:
        lines.append(f"  canary    {canaries_n}: the arrays start once its first epoch, checkpoint and resume succeeded")
    if gpu_hours:
        lines.append(f"  at most   {gpu_hours:.1f} GPU-hours (a guess: the minutes of the spec or the profile for every trial)")
    return lines


def _event(event: str, job: Job, handle: str, detail: str = "") -> JobEvent:
    return JobEvent(
        at=utc_now(),
        event=event,
        job_id=job.job_id,
        trial_ids=job.trial_ids,
        executor="slurm",
        handle=handle,
        detail=detail,
    )
