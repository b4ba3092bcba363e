"""Reads the official files of a data set, and scikit-learn's digits, into uint8 arrays. Knows nothing of splits or devices.

A file that is corrupt or holds what it should not is a DataError that names it. No code of a pickle is run.
"""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config import catalog
from cifar_hpc.data.files import Found, corrupt_reason, find_form
from cifar_hpc.data.official import RECORD_PIXELS
from cifar_hpc.download.nearby import nearby_all
from cifar_hpc.errors import DataError

_DIGITS_TEST_FRAC = 0.2
_DIGITS_TEST_SEED = 0


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """images_NCHW: uint8; labels_N: int64, official class numbers; index_N: int64, positions in the official split.

    start: where they begin in images_NCHW, which is a map on disk of more than these; None: images_NCHW are these alone.
    """

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    index_N: NDArray[np.int64]
    start: int | None = None


@dataclass(frozen=True, slots=True)
class OwnImages:
    """A set of the user's own. classes: names in the order of the labels; val, test: None where it has none."""

    classes: tuple[str, ...]
    train: LabelledImages
    val: LabelledImages | None
    test: LabelledImages | None

    @property
    def side(self) -> int:
        return int(self.train.images_NCHW.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train.images_NCHW.shape[1])

    def labelled_n(self, classes: Collection[str], *, folds: bool) -> int:
        """Images of these classes that are trained on or, where the set has no val of its own, held out of them."""
        kept = [number for number, name in enumerate(self.classes) if name in classes]
        splits = [self.train, self.val] if folds else [self.train]
        return sum(int(np.isin(split.labels_N, kept).sum()) for split in splits if split is not None)


def read_official(name: str, root: Path) -> tuple[LabelledImages, LabelledImages]:
    """The official training and test split of a data set that lies in files under `root`. Raises DataError."""
    found, wrong = find_form(name, root)
    if found is None:
        why = "; ".join(wrong) or "no official files of it"
        raise DataError(f"{name} is not under {root} ({why}): run `cifar-hpc fetch {name}` where there is a network.")
    names = [file for file in found.form.files if found.path(file).is_file()]
    copies = nearby_all([found.path(file) for file in names])
    found = Found(found.form, copies[0].parent)
    read = {"python": _read_python, "binary": _read_binary, "idx": _read_idx}[found.form.kind]
    classes_n = len(catalog.dataset(name).classes)
    return _numbered(found, found.form.train, read, classes_n), _numbered(found, found.form.test, read, classes_n)


def read_digits() -> tuple[LabelledImages, LabelledImages]:
    """scikit-learn's 1797 digits, 8x8, gray 0..16 stretched to 0..255. They have no official split: a fixed stratified
    fifth is the test split; positions are those in scikit-learn's list."""
    from sklearn.datasets import load_digits

    from cifar_hpc.data.splits import split_val

    bunch = load_digits()
    images_NCHW = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels_N = bunch.target.astype(np.int64)
    train, test = split_val(labels_N, _DIGITS_TEST_FRAC, _DIGITS_TEST_SEED)
    return tuple(LabelledImages(images_NCHW[index], labels_N[index], index) for index in (train, test))  # type: ignore[return-value]


_Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _numbered(
    found: Found, names: tuple[str, ...], read: Callable[[Found, tuple[str, ...]], _Arrays], classes_n: int
) -> LabelledImages:
    images_NCHW, labels_N = read(found, names)
    if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < classes_n:
        raise DataError(f"{found.folder}: {', '.join(names)} hold the label {labels_N.max()}; labels are 0..{classes_n - 1}")
    return LabelledImages(images_NCHW, labels_N, np.arange(len(labels_N), dtype=np.int64))


def _read_binary(found: Found, names: tuple[str, ...]) -> _Arrays:
    head = found.form.label_bytes
    records = [np.fromfile(found.path(name), dtype=np.uint8).reshape(-1, head + RECORD_PIXELS) for name in names]
    labels_N = np.concatenate([record[:, head - 1] for record in records]).astype(np.int64)
    return np.concatenate([record[:, head:] for record in records]).reshape(-1, 3, 32, 32), labels_N


def _read_python(found: Found, names: tuple[str, ...]) -> _Arrays:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for name in names:
        path = found.path(name)
        try:
            with path.open("rb") as file:
                entry = _ArraysOnly(file, encoding="bytes").load()
            entry = {key.decode() if isinstance(key, bytes) else key: value for key, value in entry.items()}
            data = entry["data"].reshape(-1, 3, 32, 32)
            names_n = entry["fine_labels"] if "fine_labels" in entry else entry["labels"]
        except (pickle.UnpicklingError, EOFError, KeyError, AttributeError, ValueError, TypeError) as error:
            raise DataError(f"{path} is not a whole CIFAR python batch ({type(error).__name__}: {error})") from error
        if data.dtype != np.uint8 or len(names_n) != len(data):
            raise DataError(f"{path} is not a whole CIFAR python batch: {len(data)} images, {len(names_n)} labels")
        images.append(data)
        labels += names_n
    return np.concatenate(images), np.asarray(labels, dtype=np.int64)


def _read_idx(found: Found, names: tuple[str, ...]) -> _Arrays:
    images, labels = (_idx_array(found, name) for name in names)
    if len(images) != len(labels):
        raise DataError(f"{found.folder}: {len(images)} images in {names[0]}, {len(labels)} labels in {names[1]}")
    return images[:, None], labels.astype(np.int64)


def _idx_array(found: Found, name: str) -> NDArray[np.uint8]:
    path = found.path(name)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = data[3]
        shape = struct.unpack_from(f">{dims}I", data, 4)
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, IndexError, ValueError) as error:
        why = corrupt_reason(found.form, path) or f"{path} is corrupt: {error}"
        raise DataError(why) from error


class _ArraysOnly(pickle.Unpickler):
    """Unpacks numpy arrays, numbers, strings and containers; any other name in the pickle is refused."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image batch needs")
        return super().find_class(module, name)
