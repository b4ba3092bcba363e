"""Learning curves as small multiples, a page at a time. Knows no statistics: bands come from collect/curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cifar_hpc.collect.curves import CurveGrid, Series
from cifar_hpc.collect.leaderboard import Leaderboard, runs_of
from cifar_hpc.report.figures import (
    IN_A_LEGEND,
    INK,
    MUTED,
    PAPER,
    Drawing,
    Look,
    axis_title,
    exploded_from,
    house_style,
    legend_above,
    looks_for,
    new_figure,
    value_labels,
)
from cifar_hpc.report.words import unlike_words

_ROWS, _COLUMNS = 6, 5  # panels of a page
_KINDS = {"acc": "accuracy", "loss": "loss"}


def draw_curves(grid: CurveGrid, board: Leaderboard, kind: str) -> Iterator[Drawing]:
    """Pages of training (dashed) and validation (solid) curves. kind: 'acc' or 'loss'. Scales are the same on all pages."""
    rows = _values(board, grid.row_axis, {row for row, _ in grid.panels})
    columns = _values(board, grid.column_axis, {column for _, column in grid.panels})
    looks = looks_for(_values(board, grid.color_axis, {color for panel in grid.panels.values() for color in panel}))
    limits = _limits(grid, kind)
    blocks = [(r, c) for r in range(0, len(rows), _ROWS) for c in range(0, len(columns), _COLUMNS)]
    for number, (first_row, first_column) in enumerate(blocks, 1):
        page = f" (page {number} of {len(blocks)})" if len(blocks) > 1 else ""
        with house_style():
            yield _draw_page(
                grid,
                kind,
                rows[first_row : first_row + _ROWS],
                columns[first_column : first_column + _COLUMNS],
                looks,
                limits,
                name=f"curves_{_KINDS[kind]}" + (f"_{number:02d}" if len(blocks) > 1 else ""),
                title=f"Learning curves: {_KINDS[kind]}{page}",
            )


def _draw_page(
    grid: CurveGrid,
    kind: str,
    rows: Sequence[Any],
    columns: Sequence[Any],
    looks: Mapping[Any, Look],
    limits: tuple[float, float],
    *,
    name: str,
    title: str,
) -> Drawing:
    single = len(rows) == len(columns) == 1
    width, height = (6.4, 3.8) if single else (1.2 + 2.15 * len(columns), 1.1 + 1.55 * len(rows))
    figure = new_figure(max(width, 6.0), height)
    panels = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            axes = panels[r][c]
            found = grid.panels.get((row, column))
            for color, series in (found or {}).items():
                _draw_series(axes, series, kind, looks[color])
            if not found:
                axes.text(0.5, 0.5, "no curve", transform=axes.transAxes, ha="center", va="center", color=MUTED)
            if r == 0 and grid.column_axis:
                axes.set_title(axis_title(grid.column_axis, column))
            if c == len(columns) - 1 and grid.row_axis:
                axes.annotate(
                    axis_title(grid.row_axis, row), (1.03, 0.5), xycoords="axes fraction", rotation=-90, va="center", color=INK
                )
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            if kind == "acc":
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    panels[0][0].set_ylim(*limits)
    cut = "" if _all_within(grid, kind, limits) else f" Losses above {limits[1]:.3g} are beyond the panels."
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(_KINDS[kind], fontsize=9)
    _draw_legend(figure, grid, looks)
    return Drawing(name, title, f"{_caption(grid)}{cut}", figure)


def _draw_series(axes: Axes, series: Series, kind: str, look: Look) -> None:
    color = look.color
    train, val = series.bands[f"train_{kind}"], series.bands[f"val_{kind}"]
    axes.plot(range(1, len(train.mean) + 1), train.mean, color=color, linestyle=(0, (3, 2)), linewidth=0.9, alpha=0.75)
    epochs = range(1, len(val.mean) + 1)
    axes.fill_between(epochs, val.low, val.high, color=color, alpha=0.18, linewidth=0)
    marks: dict[str, Any] = (
        {"marker": look.mark, "markersize": 4, "markevery": look.every} if look.every and len(val.mean) > 1 else {}
    )
    axes.plot(epochs, val.mean, color=color, linewidth=1.5, **marks)
    if series.best_epoch is not None and len(val.mean):
        best = min(round(series.best_epoch), len(val.mean))
        axes.plot(
            [best], [val.mean[best - 1]], look.mark, color=color, markersize=4, markeredgecolor=PAPER, markeredgewidth=0.6
        )


def _draw_legend(figure: Any, grid: CurveGrid, looks: Mapping[Any, Look]) -> None:
    lines = (
        [
            Line2D(
                [],
                [],
                color=look.color,
                marker=look.mark if look.every else "",
                markersize=4,
                label=label,
            )
            for label, look in zip(value_labels(list(looks), grid.color_axis, IN_A_LEGEND), looks.values(), strict=True)
        ]
        if grid.color_axis
        else []
    )
    lines += [
        Line2D([], [], color=MUTED, label="validation"),
        Line2D([], [], color=MUTED, linestyle=(0, (3, 2)), linewidth=0.9, label="training"),
        Line2D([], [], color=MUTED, marker="o", linestyle="", markersize=4, label="best epoch"),
    ]
    legend_above(figure, lines, f"{grid.color_axis}:" if grid.color_axis else None)


def _caption(grid: CurveGrid) -> str:
    shown = (grid.row_axis, grid.column_axis, grid.color_axis)
    row = next((series.row for panel in grid.panels.values() for series in panel.values()), None)
    others = [axis for axis in row.axes if axis not in shown] if row else []
    lines_n = sum(len(panel) for panel in grid.panels.values())
    seeds = max((len(series.row.trials) for panel in grid.panels.values() for series in panel.values()), default=0)
    over = runs_of([trial for panel in grid.panels.values() for series in panel.values() for trial in series.row.trials])
    text = (
        f"Mean over {over}; the dot is the mean best epoch." if seeds > 1 else "One seed each." if lines_n > 1 else "One trial."
    )
    drawn = [series for panel in grid.panels.values() for series in panel.values()]
    if any(np.isfinite(band.low).any() for series in drawn for name, band in series.bands.items() if name.startswith("val")):
        counts = f"{over} and not that of the images"
        if any(series.row.trials[0].own_split for series in drawn):
            counts = f"{over}, each on images of its own; that they share training images is allowed for"
        text += f" The band is its 95 % interval, which counts the luck of the {counts}."
    lengths = [{trial.epochs for trial in series.row.trials} for panel in grid.panels.values() for series in panel.values()]
    text += (
        f" Where {over} end at different epochs, a curve goes on as the mean of the others: it may bend there."
        if any(len(epochs) > 1 for epochs in lengths)
        else ""
    )
    augmented = any(s.row.config.get("augment") not in (None, "none") for panel in grid.panels.values() for s in panel.values())
    of_what = ", and of augmented images" if augmented else ""
    text += (
        f" Training accuracy and loss are of each epoch's batches, while the network learns{of_what}: they may be worse than"
        " validation."
    )
    text += unlike_words(series.row for series in drawn) if lines_n > 1 or seeds > 1 else ""
    return text + (f" Each curve is of the configuration whose {', '.join(others)} did best." if others else "")


def _values(board: Leaderboard, axis: str | None, present: set[Any]) -> list[Any]:
    return [value for value in board.values(axis) if value in present] if axis else [None]


def _all_within(grid: CurveGrid, kind: str, limits: tuple[float, float]) -> bool:
    return float(_drawn(grid, kind).max(initial=limits[0])) <= limits[1]


def _drawn(grid: CurveGrid, kind: str, *, calm: bool = False) -> Any:
    """All values that are drawn, the ends of bands among them. calm: but for losses that exploded, unless all did."""
    every = [s for panel in grid.panels.values() for s in panel.values()]
    series = [s for s in every if not (calm and _exploded(s))] or every
    bands = [(s.bands[f"train_{kind}"], s.bands[f"val_{kind}"]) for s in series]
    values = np.concatenate([np.zeros(0, np.float32), *(v for t, b in bands for v in (t.mean, b.mean, b.low, b.high))])
    return values[np.isfinite(values)]


def _exploded(series: Series) -> bool:
    ends = np.concatenate([series.bands[f"{split}_loss"].mean[-1:] for split in ("train", "val")])
    return series.row.last.diverged or bool((ends > exploded_from(series.row)).any())


def _limits(grid: CurveGrid, kind: str) -> tuple[float, float]:
    """The same for all panels; of a loss what is far above nineteen of twenty values, and of those that are left again, may
    leave the panel, so that what diverged hides nothing."""
    values = _drawn(grid, kind, calm=kind == "loss")
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    while kind == "loss" and high > 2 * (usual := float(np.quantile(values, 0.95))):
        high, values = usual, values[values <= usual]
    margin = 0.04 * (high - low) or 0.05
    return max(low - margin, 0.0), min(high + margin, 1.0) if kind == "acc" else high + margin
