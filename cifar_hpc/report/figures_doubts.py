"""Images whose labels are in doubt, to look at: a contact sheet. All comes as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.report.figures import INK, MUTED, Drawing, frame_bare, house_style, new_figure
from cifar_hpc.report.lettering import fitting_names

_COLUMNS = 8
_OVER_AN_IMAGE = 20  # letters of a name
MOST = 48


def draw_doubts(pixels: Sequence[NDArray[np.uint8]], labels: Sequence[tuple[str, str]], left_n: int) -> Drawing:
    """pixels: H x W x C each; labels: (as it is labelled, what the networks say); left_n: more that are not shown."""
    names = list(dict.fromkeys(name for pair in labels for name in pair))
    short = dict(zip(names, fitting_names(names, _OVER_AN_IMAGE), strict=True))
    columns = min(_COLUMNS, max(len(pixels), 1))
    rows = max(-(-len(pixels) // columns), 1)
    with house_style():
        figure = new_figure(1.25 * columns + 0.3, 1.55 * rows + 0.4)
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            axes.set_xticks([])
            axes.set_yticks([])
            if place >= len(pixels):
                axes.axis("off")
                continue
            image = pixels[place]
            gray = image.squeeze(-1) if image.shape[-1] == 1 else image
            axes.imshow(gray, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            frame_bare(axes)
            label, suggested = labels[place]
            axes.set_title(short[label], fontsize=7, color=MUTED, pad=2)
            axes.set_xlabel(short[suggested], fontsize=7, color=INK, labelpad=2)
    more = f" {left_n} more stand in labels.csv." if left_n else ""
    caption = f"Above each image its label, below it what the networks say; the clearest first.{more}"
    return Drawing("labels", "Labels in doubt", caption, figure)
