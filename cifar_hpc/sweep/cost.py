"""What a sweep will cost, in lines: time on this machine, and GPU-hours asked of a cluster and expected there.

Owns: the sentences. How long things take planning.estimate knows. Starts nothing but a calibration.
"""

from __future__ import annotations

import functools
import operator
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.planning.cohorts import Cohort
from cifar_hpc.planning.duration import Basis, Duration
from cifar_hpc.planning.estimate import Experience, Sample, read_experience
from cifar_hpc.planning.plan import Job, Plan, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.status.words import about_text, duration_text, hours_text
from cifar_hpc.sweep import calibration
from cifar_hpc.sweep.listener import Listener
from cifar_hpc.sweep.missing import States

UNKNOWN = "  cost      not known before a trial of it has run"
LOCAL = ("inline", "ray")  # executors whose seconds are this machine's


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a cluster for some jobs: so many tasks with so many GPUs and such a time limit. at_once: jobs that a
    task runs side by side."""

    jobs: Sequence[Job]
    tasks: int
    gpus: float
    cpus: int
    minutes: int
    at_once: int = 1


def local_lines(layout: Layout, plan: Plan, states: States, todo: Collection[str], listener: Listener) -> list[str]:
    """The time of the trials one after another, and by what it is known."""
    left = [Cohort(trials=tuple(t for t in cohort.trials if t.trial_id in todo)) for cohort in plan.cohorts]
    left = [cohort for cohort in left if cohort.trials]
    if not left:
        return []
    done = {trial_id: states[trial_id].epochs_kept for trial_id in todo}
    asked = [(cohort, plan.resources_of(cohort.trial_ids[0])) for cohort in left]
    times = _times(layout, plan.trials, states, asked, done, listener)
    if not times:
        return [UNKNOWN]
    total = functools.reduce(operator.add, times)
    return [f"  cost      {time_text(total)} one after another ({total.basis.value})"]


def search_lines(layout: Layout, spec: SweepSpec, states: States, epochs: int, listener: Listener) -> list[str]:
    """The time of so many epochs of a search, each as long as those of the trials between which it samples."""
    corners = [Cohort(trials=(config,)) for config in (spec.search.corners if spec.search else ())]
    asked = [(cohort, spec.resources) for cohort in corners]
    times = _times(layout, spec.configs, states, asked, {}, listener) if epochs else ()
    if not times:
        return [UNKNOWN] if epochs else []
    total, share = functools.reduce(operator.add, times), epochs / sum(cohort.trials[0].epochs for cohort in corners)
    whole = Duration(share * total.expected_s, share * total.p95_s, total.basis)
    return [f"  cost      {time_text(whole)} for all of these epochs, one after another ({total.basis.value})"]


def time_text(time: Duration) -> str:
    """'about 35 s'; 'about 35 s, perhaps 1.8 min' where nothing like it was measured."""
    unsure = time.basis is not Basis.EPOCHS and time.expected_s >= 1
    return about_text(time.expected_s) + (f", perhaps {duration_text(time.p95_s)}," if unsure else "")


def _times(
    layout: Layout,
    trials: Sequence[TrialConfig],
    states: States,
    asked: Sequence[tuple[Cohort, Resources]],
    done: Mapping[str, int],
    listener: Listener,
) -> list[Duration]:
    """Of each cohort on this machine; empty where that of one is not known."""
    experience = _local_experience(layout, trials, states)
    times = [experience.of_cohort(cohort, resources, done) for cohort, resources in asked]
    if None in times:
        speed = calibration.machine_speed(asked[0][1], listener)
        experience = Experience(experience.samples, calibration=speed)
        times = [experience.of_cohort(cohort, resources, done) for cohort, resources in asked]
    known = [time for time in times if time is not None]
    return known if len(known) == len(times) else []


def _local_experience(layout: Layout, trials: Sequence[TrialConfig], states: States) -> Experience:
    """What trained on this machine, epochs of these very trials first, where they have not finished."""
    configs = {trial.trial_id: trial.to_json() for trial in trials}
    own = [
        Sample(configs[trial_id], sum(e.train_s + e.val_s for e in state.epochs) / len(state.epochs))
        for trial_id, state in states.items()
        if state.epochs and state.result is None and trial_id in configs
    ]
    found = read_experience(layout, LOCAL, host=socket.gethostname())  # a pool may hold another machine's trials
    return Experience([*own, *found.samples], found.trial_bytes)


def cluster_lines(asked: Sequence[Asked], experience: Experience) -> list[str]:
    """GPU-hours that the time limits of one start ask for and that the trials are expected to take, CPU-hours where no GPU is
    asked for; and which limits of the spec's own are too short."""
    unit = "GPU" if any(one.gpus for one in asked) else "CPU"
    asked_h = expected_h = longest_h = 0.0
    bases: list[Basis] = []
    for one in asked:
        each = one.gpus if unit == "GPU" else one.cpus
        asked_h += each * one.tasks * one.minutes / 60
        for time in (job.duration for job in one.jobs if job.duration is not None):
            expected_h += each * time.expected_s / one.at_once / 3600
            longest_h += each * time.p95_s / one.at_once / 3600
            bases.append(time.basis)
    if not bases or not asked_h:
        return []
    worst = max(bases, key=list(Basis).index)
    # else the longest is a limit, and not what was measured
    measured = worst is Basis.EPOCHS and all(job.resources.minutes is None for one in asked for job in one.jobs)
    within = f", in 95 of 100 cases at most {hours_text(longest_h)}" if measured and longest_h >= 0.01 else ""
    lines = [
        f"  expected  {hours_text(expected_h)} {unit}-hours of trials{within} ({worst.value})",
        f"  asked     {hours_text(asked_h)} {unit}-hours for one start of each worker, by the time limits; what is left of it"
        " is given back",
    ]
    return lines + _too_short([job for one in asked for job in one.jobs], experience)


def _too_short(jobs: Sequence[Job], experience: Experience) -> list[str]:
    """The spec's own minutes that trials like these do not keep."""
    found: dict[float, list[float]] = {}
    trials: dict[float, int] = {}
    for job in jobs:
        given = job.resources.minutes
        for cohort in job.cohorts if given is not None else ():
            time = experience.of_cohort(cohort, job.resources)
            if given is not None and time is not None and time.p95_s > 60 * given * len(cohort.trials):
                found.setdefault(given, []).append(time.p95_s / len(cohort.trials))
                trials[given] = trials.get(given, 0) + len(cohort.trials)
    return [
        f"  too short resources.minutes: {given:g}; {plural(trials[given], 'trial')} may take {duration_text(max(each))} each"
        for given, each in found.items()
    ]
