"""The report in the terminal: the tables of its sections, what a reader must know of each, and where the page lies.

Chooses what is said there and in which colour; the sentences are summary.py's, the cells tables.py's. Draws nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.sections import Section
from cifar_hpc.config.words import plural
from cifar_hpc.report.caveats import caveats, failures, progress_text
from cifar_hpc.report.summary import in_short
from cifar_hpc.report.tables import leaderboard_latex, leaderboard_text, section_records, sections_markdown
from cifar_hpc.terminal.harmless import make_console
from cifar_hpc.terminal.tables import Format, heading, print_columns, to_csv, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from cifar_hpc.report.findings import Findings


def prose() -> Console:
    """Lines end between words on a terminal, and are whole in a pipe."""
    return make_console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def print_sections(sections: Sequence[Section], top: int, console: Console) -> None:
    """A table for each data set and split, and what a reader must know of it."""
    for section in sections:
        if len(sections) > 1:
            console.print(f"\n{section.name}", style="bold", markup=False)
        print_board(section.board, top, console)
        print_state(section, console)
    if len(sections) > 1:
        console.print(f"{len(sections)} data sets or splits: nothing is ranked across them.", style="yellow")


def print_board(board: Leaderboard, top: int, console: Console) -> None:
    columns, styles = leaderboard_text(board, top)
    print_columns(columns, styles=styles)
    if len(board.rows) > top:
        console.print(
            f"... and {plural(len(board.rows) - top, 'configuration')} more: --top, or --format csv for all.", style="dim"
        )


def print_state(section: Section, console: Console) -> None:
    """How far the trials are, why some failed, and what the numbers do not say."""
    console.print(progress_text(section.pool, section.board))
    for line in failures(section.pool.unfinished):
        console.print(line, style="red", markup=False)
    for line in caveats(section.pool, section.board):
        console.print(line, style="yellow", markup=False)


def print_answers(sections: Sequence[Findings], console: Console) -> None:
    """Of each section in short which configuration to use, how sure that is and what to type next."""
    for found in sections:
        name = f"{found.name}: " if len(sections) > 1 else ""
        for line in in_short(found):
            console.print(f"{name}{line}", style="" if line.startswith("Next") else "bold", markup=False)


def sections_text(format: Format, sections: Sequence[Section]) -> str:
    """All sections in the form that goes to stdout; ends in a line end where the form does."""
    if format is Format.MD:
        return sections_markdown(sections)
    if format is Format.LATEX:
        titles = [f"{heading(section.name, format)}\n" if len(sections) > 1 else "" for section in sections]
        return "\n".join(f"{title}{leaderboard_latex(one.board)}" for title, one in zip(titles, sections, strict=True))
    records = section_records(sections)
    return to_json(records) if format is Format.JSON else to_csv(records)


def show_page(page: Path, console: Console, *, opened: bool) -> None:
    """Its path alone on a line, as terminals and people copy it."""
    console.print("The page:")
    console.print(str(page), markup=False, soft_wrap=True)
    if opened:
        import webbrowser

        if not webbrowser.open(page.absolute().as_uri()):
            console.print("No browser could be opened here: copy the folder to a machine that has one, or use --serve.")
