"""Which images a trial trains on, and how they are split: the keys of `dataset`.

Owns: DatasetConfig, and which of its keys decide what images a trial is measured on. Reads no image, knows no other key of a
trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cifar_hpc.config import identity
from cifar_hpc.config.keys import Role, trial_key
from cifar_hpc.config.own import arguments

BY_SEED = "seed"  # of split_seed, in words: each seed has a split of its own
_TESTED = ("name", "folder", "args", "fingerprint", "classes")
_MEASURED = (*_TESTED, "train_size", "val_frac", "split_seed", "folds", "fold_groups")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which images a trial trains on and how they are split."""

    name: str = trial_key(
        "data set: one of ours, torchvision/NAME, hf/PATH (Parquet, or saved on disk), or one's own: FILE.py:FUNCTION",
        Role.COMMON,
    )
    classes: tuple[str, ...] | None = trial_key(
        "classes kept, in official label order; null: all", Role.COMMON | Role.AS_WRITTEN, None
    )
    train_size: int | None = trial_key(
        "labelled training images used (stratified), before the validation split; null: all", Role.COMMON, None, gt=0
    )
    val_frac: float = trial_key(
        "share of the labelled training images held out for validation, stratified", Role.COMMON, 0.1, gt=0, lt=1
    )
    split_seed: int = trial_key(
        "seed of the sub-sample and of the split, which the seeds of a sweep share; seed: each seed has a split of its own",
        Role.COMMON,
        0,
        ge=0,
    )
    folder: str | None = trial_key(
        "folder of one's own images; where it lies is not part of the trial's id",
        Role.COMMON | Role.AS_WRITTEN,
        None,
        hashed=False,
    )
    labels: str | None = trial_key(
        "CSV, relative to the spec, that names the folder's files and their labels; null: class folders do",
        Role.COMMON | Role.AS_WRITTEN,
        None,
        hashed=False,
    )
    fingerprint: str | None = trial_key(
        "digest of a folder's file names and contents, or of what one's own function returns, which stands for it in the id",
        Role.COMMON,
        None,
        derived=True,
    )
    args: tuple[tuple[str, Any], ...] | None = trial_key(
        "arguments of one's own data set, by name", Role.COMMON | Role.AS_WRITTEN, None, late=True
    )
    side: int | None = trial_key(
        "pixels of a side of one's own data set's images, as it gave them", Role.COMMON, None, derived=True, hashed=False
    )
    channels: int | None = trial_key("their channels", Role.COMMON, None, derived=True, hashed=False)
    labelled: int | None = trial_key(
        "images of one's own that may be trained on, of which the cost is made",
        Role.COMMON,
        None,
        derived=True,
        hashed=False,
    )
    own_val: int | None = trial_key(
        "a set's own validation images, beside which val_frac holds none out", Role.COMMON, None, derived=True, hashed=False
    )
    split_by_seed: bool = trial_key(
        "whether each seed has a split of its own (split_seed: seed)", Role.COMMON, False, derived=True, hashed=False
    )
    folds: int | None = trial_key(
        "parts that all labelled images are dealt into, each of them held out in turn; null: one split",
        Role.COMMON,
        None,
        derived=True,
        late=True,
    )
    fold: int | None = trial_key(
        "the part that is held out, from 1; those of a second repeat are numbered after those of the first",
        Role.COMMON,
        None,
        derived=True,
        late=True,
    )
    fold_groups: str | None = trial_key(
        "digest of which images stay in one part together; null: each by itself", Role.COMMON, None, derived=True, late=True
    )
    fold_by: str | None = trial_key("what those groups are made by", Role.COMMON, None, derived=True, hashed=False)

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON of what enters a trial's id."""
        return identity.canonical_part(self)

    @cached_property
    def of_point(self) -> DatasetConfig:
        """This without what the trials of a point differ in: the fold, and a split that the seed decides."""
        return dataclasses.replace(self, fold=None, split_seed=-1 if self.split_by_seed else self.split_seed)

    @cached_property
    def digest(self) -> str:
        """Stands in a plan for the images that the trials of a point share."""
        return identity.digest([self.of_point.canonical])

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DatasetConfig:
        """Raises TypeError on keys that this version does not know."""
        classes = data.get("classes")
        read = {"classes": None if classes is None else tuple(classes), "args": arguments(data.get("args"))}
        return cls(**{**data, **read})

    @cached_property
    def of_fold(self) -> DatasetConfig:
        """This without the fold: equal for those that are parts of the same images."""
        return dataclasses.replace(self, fold=None)

    @cached_property
    def without_folds(self) -> DatasetConfig:
        """All the labelled images that its folds are parts of; this where there are none."""
        if self.folds is None:
            return self
        return dataclasses.replace(self, folds=None, fold=None, fold_groups=None, val_frac=0.0)

    @cached_property
    def trainval(self) -> DatasetConfig:
        """All the labelled images to train on: those that its folds are parts of, or training and validation together."""
        return dataclasses.replace(self.without_folds, val_frac=0.0)

    @property
    def brings_validation(self) -> bool:
        """Whether the images to validate on are the data set's own, which no trial like this trains on; folds and refits do."""
        return self.own_val is not None and self.folds is None and self.val_frac != 0

    def may_validate_with_images_of(self, other: DatasetConfig) -> bool:
        """Whether what this holds out may be among what a network of the other trained on: of one data set, but not of one
        split. A fingerprint stands for where the images came from; a folder that has more of them by now is still the same."""
        if (self.brings_validation and other.brings_validation) or (self.val_frac == 0 and self.folds is None):
            return False
        places, prints = ([(d.name, d.folder, d.args) for d in (self, other)], [d.fingerprint for d in (self, other)])
        of_one = places[0] == places[1] or (prints[0] is not None and prints[0] == prints[1])
        if not of_one or self.canonical == other.canonical:
            return False
        return self.classes is None or other.classes is None or not set(self.classes).isdisjoint(other.classes)

    def trained_of(self, labelled_n: float) -> float:
        """How many images a trial trains on, about, of so many that may be trained on."""
        if self.folds is not None:
            return labelled_n * (1 - 1 / self.folds)
        if self.own_val is not None:
            return labelled_n + (self.own_val if self.val_frac == 0 else 0)
        return labelled_n * (1 - self.val_frac)


def measured_on(dataset: Mapping[str, Any], split: str = "val") -> dict[str, Any]:
    """Of a trial's `dataset`, as JSON has it or flat (args.NAME), what decides which images it is validated on: equal for
    trials that may be ranked together. split "test": tested on, which are all that a data set has for it, of the classes.

    Folds of one deal, and splits that each seed draws for itself, are of the same images.
    A fingerprint stands for where the images came from. What is not there or null decides nothing; nor does val_frac in folds,
    nor how the images to train on are chosen where the data set brings images to validate on.
    """
    decide = _TESTED if split == "test" else _MEASURED
    found = {key: value for key, value in dataset.items() if key.partition(".")[0] in decide and value is not None}
    if split != "test" and dataset.get("split_by_seed"):
        found["split_seed"] = BY_SEED
    nothing: set[str] = set()
    if "fingerprint" in found:
        nothing |= {"name", "folder", "args"}
    if "folds" in found:
        nothing |= {"val_frac"}
    elif dataset.get("own_val") is not None and found.get("val_frac") != 0:  # a refit trains on them
        nothing |= {"train_size", "val_frac", "split_seed"}
    return {key: value for key, value in found.items() if key.partition(".")[0] not in nothing}
