"""What each axis does, as pictures: heat-maps, effects, accuracy along an axis, the freezing curve, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from cifar_hpc.collect.curves import best_by, best_over
from cifar_hpc.collect.effects import Effect, Effects, FreezingCurve, HeatMap
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.statistics import Estimate, within
from cifar_hpc.collect.trials import value_text
from cifar_hpc.report.figures import (
    BESIDE_AN_AXIS,
    BEYOND,
    IN_A_LEGEND,
    INK,
    LINE,
    MUTED,
    PALETTE,
    PAPER,
    Drawing,
    Look,
    axis_title,
    calm_limits,
    frame_bare,
    house_style,
    looks_for,
    new_figure,
    ramp_color,
    value_labels,
)
from cifar_hpc.report.words import interval_words, means_words, unlike_words
from cifar_hpc.status.words import decimals_of, fixed_text, score_text

_COLUMNS = 3
_MOST_LINES = 300  # of parallel coordinates
_MEANS: Any = {"fmt": "o", "color": PALETTE[0], "capsize": 4, "markersize": 5}
_LABEL_GROUND = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}  # lines pass behind a label, not through it


def draw_heat_maps(maps: Sequence[HeatMap], board: Leaderboard) -> Drawing:
    """One panel a map, one scale for all; every cell bears its number, a combination without a measurement is hatched."""
    first = maps[0]
    rows, columns = shown_values(board, first.row_axis), shown_values(board, first.column_axis)
    cells = [row for found in maps for row in found.cells.values()]
    scores = [_score(row) for row in cells]
    norm = Normalize(*(calm_limits(cells, board.info) or (min(scores), max(scores))))
    across = min(_COLUMNS if len(columns) <= 7 else 2, len(maps))
    down = -(-len(maps) // across)
    with house_style():
        figure = new_figure(max(1.2 + across * (0.5 + 0.62 * len(columns)), 5), down * (0.9 + 0.36 * len(rows)) + 0.3)
        panels = figure.subplots(down, across, squeeze=False)
        for number, axes in enumerate(panels.flat):
            if number >= len(maps):
                axes.set_visible(False)
                continue
            found = maps[number]
            _draw_cells(axes, found, rows, columns, norm, board)
            if found.panel_axis:
                axes.set_title(axis_title(found.panel_axis, found.panel))
            axes.set_xlabel(first.column_axis)
            axes.set_ylabel(first.row_axis if number % across == 0 else "")
        shown = [axis for axis in (first.row_axis, first.column_axis, first.panel_axis) if axis]
        caption = f"Validation {_metric_words(board)}, {means_words(board)}.{best_over(board, *shown)}"
        in_part = unlike_words(row for found in maps for row in found.cells.values())
        return Drawing(
            "heat_map", f"{first.row_axis} by {first.column_axis}", f"{caption} Hatched: no measurement.{in_part}", figure
        )


def _draw_cells(
    axes: Axes, found: HeatMap, rows: Sequence[Any], columns: Sequence[Any], norm: Normalize, board: Leaderboard
) -> None:
    grid = np.full((len(rows), len(columns)), np.nan)
    for (row, column), point in found.cells.items():
        grid[rows.index(row), columns.index(column)] = _score(point)
    axes.patch.set(hatch="////", edgecolor=LINE)
    axes.imshow(grid, cmap="viridis", norm=norm, aspect="auto")
    for r, c in zip(*np.nonzero(~np.isnan(grid)), strict=True):
        color = "white" if norm(grid[r, c]) < 0.6 else "black"
        axes.text(c, r, _number(grid[r, c], board), ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(columns)), value_labels(columns, found.column_axis, BESIDE_AN_AXIS))
    axes.set_yticks(range(len(rows)), value_labels(rows, found.row_axis, BESIDE_AN_AXIS))
    frame_bare(axes)


def draw_effects(effects: Effects, board: Leaderboard) -> Drawing:
    """A panel for each axis that has matched configurations: a grey line joins those that differ in nothing else, blue is their
    mean. Each panel has its own scale, so that one large effect flattens no other."""
    found = effects.matched
    across = min(_COLUMNS, len(found))
    down = -(-len(found) // across)
    with house_style():
        figure = new_figure(1 + 2.6 * across, 0.5 + 2.4 * down)
        panels = figure.subplots(down, across, squeeze=False)
        for number, panel in enumerate(panels.flat):
            if number >= len(found):
                panel.set_visible(False)
                continue
            effect = found[number]
            panel.plot(range(len(effect.values)), effect.scores.T, color=MUTED, alpha=0.35, linewidth=0.7)
            panel.errorbar(range(len(effect.values)), effect.means, yerr=_bars(effect, board), **_MEANS)
            labels = value_labels(effect.values, effect.axis, BESIDE_AN_AXIS)
            crowded = max(map(len, labels)) * len(labels) > 26
            panel.set_xticks(range(len(labels)), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
            panel.set_xlim(-0.4, len(labels) - 0.6)
            panel.set_title(_effect_title(effect, effects))
            panel.grid(axis="x", visible=False)
            _format_score(panel, board)
        figure.supylabel(f"validation {_metric_words(board)}", fontsize=9)
        return Drawing("effects", "What each axis does", _effects_caption(effects), figure)


def _effect_title(effect: Effect, effects: Effects) -> str:
    share = effects.importance.get(effect.axis)
    variance = f": {share:.0%} of the variance" if share is not None else ""
    return f"{effect.axis}{variance}\n{len(effect.scores)} matched"


def _effects_caption(effects: Effects) -> str:
    caption = (
        "A grey line joins configurations that differ in nothing but the axis; blue is their mean, its bar the 95 % interval of"
        " that mean against the other values (none of one line, where all agree to the digit, or where it would be the whole"
        " scale)."
    )
    for title, values in (("Without a match", "unmatched"), ("Not shown, since too few match with the others", "left")):
        told = [f"{effect.axis} {value_text(value)}" for effect in effects.matched for value in getattr(effect, values)]
        if told:
            caption += f" {title}: {', '.join(told[:6])}{' and others' if len(told) > 6 else ''}."
    if effects.importance:
        caption += (
            " The share of the variance: how much of all differences between configurations goes with the axis, less what"
            " chance alone gives (omega squared)."
        )
    elif effects.no_shares:
        caption += f" No share of the variance is told: {effects.no_shares}."
    return caption


def _bars(effect: Effect, board: Leaderboard) -> list[list[float]] | None:
    """How far the interval reaches below and above each mean; that of an accuracy ends at 0 and 1, of a loss at 0. One that
    would be the whole scale says nothing, and is none."""
    if effect.half is None:
        return None
    found = [
        within(Estimate(m, len(effect.scores), None, m - effect.half, m + effect.half), board.info.bounds) for m in effect.means
    ]
    ends = [(math.nan, math.nan) if e.low is None or e.high is None else (e.low, e.high) for e in found]
    return [
        [e.mean - low for e, (low, _) in zip(found, ends, strict=True)],
        [high - e.mean for e, (_, high) in zip(found, ends, strict=True)],
    ]


def _intervals(rows: Sequence[Row]) -> list[list[float]]:
    """How far each point's 95 % interval reaches below and above its mean; not at all where there is none."""
    found = [row.score for row in rows if row.score]
    below = [e.mean - e.low if e.low is not None else 0.0 for e in found]
    return [below, [e.high - e.mean if e.high is not None else 0.0 for e in found]]


def draw_along(axis: str, color_axis: str | None, board: Leaderboard) -> Drawing:
    """The best point at each value of a numeric axis, a line for each value of another; log x where values span decades, evenly
    spaced where they do so from 0 on."""
    measured = {row.axes[axis] for row in board.measured}
    values = [value for value in board.values(axis) if isinstance(value, int | float) and value in measured]
    wide = max(values) / min((value for value in values if value > 0), default=1) >= 20
    log, even = wide and min(values) > 0, wide and min(values) == 0
    place = {value: float(number) if even else value for number, value in enumerate(values)}
    looks = looks_for(board.values(color_axis)) if color_axis else {None: Look(PALETTE[0], "o", None)}
    labels = dict(zip(looks, value_labels(list(looks), color_axis or "", IN_A_LEGEND), strict=True))
    best = best_by(board, axis, color_axis) if color_axis else {(*key, None): row for key, row in best_by(board, axis).items()}
    with house_style():
        figure = new_figure(6.4, 3.7)
        axes = figure.subplots()
        for value, look in looks.items():
            points = [(x, best[x, value]) for x in values if (x, value) in best]
            if not points:
                continue
            axes.errorbar(
                [place[x] for x, _ in points],
                [_score(row) for _, row in points],
                yerr=_intervals([row for _, row in points]),
                fmt=f"{look.mark}-",
                markersize=4,
                capsize=2,
                color=look.color,
                label=labels[value],
            )
        if log:
            axes.set_xscale("log")
        ticks = _apart([math.log(value) if log else place[value] for value in values])
        axes.set_xticks([place[values[i]] for i in ticks], [value_text(values[i]) for i in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(axis)
        axes.set_ylabel(f"validation {_metric_words(board)}")
        _format_score(axes, board)
        if calm := calm_limits(list(best.values()), board.info):
            axes.set_ylim(calm)
        if color_axis:
            figure.legend(loc="outside right upper", title=color_axis)
        caption = (
            f"{means_words(board).capitalize()}, {interval_words(board)}."
            f"{best_over(board, axis, *([color_axis] if color_axis else []))}"
            f"{unlike_words(best.values())}{BEYOND if calm else ''}"
        )
        return Drawing(f"along_{axis.replace('.', '_')}", f"Along {axis}", caption, figure)


def draw_freezing_curves(curves: Sequence[FreezingCurve], board: Leaderboard) -> Drawing:
    """Accuracy against the frozen share, a line an architecture; dashed: the same architecture from scratch."""
    looks = looks_for([curve.arch for curve in curves])
    with house_style():
        figure = new_figure(6.4, 3.7)
        axes = figure.subplots()
        for curve in curves:
            shares = [share for share, _ in curve.points]
            axes.errorbar(
                shares,
                [_score(row) for _, row in curve.points],
                yerr=_intervals([row for _, row in curve.points]),
                fmt=f"{looks[curve.arch].mark}-",
                markersize=4,
                capsize=2,
                color=looks[curve.arch].color,
                label=curve.arch,
            )
            if curve.scratch:
                axes.axhline(_score(curve.scratch), color=looks[curve.arch].color, linestyle=(0, (3, 2)), linewidth=1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("share of the backbone's blocks frozen")
        axes.set_ylabel(f"validation {_metric_words(board)}")
        _format_score(axes, board)
        figure.legend(loc="outside right upper")
        others = any((row.config.get("train") or "all") != "all" or row.config.get("lora") for row in board.measured)
        of_whole = ", without those that train a part of the rest" if others else ""
        caption = f"Best configuration at each depth{of_whole}: {means_words(board)}, {interval_words(board)}."
        if any(curve.scratch for curve in curves):
            caption += " Dashed: from scratch."
        caption += unlike_words(row for curve in curves for _, row in curve.points)
        return Drawing("freezing", "How much may stay frozen", caption, figure)


def draw_parallel(board: Leaderboard) -> Drawing:
    """Every point as a line through its axis values, coloured by its score; the best on top."""
    rows = board.measured[:_MOST_LINES]
    axes_shown = [axis for axis in board.axes if len(shown_values(board, axis)) > 1]
    calm = calm_limits(rows, board.info)
    scores = [score for score in map(_score, rows) if calm is None or score <= calm[1]]
    flip, apart = board.info.mode == "min", min(scores) < max(scores)
    norm = Normalize(min(scores) - (not apart and not flip), max(scores) + (not apart and flip))  # equal ones are all the best
    with house_style():
        figure = new_figure(max(1.6 * len(axes_shown) + 2.4, 6), 3.8)
        axes = figure.subplots()
        for row in reversed(rows):
            share = 1 - min(float(norm(_score(row))), 1.0) if flip else float(norm(_score(row)))
            heights = [*(_height(board, axis, row.axes[axis]) for axis in axes_shown), share]
            axes.plot(range(len(heights)), heights, color=ramp_color(share), alpha=0.65, linewidth=1.1)
        axes.plot(range(len(heights)), heights, color=INK, linewidth=1.8)  # of the first row, which may not measure the most
        for x, axis in enumerate(axes_shown):
            axes.axvline(x, color=MUTED, linewidth=0.8)
            values = _some(shown_values(board, axis))
            for value, label in zip(values, value_labels(values, axis, BESIDE_AN_AXIS), strict=True):
                axes.annotate(
                    label,
                    (x, _height(board, axis, value)),
                    (5, 0),
                    textcoords="offset points",
                    fontsize=7.5,
                    va="center",
                    zorder=10,
                    bbox=_LABEL_GROUND,
                )
        axes.axvline(len(axes_shown), color=MUTED, linewidth=0.8)
        ends = [(1.0, min(scores) if flip else max(scores)), (0.0, max(scores) if flip else min(scores))]
        for height, score in ends if apart else ends[:1]:
            axes.annotate(
                _number(score, board), (len(axes_shown), height), (4, 0), textcoords="offset points", fontsize=7.5, va="center"
            )
        axes.set_xticks(range(len(axes_shown) + 1), [*axes_shown, f"val {_metric_words(board)}"])
        axes.set_yticks([])
        frame_bare(axes)
        most = f" The first {_MOST_LINES} of {len(board.measured)}." if len(board.measured) > _MOST_LINES else ""
        return Drawing(
            "parallel",
            "All configurations",
            "A line is a configuration; lighter is better, and the thick one is the first of the leaderboard."
            f"{most}{unlike_words(rows)}{BEYOND if calm else ''}",
            figure,
        )


def shown_values(board: Leaderboard, axis: str) -> list[Any]:
    """The axis' values, without the '-' of points that are only planned."""
    return [value for value in board.values(axis) if value is not None or any(row.axes[axis] is None for row in board.measured)]


def _height(board: Leaderboard, axis: str, value: Any) -> float:
    values = shown_values(board, axis)
    return values.index(value) / (len(values) - 1)


def _apart(places: Sequence[float]) -> list[int]:
    """Which of the rising places bear a label, so that none touches the next."""
    chosen = [0]
    for i, place in enumerate(places):
        if place - places[chosen[-1]] >= (places[-1] - places[0]) / 9:
            chosen.append(i)
    return chosen


def _some(values: Sequence[Any], most: int = 12) -> Sequence[Any]:
    return values if len(values) <= most else values[:: -(-len(values) // most)]


def _score(row: Row) -> float:
    assert row.score is not None
    return row.score.mean


def _metric_words(board: Leaderboard) -> str:
    return board.info.noun


def _number(value: float, board: Leaderboard) -> str:
    if board.info.share:
        return score_text(value, board.images, most=1)
    return fixed_text(value, decimals_of(board.images, share=False, most=1))


def _format_score(axes: Axes, board: Leaderboard) -> None:
    if board.info.share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        low, high = axes.get_ylim()
        if all(0 <= row.score.mean <= 1 for row in board.measured if row.score):  # of who says share and measures one
            axes.set_ylim(max(low, -0.02), min(high, 1.02))
