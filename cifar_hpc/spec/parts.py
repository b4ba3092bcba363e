"""The parts of a spec once it is read: one trial of it, what a job gets, which ensembles are made. Knows nothing of YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cifar_hpc.config.catalog import ENSEMBLE_METHODS
from cifar_hpc.config.keys import spec_key
from cifar_hpc.config.trial import TrialConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one job gets."""

    gpus: float | None = spec_key(
        "GPUs of each node; a share below 1 packs several jobs on one; null: one where there is a GPU, else none", None, ge=0
    )
    nodes: int = spec_key("nodes of a trial", 1, ge=1)
    processes: int | None = spec_key(
        "processes of a trial on each node, each with its share of every batch; null: one for each GPU, one without a GPU",
        None,
        ge=1,
    )
    cpus_per_gpu: int = spec_key("CPU threads of each of a trial's `processes`, with or without a GPU", 1, ge=1)
    memory_gb: float | None = spec_key("host memory of each node, GB; null: the site's default", None, gt=0)
    minutes: float | None = spec_key(
        "longest time that a trial takes, minutes, by which Slurm jobs are sized; null: as measured, else the site's default",
        None,
        gt=0,
    )
    checkpoint_minutes: float = spec_key(
        "time from one checkpoint of a trial to the next, minutes, the first of them included; Ctrl-C and a scheduler's signal "
        "save in any case. What is killed, or fails, goes on from its last checkpoint, without one from its beginning",
        10.0,
        gt=0,
    )
    timeout_s: float = spec_key(
        "longest wait of a trial's processes for one another, seconds; then the trial fails", 60.0, gt=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """Cross-validation: every configuration is trained so many times, each time without another part of the images."""

    n: int = spec_key(
        "parts, stratified, into which all labelled images are dealt; each is held out once and measured", ge=2, le=100
    )
    repeats: int = spec_key("times that the images are dealt again, each time otherwise", 1, ge=1, le=100)
    by: str | None = spec_key(
        "what keeps images in one part: folder-prefix (the folder below the class's, else the file's name up to its last _ or "
        "-), or a column of the table of labels; null: nothing",
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Whose trained networks stay: those of the best configurations by validation."""

    best: int = spec_key("configurations whose networks stay, with all their seeds and folds", 1, ge=1)
    max_gb: float = spec_key(
        "most that they take; what is left goes to the best of each architecture and to the next best, of which ensembles are "
        "made. The best so far stays in any case; what was behind while others trained goes, and `reproduce` brings it back",
        2.0,
        gt=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensembling:
    """Which ensembles of the trials `report` makes. methods: names of catalog.ENSEMBLE_METHODS."""

    methods: tuple[str, ...] = ENSEMBLE_METHODS
    per_arch: int = spec_key("best trials of each architecture that `uniform` and `accuracy` take in any case", 1, ge=0)
    above: float | None = spec_key(
        "validation accuracy above which they take every trial, 60 at most, 0..1; null: a hundredth below the best",
        None,
        ge=0,
        le=1,
    )


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """One trial of a sweep. axes: the swept keys, each with one word or number (the seed among them when there are several).
    resources: those that a rule of `when` sets for it, by their names; no part of its id."""

    config: TrialConfig
    axes: dict[str, Any]
    resources: dict[str, Any] = field(default_factory=dict)
