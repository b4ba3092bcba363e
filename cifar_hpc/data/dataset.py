"""A data set as a trial sees it: training, validation and test split as uint8 tensors on the CPU, with their statistics.

Owns: choosing classes, joining source and split, normalisation constants, the checksum. Knows nothing of devices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.sources import OwnCodeError, Source
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data import folder, sources, splits
from cifar_hpc.data.images import Fit
from cifar_hpc.data.own import images_fingerprint, read_own
from cifar_hpc.data.sources import LabelledImages
from cifar_hpc.errors import CifarHpcError, DataError, did_you_mean, nearest

_CHUNK = 256  # images gathered at once from a map on disk

# Mean and standard deviation of the training pixels, per channel, in 0..1; those of a folder are measured.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "digits": ((0.3053,), (0.3760,)),
}


@dataclass(frozen=True)
class Split:
    """images_NCHW: uint8; labels_N: int64, 0..K-1 among the kept classes; index_N: int64, position in the official split.

    rows_N: int64, where its images are in images_NCHW, which is a map on disk of more than these; None: they are these alone.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    index_N: Tensor
    rows_N: Tensor | None = None

    def images(self, at_B: Tensor) -> Tensor:
        """uint8 N C H W: a copy of the images at these positions of the split (CPU int64)."""
        return self.images_NCHW[at_B if self.rows_N is None else self.rows_N[at_B]]

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """One image, H x W x C, to be shown."""
        return np.asarray(self.images(torch.tensor([row]))[0].permute(1, 2, 0).numpy(), dtype=np.uint8)

    def view(self, at_N: Tensor) -> Split:
        """The split of those of its images, which stay where they are."""
        rows_N = at_N if self.rows_N is None else self.rows_N[at_N]
        return Split(self.images_NCHW, self.labels_N[at_N], self.index_N[at_N], rows_N)

    def chunks(self) -> Iterator[Tensor]:
        """All images in their order, a few at once."""
        for at_B in torch.arange(len(self.labels_N)).split(_CHUNK):  # type: ignore[no-untyped-call]
            yield self.images(at_B)


@dataclass(frozen=True)
class Dataset:
    """test: None where the folder has no labelled test images. sha256: over all images and labels used, in order."""

    train: Split
    val: Split
    test: Split | None
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str


def trainval_of(config: TrialConfig) -> TrialConfig:
    """The trial on all the labelled images: those that its folds are parts of, or training and validation together."""
    return dataclasses.replace(config, dataset=config.dataset.trainval)


class Folds:
    """The parts of a data set whose images are all in its training split, each held out in turn."""

    def __init__(self, config: DatasetConfig, whole: Dataset) -> None:
        """config: of any of the folds."""
        self.whole = whole
        self._groups = folder.read_groups(config) if config.fold_by is not None else None
        self._parts: dict[int, NDArray[np.int64]] = {}
        self._sums: PixelSums | None = None

    def rows(self, config: DatasetConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in the whole's training split of the images that the fold trains on, and of those that it holds out."""
        assert config.folds is not None and config.fold is not None
        repeat, number = divmod(config.fold - 1, config.folds)
        if repeat not in self._parts:
            groups_N = None if self._groups is None else self._groups[self.whole.train.index_N.numpy()]
            labels_N = self.whole.train.labels_N.numpy()
            self._parts[repeat] = splits.deal(labels_N, config.folds, config.split_seed, repeat, groups_N, self.whole.classes)
        held = self._parts[repeat] == number
        return np.flatnonzero(~held), np.flatnonzero(held)

    def part(self, config: DatasetConfig) -> Dataset:
        """The data set of a fold: views of the whole's images."""
        stay, held = (torch.from_numpy(rows) for rows in self.rows(config))
        mean, std = self.whole.mean, self.whole.std
        if config.name not in STATISTICS:
            self._sums = self._sums or pixel_sums(self.whole.train)
            mean, std = self._sums.statistics(stay)
        digest = hashlib.sha256(self.whole.sha256.encode() + held.numpy().tobytes()).hexdigest()
        train, val = (self.whole.train.view(rows_N) for rows_N in (stay, held))
        return dataclasses.replace(self.whole, train=train, val=val, mean=mean, std=std, sha256=digest)


def load_dataset_of(config: TrialConfig, root: Path) -> Dataset:
    """The data set of a trial, as load_dataset gives it, of a fold its part. Raises CifarHpcError where the trial has no image
    size."""
    if config.dataset.fold is not None:
        return Folds(config.dataset, load_dataset_of(trainval_of(config), root)).part(config.dataset)
    if config.image_size is None:
        raise CifarHpcError(f"trial {config.trial_id} has no image_size: a spec fills it in from the data set")
    source = config.source_of("dataset")
    fit = {"resize": config.resize, "crop_frac": config.crop_frac}
    return load_dataset(config.dataset, config.image_size, root, source=source, **fit)  # type: ignore[arg-type]


def load_dataset(
    config: DatasetConfig,
    image_size: int,
    root: Path,
    *,
    resize: str = "crop",
    crop_frac: float = 1.0,
    source: Source | None = None,
) -> Dataset:
    """Reads, sub-samples (train_size) and then splits (val_frac); both are stratified draws of split_seed alone.

    Fixed-size sets stay at native size, a folder's images come at image_size, fitted as resize and crop_frac say (see
    TrialConfig), and are normalised by the statistics of those trained on; a folder's own val/ is used whole, whatever
    val_frac above 0. With a val_frac of 0 all labelled images are trained on, those of val/ too, and val is empty. Raises
    DataError where files are absent or corrupt, UnusableError where a class has too few images.
    """
    val: LabelledImages | None = None
    test: LabelledImages | None
    if source is not None:
        brought = read_own(source, config.args or ())
        if config.fingerprint not in (None, images_fingerprint(brought)):
            found = f"{source.name} returns other images or labels than when the sweep was planned"
            raise OwnCodeError("dataset", found, "put them back, seed what it draws, or plan the sweep again")
        names, train, val, test = brought.classes, brought.train, brought.val, brought.test
    elif config.name == "folder":
        own = folder.read_folder(config, Fit(image_size, resize, crop_frac), root)
        names, train, val, test = own.classes, own.train, own.val, own.test
    else:
        names = catalog.dataset(config.name).classes
        train, test = sources.read_digits() if config.name == "digits" else sources.read_official(config.name, root)
    classes = _kept_classes(config, names)
    train_at, labels_N = splits.of_classes(train.labels_N, names, classes)
    splits.refuse_absent(config, classes, labels_N)
    stay, held = splits.divide(labels_N, config, own_val=val is not None)
    train_split = _split(train, train_at[stay], labels_N[stay])
    held_out = (
        (train, train_at[held], labels_N[held]) if val is None else (val, *splits.of_classes(val.labels_N, names, classes))
    )
    val_split = _split(*held_out)
    if val is not None and config.val_frac == 0:
        train_split, val_split = _joined(train_split, val_split, len(train.labels_N)), _empty(val_split)
    test_split = None if test is None else _split(test, *splits.of_classes(test.labels_N, names, classes))
    mean, std = STATISTICS[config.name] if config.name in STATISTICS else pixel_statistics(train_split)
    used = (train_split, val_split) if test_split is None else (train_split, val_split, test_split)
    channels = train_split.images_NCHW.shape[1]
    return Dataset(train_split, val_split, test_split, classes, channels, mean, std, _sha256(used))


def _kept_classes(config: DatasetConfig, names: tuple[str, ...]) -> tuple[str, ...]:
    if config.classes is None:
        return names
    for name in config.classes:
        if name not in names:
            near = nearest(name, names)
            raise DataError(f"dataset.classes: {name!r} is no class of {config.name}.{did_you_mean(near)}")
    return tuple(name for name in names if name in config.classes)


def _split(images: LabelledImages, positions: NDArray[np.int64], labels_N: NDArray[np.int64]) -> Split:
    labels = torch.from_numpy(np.ascontiguousarray(labels_N))
    index = torch.from_numpy(images.index_N[positions])
    if images.start is None:
        return Split(torch.from_numpy(np.ascontiguousarray(images.images_NCHW[positions])), labels, index)
    return Split(torch.from_numpy(images.images_NCHW), labels, index, torch.from_numpy(positions + images.start))


def _joined(one: Split, other: Split, offset: int) -> Split:
    """Two splits as one; of a folder, parts of one map. offset: added to the other's positions, so that none stands twice."""
    mapped = one.rows_N is not None and other.rows_N is not None
    return Split(
        one.images_NCHW if mapped else torch.cat([one.images_NCHW, other.images_NCHW]),
        torch.cat([one.labels_N, other.labels_N]),
        torch.cat([one.index_N, other.index_N + offset]),
        torch.cat([one.rows_N, other.rows_N]) if one.rows_N is not None and other.rows_N is not None else None,
    )


def _empty(split: Split) -> Split:
    rows_N = None if split.rows_N is None else split.rows_N[:0]
    images_NCHW = split.images_NCHW[:0] if rows_N is None else split.images_NCHW
    return Split(images_NCHW, split.labels_N[:0], split.index_N[:0], rows_N)


def unlabelled(images_NCHW: Tensor) -> Split:
    """Images on a map, as a split that may be streamed."""
    rows_N = torch.arange(len(images_NCHW))
    return Split(images_NCHW, torch.zeros_like(rows_N), rows_N, rows_N)


@dataclass(frozen=True, slots=True)
class PixelSums:
    """Of each image of a split and each channel: the exact sums, int64 N x C, of its pixels and of their squares."""

    pixels: int  # of one channel of an image
    total_NC: Tensor
    square_NC: Tensor

    def statistics(self, at_N: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over some images, in 0..1: the same on any machine. 1 for a channel that
        is the same everywhere."""
        count = self.pixels * len(at_N)
        total_C, square_C = self.total_NC[at_N].sum(0).tolist(), self.square_NC[at_N].sum(0).tolist()
        mean = tuple(total / count / 255 for total in total_C)
        spread = [(count * square - total * total) / count**2 for total, square in zip(total_C, square_C, strict=True)]
        return mean, tuple(math.sqrt(variance) / 255 or 1.0 for variance in spread)


def pixel_sums(split: Split) -> PixelSums:
    totals, squares = [], []
    for chunk_NCHW in split.chunks():
        values = chunk_NCHW.flatten(2).to(torch.int64)
        totals.append(values.sum(2))
        squares.append((values * values).sum(2))
    return PixelSums(split.images_NCHW.shape[2] * split.images_NCHW.shape[3], torch.cat(totals), torch.cat(squares))


def pixel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in 0..1, as `PixelSums.statistics` of all images."""
    return pixel_sums(split).statistics(torch.arange(len(split.labels_N)))


def _sha256(used: tuple[Split, ...]) -> str:
    digest = hashlib.sha256()
    for split in used:
        for chunk_NCHW in split.chunks():
            digest.update(chunk_NCHW.numpy().data)
        digest.update(split.labels_N.numpy().data)
    return digest.hexdigest()
