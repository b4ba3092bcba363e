"""A CSV of file names and labels as a data set of one's own images: `dataset: {folder: PATH, labels: FILE.csv}`.

A header names the columns: one of files (file, filename, path, image or name), relative to the folder, one of labels (label,
class or target), and optionally one of splits (train, val, test). Owns: list_table, and any folder
as such a table. Decodes nothing; imports no torch.
"""

from __future__ import annotations

import csv
import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.config.image_folder import IN_NO_ROW, SPLITS, ImageFolder, LeftOut, images_below, listed, look_alikes, printable

_FILES, _LABELS, _SPLIT = (
    ("file", "filename", "file_name", "path", "image", "name", "id"),
    ("label", "class", "target"),
    ("split", "set"),
)


@dataclass(frozen=True, slots=True)
class ImageTable:
    """A folder's images as such a table. rows: the cells of each, in the order of `header`; files: of each row, its file as a
    listing names it; label: the column to correct."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]
    label: str


def list_table(root: Path, table: Path, *, by_row: bool = False) -> ImageFolder:
    """The images that the table names, sorted by name, so that another order of its rows is the same data set. What is wrong
    with it is in the listing's `wrong`. by_row: in the order of its rows, as older trials split them. Raises OSError."""
    wrong: list[str] = []
    splits: dict[str, dict[str, list[Path]]] = {"train": {}}
    left_out: list[LeftOut] = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        rows, wrong = [], [f"{table.name}: no CSV ({error})"]
    header = columns_of(rows[0]) if rows else []
    columns = [_column(header, names) for names in (_FILES, _LABELS, _SPLIT)]
    if None in columns[:2] and not wrong:
        wrong.append(
            f"{table.name}:1: columns {listed(header) or 'none'}; one of files (file) and one of labels (label) are needed"
        )
    elif not wrong:
        file_at, label_at, split_at = columns
        assert file_at is not None and label_at is not None
        seen: dict[Path, int] = {}
        unlabelled: list[Path] = []
        files = FilesByName(root)
        for line, row in enumerate(rows[1:], 2):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                wrong.append(f"{table.name}:{line}: {len(row)} cells; the header has {len(header)}")
                continue
            path, label = files.find(row[file_at]), unmarked(row[label_at]).strip()
            word = row[split_at].strip().lower() if split_at is not None else "train"
            if word not in SPLITS:
                wrong.append(
                    f"{table.name}:{line}: the split {printable(row[split_at or 0])!r}; train, val and test are allowed"
                )
            elif path is None:
                wrong.append(f"{table.name}:{line}: no file {printable(row[file_at])!r} in the folder")
            elif path in seen:
                wrong.append(f"{table.name}:{line}: {printable(row[file_at])!r} a second time (first on line {seen[path]})")
            elif not label:
                unlabelled.append(path)
                left_out.append(LeftOut(printable(row[file_at]), "no label"))
            else:
                seen[path] = line
                splits.setdefault(SPLITS[word], {}).setdefault(label, []).append(path)
        left_out += [LeftOut(name, f"{IN_NO_ROW} {printable(table.name)}") for name in _unnamed(root, [*seen, *unlabelled])]

    def ordered(paths: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(paths if by_row else sorted(paths, key=os.fsencode))

    named = {split: {name: ordered(paths) for name, paths in sorted(found.items())} for split, found in splits.items()}
    classes = tuple(sorted(named["train"]))
    for split in ("val", "test"):
        unknown = [printable(name) for name in named.get(split, {}) if name not in classes]
        if unknown:
            alike = "".join(f"; {pair} look the same and are not" for pair in look_alikes((*classes, *unknown)))
            wrong.append(f"{table.name}: {split} has {listed(unknown)}, of which train has no image{alike}")
    return ImageFolder(root, "val" in named or "test" in named, classes, named, (), {}, tuple(left_out), tuple(wrong), table)


def table_of(listing: ImageFolder) -> ImageTable:
    """The table that names a folder's images, with all its rows and columns; of class folders the one that names every image of
    them. Raises OSError."""
    if listing.labelled_by is None:
        named = [
            (printable(path.relative_to(listing.root).as_posix()), name, split)
            for split, classes in listing.splits.items()
            for name, paths in classes.items()
            for path in paths
        ]
        named += [(printable(path.relative_to(listing.root).as_posix()), "", "test") for path in listing.unlabelled]
        return ImageTable(("file", "label", "split"), tuple(named), tuple(row[0] for row in named), "label")
    with listing.labelled_by.open(newline="", encoding="utf-8-sig") as stream:
        header, *rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    columns, found = columns_of(header), FilesByName(listing.root)
    file_at, label_at = file_column(columns), _column(columns, _LABELS)
    assert label_at is not None
    files, kept = [], []
    for row in rows:
        path = found.find(row[file_at])
        assert path is not None
        files.append(printable(path.relative_to(listing.root).as_posix()))
        kept.append(tuple(files[-1] if at == file_at else unmarked(cell) for at, cell in enumerate(row)))
    titles = tuple(unmarked(title) for title in header)
    return ImageTable(titles, tuple(kept), tuple(files), titles[label_at])


def unmarked(cell: str) -> str:
    """The text of a cell without the quotation mark that terminal/harmless puts before what a spreadsheet would take for a
    formula, and before such a mark: `labels` writes such tables, and people correct them there."""
    return cell[1:] if re.match(r"'+[-=+@\t]", cell) else cell


class FilesByName:
    """The files of a folder by the names that a table has for them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._printed: dict[str, list[Path]] | None = None

    def find(self, cell: str) -> Path | None:
        """As `labels` writes names, else as a person does; None where there is no such file, or where several look alike."""
        written = unmarked(cell)
        for name in dict.fromkeys((written, written.strip(), cell, cell.strip())):
            path = self._inside(name)
            if path is not None and path.is_file():
                return path
        if self._printed is None:  # of names that no table can hold: not UTF-8, or with control characters
            self._printed = {}
            for path in self._root.rglob("*"):
                name = path.relative_to(self._root).as_posix()
                if printable(name) != name and path.is_file():
                    self._printed.setdefault(printable(name), []).append(path)
        alike = self._printed.get(written, ())
        return alike[0] if len(alike) == 1 else None

    def _inside(self, name: str) -> Path | None:
        """Its place in the folder, spelt in one way; None outside, of which jobs that copy the folder know nothing."""
        if not name or "\0" in name:
            return None
        if name.startswith("/") or ".." in name.split("/"):
            name = os.path.relpath(self._root / name, self._root)
        return None if name.split("/")[0] == ".." else self._root / name


def _unnamed(root: Path, named: Iterable[Path]) -> list[str]:
    """The images of the folder that are none of these files, whichever links lead to them."""

    real = functools.cache(os.path.realpath)
    known = {(real(path.parent), path.name) for path in named}
    images, _ = images_below(root)
    return [printable(path.relative_to(root).as_posix()) for path in images if (real(path.parent), path.name) not in known]


def columns_of(row: Sequence[str]) -> list[str]:
    """The names of the columns, from the first row."""
    return [cell.strip().lower() for cell in row]


def file_column(header: Sequence[str]) -> int:
    """Which of them, of a table that `list_table` takes, names the files."""
    found = _column(header, _FILES)
    assert found is not None
    return found


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)
