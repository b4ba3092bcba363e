"""What is in the images of a data set before anything is trained: classes by splits, sizes, what has to be mended.

Owns: the counts as a trial would see them. What files hold: data/check.py. Imports torch only where no folder is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import ImageFolder, LeftOut, folder_fingerprint, list_folder, printable
from cifar_hpc.config.own import plain_arguments
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.check import check_folder, notes_of, problems_of
from cifar_hpc.data.files import data_root, planned_folder, why_missing
from cifar_hpc.data.splits import divide
from cifar_hpc.errors import CifarHpcError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Overview:
    """counts: class -> images in each of SPLITS; about: sizes and modes; notes, problems: sentences."""

    title: str
    counts: dict[str, tuple[int, int, int]]
    about: dict[str, Any]
    notes: list[str]
    problems: list[str]
    left_out: tuple[LeftOut, ...] | None = None  # None: no folder

    @property
    def totals(self) -> tuple[int, ...]:
        """Images of all classes in each of SPLITS."""
        return tuple(sum(counts[i] for counts in self.counts.values()) for i in range(len(SPLITS)))

    def record(self) -> dict[str, Any]:
        """For programs."""
        classes = [{"class": name, **dict(zip(SPLITS, counts, strict=True))} for name, counts in self.counts.items()]
        about = self.about
        if self.left_out is not None:
            about = {**about, "left out": [f"{entry.name}: {entry.reason}" for entry in self.left_out]}
        return {"data": self.title, "classes": classes, **about, "notes": self.notes, "problems": self.problems}


def overview_of_folder(folder: Path) -> Overview:
    """Of a folder as a spec that names no more than it would take it."""
    listing = list_folder(folder.absolute())
    plain = DatasetConfig(name="folder", folder=str(listing.root), fingerprint=folder_fingerprint(listing))
    return _folder_overview(listing, plain, [TrialConfig(dataset=plain, arch="linear")])


def overviews_of(configs: Sequence[TrialConfig]) -> list[Overview]:
    """Of each data set that the trials take; of folds all the images that they are parts of. Raises CifarHpcError where one is
    not on this machine."""
    found = []
    of_one: dict[DatasetConfig, list[TrialConfig]] = {}  # the splits of seeds count alike
    for config in configs:
        of_one.setdefault(config.dataset.without_folds.of_point, []).append(config)
    for theirs in of_one.values():
        dataset = theirs[0].dataset.without_folds
        if dataset.name == "folder":
            found.append(_folder_overview(planned_folder(dataset), dataset, theirs))
        else:
            found.append(_loaded_overview(dataset, theirs[0]))
        folds = sorted({config.dataset.folds for config in theirs if config.dataset.folds is not None})
        found[-1].notes.extend(f"dealt into {n} folds, each of them held out in turn" for n in folds)
    return found


def _folder_overview(listing: ImageFolder, dataset: DatasetConfig, configs: Sequence[TrialConfig]) -> Overview:
    problems = listing.problems(dataset.classes, dataset.val_frac, dataset.train_size)
    notes = listing.notes(dataset.classes, dataset.val_frac, dataset.train_size)
    about: dict[str, Any] = {}
    if listing.classes:
        check = check_folder(listing, str(dataset.fingerprint), data_root())
        problems += problems_of(check)
        notes += notes_of(check, listing, configs)
        about = {"shorter side, pixels": list(check.sides), "pixels": check.modes} if check.modes else {}
    counts = _folder_counts(listing, dataset, bool(problems))
    return Overview(printable(str(listing.root)), counts, about, notes, problems, listing.left_out)


def _folder_counts(listing: ImageFolder, dataset: DatasetConfig, broken: bool) -> dict[str, tuple[int, int, int]]:
    """As a trial sees them; where none can, as they lie in the folder, those of no class of train/ too."""
    names = [name for name in listing.classes if dataset.classes is None or name in dataset.classes]
    if broken and dataset.classes is None:
        names += sorted({name for split in SPLITS for name in listing.splits.get(split, {})} - set(names))
    lying = {split: [len(listing.splits.get(split, {}).get(name, ())) for name in names] for split in SPLITS}
    if not broken:
        labels_N = np.repeat(np.arange(len(names)), lying["train"])
        stay, held = divide(labels_N, dataset, own_val="val" in listing.splits)
        lying["train"] = np.bincount(labels_N[stay], minlength=len(names)).tolist()
        if "val" not in listing.splits:
            lying["val"] = np.bincount(labels_N[held], minlength=len(names)).tolist()
        elif dataset.val_frac == 0:
            lying["train"] = [a + b for a, b in zip(lying["train"], lying["val"], strict=True)]
            lying["val"] = [0] * len(names)
    rows = zip(*(lying[split] for split in SPLITS), strict=True)
    return {printable(name): (int(a), int(b), int(c)) for name, (a, b, c) in zip(names, rows, strict=True)}


def _loaded_overview(dataset: DatasetConfig, config: TrialConfig) -> Overview:
    """Of an official set, or of one that a function of the user's returns."""
    missing = why_missing(dataset, data_root())
    if missing:
        raise CifarHpcError(missing)
    from cifar_hpc.data.dataset import load_dataset

    found = load_dataset(dataset, config.image_size or 0, data_root(), source=config.source_of("dataset"))
    splits = [found.train, found.val, *([found.test] if found.test else [])]
    counts = [split.labels_N.bincount(minlength=len(found.classes)).tolist() for split in splits]
    counts += [[0] * len(found.classes)] * (3 - len(counts))
    side = found.train.images_NCHW.shape[-1]
    rows = {name: (row[0], row[1], row[2]) for name, row in zip(found.classes, zip(*counts, strict=True), strict=True)}
    arguments = " ".join(f"{name}={value}" for name, value in (plain_arguments(dataset.args) or {}).items())
    return Overview(printable(f"{dataset.name} {arguments}".strip()), rows, {"shorter side, pixels": [side] * 3}, [], [])
