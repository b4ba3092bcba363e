"""`cifar-hpc report` and `compare`: print tables and write the report folder. They compute and draw nothing themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import ONE_NAME
from cifar_hpc.errors import CifarHpcError, nearest
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.status.names import parse_words
from cifar_hpc.status.state import is_going_on
from cifar_hpc.status.words import plural
from cifar_hpc.sweep.accounting import look_up
from cifar_hpc.sweep.where import reader_of
from cifar_hpc.terminal.tables import Format, TextColumn, plain_columns, print_columns, print_records, to_csv, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from cifar_hpc.collect.leaderboard import Leaderboard
    from cifar_hpc.collect.scan import Pool
    from cifar_hpc.collect.sections import Section


class Exported(StrEnum):
    """The tools that `report --export` writes for."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


def report(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SWEEP|TRIAL|FILTER...]",
            help="none: all trials; mysweep lr>1e-3; of SWEEP#3 or an id: its best trial's page",
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="the form on stdout; all but table only print")] = Format.TABLE,
    top: Annotated[int, typer.Option(min=1, help="rows of the table in the terminal")] = 25,
    pivot: Annotated[
        str | None, typer.Option(metavar="ROWS/COLUMNS", help="only print the best points by axes: arch/freeze,augment")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="renew table and page while trials run, until all have ended")] = False,
    serve: Annotated[
        int | None, typer.Option(metavar="PORT", help="--watch, and show the page at 127.0.0.1:PORT until Ctrl-C; 0: any port")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
    export: Annotated[Exported | None, typer.Option(help="only write the trials for that tool, beside the page")] = None,
) -> None:
    """Rank the configurations of sweeps by validation over seeds, and write a page with figures; or show one trial."""
    from cifar_hpc.collect.chosen import chosen_pool

    layout = Layout(results_root())
    asked = parse_words(words)
    names, terms = list(asked.names), asked.terms
    if asked.number is not None or (len(names) == 1 and not layout.has_sweep(names[0])):
        _report_trial(layout, words or (), open_=open_)
    elif export is not None:
        _export(layout, names, terms, export)
    elif pivot is not None:
        _print_pivot(layout, chosen_pool(layout, names, terms, SlurmQueue(layout.queue)), pivot, format)
    elif watch or serve is not None:
        _watch(layout, names, terms, top, serve)
    else:
        _report_sweeps(layout, names, terms, format, top, open_=open_)


def compare(
    one: Annotated[str, typer.Argument(metavar="NAME", help=ONE_NAME)],
    other: Annotated[str, typer.Argument(metavar="NAME", help="the one to compare it with")],
) -> None:
    """Compare two configurations, with all their seeds, on the same images: the difference, how sure it is, and accuracy class
    by class."""
    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.names import find_named
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.report.comparison_table import TABLE_TITLE, comparison_lines, comparison_table

    layout = Layout(results_root())
    ids = [find_named(layout, name).row.point_id for name in (one, other)]
    if ids[0] == ids[1]:
        raise CifarHpcError(f"compare takes two different configurations; {one!r} and {other!r} are the same one")
    pool = scan(layout)
    both = make_leaderboard(pool.where(lambda trial: trial.point_id in ids))  # named by what tells these two apart
    by_id = {row.point_id: row for row in both.measured}
    for name, point_id in zip((one, other), ids, strict=True):
        if point_id not in by_id:
            raise CifarHpcError(f"compare: {name} has no figure on validation yet")
    rows = (by_id[ids[0]], by_id[ids[1]])
    table = comparison_table(*rows, layout)
    _prose().print(TABLE_TITLE, markup=False)
    print_columns(table)
    for line in comparison_lines(*rows, layout):
        _prose().print(line, markup=False)


def _report_sweeps(layout: Layout, names: list[str], terms: str, format: Format, top: int, *, open_: bool) -> None:
    from cifar_hpc.collect.sections import chosen_sections

    for name in names:
        if layout.has_sweep(name):
            look_up(layout, name, reader_of(layout, read_plan(layout, name)).read)
    sections = chosen_sections(layout, names, terms, SlurmQueue(layout.queue))
    prose = _prose()
    if format is Format.TABLE:
        _print_sections(sections, top, prose)
        from cifar_hpc.report.bundle import write_report
        from cifar_hpc.report.findings import find

        page = write_report([find(section, layout, terms) for section in sections], layout, terms)
        _show_page(page, prose, opened=open_)
        return
    typer.echo(_as_text(format, sections), nl=False)
    for section in sections:
        _print_state(section, prose)


def _watch(layout: Layout, names: list[str], terms: str, top: int, port: int | None) -> None:
    """The report again whenever a record changed; with a port also served, until Ctrl-C."""
    import contextlib
    import time

    from cifar_hpc.cli.report_watch import POLL_EVERY_S, watch
    from cifar_hpc.collect.chosen import chosen_pool
    from cifar_hpc.collect.sections import chosen_sections
    from cifar_hpc.report.bundle import write_report
    from cifar_hpc.report.findings import find
    from cifar_hpc.report.places import report_folder
    from cifar_hpc.report.server import serve

    address: str | None = None

    def renew(seen: object) -> tuple[object, bool]:
        pool = chosen_pool(layout, names, terms, SlurmQueue(layout.queue))
        now = (len(pool.trials), *((trial.trial_id, trial.status, trial.epochs) for trial in pool.unfinished))
        coming = is_going_on(layout, pool.unfinished, pool.sweeps)
        if now != seen:
            sections, prose = chosen_sections(layout, names, terms, SlurmQueue(layout.queue)), _prose()
            if prose.is_terminal:
                prose.clear()
            _print_sections(sections, top, prose)
            findings = [find(section, layout, terms) for section in sections]
            page = write_report(findings, layout, terms, refresh_s=POLL_EVERY_S if coming else None)
            prose.print(
                f"{address}/" if address else str(page), markup=False, soft_wrap=True
            )  # alone on its line, as terminals open it
            prose.print(time.strftime("%H:%M:%S") + ("; Ctrl-C ends" if coming or address else ""), markup=False)
        return now, coming

    with contextlib.suppress(KeyboardInterrupt):
        if port is None:
            watch(renew)
            return
        with serve(report_folder(layout, tuple(dict.fromkeys(names)), terms), port) as address:
            watch(renew)
            while True:
                time.sleep(3600)


def _export(layout: Layout, names: list[str], terms: str, to: Exported) -> None:
    from cifar_hpc.collect.chosen import chosen_pool
    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.report.export import Tracker, export_pool
    from cifar_hpc.report.places import report_folder

    pool = chosen_pool(layout, names, terms, SlurmQueue(layout.queue))
    folder = report_folder(layout, pool.sweeps, terms) / to.value
    typer.echo(export_pool(pool, make_leaderboard(pool), folder, Tracker(to.value)))


def _print_pivot(layout: Layout, pool: Pool, axes: str, format: Format) -> None:
    from cifar_hpc.collect.pivot import make_pivot
    from cifar_hpc.collect.sections import make_sections
    from cifar_hpc.report.comparisons import pivot_table

    first, *others = make_sections(pool, layout)
    if others:
        names = ", ".join(section.name for section in (first, *others))
        raise CifarHpcError(f"--pivot: one data set and split at a time, and here are {names}; name a sweep, or dataset=NAME")
    board = first.board
    rows, columns = ([axis for axis in side.split(",") if axis] for side in [*axes.split("/"), ""][:2])
    for axis in (*rows, *columns):
        if axis not in board.axes:
            near = nearest(axis, board.axes)
            hint = f" Did you mean {near!r}?" if near else ""
            raise CifarHpcError(f"--pivot: {axis!r} is no axis here; axes: {', '.join(board.axes) or 'none'}.{hint}")
    if not rows:
        raise CifarHpcError(f"--pivot {axes!r}: ROWS/COLUMNS, each axes with commas, at least one before the stroke")
    splits = ("val", "test") if any(row.test_acc for row in board.measured) else ("val",)
    tables = {split: pivot_table(make_pivot(board, rows, columns), board, split) for split in splits}
    if format in (Format.JSON, Format.CSV):
        records = [
            {"split": split, **dict(zip(table.header, row, strict=True))}
            for split, table in tables.items()
            for row in table.rows
        ]
        print_records(records, format)
        return
    for table in tables.values():
        _prose().print(table.title, markup=False)
        n = len(rows)
        print_columns(
            [TextColumn(title, tuple(row[i] for row in table.rows), right=i >= n) for i, title in enumerate(table.header)],
            format,
        )


def _report_trial(layout: Layout, words: Sequence[str], *, open_: bool) -> None:
    from cifar_hpc.collect.names import find_trial
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.report.trial_page import diagnose_trial, trial_summary, trial_tables, write_trial_page

    pool, trial_id = scan(layout), find_trial(layout, words)
    trial, found, split = diagnose_trial(pool, trial_id, layout)
    classes = trial_tables(trial, found, split)[0]
    print_columns(plain_columns(classes.header, classes.rows))
    for line in trial_summary(trial, found, split):
        _prose().print(line, markup=False)
    _show_page(write_trial_page(pool, trial, found, split, layout), _prose(), opened=open_)


def _show_page(page: Path, prose: Console, *, opened: bool) -> None:
    """Its path alone on a line, as terminals and people copy it."""
    prose.print("The page:")
    prose.print(str(page), markup=False, soft_wrap=True)
    if opened:
        import webbrowser

        if not webbrowser.open(page.absolute().as_uri()):
            prose.print("No browser could be opened here: copy the folder to a machine that has one, or use --serve.")


def _print_sections(sections: list[Section], top: int, prose: Console) -> None:
    """A table for each data set and split, and what a reader must know of it."""
    for section in sections:
        if len(sections) > 1:
            prose.print(f"\n{section.name}", style="bold", markup=False)
        _print_table(section.board, top, prose)
        _print_state(section, prose)
    if len(sections) > 1:
        prose.print(f"{len(sections)} data sets or splits: nothing is ranked across them.", style="yellow")


def _print_table(board: Leaderboard, top: int, prose: Console) -> None:
    from cifar_hpc.report.tables import leaderboard_text

    columns, styles = leaderboard_text(board, top)
    print_columns(columns, styles=styles)
    if len(board.rows) > top:
        prose.print(f"... and {plural(len(board.rows) - top, 'point')} more: --top, or --format csv for all.", style="dim")


def _print_state(section: Section, prose: Console) -> None:
    from cifar_hpc.report import summary

    prose.print(summary.progress_text(section.pool, section.board))
    for line in summary.failures(section.pool.unfinished):
        prose.print(f"failed: {line}", style="red", markup=False)
    for line in summary.caveats(section.pool, section.board):
        prose.print(line, style="yellow", markup=False)


def _as_text(format: Format, sections: list[Section]) -> str:
    from cifar_hpc.report import tables

    if format is Format.MD:
        return tables.sections_markdown(sections)
    if format is Format.LATEX:
        return "\n".join(tables.leaderboard_latex(section.board) for section in sections)
    records = tables.section_records(sections)
    return to_json(records) if format is Format.JSON else to_csv(records)


def _prose() -> Console:
    from cifar_hpc.terminal.harmless import make_console

    """Lines end between words on a terminal, and are whole in a pipe."""
    return make_console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
