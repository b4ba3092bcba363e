"""`cifar-hpc report` and `compare`: print tables and write the report folder. They compute and draw nothing themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.cli.filters import Filter, parse_filter
from cifar_hpc.cli.states import resolve_trial
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout, results_root
from cifar_hpc.report.forms import Format, to_csv, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from cifar_hpc.collect.leaderboard import Leaderboard, Row
    from cifar_hpc.collect.scan import Pool
    from cifar_hpc.collect.trials import Trial, Unfinished


def report(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[SWEEP|TRIAL|FILTER...]", help="none: all trials; such as mysweep lr>1e-3")
    ] = None,
    format: Annotated[Format, typer.Option(help="the form on stdout; all but table only print")] = Format.TABLE,
    top: Annotated[int, typer.Option(min=1, help="rows of the table in the terminal")] = 25,
) -> None:
    """Rank the points of sweeps by validation over seeds, and write a page with figures and tables; or show one trial."""
    layout = Layout(results_root())
    terms = " ".join(word for word in words or () if _is_filter(word))
    names = [word for word in words or () if not _is_filter(word)]
    if trial := _named_trial(layout, names):
        _report_trial(layout, trial)
    else:
        _report_sweeps(layout, names, terms, format, top)


def compare(
    one: Annotated[str, typer.Argument(metavar="POINT", help="the beginning of a point's or of one of its trials' ids")],
    other: Annotated[str, typer.Argument(metavar="POINT", help="the one to compare it with")],
) -> None:
    """Compare two points on the same images: the difference, how sure it is, and accuracy class by class."""
    from rich.console import Console

    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.report.comparison_table import comparison_lines, comparison_table

    layout = Layout(results_root())
    pool = scan(layout)
    if one == other:
        raise CifarHpcError("compare takes two different points")
    everyone = make_leaderboard(pool)
    ids = [_named_point(everyone, prefix).point_id for prefix in (one, other)]
    both = make_leaderboard(pool.where(lambda trial: trial.point_id in ids))  # named by what tells these two apart
    by_id = {row.point_id: row for row in both.rows}
    rows = (by_id[ids[0]], by_id[ids[1]])
    Console(highlight=False).print(comparison_table(*rows, layout))
    for line in comparison_lines(*rows, layout):
        _prose().print(line, markup=False)


def _report_sweeps(layout: Layout, names: list[str], terms: str, format: Format, top: int) -> None:
    from cifar_hpc.collect.leaderboard import make_leaderboard  # the read half is loaded only by the commands that read
    from cifar_hpc.collect.scan import scan

    pool = scan(layout, names)
    if not pool.trials and not pool.unfinished and not pool.rejected:
        raise CifarHpcError(
            f"no trial under {layout.root}: cifar-hpc sweep SPEC trains some; ${RESULTS_VARIABLE} names another place"
        )
    pool = _filtered(pool, terms)
    board = make_leaderboard(pool)
    prose = _prose()
    if format is Format.TABLE:
        _print_table(board, top, prose)
    else:
        typer.echo(_as_text(format, board), nl=False)
    _print_state(pool, board, prose)
    if format is Format.TABLE:
        from cifar_hpc.report.bundle import write_report
        from cifar_hpc.report.findings import find

        prose.print(f"Report: {write_report(find(pool, board, layout), layout, terms)}", markup=False)


def _is_filter(word: str) -> bool:
    return any(sign in word for sign in "=<>")


def _filtered(pool: Pool, terms: str) -> Pool:
    if not terms:
        return pool
    everyone: tuple[Trial | Unfinished, ...] = (*pool.trials, *pool.unfinished)
    keys = {key for trial in everyone for key in trial.config} | {"seed", "status", "id", "point"}
    chosen = parse_filter(terms, keys)
    found = pool.where(lambda trial: chosen.matches(_filter_row(trial)))
    if not found.trials and not found.unfinished:
        raise CifarHpcError(f"no trial matches {terms!r}; {_values_there(map(_filter_row, everyone), chosen)}")
    return found


def _filter_row(trial: Trial | Unfinished) -> dict[str, Any]:
    own = {"seed": trial.seed, "status": str(trial.status), "id": trial.trial_id, "point": trial.point_id}
    return {**trial.config, **own}


def _values_there(rows: Iterable[Mapping[str, Any]], chosen: Filter) -> str:
    """'lr is 0.01, 0.1; arch is linear': what the filter's keys could have matched."""
    from cifar_hpc.report.summary import shortened

    values: dict[str, dict[str, None]] = {term.key: {} for term in chosen.terms}
    for row in rows:
        for key, known in values.items():
            known["null" if row.get(key) is None else str(row[key])] = None
    return "; ".join(f"{key} is {shortened(sorted(known), 8)}" for key, known in values.items())


def _named_trial(layout: Layout, names: list[str]) -> str | None:
    """The trial where the only name begins one's id and is no sweep."""
    if len(names) != 1 or layout.sweep(names[0]).plan.exists():
        return None
    ids = layout.trial_ids()
    return resolve_trial(names[0], ids) if any(trial_id.startswith(names[0].lower()) for trial_id in ids) else None


def _named_point(board: Leaderboard, prefix: str) -> Row:
    found = [
        row
        for row in board.measured
        if any(i.startswith(prefix.lower()) for i in (row.point_id, *(t.trial_id for t in row.trials)))
    ]
    if len(found) != 1:
        what = f"means {len(found)} points: give more letters" if found else "begins no measured point's or trial's id"
        raise CifarHpcError(f"point: {prefix!r} {what}; cifar-hpc report --format csv lists them")
    return found[0]


def _report_trial(layout: Layout, trial_id: str) -> None:
    from rich.console import Console

    from cifar_hpc.collect.scan import scan
    from cifar_hpc.report.tables import plain_table
    from cifar_hpc.report.trial_page import diagnose_trial, trial_summary, trial_tables, write_trial_page

    pool = scan(layout)
    trial, found, split = diagnose_trial(pool, trial_id, layout)
    classes = trial_tables(trial, found, split)[0]
    Console(highlight=False).print(plain_table(classes.header, classes.rows))
    for line in (*trial_summary(trial, found, split), f"Report: {write_trial_page(pool, trial, found, split, layout)}"):
        _prose().print(line, markup=False)


def _print_table(board: Leaderboard, top: int, prose: Console) -> None:
    from rich.console import Console

    from cifar_hpc.report import summary, tables

    console = Console(highlight=False)
    table, left = tables.leaderboard_table(board, console.width, top)
    console.print(table)
    if len(board.rows) > top:
        more = summary.plural(len(board.rows) - top, "point")
        prose.print(f"... and {more} more: --top, or --format csv for all.", style="dim")
    if left:
        prose.print(f"Left out for want of width: {', '.join(left)}.", style="dim")


def _print_state(pool: Pool, board: Leaderboard, prose: Console) -> None:
    from cifar_hpc.report import summary

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
    return to_json(records) if format is Format.JSON else to_csv(records)


def _prose() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)
