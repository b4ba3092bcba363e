"""A data set of the user's own: what its function returns, checked, as the arrays that a trial is trained on.

The function is called with `args` and returns a mapping: train: (images, labels); optionally val, test: the same; unlabelled:
images alone; and classes: their names. Images are uint8, N x C x H x W with 1 or 3 channels and square, labels whole numbers
from 0 in the order of the classes. numpy or torch, on the CPU. Owns: read_own, its fingerprint, what is refused. Imports no
torch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.own import Arguments, plain_arguments
from cifar_hpc.config.sources import OwnCodeError, Source, load_source, own_line
from cifar_hpc.data.sources import LabelledImages, OwnImages
from cifar_hpc.errors import nearest

_FORM = '{"train": (images, labels), "val": ..., "test": ..., "unlabelled": images, "classes": names}'
_SPLITS, _OTHERS = ("train", "val", "test"), ("unlabelled", "classes")


@functools.lru_cache(maxsize=2)
def read_own(source: Source, args: Arguments) -> OwnImages:
    """Calls the function, once for equal arguments. Raises OwnCodeError where it raises, or returns something else."""
    name = source.name
    try:
        load = load_source(source)
        made = load(**(plain_arguments(args) or {}))
    except OwnCodeError:
        raise
    except Exception as error:  # a user's function may raise anything
        said = ", ".join(f"{key}={value!r}" for key, value in args)
        raise OwnCodeError("dataset", own_line(error, source.path), f"{source.object}({said}) returns the images") from error
    if not isinstance(made, Mapping):
        raise OwnCodeError("dataset", f"{name} returns a {type(made).__name__}", f"a mapping is needed: {_FORM}")
    unknown = [key for key in made if key not in (*_SPLITS, *_OTHERS)]
    if unknown:
        near = nearest(unknown[0], (*_SPLITS, *_OTHERS))
        raise OwnCodeError("dataset", f"{name} returns {unknown[0]!r}", f"its keys are {', '.join((*_SPLITS, *_OTHERS))}", near)
    if "train" not in made:
        raise OwnCodeError("dataset", f"{name} returns no 'train'", f"a mapping is needed: {_FORM}")
    parts = {key: _pair(f"{name}: {key}", made[key]) for key in _SPLITS if made.get(key) is not None}
    classes = _classes(name, made.get("classes"), parts["train"][1])
    shape = parts["train"][0].shape[1:]
    splits = {}
    for key, (images_NCHW, labels_N) in parts.items():
        if images_NCHW.shape[1:] != shape:
            raise _wrong(f"{name}: {key}", f"images of {_shape(images_NCHW.shape[1:])}", f"as in train: {_shape(shape)}")
        if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < len(classes):
            found = f"labels from {labels_N.min()} to {labels_N.max()}"
            raise _wrong(f"{name}: {key}", found, f"0 to {len(classes) - 1}, as there are {len(classes)} classes")
        splits[key] = LabelledImages(images_NCHW, labels_N, np.arange(len(labels_N), dtype=np.int64))
    if made.get("unlabelled") is not None:
        _images(f"{name}: unlabelled", made["unlabelled"])
    return OwnImages(classes, splits["train"], splits.get("val"), splits.get("test"))


def images_fingerprint(made: OwnImages) -> str:
    """16 hex digits over the classes, images and labels that a function returned: what stands for them in an id."""
    digest = hashlib.sha256("\0".join(made.classes).encode())
    for name in _SPLITS:
        part: LabelledImages | None = getattr(made, name)
        if part is not None:
            images_NCHW = np.ascontiguousarray(part.images_NCHW)
            digest.update(f"\0{name}{images_NCHW.shape}".encode())
            digest.update(images_NCHW.data)
            digest.update(np.ascontiguousarray(part.labels_N).data)
    return digest.hexdigest()[:16]


def _pair(where: str, value: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise _wrong(where, f"a {type(value).__name__}", "a pair is needed: (images, labels)")
    images_NCHW, labels_N = _images(where, value[0]), np.asarray(value[1])
    if labels_N.ndim != 1 or labels_N.dtype.kind not in "iu":
        found = f"labels of {labels_N.dtype} and shape {_shape(labels_N.shape)}"
        raise _wrong(where, found, "one whole number for each image: the place of its class")
    if len(labels_N) != len(images_NCHW):
        raise _wrong(where, f"{len(images_NCHW)} images and {len(labels_N)} labels", "one label for each image")
    return images_NCHW, labels_N.astype(np.int64)


def _images(where: str, value: Any) -> NDArray[np.uint8]:
    images = np.asarray(value)
    shape = _shape(images.shape)
    if images.dtype != np.uint8:
        hint = "; multiply by 255 and round" if images.dtype.kind == "f" else ""
        raise _wrong(where, f"images of {images.dtype}", f"uint8 is needed, 0 to 255{hint}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        last = images.ndim == 4 and images.shape[3] in (1, 3)
        hint = "; the channels stand last: images.transpose(0, 3, 1, 2)" if last else ""
        raise _wrong(where, f"images of shape {shape}", f"N x C x H x W is needed, with C 1 or 3{hint}")
    if images.shape[2] != images.shape[3] or not images.shape[2]:
        raise _wrong(where, f"images of shape {shape}", "square images are needed")
    return np.ascontiguousarray(images)


def _classes(name: str, value: Any, labels_N: NDArray[np.int64]) -> tuple[str, ...]:
    """The names, or 0, 1, ... where none are given."""
    if value is None:
        return tuple(map(str, range(int(labels_N.max(initial=-1)) + 1)))
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if len(names) < 2 or not all(isinstance(one, str) for one in names) or len(set(names)) != len(names):
        raise _wrong(f"{name}: classes", f"{value!r:.60}", "a list of two or more names, each once, in the order of the labels")
    return names


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _wrong(where: str, found: str, allowed: str) -> OwnCodeError:
    return OwnCodeError("dataset", f"{where}: {found}", allowed)
