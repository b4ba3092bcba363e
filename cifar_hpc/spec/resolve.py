"""A point -> TrialConfig: names of superclasses, folders and weights files become what a trial's id is made of.

The only part of the spec room that looks at files other than the spec: a folder's images, a weights file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.image_folder import folder_classes, folder_fingerprint
from cifar_hpc.config.trial import DatasetConfig, StopConfig, TrialConfig, normalise
from cifar_hpc.errors import nearest
from cifar_hpc.spec.keys import DATASET_KEYS, STOP_KEYS
from cifar_hpc.spec.values import WEIGHT_SUFFIXES

FOLDER_IMAGE_SIZE = 224  # of a folder's images where the spec says none: what ImageNet's networks were trained at


class UnresolvedError(Exception):
    """A value that is of the right form and still means nothing. key: the trial key at fault."""

    def __init__(self, key: str, found: str, allowed: str, near: str | None = None) -> None:
        super().__init__(found)
        self.key, self.found, self.allowed, self.near = key, found, allowed, near


class Resolver:
    """Turns points into configs; what points share is worked out once."""

    def __init__(self, folder: Path, objective: str, keep: str | None) -> None:
        self.folder = folder  # of the spec: relative paths start there
        self.objective = objective
        self.keep = keep
        self._datasets: dict[tuple[Any, ...], DatasetConfig | UnresolvedError] = {}
        self._stops: dict[tuple[Any, ...], StopConfig] = {}
        self._weights: dict[str, tuple[str, str] | UnresolvedError] = {}

    def config(self, point: Mapping[str, Any]) -> TrialConfig:
        """Raises UnresolvedError."""
        own = {key: value for key, value in point.items() if "." not in key and key != "dataset"}
        if "arch" not in own:
            raise UnresolvedError("arch", "no arch", "it stands in base or grid")
        dataset = self._dataset(point)
        if own.get("image_size") is None:
            own["image_size"] = catalog.DATASETS[dataset.name].size or FOLDER_IMAGE_SIZE
        if str(own.get("weights")).endswith(WEIGHT_SUFFIXES):
            own["weights"], own["weights_fingerprint"] = self._weights_file(own["weights"])
        return normalise(TrialConfig(dataset=dataset, objective=self.objective, stop=self._stop(point), keep=self.keep, **own))

    def _stop(self, point: Mapping[str, Any]) -> StopConfig:
        chosen = tuple(point.get(name, key.default) for name, key in STOP_KEYS.items())
        if chosen not in self._stops:
            self._stops[chosen] = StopConfig(
                **{name.partition(".")[2]: value for name, value in zip(STOP_KEYS, chosen, strict=True)}
            )
        return self._stops[chosen]

    def _dataset(self, point: Mapping[str, Any]) -> DatasetConfig:
        chosen = tuple(point.get(name, key.default) for name, key in DATASET_KEYS.items())
        if chosen not in self._datasets:
            try:
                self._datasets[chosen] = self._read_dataset(dict(zip(DATASET_KEYS, chosen, strict=True)))
            except UnresolvedError as error:
                self._datasets[chosen] = error
        known = self._datasets[chosen]
        if isinstance(known, UnresolvedError):
            raise known
        return known

    def _read_dataset(self, values: Mapping[str, Any]) -> DatasetConfig:
        own = {name.partition(".")[2]: value for name, value in values.items()}
        if own["name"] is ...:
            raise UnresolvedError("dataset.name", "no dataset", "it stands at the top level: dataset: cifar10")
        official = catalog.DATASETS[own["name"]].classes
        if own["name"] == "folder":
            own["folder"], own["fingerprint"], official = self._own_images(own["folder"])
        elif own["folder"] is not None:
            raise UnresolvedError("dataset.folder", f"a folder for {own['name']}", "a folder is for `name: folder` only")
        own["classes"] = _resolve_classes(own["name"], own["classes"], official)
        kept = len(own["classes"] or official)
        if own["train_size"] is not None:
            _check_train_size(own["train_size"], kept)
        return DatasetConfig(**own)

    def _own_images(self, folder: str | None) -> tuple[str, str, tuple[str, ...]]:
        if folder is None:
            raise UnresolvedError("dataset.folder", "no folder", "name: folder needs folder: PATH, with train/<class>/* inside")
        path = (self.folder / Path(folder).expanduser()).absolute()
        try:
            classes = folder_classes(path)
            if len(classes) < 2:
                missing = "no such folder" if not path.is_dir() else f"{len(classes)} classes with images in {folder}/train"
                raise UnresolvedError("dataset.folder", missing, "a folder holds train/<class>/* for two or more classes")
            return str(path), folder_fingerprint(path), classes
        except OSError as error:
            raise UnresolvedError("dataset.folder", f"{error.strerror}", "a folder that can be read is needed") from error

    def _weights_file(self, given: str) -> tuple[str, str]:
        if given not in self._weights:
            path = (self.folder / Path(given).expanduser()).absolute()
            try:
                with path.open("rb") as stream:
                    self._weights[given] = str(path), hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                found = f"{given!r}: {(error.strerror or 'cannot be read').lower()}"
                self._weights[given] = UnresolvedError("weights", found, "a weights file lies relative to the spec")
        known = self._weights[given]
        if isinstance(known, UnresolvedError):
            raise known
        return known


def _resolve_classes(name: str, given: str | tuple[str, ...] | None, official: tuple[str, ...]) -> tuple[str, ...] | None:
    """In official order; None where all are kept."""
    if given is None:
        return None
    if isinstance(given, str):
        superclasses = catalog.DATASETS[name].superclasses
        if given not in superclasses:
            allowed = (
                f"{name} has the superclasses {', '.join(superclasses)}" if superclasses else "a list of classes is needed"
            )
            raise UnresolvedError("dataset.classes", repr(given), allowed, nearest(given, superclasses))
        given = superclasses[given]
    for item in given:
        if item not in official:
            some = ", ".join(official) if len(official) <= 20 else f"{', '.join(official[:5])}, ... ({len(official)} in all)"
            raise UnresolvedError("dataset.classes", f"the class {item!r}", f"{name} has {some}", nearest(item, official))
    return None if len(given) == len(official) else tuple(item for item in official if item in given)


def _check_train_size(train_size: int, kept: int) -> None:
    if train_size < 2 * kept:
        least = f"at least {2 * kept}: of each of {kept} classes one to train on and one to validate with"
        raise UnresolvedError("dataset.train_size", str(train_size), least)
