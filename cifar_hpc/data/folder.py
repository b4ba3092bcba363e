"""One's own images, decoded once into one memory-mapped file for each folder, size and way of fitting.

Owns: the map under root/cache, written image by image and atomically, so that no more than a few images are in memory at once.
What a folder's entries mean is in image_folder.py, what an image's bytes mean in images.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import ImageFolder, folder_fingerprint, images_below, printable
from cifar_hpc.config.image_groups import groups_digest, image_groups
from cifar_hpc.data.files import planned_folder
from cifar_hpc.data.images import Fit, decode_image, has_frames, quiet
from cifar_hpc.data.sources import LabelledImages, OwnImages
from cifar_hpc.download.nearby import nearby
from cifar_hpc.errors import DataError, UnusableError

_CHUNK = 64  # images decoded before the first of them is written
NAMED = 20  # broken files that a message names


@dataclass(frozen=True, slots=True)
class LoadedImages:
    """Images without labels. images_NCHW: uint8, of a map on disk; names: of each; left_out: a sentence for each other file;
    frames: names of those of which only the first of several frames is here."""

    images_NCHW: Tensor
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    frames: tuple[str, ...] = ()


def read_folder(config: DatasetConfig, fit: Fit, root: Path) -> OwnImages:
    """All labelled images, unlabelled ones of test/ not among them. Raises DataError where a folder, class or file is not as it
    should be."""
    listing = planned_folder(config)
    paths: list[Path] = []
    parts: dict[str, tuple[int, list[int]]] = {}
    for split in ("train", "val", "test"):
        found = listing.splits.get(split, {})
        parts[split] = len(paths), listing.labels(split)
        paths += [path for name in listing.classes for path in found.get(name, ())]
    fingerprint = folder_fingerprint(listing) if config.fingerprint is None else config.fingerprint
    images_NCHW = _mapped(paths, fit, root / "cache" / f"folder-{fingerprint}-{fit.label}.npy")

    def labelled(split: str) -> LabelledImages | None:
        start, labels = parts[split]
        labels_N = np.array(labels, dtype=np.int64)
        return LabelledImages(images_NCHW, labels_N, np.arange(len(labels), dtype=np.int64), start) if labels else None

    train = labelled("train")
    assert train is not None
    return OwnImages(listing.classes, train, labelled("val"), labelled("test"))


def whole_folder(config: DatasetConfig) -> ImageFolder:
    """All that the folder holds, whatever part of it is trained on. Raises DataError."""
    return planned_folder(dataclasses.replace(config, folds=None, fold=None, val_frac=0.0))


def labelled_files(listing: ImageFolder) -> dict[str, list[str]]:
    """The names of the labelled images of each split, relative to the folder, as `read_folder` has them."""
    return {
        split: [
            printable(path.relative_to(listing.root).as_posix())
            for name in listing.classes
            for path in listing.splits.get(split, {}).get(name, ())
        ]
        for split in ("train", "val", "test")
    }


def read_groups(config: DatasetConfig) -> NDArray[np.int64]:
    """The number of the group of each labelled image, those of val after those of train. Raises DataError."""
    listing = whole_folder(config)
    try:
        groups = image_groups(listing, str(config.fold_by))
    except (UnusableError, OSError) as error:
        raise DataError(f"{listing.root}: {error}") from error
    if config.fold_groups is not None and groups_digest(groups) != config.fold_groups:
        raise DataError(f"{listing.root}: its groups by {config.fold_by!r} changed since the sweep was planned: plan it again")
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def load_images(source: Path, fit: Fit) -> LoadedImages:
    """A file, or all images below a folder, decoded into a map that vanishes with the tensor. Raises DataError where none of
    them can be read."""
    try:
        paths, others = images_below(source) if source.is_dir() else ((source,), ())
    except OSError as error:
        raise DataError(f"{printable(str(error.filename or source))}: {error.strerror}") from error
    base = source if source.is_dir() else source.parent
    names = [printable(path.relative_to(base).as_posix()) for path in paths]
    left_out = list(others)
    with tempfile.TemporaryFile(prefix="cifar-hpc-images-") as stream:
        broken = dict(_decode_into(stream, paths, fit))
        left_out += [str(error) for error in broken.values()]
        kept = tuple(name for n, name in enumerate(names) if n not in broken)
        if not kept:
            raise DataError("\n".join([f"no images in {source}", *left_out[:NAMED]]))
        stream.flush()
        shape = (len(kept), *fit.shape)
        images: NDArray[np.uint8] = np.memmap(stream, np.uint8, "r+", shape=shape)
    frames = tuple(
        name for n, (name, path) in enumerate(zip(names, paths, strict=True)) if n not in broken and has_frames(path)
    )
    return LoadedImages(torch.from_numpy(images), kept, tuple(left_out), frames)


def _mapped(paths: Sequence[Path], fit: Fit, cache: Path) -> NDArray[np.uint8]:
    """The decoded images as a map of the cache, written where it is not there; a cache that cannot be written is done without.

    Raises DataError that names every file which is no whole image.
    """
    shape = (len(paths), *fit.shape)
    kept = _kept(cache, shape)
    if kept is not None:
        return kept
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, prefix=cache.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            try:
                np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                _refuse_broken(list(_decode_into(file, paths, fit)))
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, cache)
            finally:
                temporary.unlink(missing_ok=True)
        kept = _kept(cache, shape)
    except OSError:
        kept = None
    if kept is not None:
        return kept
    images = np.empty(shape, np.uint8)
    _refuse_broken(list(_decode_into(_Rows(images), paths, fit)))
    return images


def _kept(cache: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The map, of which each process may change its own pages, as torch asks for; nobody does."""
    if not cache.exists():
        return None
    with contextlib.suppress(OSError, ValueError, EOFError):
        images: NDArray[np.uint8] = np.load(nearby(cache), mmap_mode="c", allow_pickle=False)
        if images.shape == shape and images.dtype == np.uint8:
            return images
    return None


class _Rows:
    """An array in memory that is written as a file is."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images, self.at = images.reshape(len(images), -1), 0

    def write(self, pixels: bytes) -> None:
        self.images[self.at] = np.frombuffer(pixels, np.uint8)
        self.at += 1


def _decode_into(stream: IO[bytes] | _Rows, paths: Sequence[Path], fit: Fit) -> Iterator[tuple[int, DataError]]:
    """Writes each image after the other, but those that it yields with what is wrong with them."""

    def decode(path: Path) -> NDArray[np.uint8] | DataError:
        try:
            return decode_image(path, fit)
        except DataError as error:
            return error

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(workers, 16)) as pool, quiet():
        for start in range(0, len(paths), _CHUNK):
            for n, pixels in enumerate(pool.map(decode, paths[start : start + _CHUNK]), start):
                if isinstance(pixels, DataError):
                    yield n, pixels
                else:
                    stream.write(pixels.tobytes())


def _refuse_broken(broken: Iterable[tuple[int, DataError]]) -> None:
    errors = [str(error) for _, error in broken]
    if errors:
        more = [f"and {len(errors) - NAMED} more"] if len(errors) > NAMED else []
        raise DataError("\n".join([*errors[:NAMED], *more]))
