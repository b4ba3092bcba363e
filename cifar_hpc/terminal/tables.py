"""Columns of text in every form that a command prints, records for programs, durations as words. Knows nothing of
what they mean.

Imports nothing heavy, so that `status` prints with it too. A terminal's width decides which columns stay; a pipe has none.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.table import Table

from cifar_hpc.terminal.harmless import make_console, one_line, to_csv_text
from cifar_hpc.terminal.prose import laid_out

NEVER_LEAVES = 8
PROSE_WIDTH = 28
LEAST_WIDTH = 6  # that a column keeps whatever the terminal
_NO_LIMIT = 10_000  # characters: a pipe is as wide as its widest line
_IN_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "$&#%_{}"},
        **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "`": r"\`{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"},
        **{"[": "{[}", "*": "{*}"},  # of the end of the row before, where they begin one
    }
)
_IN_MARKDOWN = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\`*[|"}, "<": "&lt;", "&": "&amp;", "~": "&#126;", "$": "&#36;"}
)


class Format(StrEnum):
    """How rows are printed on stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"


@dataclass(frozen=True, slots=True)
class TextColumn:
    """One column as text. keep: a narrow terminal loses those with the smallest first, and folds those from NEVER_LEAVES on;
    prose: sentences, which may be folded to PROSE_WIDTH before another column leaves."""

    title: str
    cells: tuple[str, ...]
    keep: int = NEVER_LEAVES
    right: bool = False
    prose: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(one_line, self.cells)))

    @property
    def width(self) -> int:
        widest = max(map(len, (self.title, *self.cells)))
        return min(widest, max(PROSE_WIDTH, self.longest_word)) if self.prose else widest

    @property
    def least_whole(self) -> int:
        """The width down to which nothing but words is folded: numbers stay on one line below their title."""
        cells = max(map(len, self.cells), default=1) if self.right else 1
        return max(cells, self.longest_word)

    @property
    def longest_word(self) -> int:
        return max((len(word) for text in (self.title, *self.cells) for word in text.split(" ")), default=1)


def fit_table(columns: Sequence[TextColumn], width: int, styles: Sequence[str | None] = ()) -> tuple[Table, list[str]]:
    """A rich table that fits `width` characters, and the titles of the columns that had to leave. styles: of the rows.

    Lines end between words; a word for which there is no room ends with an ellipsis."""
    kept, left = list(columns), []
    while sum(column.width + 2 for column in kept) - 2 > width and min(column.keep for column in kept) < NEVER_LEAVES:
        least = min(kept, key=lambda column: column.keep)
        kept.remove(least)
        left.append(least.title)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, shown in zip(kept, _widths(kept, width), strict=True):
        table.add_column(column.title, justify="right" if column.right else "left", overflow="ellipsis", width=shown)
    for number, cells in enumerate(zip(*(column.cells for column in kept), strict=True)):
        table.add_row(*cells, style=styles[number] if styles else None)
    return table, left


def _widths(columns: Sequence[TextColumn], width: int) -> list[int]:
    """Of each column: what it asks for; where that is too much the widest give way, words before numbers, and first down to
    their longest word."""
    widths = [column.width for column in columns]
    whole, words = [column.least_whole for column in columns], [column.longest_word for column in columns]
    for least in (whole, words, [LEAST_WIDTH] * len(columns)):
        while sum(widths) + 2 * len(widths) - 2 > width:
            can = [i for i, shown in enumerate(widths) if shown > least[i]]
            if not can:
                break
            widths[max(can, key=lambda i: widths[i])] -= 1
    return widths


def print_columns(columns: Sequence[TextColumn], format: Format = Format.TABLE, styles: Sequence[str | None] = ()) -> None:
    """Prints to stdout for people: a table fitted to the terminal (or to $COLUMNS), Markdown or LaTeX. styles: of the rows."""
    if format in (Format.MD, Format.LATEX):
        sys.stdout.write(to_markdown(columns) if format is Format.MD else to_latex(columns))
        return
    console = make_console(highlight=False, markup=False)
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        console.width = _NO_LIMIT
    table, left = fit_table(columns, console.width, styles)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
    if left:
        sys.stderr.write(laid_out(f"Left out for want of width: {', '.join(left)}.", sys.stderr) + "\n")


def heading(title: str, format: Format) -> str:
    """What stands before one of several tables: a heading, in LaTeX a comment."""
    return {Format.MD: f"## {_markdown(one_line(title))}\n", Format.LATEX: f"% {one_line(title)}"}.get(format, title)


def print_rows(records: Sequence[Mapping[str, Any]], columns: Sequence[TextColumn], format: Format) -> None:
    """The same rows for programs or for people, as the format is."""
    if format in (Format.JSON, Format.CSV):
        print_records(records, format)
    else:
        print_columns(columns, format)


def print_records(records: Sequence[Mapping[str, Any]], format: Format, titles: Iterable[str] = ()) -> None:
    """Prints to stdout for programs: JSON, or CSV in any other form. titles: as in `to_csv`."""
    sys.stdout.write(to_json(records) if format is Format.JSON else to_csv(records, titles))


def plain_columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[TextColumn]:
    """Columns of which all but the first `left` are to the right."""
    return [TextColumn(title, tuple(row[i] for row in rows), right=i >= left) for i, title in enumerate(header)]


def left_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[TextColumn]:
    """Columns that all stand to the left."""
    return plain_columns(header, rows, len(header))


def to_markdown(columns: Sequence[TextColumn]) -> str:
    """A GitHub table."""
    lines = [[_markdown(column.title) for column in columns], ["---:" if column.right else "---" for column in columns]]
    lines += [list(map(_markdown, cells)) for cells in zip(*(c.cells for c in columns), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_latex(columns: Sequence[TextColumn]) -> str:
    """A tabular of the booktabs package."""
    lines = [r"\begin{tabular}{" + "".join("r" if column.right else "l" for column in columns) + "}", r"\toprule"]
    lines.append(" & ".join(_latex(column.title) for column in columns) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(map(_latex, cells)) + r" \\" for cells in zip(*(c.cells for c in columns), strict=True)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_json(records: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(records: Sequence[Mapping[str, Any]], titles: Iterable[str] = ()) -> str:
    """Lists are joined by spaces; what was not measured is an empty cell. titles: of columns that stand before others, without
    records too."""
    columns = list(dict.fromkeys([*titles, *(key for record in records for key in record)]))
    rows = [[_csv_value(record.get(title)) for title in columns] for record in records]
    return to_csv_text([columns, *rows]) if columns else ""


def _csv_value(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _latex(text: str) -> str:
    """Text that LaTeX typesets as it is."""
    return re.sub("-(?=-)", "-{}", text.translate(_IN_LATEX))  # two are a dash


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word means nothing there."""
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text.translate(_IN_MARKDOWN))
