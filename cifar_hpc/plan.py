"""From a sweep spec to what is started: trials, the cohorts they train in, the jobs that carry the cohorts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.cohorts import Cohort, alone, group_cohorts, trunk_passes, work_of
from cifar_hpc.records.schema import PlannedTrial, PlanRecord
from cifar_hpc.records.store import utc_now
from cifar_hpc.spec.sweep import Resources, SweepSpec, SweepTrial
from cifar_hpc.trial import TrialConfig

__all__ = ["Cohort", "Job", "Plan", "Resources", "jobs_for", "make_plan", "plan_record", "recorded_plan", "trunk_passes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an executor starts. job_id: unique within its sweep."""

    sweep: str
    job_id: str
    cohorts: tuple[Cohort, ...]
    resources: Resources

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(trial_id for cohort in self.cohorts for trial_id in cohort.trial_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All trials of a sweep, finished or not, in the spec's order, and the cohorts that they train in."""

    spec: SweepSpec
    trials: tuple[TrialConfig, ...]
    cohorts: tuple[Cohort, ...]
    share: bool = True  # whether trials with a common trunk train side by side


def make_plan(spec: SweepSpec, *, share: bool = True) -> Plan:
    """The plan of a spec, from the spec alone: what is already on disk changes which jobs start, never the plan.

    share: train trials side by side where they have a trunk in common; else each alone, with the same numbers.
    """
    trials = tuple(trial.config for trial in spec.trials)
    cohorts = group_cohorts(trials, spec.resources.memory_gb) if share else alone(trials)
    return Plan(spec=spec, trials=trials, cohorts=cohorts, share=share)


def jobs_for(plan: Plan, trial_ids: Collection[str], first_number: int) -> tuple[Job, ...]:
    """Jobs for those trials of the plan that are among trial_ids, one a cohort, the longest first so that none ends last alone.

    first_number: of the first job ('job-0001' is 1); a sweep that goes on counts on. Members that are not wanted (finished,
    say) leave their cohort; a cohort without members has no job.
    """
    wanted = frozenset(trial_ids)
    cohorts = (Cohort(trials=tuple(t for t in cohort.trials if t.trial_id in wanted)) for cohort in plan.cohorts)
    longest_first = sorted((cohort for cohort in cohorts if cohort.trials), key=work_of, reverse=True)
    return tuple(
        Job(sweep=plan.spec.name, job_id=f"job-{number:04d}", cohorts=(cohort,), resources=plan.spec.resources)
        for number, cohort in enumerate(longest_first, first_number)
    )


def plan_record(plan: Plan) -> PlanRecord:
    """plan.json of the plan, with the time of now."""
    return PlanRecord(
        sweep=plan.spec.name,
        created_at=utc_now(),
        spec_path=str(plan.spec.path),
        objective=plan.spec.objective,
        trials=tuple(
            PlannedTrial(
                trial_id=trial.config.trial_id,
                point_id=trial.config.point_id,
                axes=trial.axes,
                config=trial.config.to_json(),
            )
            for trial in plan.spec.trials
        ),
        cohorts=tuple(cohort.trial_ids for cohort in plan.cohorts),
        resources=dataclasses.asdict(plan.spec.resources),
        overrides=plan.spec.overrides,
        share=plan.share,
    )


def recorded_plan(record: PlanRecord) -> Plan:
    """The plan that a plan.json tells of, to start trials of it again without its spec file."""
    spec = SweepSpec(
        name=record.sweep,
        path=Path(record.spec_path),
        text="",
        trials=tuple(SweepTrial(TrialConfig.from_json(trial.config), trial.axes) for trial in record.trials),
        objective=record.objective,
        resources=Resources(**record.resources),
        warnings=(),
        overrides=record.overrides,
    )
    return make_plan(spec, share=record.share)
