"""From a sweep spec to what is started: trials, the cohorts they train in, the jobs that carry the cohorts."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_hpc.trial import TrialConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one job gets. gpus: per node, a fraction packs several jobs on one; None: one where there is a GPU, else none."""

    gpus: float | None = None
    nodes: int = 1
    cpus_per_gpu: int = 1  # CPU threads of each process; of the whole job where there is no GPU
    memory_gb: float | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Trials trained side by side, so that their common trunk runs once for all."""

    trials: tuple[TrialConfig, ...]

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(trial.trial_id for trial in self.trials)


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
