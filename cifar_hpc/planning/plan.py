"""From a sweep spec to what is started: trials, the cohorts they train in, the jobs that carry the cohorts."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar_hpc.config.data_notes import DataNotes
from cifar_hpc.config.features import features_id
from cifar_hpc.config.registry import ObjectiveInfo
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.planning.cohorts import Cohort, alone, group_cohorts, trunk_passes, work_of
from cifar_hpc.planning.duration import Duration
from cifar_hpc.planning.halving import Rungs, rungs_of
from cifar_hpc.planning.lineage import levels_of, parent_of
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.plans import ranked_by
from cifar_hpc.records.schema import EnsembleRules, KeepRule, OwnObjective, PlannedTrial, PlanRecord
from cifar_hpc.records.store import utc_now
from cifar_hpc.spec.parts import Ensembling, Keep, Resources, SweepTrial
from cifar_hpc.spec.search import Scheduler
from cifar_hpc.spec.sweep import SweepSpec

__all__ = ["Cohort", "Job", "Plan", "Resources", "jobs_for", "make_plan", "plan_record", "recorded_plan", "trunk_passes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an executor starts. job_id: unique within its sweep. level: of its trials in the plan, above that of all
    their parents. It starts once its parents' jobs have ended, well or not: a trial whose parent failed says so itself.
    duration: what it may take; None: nobody has estimated it."""

    sweep: str
    job_id: str
    cohorts: tuple[Cohort, ...]
    resources: Resources
    level: int = 0
    duration: Duration | None = None

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(trial_id for cohort in self.cohorts for trial_id in cohort.trial_ids)

    @property
    def parent_ids(self) -> tuple[str, ...]:
        """The trials, of this sweep or not, from whose weights trials of the job start."""
        parents = (parent_of(config) for cohort in self.cohorts for config in cohort.trials)
        return tuple(dict.fromkeys(parent for parent in parents if parent is not None))

    def unshared(self) -> Job:
        """Where nothing else trains on its GPU: it has all of it, whatever part it asked for."""
        whole = math.ceil(self.resources.gpus or 0) or self.resources.gpus
        return dataclasses.replace(self, resources=dataclasses.replace(self.resources, gpus=whole))

    def event(self, event: str, executor: str, handle: str, detail: str = "") -> JobEvent:
        """A line of jobs.jsonl about the job, with the time of now."""
        return JobEvent(
            at=utc_now(),
            event=event,
            job_id=self.job_id,
            trial_ids=self.trial_ids,
            executor=executor,
            handle=handle,
            detail=detail,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trials of a sweep, finished or not, in the spec's order, and the cohorts that they train in.

    levels: trial ids, those without a parent in the sweep first, then their children, and so on.
    """

    spec: SweepSpec
    trials: tuple[TrialConfig, ...]
    cohorts: tuple[Cohort, ...]
    levels: tuple[tuple[str, ...], ...]
    share: bool = True  # whether trials with a common trunk train side by side
    promise: Mapping[str, float] = field(default_factory=dict)  # by features_id: those of more start first

    def resources_of(self, trial_id: str) -> Resources:
        """What the trial's job gets: those of a cohort get the same."""
        return self._own_resources.get(trial_id, self.spec.resources)

    @functools.cached_property
    def planned(self) -> tuple[PlannedTrial, ...]:
        """Its trials as plan.json has them."""
        return tuple(
            PlannedTrial(
                trial_id=trial.config.trial_id,
                point_id=trial.config.point_id,
                axes=trial.axes,
                config=trial.config.to_json(),
                resources=trial.resources,
            )
            for trial in self.spec.trials
        )

    @functools.cached_property
    def _own_resources(self) -> dict[str, Resources]:
        trials = {trial.config.trial_id: trial.resources for trial in self.spec.trials if trial.resources}
        return {trial_id: dataclasses.replace(self.spec.resources, **wanted) for trial_id, wanted in trials.items()}


def make_plan(spec: SweepSpec, *, share: bool = True) -> Plan:
    """The plan of a spec, from the spec alone: what is already on disk changes which jobs start, never the plan.

    share: train trials side by side where they have a trunk in common; else each alone, with the same numbers.
    """
    trials = tuple(trial.config for trial in spec.trials)
    cohorts = _cohorts_of_equal_resources(spec) if share else alone(trials)
    if spec.halving is not None:
        cohorts = tuple(_with_rungs(cohort, spec.halving, spec) for cohort in cohorts)
    return Plan(spec=spec, trials=trials, cohorts=cohorts, levels=levels_of(trials), share=share)


def _cohorts_of_equal_resources(spec: SweepSpec) -> tuple[Cohort, ...]:
    """In the order of each cohort's first trial."""
    classes: dict[Resources, list[TrialConfig]] = {}
    for trial in spec.trials:
        asked = dataclasses.replace(spec.resources, **trial.resources) if trial.resources else spec.resources
        classes.setdefault(asked, []).append(trial.config)
    cohorts: list[Cohort] = []
    for asked, trials in classes.items():
        host_gb = None if asked.gpus else asked.memory_gb  # a GPU's own memory is seen where it is
        cohorts += group_cohorts(trials, host_gb, whole_points=spec.halving is not None)
    position = {trial.config.trial_id: place for place, trial in enumerate(spec.trials)}
    return tuple(sorted(cohorts, key=lambda cohort: min(position[trial_id] for trial_id in cohort.trial_ids)))


def jobs_for(plan: Plan, trial_ids: Collection[str], first_number: int) -> tuple[Job, ...]:
    """Jobs for those trials of the plan that are among trial_ids, one a cohort: the lowest level first, and in each
    those that others wait for, then those of the most promising network where the plan knows one, then the longest, so that
    none ends last alone.

    first_number: of the first job ('job-0001' is 1); a sweep that goes on counts on. Members that are not wanted (finished,
    say) leave their cohort; a cohort without members has no job.
    """
    wanted = frozenset(trial_ids)
    cohorts = (
        dataclasses.replace(cohort, trials=tuple(t for t in cohort.trials if t.trial_id in wanted)) for cohort in plan.cohorts
    )
    level_of = {trial_id: level for level, ids in enumerate(plan.levels) for trial_id in ids}
    leveled = [(level_of[cohort.trial_ids[0]], cohort) for cohort in cohorts if cohort.trials]
    awaited = {parent_of(trial) for trial in plan.trials if trial.trial_id in wanted}

    def promise(cohort: Cohort) -> float:
        return max(plan.promise.get(features_id(trial), 0.0) for trial in cohort.trials) if plan.promise else 0.0

    leveled.sort(key=lambda pair: (pair[0], awaited.isdisjoint(pair[1].trial_ids), -promise(pair[1]), -work_of(pair[1])))
    return tuple(
        Job(
            sweep=plan.spec.name,
            job_id=f"job-{number:04d}",
            cohorts=(cohort,),
            resources=plan.resources_of(cohort.trial_ids[0]),
            level=level,
        )
        for number, (level, cohort) in enumerate(leveled, first_number)
    )


def _with_rungs(cohort: Cohort, halving: Scheduler, spec: SweepSpec) -> Cohort:
    """The cohort with the rungs after which its trials are judged; as it is where none has company."""
    judged = [trial for trial in cohort.trials if trial.trains]
    points: dict[str, list[str]] = {}
    for trial in judged:
        points.setdefault(trial.point_id, []).append(trial.trial_id)
    epochs = rungs_of(halving.grace_epochs, halving.reduction, max((trial.epochs for trial in judged), default=0))
    if len(points) < 2 or not epochs:
        return cohort
    rungs = Rungs(
        company=tuple(map(tuple, points.values())),
        epochs=epochs,
        reduction=halving.reduction,
        objective=spec.objective,
        mode=spec.objective_info.mode,
    )
    return dataclasses.replace(cohort, rungs=rungs)


def plan_record(plan: Plan) -> PlanRecord:
    """plan.json of the plan, with the time of now."""
    return PlanRecord(
        sweep=plan.spec.name,
        created_at=utc_now(),
        spec_path=str(plan.spec.path),
        objective=plan.spec.objective,
        own_objective=_own_objective(plan.spec.own_objective),
        trials=plan.planned,
        cohorts=tuple(cohort.trial_ids for cohort in plan.cohorts),
        resources=dataclasses.asdict(plan.spec.resources),
        overrides=plan.spec.overrides,
        where=plan.spec.where,
        **recorded_findings(plan.spec.findings),
        share=plan.share,
        ensemble=EnsembleRules(**dataclasses.asdict(plan.spec.ensemble)) if plan.spec.ensemble else None,
        keep=KeepRule(**dataclasses.asdict(plan.spec.keep)) if plan.spec.keep else None,
        promise=dict(plan.promise),
        halving={**dataclasses.asdict(plan.spec.halving), "first_job": 1} if plan.spec.halving else None,
    )


def recorded_findings(found: DataNotes) -> dict[str, Any]:
    """The fields of a PlanRecord that hold them."""
    of = {sentence: tuple(sorted(sets)) for sentence, sets in found.items() if sets}
    return {"findings": tuple(found), "findings_of": of}


def _own_objective(info: ObjectiveInfo | None) -> OwnObjective | None:
    if info is None or info.sha256 is None:
        return None
    return OwnObjective(mode="min" if info.mode == "min" else "max", noun=info.noun, share=info.share, sha256=info.sha256)


def recorded_plan(record: PlanRecord) -> Plan:
    """The plan that a plan.json tells of, to start trials of it again without its spec file."""
    spec = SweepSpec(
        name=record.sweep,
        path=Path(record.spec_path),
        text="",
        trials=tuple(SweepTrial(TrialConfig.from_json(trial.config), trial.axes, trial.resources) for trial in record.trials),
        objective=record.objective,
        own_objective=ranked_by(record)[1] if record.own_objective else None,
        resources=Resources(**record.resources),
        warnings=(),
        overrides=record.overrides,
        where=record.where,
        findings={sentence: set(record.findings_of.get(sentence, ())) for sentence in record.findings},
        ensemble=Ensembling(**dataclasses.asdict(record.ensemble)) if record.ensemble else None,
        keep=Keep(**dataclasses.asdict(record.keep)) if record.keep else None,
        halving=Scheduler(**{k: v for k, v in record.halving.items() if k != "first_job"}) if record.halving else None,
    )
    return dataclasses.replace(make_plan(spec, share=record.share), promise=record.promise)
