"""The report folder: the page, every figure as PNG and SVG, every table as CSV and Markdown. Chooses what to draw."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cifar_hpc.collect.curves import make_curve_grid, rank_axes
from cifar_hpc.collect.effects import make_freezing_curves, make_heat_maps
from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.config.words import plural
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EnsembleRecord
from cifar_hpc.records.store import write_record, write_text
from cifar_hpc.report.comparisons import comparison_tables, hours_table
from cifar_hpc.report.figures import Drawing, readable, save_drawings
from cifar_hpc.report.figures_curves import draw_curves
from cifar_hpc.report.figures_effects import (
    draw_along,
    draw_effects,
    draw_freezing_curves,
    draw_heat_maps,
    draw_parallel,
    shown_values,
)
from cifar_hpc.report.figures_ensemble import draw_disagreement, draw_gain
from cifar_hpc.report.figures_ranking import draw_ranking
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.page import Part, make_part, render_page
from cifar_hpc.report.page_tables import ensemble_tables, ledger_table, running_table, save_tables
from cifar_hpc.report.places import report_folder
from cifar_hpc.report.tables import section_records, sections_markdown
from cifar_hpc.terminal.tables import to_csv

_MOST_PANELS = 12  # of heat-maps
_FEWEST_LINES = 8  # points that are worth parallel coordinates
_MOST_COLORS = 6  # lines in a panel of learning curves
_MOST_DRAWN = 4  # sections with figures


def write_report(sections: Sequence[Findings], layout: Layout, terms: str = "", refresh_s: float | None = None) -> Path:
    """Writes the folder and returns the page's path. sections: of each data set and split, one at least; terms: the filter;
    refresh_s: so often the page loads itself again.

    Raises OSError.
    """
    sweeps = sections[0].pool.sweeps
    folder = report_folder(layout, sweeps, terms)
    root = os.path.relpath(layout.root, folder)
    names = [""] if len(sections) == 1 else [f"{_file_stem(found.name, n)}_" for n, found in enumerate(sections, 1)]
    parts = [
        _part(found, layout, name, root, drawn=number < _MOST_DRAWN)
        for number, (found, name) in enumerate(zip(sections, names, strict=True))
    ]
    save_drawings([drawing for part in parts for drawing in part.drawings], folder / "figures")
    save_tables([table for part in parts for table in part.tables], folder / "tables")
    files = {"leaderboard.csv": to_csv(section_records(sections)), "leaderboard.md": sections_markdown(sections)}
    made = {
        f"{name}{method}.json": record
        for found, name in zip(sections, names, strict=True)
        for method, record in ensemble_records(found).items()
    }
    for file, record in made.items():
        write_record(folder / "ensembles" / file, record)
    for path in (folder / "ensembles").glob("*.json"):  # of an earlier report
        if path.name not in made:
            path.unlink()
    total = sum(len(found.board.rows) for found in sections)
    title = ", ".join(sweeps) if sweeps else f"All trials ({plural(total, 'configuration')})"
    page = render_page(parts, list(files), title=title + (f": {terms}" if terms else ""), refresh_s=refresh_s)
    for name, text in {**files, "index.html": page}.items():
        write_text(folder / name, text)
    return folder / "index.html"


def choose_drawings(found: Findings) -> Iterator[Drawing]:
    """The figures that this section has the axes for; the axes that matter most come first."""
    board = found.board
    if len(board.measured) > 1:
        yield draw_ranking(board, found.comparison)
    yield from _draw_curves(found)
    shown = [axis for axis in found.effects.axes if axis != "weights" or not board.is_population]  # a parent for each heir
    ranked = [axis for axis in rank_axes(board) if axis in shown and len(shown_values(board, axis)) > 1]
    if len(found.effects.matched) > 1 or any(len(effect.values) > 2 for effect in found.effects.matched):
        yield draw_effects(found.effects, board)
    freezing = make_freezing_curves(board)
    if any(len(curve.points) > 2 for curve in freezing):
        yield draw_freezing_curves(freezing, board)
    for axis in ranked:
        if _is_numeric(board, axis):
            color = next((other for other in ranked if other != axis and len(board.values(other)) <= 7), None)
            yield draw_along(axis, color, board)
    if len(ranked) >= 2:
        panel = "arch" if "arch" in ranked and len(ranked) > 2 else None
        if panel and len(board.values(panel)) > _MOST_PANELS:
            panel = None
        rows, columns = [axis for axis in ranked if axis != panel][:2]
        if len(shown_values(board, rows)) + len(shown_values(board, columns)) > 4:  # two by two is a table
            yield draw_heat_maps(make_heat_maps(board, rows, columns, panel), board)
    if sum(_is_numeric(board, axis) for axis in ranked) > 1 and len(board.measured) >= _FEWEST_LINES:
        yield draw_parallel(board)
    if found.ensembles and found.ensembles.gains:
        yield draw_gain(found.ensembles)
        if len(found.ensembles.shown) > 2:
            yield draw_disagreement(found.ensembles)


def ensemble_records(found: Findings) -> dict[str, EnsembleRecord]:
    """By method: what `predict` takes."""
    measured = found.ensembles.measured if found.ensembles else ()
    return {one.record.method: one.record for one in measured}


def _part(found: Findings, layout: Layout, name: str, root: str, *, drawn: bool) -> Part:
    """name: what stands before the names of its files."""
    drawings = [readable(drawing) for drawing in choose_drawings(found)] if found.board.measured and drawn else []
    tables = [
        *running_table(found),
        *comparison_tables(found, layout),
        *ensemble_tables(found),
        *ledger_table(found),
        *hours_table(found),
    ]
    return make_part(
        found,
        [replace(drawing, name=f"{name}{drawing.name}") for drawing in drawings],
        [replace(table, anchor=f"{name}{table.anchor}") for table in tables],
        layout,
        root,
        drawn=drawn,
    )


def _draw_curves(found: Findings) -> Iterator[Drawing]:
    board = found.board
    if max(trial.epochs for trial in found.pool.trials) == 1:  # no curve to see
        return
    shown = [axis for axis in found.effects.axes if axis != "weights" or not board.is_population]
    ranked = [axis for axis in rank_axes(board) if axis in shown and len(shown_values(board, axis)) > 1]
    by_size = sorted(ranked[:3], key=lambda axis: len(board.values(axis)))
    few = [axis for axis in by_size if len(board.values(axis)) <= _MOST_COLORS]
    color = few[-1] if few else next(iter(by_size), None)
    row, column = ([*(axis for axis in by_size if axis != color), None, None])[:2]
    grid = make_curve_grid(found.pool, board, row, column, color)
    for kind in ("acc", "loss"):
        yield from draw_curves(grid, board, kind)


def _is_numeric(board: Leaderboard, axis: str) -> bool:
    values = board.values(axis)
    measured = {row.axes[axis] for row in board.measured}
    return (
        len(measured) >= 2
        and len(values) >= 3
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    )


def _file_stem(name: str, number: int) -> str:
    return f"{number}_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')[:40]}"
