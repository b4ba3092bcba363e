"""Inside one trial, as pictures: its first filters, t-SNE maps of two layers, the images it is most confidently wrong about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.lines import Line2D

from cifar_hpc.collect.insight import Insight
from cifar_hpc.report.figures import Drawing, frame_bare, house_style, looks_for, new_figure
from cifar_hpc.report.lettering import fitting_names

_SMALLEST = 3  # pixels of a side: filters no larger show nothing to the eye
_ACROSS = 8  # filters or images in a row
_MOST_NAMED = 20  # classes that a legend names
_IN_A_LEGEND = 26  # letters of a name
_OVER_AN_IMAGE = 12
# Beyond the palette's colours another mark tells classes apart, so that no two look alike.


def draw_insight(
    found: Insight, classes: Sequence[str], split: str, fold: int | None = None, *, sure: bool = True
) -> Iterator[Drawing]:
    """Those pictures for which the trial left something. split: of its errors; fold: whose images are its validation images;
    sure: whether its answers are confidences."""
    validated = "validation images" if fold is None else f"validation images of fold {fold}"
    if found.wrong:
        yield draw_wrong(found, classes, validated if split == "val" else f"{split} images", sure=sure)
    if found.maps:
        yield draw_maps(found, classes, validated)
    if found.filters is not None and min(found.filters.shape[2:]) > _SMALLEST:
        yield draw_filters(found)


def draw_filters(found: Insight) -> Drawing:
    """Each filter from its least to its greatest weight: in colour where it sees colour."""
    filters = found.filters
    assert filters is not None
    count = len(filters)
    down = -(-count // _ACROSS)
    with house_style():
        figure = new_figure(0.62 * _ACROSS, 0.62 * down + 0.1)
        panels = figure.subplots(down, _ACROSS, squeeze=False)
        for number, axes in enumerate(panels.flat):
            axes.set_axis_off()
            if number < count:
                low, high = float(filters[number].min()), float(filters[number].max())
                shown = ((filters[number] - low) / max(high - low, 1e-12)).transpose(1, 2, 0)
                axes.imshow(shown[:, :, 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=1)
        caption = "Filters of the first convolution, each stretched from its least to its greatest weight."
        return Drawing("filters", "First-layer filters", caption, figure)


def draw_maps(found: Insight, classes: Sequence[str], images: str) -> Drawing:
    """A panel a layer; a point is one of the images, which the caption names so, its look its class."""
    classes = fitting_names(classes, _IN_A_LEGEND)
    looks = list(looks_for([f"class {k}" for k in range(len(classes))]).values())
    with house_style():
        figure = new_figure(4.2 * len(found.maps) + 1.4, 4.0)
        panels = figure.subplots(1, len(found.maps), squeeze=False)
        for axes, (words, place_M2) in zip(panels.flat, found.maps.items(), strict=True):
            for k in np.unique(found.labels):
                of_class = found.labels == k
                axes.scatter(*place_M2[of_class].T, s=13, color=looks[k].color, marker=looks[k].mark, linewidths=0, alpha=0.85)
            axes.set_title(words)
            axes.set_xticks([])
            axes.set_yticks([])
            frame_bare(axes)
        present = [k for k in range(len(classes)) if k in found.labels]
        if len(present) <= _MOST_NAMED:
            marks = [
                Line2D([], [], color=looks[k].color, marker=looks[k].mark, linestyle="", markersize=5, label=classes[k])
                for k in present
            ]
            figure.legend(handles=marks, loc="outside right center")
        caption = (
            f"t-SNE of {len(found.labels)} {images} from the principal components of a layer's activations."
            " Near points look alike to the network; distances between far groups mean nothing."
        )
        return Drawing("layers", "How layers tell the classes apart", caption, figure)


def draw_wrong(found: Insight, classes: Sequence[str], images: str, *, sure: bool) -> Drawing:
    """The images, which the caption names so, with what they are, what they were taken for and, where sure, how confidently."""
    classes = fitting_names(classes, _OVER_AN_IMAGE)
    across = min(6, len(found.wrong))
    down = -(-len(found.wrong) // across)
    with house_style():
        figure = new_figure(max(1.35 * across, 4.0), 1.75 * down)
        panels = figure.subplots(down, across, squeeze=False)
        for number, axes in enumerate(panels.flat):
            axes.set_axis_off()
            if number < len(found.wrong):
                one = found.wrong[number]
                gray = one.pixels.shape[2] == 1
                axes.imshow(one.pixels[:, :, 0] if gray else one.pixels, cmap="gray" if gray else None, vmin=0, vmax=255)
                how = f" {100 * one.confidence:.0f}%" if sure else ""
                axes.set_title(f"{classes[one.true]}\nas {classes[one.taken]}{how}", fontsize=7.5)
        how = "with the highest confidence" if sure else "most clearly, by its margins"
        caption = f"The {images} that it took for another class {how}."
        return Drawing("worst_errors", "Most confidently wrong", caption, figure)
