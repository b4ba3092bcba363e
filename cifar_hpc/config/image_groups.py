"""Which images of a folder are kept together: those of one animal, patient or place, which no network may see on both sides.

Owns: what `folds.by` means. Decodes nothing; imports no torch.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.config.image_folder import SPLITS, ImageFolder
from cifar_hpc.config.image_table import FilesByName, columns_of, file_column, unmarked
from cifar_hpc.errors import UnusableError, nearest

KEY = "folds.by"
PREFIX = "folder-prefix"


def image_groups(listing: ImageFolder, by: str) -> tuple[str, ...]:
    """The group of each labelled image, in the order in which the data room reads them: train, then val, class by class.

    Raises UnusableError where there is no such column, or a cell of it is empty.
    """
    paths = labelled_paths(listing)
    if by != PREFIX:
        return _of_column(listing, by, paths)
    folders = [path.relative_to(listing.root).parts[:-1] for path, _ in paths]
    depth = _class_depth(listing, folders, [label for _, label in paths])
    return tuple(_prefix(path, parts[depth:]) for (path, _), parts in zip(paths, folders, strict=True))


def labelled_paths(listing: ImageFolder) -> list[tuple[Path, str]]:
    """Each labelled image of train and val with its class, in that order."""
    return [
        (path, label)
        for split in ("train", "val")
        for label in listing.classes
        for path in listing.splits.get(split, {}).get(label, ())
    ]


def groups_digest(groups: Sequence[str]) -> str:
    """16 hex digits of which images belong together, whatever the groups are called."""
    numbers: dict[str, int] = {}
    order = ",".join(str(numbers.setdefault(group, len(numbers))) for group in groups)
    return hashlib.sha256(order.encode()).hexdigest()[:16]


def _class_depth(listing: ImageFolder, folders: Sequence[tuple[str, ...]], labels: Sequence[str]) -> int:
    """How many of the folders above an image say where images of its class lie, and not whose image it is: the same for all,
    whatever class a table gives to one of them, and whatever it calls that class."""
    if listing.labelled_by is None:
        return 2 if listing.own_splits else 1
    levels = [set(names) for names in itertools.zip_longest(*folders, fillvalue="")]
    for depth, names in enumerate(levels, 1):
        found = names - {""}
        if 2 * len(found & set(listing.classes)) >= len(found):  # class folders, one of which a table may have emptied
            return depth
        if _are_classes([parts[depth - 1] if len(parts) >= depth else "" for parts in folders], labels):
            return depth
    tells_nothing = (len(names) == 1 or all(name.lower() in SPLITS for name in names) for names in levels)
    return sum(itertools.takewhile(bool, tells_nothing))


def _are_classes(folders: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether there is a folder for each class, in which a table has given a few images at most to another."""
    most: dict[str, tuple[str, int]] = {}
    for (folder, label), n in Counter(zip(folders, labels, strict=True)).most_common():
        most.setdefault(folder, (label, n))
    classes = {label for label, _ in most.values()}
    return 1 < len(classes) == len(most) == len(set(labels)) and 10 * sum(n for _, n in most.values()) >= 9 * len(labels)


def _prefix(path: Path, below: tuple[str, ...]) -> str:
    """The folders below the class's own; else the beginning of the name, without the number that ends it. Of any class: a
    patient may have images of several."""
    return "/".join(below) or re.sub(r"[_-][^_-]*$", "", path.stem)


def _of_column(listing: ImageFolder, by: str, paths: Sequence[tuple[Path, str]]) -> tuple[str, ...]:
    table = listing.labelled_by
    if table is None:
        raise UnusableError(
            KEY, f"by {by!r} without a table of labels", f"{PREFIX}, or dataset.labels names a CSV with that column", PREFIX
        )
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    header = columns_of(rows[0])
    wanted = by.strip().lower()
    if wanted not in header:
        raise UnusableError(
            KEY, f"by {by!r}", f"{PREFIX}, or a column of {table.name}: {', '.join(header)}", nearest(wanted, header)
        )
    file_at, group_at = file_column(header), header.index(wanted)
    files = FilesByName(listing.root)
    groups = {
        os.fspath(path): unmarked(row[group_at]).strip()
        for row in rows[1:]
        if len(row) == len(header) and (path := files.find(row[file_at])) is not None
    }
    empty = [path for path, _ in paths if not groups[os.fspath(path)]]
    if empty:
        raise UnusableError(
            KEY, f"{table.name}: {len(empty)} images with nothing under {by!r}", f"{empty[0].name} needs one, too"
        )
    return tuple(groups[os.fspath(path)] for path, _ in paths)
