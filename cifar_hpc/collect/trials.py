"""A finished trial as the read half knows it: one flat row, and its learning curves beside it.

Owns: Trial, Unfinished, Curves. Knows no files and no statistics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.records.plans import parent_in, round_of
from cifar_hpc.records.schema import EpochRecord, Outcome, SplitMetrics, Status, TrialResult
from cifar_hpc.status.query import config_text, flat_config, fold_facts, fold_of, spell

CURVES = ("train_loss", "train_acc", "val_loss", "val_acc")
Axis = str  # a flat config key: 'lr', 'dataset', 'dataset.train_size'
DATASET, FINGERPRINT = "dataset", "dataset.fingerprint"
value_text = spell  # what a table prints is what a filter takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A finished trial. Fields as in TrialResult, but that best_epoch is one that validation chose; accuracies are fractions;
    None: not measured."""

    trial_id: str
    point_id: str
    config: Mapping[Axis, Any]  # flat, without seed and fold; shared by the trials of a point
    seed: int
    fold: int | None  # from 1, those of all repeats; None: no cross-validation
    outcome: Outcome
    reason: str
    epochs: int
    best_epoch: int | None
    train_loss: float | None
    train_acc: float | None
    train_n: int | None
    val_loss: float | None
    val_acc: float | None
    val_n: int | None
    own_val: int | None  # validation images that the data set itself brings; None: it brings none, or an older record
    test_loss: float | None
    test_acc: float | None
    test_n: int | None
    more: Mapping[str, float]  # other objectives, as 'val_macro_f1', 'test_macro_f1'
    classes: tuple[str, ...]
    params_total: int
    params_trained: int
    frozen_blocks: int
    total_blocks: int
    flops: int | None
    attempts: int
    train_s: float
    saved_s: float | None
    lost_s: float | None
    trunk_shared_by: int
    finished_at: str
    executor: str
    job: str
    device: str
    hardware: str
    world_size: int
    parent_id: str | None  # the trial whose network it started from
    gpu_share: float | None  # of a GPU, where several jobs share one
    precision: str
    peak_memory_gb: float | None
    version: str
    commit: str | None
    warnings: tuple[str, ...]

    @property
    def round(self) -> tuple[int, int]:
        """Seed and repeat: the trials of a point that have both in common measure each image once, fold by fold."""
        return round_of(self.seed, self.fold, self.config.get("dataset.folds"))

    @property
    def own_split(self) -> bool:
        """Whether the trials of its point are validated with images of their own: folds, or a split for each seed. Where the
        set brings its validation images a split is of those to train on alone."""
        return self.fold is not None or (self.config.get("dataset.split_seed") == BY_SEED and self.own_val is None)

    @property
    def split(self) -> tuple[int | None, int | None]:
        """What its training images have in common with no other of its point: the seed, where each has splits of its own, and
        the fold."""
        return self.seed if self.config.get("dataset.split_seed") == BY_SEED else None, self.fold

    @property
    def missed_unfreezing(self) -> int | None:
        """The first epoch that was to unfreeze blocks and that it did not reach: a record may count their parameters as
        trained."""
        after, steps = self.config.get("unfreeze_epoch"), re.findall(r"(?:^|\+)(\d+):", str(self.config.get("unfreeze") or ""))
        starts = [*([after + 1] if isinstance(after, int) else []), *map(int, steps)]
        return next((start for start in starts if self.epochs < start), None)

    @property
    def run(self) -> str:
        """'seed 2', 'seed 2, fold 3': what tells it from the other trials of its point."""
        return f"seed {self.seed}" + (f", fold {self.fold}" if self.fold is not None else "")

    @property
    def device_hours(self) -> float:
        """Training time over all its devices, hours."""
        return self.hours_of(self.train_s)

    @property
    def lost_hours(self) -> float:
        """What its earlier attempts lost beside it, see TrialResult.lost_s; 0 where that is not known."""
        return self.hours_of(self.lost_s or 0.0)

    @property
    def spent_hours(self) -> float:
        """All that was spent on it."""
        return self.device_hours + self.lost_hours

    def hours_of(self, seconds: float) -> float:
        """Device-hours of so many seconds of it: where jobs share a GPU, its part of them."""
        return seconds * self.world_size * (self.gpu_share or 1.0) / 3600

    @property
    def status(self) -> Status:
        return Status.STOPPED if self.outcome is Outcome.PRUNED else Status.COMPLETED

    @property
    def facts(self) -> dict[str, Any]:
        """What a filter may ask of it: status.query.OWN_KEYS beside its config."""
        own = {"id": self.trial_id, "point": self.point_id, "seed": self.seed, **fold_facts(self.fold)}
        told = {
            "status": self.status.value,
            "outcome": self.outcome.value,
            "epochs_done": self.epochs if self.config.get("epochs") else None,
            "reason": self.reason or None,
        }
        return {**self.config, **own, **told, "val_acc": self.val_acc, "test_acc": self.test_acc}

    def told(self, split: str) -> SplitMetrics | None:
        """What the record says of 'val' or 'test', its objective included; None where it was not measured."""
        told = told_of(*(getattr(self, f"{split}_{key}") for key in ("loss", "acc", "n")))
        name = str(self.config.get("objective"))
        value = self.more.get(f"{split}_{name}")
        return told if told is None or value is None else replace(told, more={name: value})

    def metric(self, name: str) -> float | None:
        """val_acc, test_loss, macro_f1 (on validation), test_macro_f1, ...; None where it was not measured or is not finite."""
        own = getattr(self, name, None) if name.endswith(("_acc", "_loss")) else None
        value: float | None = self.more.get(name, self.more.get(f"val_{name}")) if own is None else own
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A trial that the asking sweeps are not done with: planned, queued, running, failed, cancelled or lost."""

    trial_id: str
    point_id: str
    config: Mapping[Axis, Any]
    seed: int
    fold: int | None
    status: Status
    reason: str
    epochs: int
    spent_s: float  # in the epochs that it left behind
    lost_s: float  # by its attempts before the last, as a finished trial's; 0 where that is not known
    job: str | None  # that tried it last, as a finished trial's; None: none, or its claim cannot be read
    device: str | None  # on which it was tried last; None: never, or an older record
    devices: float  # that its time is of: with several processes more than one, of a shared GPU a part
    running: tuple[EpochRecord, ...] = ()  # the epochs so far, while it runs
    shared_by: int = 1  # trials that its process trains side by side: seconds of its epochs are its part of theirs
    own_val: int | None = None  # as a finished trial's

    @property
    def device_hours(self) -> float:
        """As a finished trial's."""
        return self.spent_s * self.devices / 3600

    @property
    def lost_hours(self) -> float:
        """As a finished trial's."""
        return self.lost_s * self.devices / 3600

    @property
    def spent_hours(self) -> float:
        """As a finished trial's."""
        return self.device_hours + self.lost_hours

    @property
    def run(self) -> str:
        """As a finished trial's."""
        return f"seed {self.seed}" + (f", fold {self.fold}" if self.fold is not None else "")

    @property
    def facts(self) -> dict[str, Any]:
        """As a finished trial's; what was not measured is absent."""
        own = {"id": self.trial_id, "point": self.point_id, "seed": self.seed, **fold_facts(self.fold)}
        told = {"status": self.status.value, "outcome": None, "epochs_done": self.epochs, "reason": self.reason or None}
        return {**self.config, **own, **told, "val_acc": None, "test_acc": None}


@dataclass(frozen=True, slots=True)
class Curves:
    """The learning curves of T trials one after another: trial t has the epochs start[t]:start[t + 1]. NaN: not measured."""

    start: NDArray[np.int64]  # T + 1
    values: Mapping[str, NDArray[np.float32]]  # by name in CURVES, E in all

    def of(self, name: str, trial: int) -> NDArray[np.float32]:
        """One curve of the trial at that position, from epoch 1."""
        return self.values[name][self.start[trial] : self.start[trial + 1]]

    def take(self, trials: Sequence[int]) -> Curves:
        """The curves of some trials, in that order."""
        lengths = np.diff(self.start)[list(trials)]
        start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.repeat(self.start[list(trials)] - start[:-1], lengths) + np.arange(start[-1])
        return Curves(start, {name: values[rows] for name, values in self.values.items()})

    def with_those_of(self, results: Sequence[Sequence[EpochRecord]]) -> Curves:
        """With the curves of further trials behind them."""
        start = np.concatenate([self.start, self.start[-1] + np.cumsum([len(epochs) for epochs in results], dtype=np.int64)])
        more = {name: np.array([getattr(one, name) for epochs in results for one in epochs], np.float32) for name in CURVES}
        return Curves(start, {name: np.concatenate([values, more[name]]) for name, values in self.values.items()})


def told_of(loss: float | None, acc: float | None, n: int | None) -> SplitMetrics | None:
    """What a record says of a split, put together again; None without an accuracy."""
    return None if acc is None or n is None else SplitMetrics(loss=loss, acc=acc, n=n)


def trial_of(result: TrialResult, point_id: str) -> Trial:
    """The flat row of a result. point_id: from its config, not as the record claims."""
    train, val, test, hardware = result.train, result.val, result.test, result.hardware
    return Trial(
        trial_id=result.trial_id,
        point_id=point_id,
        config=flat_config(config_text(result.config)),
        seed=int(result.config["seed"]),
        fold=fold_of(result.config),
        outcome=result.outcome,
        reason=result.reason,
        epochs=len(result.curves),
        best_epoch=result.best_epoch if val else None,  # without validation it is the last, which nothing chose
        train_loss=train.loss if train else None,
        train_acc=train.acc if train else None,
        train_n=train.n if train else None,
        val_loss=val.loss if val else None,
        val_acc=val.acc if val else None,
        val_n=val.n if val else None,
        own_val=result.config["dataset"].get("own_val"),
        test_loss=test.loss if test else None,
        test_acc=test.acc if test else None,
        test_n=test.n if test else None,
        more={
            f"{name}_{key}": value
            for name, split in (("val", val), ("test", test))
            if split
            for key, value in split.more.items()
        },
        classes=result.classes,
        params_total=result.params_total,
        params_trained=result.params_trained,
        frozen_blocks=result.frozen_blocks,
        total_blocks=result.total_blocks,
        flops=result.flops,
        attempts=result.attempts,
        train_s=result.train_s,
        saved_s=result.saved_s,
        lost_s=result.lost_s,
        trunk_shared_by=result.trunk_shared_by,
        finished_at=result.finished_at,
        executor=result.executor,
        job=result.job,
        device=hardware.device,
        hardware=hardware.name,
        world_size=hardware.world_size,
        parent_id=parent_in(result.config),
        gpu_share=hardware.gpu_share,
        precision=hardware.precision,
        peak_memory_gb=hardware.peak_memory_gb,
        version=result.provenance.cifar_hpc,
        commit=result.provenance.commit,
        warnings=result.warnings,
    )


def short_paths(values: Iterable[Any]) -> dict[str, str]:
    """Each weights file among the values of `weights` by the shortest end of its path that tells it from the others."""
    paths = {path for path in values if isinstance(path, str) and path.startswith("/")}
    length, ends = 1, {path: PurePath(path).name for path in paths}
    while len(set(ends.values())) < len({PurePath(path) for path in paths}):
        length += 1
        ends = {path: "/".join(PurePath(path).parts[-length:]) for path in paths}
    return ends


def with_short_paths(axes: Mapping[Axis, Any], ends: Mapping[str, str]) -> dict[Axis, Any]:
    """ends: as of short_paths."""
    return {axis: ends.get(value, value) if axis == "weights" else value for axis, value in axes.items()}
