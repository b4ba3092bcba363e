"""The first picture of a report: the best configurations as sorted dots with their intervals, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from cifar_hpc.collect.comparison import Comparison
from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.statistics import Estimate
from cifar_hpc.report.figures import BEYOND, PALETTE, Drawing, calm_limits, house_style, legend_above, new_figure
from cifar_hpc.report.lettering import fitting_names
from cifar_hpc.report.words import interval_words, marks_of, means_words, overlap_words, test_of, unlike_words, words_of

_MOST = 16  # rows
_LONGEST = 70  # characters of a label


def draw_ranking(board: Leaderboard, comparison: Comparison | None) -> Drawing:
    """Best above. Validation is filled where the row is the best or is not told from it, and hollow where it is worse."""
    rows = board.measured[:_MOST]
    decisions = {row.point_id: comparison.decision(row.point_id) for row in rows} if comparison else {}
    close = {point_id for point_id, decision in decisions.items() if decision in ("best", "tied")}
    tested = any(decision in ("tied", "worse") for decision in decisions.values())
    info = board.info
    with house_style():
        names = [_label(row, name) for row, name in zip(rows, fitting_names(list(map(words_of, rows)), _LONGEST), strict=True)]
        figure = new_figure(5.4 + 0.055 * max(map(len, names)), 0.9 + 0.29 * len(rows))
        axes = figure.subplots()
        for y, row in enumerate(rows):
            _dot(axes, row.score, y - 0.13, PALETTE[0], "o", hollow=tested and row.point_id not in close)
            _dot(axes, test_of(row, info), y + 0.17, PALETTE[1], "D", hollow=True)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        if info.share:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        if calm := calm_limits(rows, info):
            axes.set_xlim(calm)
        axes.set_xlabel(info.noun)
        legend_above(figure, _legend(hollow=tested and len(close) < len(rows), test=any(test_of(row, info) for row in rows)))
        left = len(board.measured) - len(rows)
        below = f" {left} more below." if left else ""
        caption = f"{means_words(board).capitalize()}, {interval_words(board)}.{below} In the order of the leaderboard."
        caption += unlike_words(rows) + (BEYOND if calm else "")
        caption += overlap_words(comparison, rows)
        return Drawing("ranking", "The best configurations", caption, figure)


def _dot(axes: Axes, found: Estimate | None, y: float, color: str, marker: str, *, hollow: bool) -> None:
    if found is None:
        return
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [y, y], color=color, linewidth=1.1, alpha=0.8)
    axes.plot(
        [found.mean],
        [y],
        marker,
        color=color,
        markersize=5 if marker == "o" else 4,
        markerfacecolor="none" if hollow else color,
    )


def _legend(*, hollow: bool, test: bool) -> Sequence[Line2D]:
    kinds = [("validation", PALETTE[0], "o", PALETTE[0])]
    if hollow:
        kinds = [
            ("validation: best, or not told from it", PALETTE[0], "o", PALETTE[0]),
            ("validation: the others", PALETTE[0], "o", "none"),
        ]
    if test:
        kinds.append(("test", PALETTE[1], "D", "none"))
    return [
        Line2D([], [], color=color, marker=marker, markersize=5, linewidth=1.1, markerfacecolor=face, label=label)
        for label, color, marker, face in kinds
    ]


def _label(row: Row, name: str) -> str:
    marks = (*([str(row.seeds)] if row.seeds > 1 and not row.asked_n else []), *marks_of(row))
    return name + (f" ({', '.join(marks)})" if marks else "")
