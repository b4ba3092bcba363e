"""What a spec says once it is read: the trials, in its order, and what they need. Knows nothing of YAML or of cohorts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cifar_hpc.config.data_notes import DataNotes
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.spec.parts import Ensembling, Keep, Resources, SweepTrial
from cifar_hpc.spec.search import Scheduler, Search


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """One question. trials: ids unique, in the spec's order; text: the file as it was read; warnings: sentences; findings:
    those on images and weights, of a later look into the files too, with the data sets that they are of; overrides: the
    `--set` arguments that changed it; where: the options that said where it runs."""

    name: str
    path: Path
    text: str
    trials: tuple[SweepTrial, ...]
    objective: str
    resources: Resources
    warnings: tuple[str, ...]
    findings: DataNotes = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    search: Search | None = None
    order: str | None = None  # rank: the networks that promise most start first
    halving: Scheduler | None = None  # by which the trials of each cohort are judged together
    ensemble: Ensembling | None = None  # None: `report` makes the usual ones
    keep: Keep | None = None  # whose networks stay; None: the trials say it
    own_objective: ObjectiveInfo | None = None  # where `objective` is one that a plug-in registers

    @property
    def objective_info(self) -> ObjectiveInfo:
        return self.own_objective or OBJECTIVES[self.objective]

    @property
    def configs(self) -> tuple[TrialConfig, ...]:
        """What data and weights are needed for: all trials, and those between which a search samples."""
        return (*(trial.config for trial in self.trials), *(self.search.corners if self.search else ()))
