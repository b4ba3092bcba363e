"""A table that people correct is written again: what they corrected stays, what the program tells is renewed.

Owns: what was written last, kept hidden beside the table, by which a correction is known. Knows nothing of images.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.config.image_table import columns_of, unmarked
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.store import write_text
from cifar_hpc.terminal.harmless import to_csv_text


@dataclass(frozen=True, slots=True)
class _Table:
    """titles: as `_spelt`; rows: title -> cell, by the name of each."""

    titles: Sequence[str]
    rows: Mapping[str, Mapping[str, str]]


def write_corrected(path: Path, rows: Sequence[Sequence[Any]], key: str, renewed: Collection[str]) -> int:
    """Writes the rows, the header first, with what a reader corrected in the table that stands there: cells, rows and columns
    that were added, rows that were taken out. Returns how many rows that is. key: the column that names a row; renewed: columns
    of which nothing is a correction. Raises OSError, and CifarHpcError where what stands there is no such table."""
    hidden, text, titles = path.with_name(f".{path.name}"), to_csv_text(rows), rows[0]
    there, written = None, None
    with contextlib.suppress(FileNotFoundError, CifarHpcError):
        written = _read(hidden, key, titles)
    with contextlib.suppress(FileNotFoundError):
        there = _read(path, key, [*titles, *(written.titles if written else ())])
    joined, corrected_n = rows, 0
    if there is not None:
        if written is None:  # for all that is known, rows that are not there are of new images
            now = _table(text, key, titles)
            written = _Table(now.titles, {name: row for name, row in now.rows.items() if name in there.rows})
        joined, corrected_n = _join(rows, there, written, titles.index(key), renewed)
    write_text(path, to_csv_text(joined))
    write_text(hidden, text)  # last: rows that it knew first would look as if someone had taken them out of the table
    return corrected_n


def _join(
    rows: Sequence[Sequence[Any]], there: _Table, written: _Table, key_at: int, renewed: Collection[str]
) -> tuple[list[list[Any]], int]:
    header, *body = rows
    extra = [title for title in there.titles if title not in (*header, *written.titles, *renewed)]
    shared = [title for title in header if title in there.titles and title in written.titles and title not in renewed]
    joined, corrected_n = [[*header, *extra]], 0
    for cells in body:
        name = str(cells[key_at])
        was, found = written.rows.get(name), there.rows.get(name, {})
        if was is not None and not found:  # taken out
            corrected_n += 1
            continue
        changed = {title: found[title] for title in shared if was is not None and found[title] != was[title]}
        more = [found.get(title, "") for title in extra]
        joined.append([*(changed.get(title, cell) for title, cell in zip(header, cells, strict=True)), *more])
        corrected_n += bool(changed or any(more))
    known = {*written.rows, *(str(cells[key_at]) for cells in body)}
    added = [row for name, row in there.rows.items() if name not in known]
    return [*joined, *([row.get(title, "") for title in joined[0]] for row in added)], corrected_n + len(added)


def _read(path: Path, key: str, known: Sequence[str]) -> _Table:
    """Raises FileNotFoundError, CifarHpcError."""
    try:
        return _table(path.read_text("utf-8-sig"), key, known)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise CifarHpcError(
            f"{path}: no table with a column {key!r}, in UTF-8 and separated by commas. It is not written over: put that "
            f"right, or move it away"
        ) from error


def _table(text: str, key: str, known: Sequence[str]) -> _Table:
    """Raises csv.Error; ValueError where there is no such column."""
    header, *body = [row for row in csv.reader(io.StringIO(text, newline="")) if any(cell.strip() for cell in row)] or [[]]
    titles = _spelt([unmarked(title) for title in header], known)
    at = titles.index(key)
    rows = [{title: unmarked(cell) for title, cell in zip(titles, [*row, *[""] * len(titles)], strict=False)} for row in body]
    return _Table(titles, {unmarked(row[at]): cells for row, cells in zip(body, rows, strict=True) if len(row) > at})


def _spelt(header: Sequence[str], known: Sequence[str]) -> list[str]:
    """The titles, each as the known one that a spec takes for the same; by the letter first, so that two columns of the user's
    own that only case tells apart stay two."""
    rest = {name: title for name, title in zip(columns_of(known), known, strict=True) if title not in header}
    names = zip(columns_of(header), header, strict=True)
    return [title if title in known else rest.pop(name, title) for name, title in names]
