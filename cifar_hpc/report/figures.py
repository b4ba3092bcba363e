"""The house style of all figures, and how one becomes PNG, SVG or part of a page. matplotlib only in report/.

Figures are made without pyplot and its global state. Colours: Okabe and Ito's for names, viridis for ordered values; both can
be told apart by colour-blind readers.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.trials import value_text
from cifar_hpc.config.registry import ObjectiveInfo
from cifar_hpc.report.lettering import fitting_names, font_families, make_readable

INK, MUTED, LINE, PAPER = "#1f2329", "#6b737c", "#d9dee3", "#fefefe"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00")
_DARK_PALETTE = ("#4aa8e8", "#ff8a4c", "#2fc79a", "#e5a0c6", "#f2b632", "#86cdf5", "#c9a227")  # the same hues on dark paper
_STEPS = 24  # colours of the ramp
IN_A_LEGEND, BESIDE_AN_AXIS, _OVER_A_PANEL = 40, 24, 32  # letters of a value's name
BEYOND = " The axis ends before losses that exploded."
_TIMES_CHANCE = 10  # a loss so many times that of guessing at random has exploded, though it is a number
_LEGEND_IN = 0.5  # height of a legend for which a figure has room
_MARKS = ("o", "^", "s", "D", "v", "P")
_VIRIDIS = mpl.colormaps["viridis"]
_STYLE: Any = {
    "text.parse_math": False,  # a $ in a name is a dollar
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "hatch.color": LINE,
    "svg.fonttype": "none",
    "svg.hashsalt": "cifar-hpc",
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure with what stands under it. name: its files' stem."""

    name: str
    title: str
    caption: str
    figure: Figure


@contextmanager
def house_style() -> Iterator[None]:
    """Within it, figures are made in the house style."""
    with mpl.rc_context({**_STYLE, "font.family": font_families()}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, drawn by Agg: no window, no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_above(figure: Figure, handles: Sequence[Line2D], title: str | None = None) -> None:
    """Above the panels, in as many columns as the figure is wide enough for; a wider name widens the figure, and many lines
    make it higher, so that the panels keep their room."""
    for columns_n in range(len(handles), 0, -1):
        legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns_n, title=title, title_fontsize=8.5)
        extent = legend.get_window_extent()
        if extent.width / figure.dpi <= figure.get_figwidth():
            break
        if columns_n > 1:
            legend.remove()
    figure.set_figwidth(max(figure.get_figwidth(), extent.width / figure.dpi))
    figure.set_figheight(figure.get_figheight() + max(extent.height / figure.dpi - _LEGEND_IN, 0.0))


def readable(drawing: Drawing) -> Drawing:
    """The drawing with all its names in letters that are drawn here; its caption says which are not its own."""
    said = make_readable(drawing.figure)
    return replace(drawing, caption=f"{drawing.caption} {said}".strip()) if said else drawing


def save_drawings(drawings: Sequence[Drawing], folder: Path) -> None:
    """<name>.png and <name>.svg of each, on white; figures of an earlier report that are none of these are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        with house_style():
            drawing.figure.savefig(folder / f"{drawing.name}.png", facecolor="white")
            drawing.figure.set_layout_engine("none")  # the layout stands: do not solve it again for the other form
        svg = _svg(drawing)
        start = svg.index(">", svg.index("<svg")) + 1
        white = '<rect width="100%" height="100%" fill="white"/>'
        (folder / f"{drawing.name}.svg").write_text(svg[:start] + white + svg[start:], encoding="utf-8")
    names = {drawing.name for drawing in drawings}
    for path in folder.iterdir():
        if path.suffix in (".png", ".svg") and path.stem not in names:
            path.unlink()


def page_svg(drawing: Drawing) -> str:
    """An <svg> element for a page: transparent, its ink and lines in the page's own colours, so that it suits both themes."""
    svg = _svg(drawing)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z.]+_\d+"', "", svg)  # group names, the same in every figure
    svg = re.sub(r' d="[^"]+"', lambda path: re.sub(r"(\d\.\d{2})\d+", r"\1", path[0]), svg)  # hundredths of a point do
    colors = _page_colors()
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda color: colors.get(color[0], color[0]), svg)
    widest = f"max-width: {drawing.figure.get_figwidth() * 115:.0f}px"
    label = f'role="img" aria-label="{escape(drawing.title)}" style="{widest}"'
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: label, svg, count=1)


@lru_cache(maxsize=64)
def _svg(drawing: Drawing) -> str:
    stream = io.StringIO()
    with house_style():
        drawing.figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class Look:
    """How a value is drawn. every: the share of a long line between its marks; None: a line of its colour needs none."""

    color: str
    mark: str
    every: float | None


def looks_for(values: Sequence[Any]) -> dict[Any, Look]:
    """A look for each value, so that no two are alike: colours of viridis where they have an order, else of the palette, and
    other marks where there are more values than colours that can be told apart."""
    ordered = sum(isinstance(value, int | float) for value in values) > len(values) / 2
    several = len(values) > len(PALETTE)
    found = {}
    for i, value in enumerate(values):
        color = ramp_color(i / max(len(values) - 1, 1)) if ordered else PALETTE[i % len(PALETTE)]
        turn = (i if ordered else i // len(PALETTE)) if several else 0  # neighbours of an order differ least in colour
        mark = _MARKS[turn % len(_MARKS)]
        found[value] = Look(color, mark, 0.15 if mark != _MARKS[0] else None)
    return found


def ramp_color(share: float) -> str:
    """The colour of a number 0..1 that lines bear on white, one of a few: viridis without its pale end."""
    return _ramp()[round(min(max(share, 0.0), 1.0) * (_STEPS - 1))][0]


@lru_cache(maxsize=1)
def _ramp() -> tuple[tuple[str, str], ...]:
    """(on white, on dark paper) of each step; on dark paper it is viridis without its dark end."""
    shares = [step / (_STEPS - 1) for step in range(_STEPS)]
    return tuple((to_hex(_VIRIDIS(0.86 * share)), to_hex(_VIRIDIS(0.34 + 0.66 * share))) for share in shares)


def theme_css() -> str:
    """The colours of figures in a page, as CSS: each on white paper and on dark paper."""
    pairs = [*zip(PALETTE, _DARK_PALETTE, strict=True), *_ramp()]
    light, dark = ("".join(f"--f{n}:{pair[side]};" for n, pair in enumerate(pairs)) for side in (0, 1))
    return (
        f":root{{{light}}} :root[data-theme=dark]{{{dark}}}"
        f" @media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f" @media print{{:root:root:root{{{light}}}}}"
    )


@lru_cache(maxsize=1)
def _page_colors() -> dict[str, str]:
    """What a page puts in place of a figure's own colours."""
    own = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
    themed = [*PALETTE, *(color for color, _ in _ramp())]
    return {**{color: f"var(--f{n})" for n, color in enumerate(themed)}, **own}


def value_labels(values: Sequence[Any], axis: str, most: int) -> list[str]:
    """The values of an axis as a legend or ticks name them, of so many letters at most."""
    return fitting_names([value_text(value, axis) for value in values], most)


def axis_title(axis: str, value: Any) -> str:
    """'freeze: 0.5', 'augment: none'; 'resnet18', a weights file's name where the value speaks for itself."""
    (text,) = value_labels([value], axis, _OVER_A_PANEL)
    if axis == "weights" and value is not None:
        return text.removesuffix(".pt")
    alone = isinstance(value, str) and axis in ("arch", "dataset")
    return text if alone else f"{axis}: {text}"


def exploded_from(row: Row) -> float:
    """The loss beyond which that of a row with trials has exploded."""
    return _TIMES_CHANCE * math.log(max(len(row.trials[0].classes), 2))


def calm_limits(rows: Sequence[Row], info: ObjectiveInfo) -> tuple[float, float] | None:
    """The limits of an axis of losses on which one that exploded hides nothing; None where there is none such."""
    if info.metric != "loss":
        return None
    calm = [row.score for row in rows if row.score and not row.last.diverged and row.score.mean <= exploded_from(row)]
    most = max((one.mean for one in calm), default=0.0)
    if not calm or all(row.score.mean <= 2 * most for row in rows if row.score):
        return None
    ends = [end for one in calm for end in (one.mean, one.low, one.high) if end is not None]
    margin = 0.05 * (max(ends) - min(ends)) or 0.05 * most
    return max(min(ends) - margin, 0.0), max(ends) + margin


def frame_bare(axes: Axes) -> None:
    """No grid and no frame, for images and matrices."""
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
