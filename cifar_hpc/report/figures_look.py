"""Pictures of a spec before it runs: learning-rate range tests, and what the network sees. All comes as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.report.figures import INK, MUTED, Drawing, frame_bare, house_style, new_figure, readable

_COLUMNS = 3
Curve = tuple[Sequence[float], Sequence[float], float, float | None, bool]  # as RangeTest: rates, losses, valley, steep, falls


def draw_lr_curves(curves: Mapping[str, Curve]) -> Drawing:
    """One panel for each named curve: loss over the rate, the suggestion as a line, the second opinion as a dotted one."""
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    with house_style():
        figure = new_figure(3.4 * columns, 2.6 * rows)
        for place, (name, (rates, losses, valley, steep, falls)) in enumerate(curves.items(), 1):
            axes = figure.add_subplot(rows, columns, place)
            axes.plot(rates, losses, color="#0072b2")
            top = losses[0] + 0.3 * (losses[0] - min(losses)) if losses[0] > min(losses) else max(losses)
            axes.set_ylim(min(losses) - 0.08 * (top - min(losses)), top)
            axes.set_xscale("log")
            axes.axvline(valley, color=INK, linewidth=1.2)
            told = f"valley {valley:.1e}"
            if steep is not None:
                axes.axvline(steep, color=MUTED, linewidth=1.2, linestyle=":")
                told += f"   steep {steep:.1e}"
            axes.set_title(f"{name}\n{told}" + ("" if falls else "\nthe loss does not fall"), loc="left")
            axes.set_xlabel("learning rate")
            if (place - 1) % columns == 0:
                axes.set_ylabel("training loss, smoothed")
    caption = (
        "Training loss while the rate rises geometrically (Smith 2017). Solid line: the middle of the "
        "longest fall, which `lr: auto` takes; dotted: the steepest fall. Where the loss does not fall by more than "
        "batches differ, neither says at which rate it learns."
    )
    return Drawing("lr_find", "Learning-rate range test", caption, figure)


def draw_sheet(
    pixels_RMHWC: NDArray[np.uint8], row_labels: Sequence[str], shares_RM: Sequence[Sequence[str]], title: str
) -> Drawing:
    """A row for each image: as it is, then its augmented draws. shares_RM: what stands under each, such as a mixed target."""
    rows, columns = pixels_RMHWC.shape[:2]
    with house_style():
        figure = new_figure(0.95 * columns + 0.9, 0.95 * rows + 0.6)
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        for r, c in np.ndindex(rows, columns):
            axes, image = grid[r, c], pixels_RMHWC[r, c]
            axes.imshow(
                image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest"
            )
            frame_bare(axes)
            axes.set_xticks([])
            axes.set_yticks([])
            if shares_RM[r][c]:
                axes.set_xlabel(shares_RM[r][c], fontsize=6, labelpad=2)
            if c == 0:
                axes.set_ylabel(row_labels[r], rotation=0, ha="right", va="center")
            if r == 0:
                axes.set_title("as it is" if c == 0 else f"draw {c}", fontsize=8, color=INK if c == 0 else MUTED)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    return Drawing("augment", title, "Each row is one training image and several draws of it.", figure)


def save_picture(drawing: Drawing, path: Path) -> None:
    """The drawing in the form of the path's suffix, on white. Raises OSError, ValueError on an unknown suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = readable(drawing)
    with house_style():
        drawing.figure.savefig(path, facecolor="white")
