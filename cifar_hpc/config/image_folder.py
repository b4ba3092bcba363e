"""What makes a folder of one's own images a data set: train/<class>/*, optional val/ and test/. Decodes nothing.

Stands beside the catalogue, since the spec gives the folder its identity and the data room loads it. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def image_files(folder: Path) -> tuple[Path, ...]:
    """All image files below `folder`, sorted by their path relative to it; hidden ones left out. Raises OSError."""
    return tuple(sorted(_walk_images(folder), key=lambda path: path.relative_to(folder).as_posix()))


def folder_classes(folder: Path) -> tuple[str, ...]:
    """The classes of folder/train/<class>/ that hold an image, sorted; empty where there is no train/. Raises OSError."""
    train = folder / "train"
    if not train.is_dir():
        return ()
    return tuple(
        sorted(
            entry.name
            for entry in train.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and next(_walk_images(entry), None) is not None
        )
    )


def folder_fingerprint(folder: Path) -> str:
    """16 hex digits over the relative names and contents of the images of `folder`: what stands for it in a trial's id."""
    digest = hashlib.sha256()
    for path in image_files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _walk_images(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk_images(entry)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry
