"""What is handed to the tasks of an array: the jobs that they share, as one JSON file beside their logs.

Owns: Work and its file, the exit statuses that a batch script and what it starts agree on. The trials of a job are decoded when
it is their turn: an array may have thousands.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any, Self

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import RecordError
from cifar_hpc.planning.halving import Rungs
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import read_regular, utc_now, write_text

AGAIN = 75  # exit status: saved, or work is left that needs a fresh time limit
BROKEN = 1  # exit status of a canary: no job of this class can succeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One job of the list. minutes: what it may take; cohorts: the configs of their trials as JSON has them;
    rungs: where those of each cohort are judged, as planning/halving.py has it, None where they are not."""

    job_id: str
    level: int
    minutes: float
    trial_ids: tuple[str, ...]
    parent_ids: tuple[str, ...]
    resources: Mapping[str, Any]
    cohorts: tuple[tuple[Mapping[str, Any], ...], ...]
    rungs: tuple[Mapping[str, Any] | None, ...] = ()

    @classmethod
    def of(cls, job: Job, minutes: float) -> Self:
        return cls(
            job_id=job.job_id,
            level=job.level,
            minutes=minutes,
            trial_ids=job.trial_ids,
            parent_ids=job.parent_ids,
            resources=dataclasses.asdict(job.resources),
            cohorts=tuple(tuple(config.to_json() for config in cohort.trials) for cohort in job.cohorts),
            rungs=tuple(dataclasses.asdict(cohort.rungs) if cohort.rungs else None for cohort in job.cohorts),
        )

    def job(self, sweep: str) -> Job:
        rungs = self.rungs or (None,) * len(self.cohorts)
        cohorts = tuple(
            Cohort(trials=tuple(map(_config, trials)), rungs=None if one is None else Rungs.of(one))
            for trials, one in zip(self.cohorts, rungs, strict=True)
        )
        return Job(sweep=sweep, job_id=self.job_id, cohorts=cohorts, resources=Resources(**self.resources), level=self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the tasks of one array share. workers: how many there are; at_once: processes of each that share its GPU; gpus,
    cpus: of all its nodes; mark: of its resource class; limit_minutes: its time limit, signal_s of which are for saving."""

    sweep: str
    tasks: tuple[Task, ...]
    workers: int = 1
    at_once: int = 1
    max_attempts: int = 3
    gpus: float = 0
    cpus: int = 1
    mark: str = ""
    limit_minutes: float = 60.0
    signal_s: int = 120
    submitted_at: str = dataclasses.field(default_factory=utc_now)

    def write(self, path: Path) -> None:
        """Raises OSError."""
        text = json.dumps({**_fields(self), "tasks": list(map(_fields, self.tasks))}, separators=(",", ":"), allow_nan=False)
        write_text(path, text)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError, RecordError: on a node that does not see the results folder, all that is trained would be lost."""
        try:
            plain = json.loads(read_regular(path))
            tasks = tuple(
                Task(**{**task, **{key: tuple(task[key]) for key in ("trial_ids", "parent_ids", "cohorts")}})
                for task in plain.pop("tasks")
            )
            return cls(**plain, tasks=tasks)
        except FileNotFoundError:
            raise RecordError(f"results: there is no {path} on {gethostname()}; all nodes must see the folder there") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path}: not the work of a Slurm job ({error!r})") from error


def root_of(work_file: Path) -> Layout:
    """The results folder below which an array's work file lies: results/<sweep>/logs/<name>/work.json."""
    return Layout(work_file.parents[3])


def _fields(record: Task | Work) -> dict[str, Any]:
    """By name. asdict would copy each value of each config, which took most of the time of a submission."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _config(plain: Mapping[str, Any]) -> TrialConfig:
    return TrialConfig.from_json(dict(plain))
