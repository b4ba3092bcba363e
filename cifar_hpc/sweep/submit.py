"""Sends a plan's jobs to Slurm and leaves, and tells beforehand what it would send."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.arrays import ArrayPlan, Submission
from cifar_hpc.executors.slurm.commands import SlurmError
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.site import DEFAULT_ARRAY_SIZE, Limits, read_limits
from cifar_hpc.executors.slurm.usage import spent_budget
from cifar_hpc.planning.estimate import read_experience, size_text
from cifar_hpc.planning.plan import Job, Plan, jobs_for, plan_record, recorded_plan
from cifar_hpc.records.jobs import JobEvent, newest_events, next_number, reserve_numbers
from cifar_hpc.records.layout import ArrayFiles, Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.store import append_records, read_records
from cifar_hpc.status.advice import go_on_command
from cifar_hpc.sweep.cost import Asked, cluster_lines
from cifar_hpc.sweep.holding import held
from cifar_hpc.sweep.listener import Listener
from cifar_hpc.sweep.missing import States, to_start
from cifar_hpc.sweep.where import reader_of

SUBMIT_WAIT_S = 600.0  # for another shell that submits the same sweep


def submit(
    layout: Layout, plan: Plan, todo: Collection[str], profile: SlurmProfile, listener: Listener, *, canary: bool
) -> None:
    """Submits jobs for those of the trials that nobody has submitted meanwhile, and tells what became of them.

    One process submits a sweep at a time: another one waits for it, and then finds its jobs in the queue. Raises CifarHpcError.
    """
    name = plan.spec.name
    check_budget(layout, plan_record(plan))
    with held(layout.sweep(name), "submits this sweep", SUBMIT_WAIT_S, listener.note):
        todo = to_start(reader_of(layout, plan_record(plan)).read(), todo, on_slurm=True) & set(todo)
        if not todo:
            listener.note(f"{name}: nothing to submit")
            return
        _send(layout, plan, todo, profile, listener, canary)


def check_budget(layout: Layout, plan: PlanRecord) -> None:
    """Raises CifarHpcError, with what to type, where the sweep's budget is spent."""
    if (spent := spent_budget(layout.sweep(plan.sweep))) is not None:
        raise CifarHpcError(f"{plan.sweep}: nothing is submitted; type {go_on_command(plan, spent)}")


def _send(layout: Layout, plan: Plan, todo: Collection[str], profile: SlurmProfile, listener: Listener, canary: bool) -> None:
    name = plan.spec.name
    first = reserve_numbers(layout.sweep(name), len(jobs_for(plan, todo, 1)))
    experience = read_experience(layout, ["slurm"])
    jobs = [experience.timed(job, profile.minutes) for job in jobs_for(plan, todo, first)]
    go_on = functools.partial(_relay_words, layout, name, profile, canary)
    executor = SlurmExecutor.open(layout, profile=profile, canary=canary, go_on=go_on)
    sent: list[tuple[Job, str]] = []
    try:
        executor.start(layout, jobs, lambda job, handle: sent.append((job, handle)))
    except SlurmError as error:
        raise CifarHpcError(f"{error}. Profile {profile.name!r}; `cifar-hpc doctor` looks at the cluster") from error
    except OSError as error:
        there = f"{len({handle for _, handle in sent})} arrays were sent before" if sent else "nothing was sent"
        raise CifarHpcError(f"{layout.root}: {error.strerror or error}; {there}, type `sweep` again for the rest") from error
    finally:
        why = executor.notes[0] if executor.notes else ""
        waiting = [job.event("waiting", executor.name, "", why) for job in executor.waiting]
        with contextlib.suppress(OSError):  # a full disk: without the line a trial is as free as with it
            append_records(layout.sweep(name).jobs, waiting)
    trials = {trial_id for job, _ in sent for trial_id in job.trial_ids}
    arrays = {handle for _, handle in sent}
    told = plural(executor.jobs_n, "job") + (" that share them" if executor.jobs_n > 1 else "")
    listener.note(f"{name}: {plural(len(trials), 'trial')} submitted, to {told}, {plural(len(arrays), 'sbatch call')}")
    for note in executor.notes:
        listener.note(note)


def _relay_words(layout: Layout, sweep: str, profile: SlurmProfile, canary: bool, files: ArrayFiles) -> Sequence[str]:
    """What stands after `python` in the job that submits what waits. Writes the profile as it is now; raises OSError."""
    path = files.profile(profile.name)
    keys = {key: value for key, value in dataclasses.asdict(profile).items() if key != "name"}
    path.write_text(json.dumps(keys))  # which is YAML, too
    return "-u", "-m", "cifar_hpc.sweep.relay", str(layout.root), sweep, str(path), "canary" if canary else "no-canary"


def submit_waiting(root: Path, sweep: str, profile: SlurmProfile, canary: bool, listener: Listener) -> None:
    """Submits the trials for which there was no room in the queue before, by the plan on disk; nothing else."""
    layout = Layout(root)
    plan = read_plan(layout, sweep)
    newest = newest_events(read_records(layout.sweep(sweep).jobs, JobEvent))
    states = reader_of(layout, plan).read()
    todo = {t for t in to_start(states, on_slurm=True) if t in newest and newest[t].event == "waiting"}
    if todo:
        submit(layout, recorded_plan(plan), todo, profile, listener, canary=canary)


def array_lines(
    layout: Layout, plan: Plan, todo: Collection[str], states: States, profile: SlurmProfile, *, verbose: bool, canary: bool
) -> list[str]:
    """The arrays that `submit` would send, what they may cost, and with `verbose` the batch script of the first."""
    done = {trial_id: states[trial_id].epochs_kept for trial_id in todo}
    executor = SlurmExecutor(profile, layout, canary=canary)
    experience = read_experience(layout, [executor.name])
    first = next_number(read_records(layout.sweep(plan.spec.name).jobs, JobEvent))
    jobs = [experience.timed(job, profile.minutes, done) for job in jobs_for(plan, todo, first)]
    lines = [f"  slurm     profile {profile.name}"]
    try:
        limits = read_limits(profile)
    except SlurmError as error:
        limits = Limits(DEFAULT_ARRAY_SIZE, None)
        lines.append(f"  limits    not known ({error}); MaxArraySize taken as {DEFAULT_ARRAY_SIZE}")
    submission = executor.plan(jobs, limits)
    lines += _array_lines(submission)
    lines += cluster_lines([_asked(array, profile) for array in submission.arrays], experience)
    if canaries_n := executor.order(submission, plan.spec.name).canaries_n:
        job = "a job besides" if canaries_n == 1 else "jobs besides"
        lines.append(f"  canary    {canaries_n}, {job}: the arrays start once its first epoch, checkpoint and resume succeeded")
    if submission.waiting:
        lines.append(f"  waiting   {plural(sum(len(job.trial_ids) for job in submission.waiting), 'trial')}: {limits.why}")
    for reason, n in Counter(submission.given_up.values()).items():
        lines.append(f"  given up  {plural(n, 'trial')}: {reason}")
    jobs_n = canaries_n + sum(array.workers for array in submission.arrays)
    taken = experience.of_disk([trial.to_json() for trial in plan.trials if trial.trial_id in todo])
    size = "of a size not known before a trial has finished" if taken is None else f"about {size_text(taken)}"
    files_n = sum(4 if trial.keep == "weights" else 3 for trial in plan.trials if trial.trial_id in todo)
    lines.append(f"  files     {files_n} of results, {size}; {plural(jobs_n, 'log')}, one copy of the package")
    if verbose and submission.arrays:
        lines.append(executor.script(submission.arrays[0], plan.spec.name))
    return lines


def _asked(array: ArrayPlan, profile: SlurmProfile) -> Asked:
    needs = array.needs
    gpus, cpus = needs.gpus_taken(profile), needs.nodes * needs.cpus
    return Asked(array.jobs, array.workers, gpus, cpus, needs.minutes, needs.at_once)


def _array_lines(submission: Submission) -> list[str]:
    lines = []
    for array in submission.arrays:
        needs = array.needs
        trials = sum(len(job.trial_ids) for job in array.jobs)
        memory = f"{needs.memory_gb:g} GB" if needs.memory_gb else "the site's memory"
        each = f"{needs.nodes} nodes, each " if needs.nodes > 1 else ""
        side = f", {needs.at_once} at once on a GPU" if needs.at_once > 1 else ""
        after = ", after their parents" if array.level else ""
        gpus = f"{plural(needs.shards, 'shard')} of a GPU" if needs.shards else f"{needs.gpus} GPU"
        lines.append(
            f"  array     {plural(array.workers, 'job')}, {plural(trials, 'trial')}{side}: "
            f"{each}{gpus}, {needs.cpus} CPU, {memory}, limit {needs.minutes} min{after}"
        )
    return lines
