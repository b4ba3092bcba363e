"""A point -> TrialConfig: names of superclasses, folders and weights files become what a trial's id is made of.

The only part of the spec room that looks at files other than the spec: a folder's images, a weights file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import BY_SEED, DatasetConfig
from cifar_hpc.config.image_folder import FORM, ImageFolder, folder_fingerprint, list_folder, printable
from cifar_hpc.config.image_groups import KEY, groups_digest, image_groups
from cifar_hpc.config.image_table import list_table
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.own import Arguments
from cifar_hpc.config.plugins import OwnParts
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.config.sources import Source, find_source, is_own
from cifar_hpc.config.trial import AugmentOp, StopConfig, TrialConfig
from cifar_hpc.errors import DataError, UnusableError, nearest
from cifar_hpc.spec.expand import FOLD, FOLD_BY, FOLDS, arguments_of
from cifar_hpc.spec.keys import DATASET_KEYS, STOP_KEYS
from cifar_hpc.spec.values import WEIGHT_SUFFIXES

if TYPE_CHECKING:
    from cifar_hpc.data.sources import OwnImages

FOLDER_IMAGE_SIZE = 224  # of a folder's images where the spec says none: what ImageNet's networks were trained at


@contextlib.contextmanager
def _told_at(key: str) -> Iterator[None]:
    """What cannot be used is told of at that key."""
    try:
        yield
    except UnusableError as error:
        raise UnusableError(key, error.found, error.allowed, error.near) from error


class Resolver:
    """Turns points into configs; what points share is worked out once."""

    def __init__(self, folder: Path, objective: str, keep: str | None, parts: OwnParts) -> None:
        self.folder = folder  # of the spec: relative paths start there
        self.parts = parts  # what its plugins register
        self.objective = objective
        self.keep = keep
        self._datasets: dict[tuple[Any, ...], DatasetConfig | UnusableError] = {}
        self._sources: dict[tuple[str, str], Source] = {}
        self._stops: dict[tuple[Any, ...], StopConfig] = {}
        self._weights: dict[str, tuple[str, str] | UnusableError] = {}
        self._folders: dict[tuple[Path, Path | None], tuple[ImageFolder, str]] = {}
        self._own_sets: dict[tuple[Source, Arguments], str] = {}  # their fingerprints
        self._classes: dict[DatasetConfig, tuple[str, ...]] = {}
        self._splits: dict[DatasetConfig, Callable[[int], None]] = {}  # refuse a repeat of folds that cannot be dealt
        self.notes: dict[str, set[str]] = {}  # sentences on folders, as DataNotes
        self._notes: dict[DatasetConfig, tuple[str, ...]] = {}  # by what was read with them

    def config(self, point: Mapping[str, Any]) -> TrialConfig:
        """Raises UnusableError."""
        own = {key: value for key, value in point.items() if "." not in key and key not in ("dataset", FOLD)}
        own["arch_args"] = arguments_of("arch_args", point)
        if "arch" not in own:
            raise UnusableError("arch", "no arch", "it stands in base or grid")
        dataset = self._dataset(point)
        if isinstance(weights := own.get("class_weights"), tuple):
            names = self._classes[dataset.of_fold]
            for name, _ in weights:
                if name not in names:
                    some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
                    raise UnusableError(
                        "class_weights", f"the class {name!r}", f"the data set has {some}", nearest(name, names)
                    )
        for note in self._notes[dataset.of_fold]:
            self._note(note, dataset)
        sources = [self._source("dataset", dataset.name)] if is_own(dataset.name) else []
        if is_own(own["arch"]):
            sources.append(self._source("arch", own["arch"]))
            own["arch"] = sources[-1].name
        elif own["arch_args"] is not None:
            raise UnusableError(
                "arch_args", f"arguments for arch {own['arch']}", "they are for one's own: FILE.py:NAME or MODULE:NAME"
            )
        operations = own.get("augment", ())
        for key, name in [
            *((key, own.get(key)) for key in ("optimizer", "schedule")),
            (OBJECTIVES.what, self.objective),
            *(("augment", op.name) for op in operations if isinstance(op, AugmentOp)),
        ]:
            origin = self.parts.origin_of(key, str(name))
            sources += [origin] if origin is not None else []
        own["sources"] = tuple(dict.fromkeys(sources)) or None
        if dataset.side is not None:
            dataset = dataclasses.replace(dataset, name=sources[0].name)
        if own.get("image_size") is None:
            own["image_size"] = dataset.side or catalog.dataset(dataset.name).size
        if own["image_size"] is None:
            own["image_size"] = FOLDER_IMAGE_SIZE
            self._note(f"{dataset.folder}: no image_size is given; {FOLDER_IMAGE_SIZE} pixels are taken", dataset)
        if str(own.get("weights")).endswith(WEIGHT_SUFFIXES):
            own["weights"], own["weights_fingerprint"] = self._weights_file(own["weights"])
        return normalise(TrialConfig(dataset=dataset, objective=self.objective, stop=self._stop(point), keep=self.keep, **own))

    def _note(self, sentence: str, dataset: DatasetConfig) -> None:
        self.notes.setdefault(sentence, set()).add(dataset.digest)

    def _stop(self, point: Mapping[str, Any]) -> StopConfig:
        chosen = tuple(point.get(name, key.default) for name, key in STOP_KEYS.items())
        if chosen not in self._stops:
            self._stops[chosen] = StopConfig(
                **{name.partition(".")[2]: value for name, value in zip(STOP_KEYS, chosen, strict=True)}
            )
        return self._stops[chosen]

    def _dataset(self, point: Mapping[str, Any]) -> DatasetConfig:
        values = {name: point.get(name, key.default) for name, key in DATASET_KEYS.items()}
        values["dataset.args"] = arguments_of("dataset.args", point)
        values["dataset.split_by_seed"] = values["dataset.split_seed"] == BY_SEED
        if values["dataset.split_by_seed"]:
            values["dataset.split_seed"] = point["seed"]
        values |= {FOLDS: point.get(FOLDS), FOLD_BY: point.get(FOLD_BY)}
        shared = self._known_dataset(tuple(values.values()), lambda: self._read_dataset(values))
        if FOLDS not in point:
            return shared
        return self._known_dataset((shared, point[FOLD]), lambda: self._fold(shared, point[FOLD]))

    def _fold(self, dataset: DatasetConfig, number: int) -> DatasetConfig:
        repeat = (number - 1) // (dataset.folds or 1)

        def dealt() -> DatasetConfig:
            self._splits[dataset](repeat)
            return dataset

        return dataclasses.replace(self._known_dataset((dataset, "repeat", repeat), dealt), fold=number)

    def _known_dataset(self, key: tuple[Any, ...], read: Callable[[], DatasetConfig]) -> DatasetConfig:
        """What was read under the key, or the problem with it: it is raised for each point that has it."""
        if key not in self._datasets:
            try:
                self._datasets[key] = read()
            except UnusableError as error:
                self._datasets[key] = error
        known = self._datasets[key]
        if isinstance(known, UnusableError):
            raise known
        return known

    def _read_dataset(self, values: Mapping[str, Any]) -> DatasetConfig:
        own = {name.partition(".")[2]: value for name, value in values.items()}
        if own["name"] is ...:
            raise UnusableError("dataset.name", "no dataset", "it stands at the top level: dataset: cifar10")
        given = own["name"]  # as a person calls it
        if given.startswith(catalog.BROUGHT):
            own["folder"], own["name"] = self._brought(own["name"], own["folder"]), "folder"
        official = catalog.dataset(own["name"]).classes
        made = None
        if is_own(own["name"]):
            made, own["fingerprint"] = self._own_set(own["name"], own["args"])
            official, own["side"], own["channels"] = made.classes, made.side, made.channels
        elif own["args"] is not None:
            allowed = "they are for one's own data set: FILE.py:FUNCTION or MODULE:FUNCTION"
            raise UnusableError("dataset.args", f"arguments for {own['name']}", allowed)
        listing = None
        notes: list[str] = []
        if own["name"] == "folder":
            listing, own["fingerprint"] = self._own_images(own["folder"], own["labels"])
            own["folder"], official = str(listing.root), listing.classes
            own["labels"] = None if listing.labelled_by is None else str(listing.labelled_by)
        elif own["labels"] is not None:
            raise UnusableError("dataset.labels", f"labels for {own['name']}", "a table of labels is for a folder")
        elif own["folder"] is not None:
            raise UnusableError("dataset.folder", f"a folder for {own['name']}", "a folder is for `name: folder` only")
        own["classes"] = _resolve_classes(given, own["classes"], official)
        if own["folds"] is not None and own["val_frac"] != DATASET_KEYS["dataset.val_frac"].default:
            raise UnusableError("dataset.val_frac", f"{own['val_frac']:g} beside folds", "each fold is held out in turn")
        groups = None
        if own["fold_by"] is not None:
            groups = self._groups(own, listing)
            own["fold_groups"] = groups_digest(groups)
            if len(set(groups)) == len(groups):
                alone = f"{KEY} {own['fold_by']} keeps nothing together: each of the {len(groups)} images is a group of its own"
                notes.append(f"{printable(own['folder'])}: {alone}")
        if listing is not None:
            val_frac = own["val_frac"] if own["folds"] is None else 0.0
            notes += self._images_notes(listing, own["classes"], val_frac, own["train_size"])
            kept = own["classes"] or official
            own["labelled"] = _labelled(listing, kept, ("train", "val") if own["folds"] is not None else ("train",))
            own["own_val"] = _labelled(listing, kept, ("val",)) if "val" in listing.splits else None
        elif made is not None:
            kept = own["classes"] or official
            own["labelled"] = made.labelled_n(kept, folds=own["folds"] is not None)
            own["own_val"] = (
                None if made.val is None else made.labelled_n(kept, folds=True) - made.labelled_n(kept, folds=False)
            )
        if own["train_size"] is not None:
            _check_train_size(own["train_size"], len(own["classes"] or official), own.get("own_val") is None or own["folds"])
        config = DatasetConfig(**own)
        self._classes[config], self._notes[config] = own["classes"] or official, tuple(notes)
        self._splits[config] = functools.partial(_check_split, config, listing or made, groups)
        if config.folds is None:
            self._splits[config](0)
        return config

    def _own_images(self, folder: str | None, labels: str | None) -> tuple[ImageFolder, str]:
        if folder is None:
            raise UnusableError("dataset.folder", "no folder", f"name: folder needs folder: PATH; {FORM}")
        path = (self.folder / Path(folder).expanduser()).absolute()
        if not path.is_dir():
            raise UnusableError("dataset.folder", "no such folder", FORM)
        try:
            table = None if labels is None else self.folder.absolute() / Path(labels).expanduser()
            if (path, table) not in self._folders:
                listing = list_folder(path) if table is None else list_table(path, table)
                self._folders[path, table] = listing, folder_fingerprint(listing)
            return self._folders[path, table]
        except OSError as error:
            found = f"{printable(str(error.filename))}: {error.strerror}"
            raise UnusableError("dataset.folder", found, "a folder that can be read is needed") from error

    def _groups(self, own: Mapping[str, Any], listing: ImageFolder | None) -> tuple[str, ...]:
        """Of each image that of those with which it is held out."""
        if listing is None:
            raise UnusableError(FOLD_BY, f"groups of {own['name']}", "images of a folder have groups")
        with _told_at(FOLD_BY):
            return image_groups(listing, own["fold_by"])

    def _source(self, part: str, text: str) -> Source:
        if (part, text) not in self._sources:  # one state of the code for all trials of a spec
            with _told_at("dataset.name" if part == "dataset" else part):
                self._sources[part, text] = find_source(part, text, self.folder.absolute())
        return self._sources[part, text]

    def _brought(self, name: str, folder: str | None) -> str:
        """The folder that a data set of torchvision's, or of Hugging Face's on disk, becomes."""
        from cifar_hpc.data.brought import hf_folder, torchvision_folder
        from cifar_hpc.data.files import data_root

        if folder is not None:
            raise UnusableError("dataset.folder", f"a folder for {name}", "a folder is for `name: folder` only")
        try:
            if name.startswith("hf/"):
                return str(hf_folder(self.folder.absolute() / Path(name.removeprefix("hf/")).expanduser(), data_root()))
            return str(torchvision_folder(name, data_root()))
        except DataError as error:
            found, _, allowed = str(error).partition(": ")
            raise UnusableError("dataset.name", found, allowed or "a data set that can be read") from error

    def _own_set(self, name: str, args: Arguments | None) -> tuple[OwnImages, str]:
        """What the user's function returns, and its fingerprint: it is called here, so that its faults have a line."""
        from cifar_hpc.data.own import images_fingerprint, read_own

        with _told_at("dataset.name"):
            asked = self._source("dataset", name), args or ()
            if asked not in self._own_sets:
                read_own.cache_clear()  # what it reads may have changed since this process called it
                self._own_sets[asked] = images_fingerprint(read_own(*asked))
            return read_own(*asked), self._own_sets[asked]

    def _images_notes(
        self, listing: ImageFolder, classes: tuple[str, ...] | None, val_frac: float, train_size: int | None
    ) -> list[str]:
        """What is worth knowing of them. Raises UnusableError with all that is to mend."""
        problems = listing.problems(classes, val_frac, train_size)
        if problems:
            if len(problems) == 1:
                raise UnusableError("dataset.folder", problems[0], "`cifar-hpc data FOLDER` tells what is in it")
            found = f"{len(problems)} things to mend in {printable(str(listing.root))}"
            raise UnusableError("dataset.folder", found, "these:\n  " + "\n  ".join(problems))
        return [f"{printable(str(listing.root))}: {note}" for note in listing.notes(classes, val_frac, train_size)]

    def _weights_file(self, given: str) -> tuple[str, str]:
        if given not in self._weights:
            path = (self.folder / Path(given).expanduser()).absolute()
            try:
                with path.open("rb") as stream:
                    self._weights[given] = str(path), hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                found = f"{given!r}: {(error.strerror or 'cannot be read').lower()}"
                self._weights[given] = UnusableError("weights", found, "a weights file lies relative to the spec")
        known = self._weights[given]
        if isinstance(known, UnusableError):
            raise known
        return known


def _check_split(
    config: DatasetConfig, images: ImageFolder | OwnImages | None, groups: Sequence[str] | None, repeat: int
) -> None:
    """Raises UnusableError where the worker could not split the images. Of an official set, whose classes are about alike
    large, without a look at it."""
    if images is None and config.folds is None:
        return
    from cifar_hpc.data.splits import check_split

    val: Sequence[int] | None = None
    if images is None:
        names = config.classes or catalog.dataset(config.name).classes
        images_n = config.train_size or catalog.labelled_images(config.name, names) or 0
        train: Sequence[int] = [n % len(names) for n in range(images_n)]
    elif isinstance(images, ImageFolder):
        names, train = images.classes, images.labels("train")
        val = images.labels("val") if "val" in images.splits else None
    else:
        names, train = images.classes, images.train.labels_N.tolist()
        val = None if images.val is None else images.val.labels_N.tolist()
    try:
        check_split(config, names, train, val, groups, repeat)
    except UnusableError as error:
        raise UnusableError(FOLDS if error.key == "folds" else error.key, error.found, error.allowed) from error


def _labelled(listing: ImageFolder, classes: Collection[str], splits: Sequence[str]) -> int:
    """Images of these classes in these splits."""
    found = [listing.splits.get(split, {}) for split in splits]
    return sum(len(images) for split in found for name, images in split.items() if name in classes)


def _resolve_classes(name: str, given: str | tuple[str, ...] | None, official: tuple[str, ...]) -> tuple[str, ...] | None:
    """In official order; None where all are kept."""
    if given is None:
        return None
    if isinstance(given, str):
        superclasses = catalog.dataset(name).superclasses
        if given not in superclasses:
            allowed = (
                f"{name} has the superclasses {', '.join(superclasses)}" if superclasses else "a list of classes is needed"
            )
            raise UnusableError("dataset.classes", repr(given), allowed, nearest(given, superclasses))
        given = superclasses[given]
    for item in given:
        if item not in official:
            some = ", ".join(official) if len(official) <= 20 else f"{', '.join(official[:5])}, ... ({len(official)} in all)"
            raise UnusableError("dataset.classes", f"the class {item!r}", f"{name} has {some}", nearest(item, official))
    return None if len(given) == len(official) else tuple(item for item in official if item in given)


def _check_train_size(train_size: int, kept: int, held_out: object) -> None:
    """held_out: whether some of them are to validate with."""
    if held_out and train_size < 2 * kept:
        least = f"at least {2 * kept}: of each of {kept} classes one to train on and one to validate with"
        raise UnusableError("dataset.train_size", str(train_size), least)
