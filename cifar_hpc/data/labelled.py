"""The images that predictions are of, as they are looked at after training: split by split, with labels and names of files.

Owns: which split of a trial's data a row of its predictions is in. Knows no predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.image_table import ImageTable, table_of
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import Split, load_dataset_of, trainval_of
from cifar_hpc.data.files import data_root
from cifar_hpc.data.folder import labelled_files, whole_folder
from cifar_hpc.errors import DataError


@dataclass(frozen=True)
class LabelledImages:
    """names: of their files, by split and row, relative to the folder; empty where they are in no folder. own_val: the names of
    those that the folder itself has as validation images; table: of all images of the folder; None where there is none."""

    splits: Mapping[str, Split]
    names: Mapping[str, Sequence[str]]
    own_val: frozenset[str] = frozenset()
    table: ImageTable | None = None

    def name(self, split: str, row: int) -> str:
        """'' where it has none."""
        names = self.names.get(split)
        return names[row] if names else ""

    def split_in_folder(self, split: str, row: int) -> str:
        """train, val or test, as a table of the folder has it: what is held out of train is train."""
        return split if split == "test" else "val" if self.name(split, row) in self.own_val else "train"

    def index(self, split: str, row: int) -> int:
        """Its place in the official split."""
        return int(self.splits[split].index_N[row])

    def label(self, split: str, row: int) -> int:
        return int(self.splits[split].labels_N[row])

    def pixels(self, split: str, row: int) -> NDArray[np.uint8]:
        return self.splits[split].pixels(row)


def labelled_images(config: TrialConfig) -> LabelledImages:
    """Of a trial's splits; of folds all labelled images are `val`, as its predictions are. Raises DataError."""
    in_folds = config.dataset.fold is not None
    data = load_dataset_of(trainval_of(config) if in_folds else config, data_root())
    splits = {"train": data.train, "val": data.val}
    if in_folds:  # predictions stand in the order of the images
        splits = {"val": data.train.view(data.train.index_N.argsort())}
    if data.test is not None:
        splits["test"] = data.test
    if config.dataset.name != "folder":
        return LabelledImages(splits, {})
    listing = whole_folder(config.dataset)
    files = labelled_files(listing)
    try:
        table = table_of(listing)
    except OSError as error:
        raise DataError(f"{listing.labelled_by}: {error.strerror}") from error
    return LabelledImages(splits, _file_names(config, splits, files), frozenset(files["val"]), table)


def _file_names(
    config: TrialConfig, splits: Mapping[str, Split], files: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Of a folder's images, relative to it."""
    joined = config.dataset.fold is not None or config.dataset.val_frac == 0
    known = {
        "train": files["train"],
        "val": [*files["train"], *files["val"]] if joined else files["val"] or files["train"],
        "test": files["test"],
    }
    return {name: [known[name][int(at)] for at in split.index_N] for name, split in splits.items()}
