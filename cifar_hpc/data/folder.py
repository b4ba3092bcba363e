"""One's own images: train/<class>/*, optional val/<class>/*, test/<class>/* or test/*, decoded once and cached as .npy.

Owns: decoding, the cache under root/cache (keyed by fingerprint and size, written atomically, memory-mapped). A file that
cannot be decoded is a DataError that names it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from cifar_hpc.config.image_folder import folder_classes, folder_fingerprint, image_files
from cifar_hpc.config.trial import DatasetConfig
from cifar_hpc.data.files import folder_path
from cifar_hpc.data.sources import LabelledImages
from cifar_hpc.errors import DataError


@dataclass(frozen=True, slots=True)
class FolderImages:
    """classes: sorted names of train/'s folders; val, test: None where the folder has none (or only unlabelled test images)."""

    classes: tuple[str, ...]
    train: LabelledImages
    val: LabelledImages | None
    test: LabelledImages | None


def read_folder(config: DatasetConfig, image_size: int, root: Path) -> FolderImages:
    """All labelled images at image_size x image_size. Raises DataError where a folder, class or file is not as it should be,
    or the images are no longer those that the config's fingerprint stands for."""
    folder = folder_path(config)
    if not (folder / "train").is_dir():
        raise DataError(f"{folder} has no train/: its images are expected as train/<class>/*")
    fingerprint = folder_fingerprint(folder)
    if config.fingerprint is not None and config.fingerprint != fingerprint:
        raise DataError(
            f"{folder} changed since the sweep was planned (fingerprint {fingerprint}, planned {config.fingerprint}): "
            f"put the images back, or plan the sweep again"
        )
    classes = folder_classes(folder)
    if len(classes) < 2:
        raise DataError(f"{folder / 'train'} holds {len(classes)} classes; at least two folders with images are needed")
    cache = root / "cache" / f"folder-{fingerprint}-{image_size}"

    def labelled(split: str) -> LabelledImages | None:
        return _read_labelled(folder / split, classes, image_size, cache / f"{split}.npy")

    train = labelled("train")
    assert train is not None
    return FolderImages(classes, train, labelled("val"), labelled("test"))


def load_images(source: Path | Sequence[Path], image_size: int, *, whole: bool = False) -> tuple[Tensor, tuple[str, ...]]:
    """Images without labels, listed or all below a folder: uint8 images_NCHW, and their names (relative to the folder).

    whole: nothing is cut off, as suits images of a data set that comes at image_size.
    """
    if isinstance(source, Path):
        paths: Sequence[Path] = image_files(source) if source.is_dir() else (source,)
        names = tuple(path.relative_to(source).as_posix() if source.is_dir() else path.name for path in paths)
    else:
        paths, names = source, tuple(str(path) for path in source)
    if not paths:
        raise DataError(f"no images in {source}")
    decode = _decode_whole if whole else decode_image
    return torch.from_numpy(np.stack([decode(path, image_size) for path in paths])), names


def decode_image(path: Path, image_size: int) -> NDArray[np.uint8]:
    """CHW uint8 RGB: turned as its EXIF says, the shorter side resized (bilinear, antialiased) to round(image_size * 8/7), the
    centre image_size x image_size taken. Raises DataError that names a file which is no whole image."""
    image = _open(path)
    shorter = round(image_size * 8 / 7)
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(extent * scale)) for extent in image.size)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + image_size, top + image_size))
    return np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1)


def _decode_whole(path: Path, image_size: int) -> NDArray[np.uint8]:
    image = _open(path)
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a whole image ({error})") from error


def _class_folders(folder: Path) -> dict[str, Path]:
    return {
        entry.name: entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and image_files(entry)
    }


def _read_labelled(folder: Path, classes: tuple[str, ...], image_size: int, cache: Path) -> LabelledImages | None:
    """None where the folder is not there or, none of its folders being a class, holds unlabelled images."""
    if not folder.is_dir():
        return None
    there = _class_folders(folder)
    if not set(there) & set(classes):
        return None
    unknown = sorted(set(there) - set(classes))
    if unknown:
        raise DataError(f"{folder / unknown[0]} is no class of train/; the classes are {', '.join(classes)}")
    paths = [(path, label) for label, name in enumerate(classes) if name in there for path in image_files(there[name])]
    labels_N = np.array([label for _, label in paths], dtype=np.int64)
    images = _cached([path for path, _ in paths], image_size, cache)
    return LabelledImages(images, labels_N, np.arange(len(labels_N), dtype=np.int64))


def _cached(paths: Sequence[Path], image_size: int, cache: Path) -> NDArray[np.uint8]:
    """The decoded images from the cache, written where it is not there; a cache that cannot be written is done without."""
    shape = (len(paths), 3, image_size, image_size)
    try:
        images: NDArray[np.uint8] = np.load(cache, mmap_mode="r", allow_pickle=False)
        if images.shape == shape and images.dtype == np.uint8:
            return images
    except (OSError, ValueError, EOFError):
        pass
    images = _decode_all(paths, image_size)
    temporary: str | None = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, prefix=cache.name, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.save(file, images)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, cache)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return images


def _decode_all(paths: Sequence[Path], image_size: int) -> NDArray[np.uint8]:
    return np.stack([decode_image(path, image_size) for path in paths])
