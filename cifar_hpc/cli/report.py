"""`cifar-hpc report`: prints the leaderboard and writes the report folder. Computes and draws nothing itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.records.layout import Layout, results_root

if TYPE_CHECKING:
    from cifar_hpc.collect.leaderboard import Leaderboard


class Format(StrEnum):
    """How a table is printed on stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"


def report(
    what: Annotated[list[str] | None, typer.Argument(metavar="[SWEEP...]", help="sweeps; none: all trials of the pool")] = None,
    format: Annotated[Format, typer.Option(help="the leaderboard's form on stdout")] = Format.TABLE,
    top: Annotated[int, typer.Option(min=1, help="rows of the table in the terminal")] = 25,
) -> None:
    """Rank the points of sweeps by validation over seeds, with what failed or is still to come."""
    from rich.console import Console  # the read half is loaded only by the commands that read

    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.report import summary, tables

    pool = scan(Layout(results_root()), what or ())
    board = make_leaderboard(pool)
    prose = Console(stderr=True, highlight=False, soft_wrap=True)
    if format is Format.TABLE:
        console = Console(highlight=False)
        table, left = tables.leaderboard_table(board, console.width, top)
        console.print(table)
        if len(board.rows) > top:
            more = summary.plural(len(board.rows) - top, "point")
            prose.print(f"... and {more} more: --top, or --format csv for all.", style="dim")
        if left:
            prose.print(f"Left out for want of width: {', '.join(left)}.", style="dim")
    else:
        typer.echo(_as_text(format, board), nl=False)
    prose.print(summary.progress_text(pool, board))
    for line in summary.failures(pool.unfinished):
        prose.print(f"failed: {line}", style="red", markup=False)
    for line in summary.caveats(pool, board):
        prose.print(line, style="yellow", markup=False)


def _as_text(format: Format, board: Leaderboard) -> str:
    from cifar_hpc.report import tables

    if format is Format.MD:
        return tables.leaderboard_markdown(board)
    if format is Format.LATEX:
        return tables.leaderboard_latex(board)
    records = tables.leaderboard_records(board)
    return tables.to_json(records) if format is Format.JSON else tables.to_csv(records)
