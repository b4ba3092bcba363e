"""One trial as pictures: its confusion matrix and its reliability diagram."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import PowerNorm

from cifar_hpc.collect.diagnosis import Diagnosis
from cifar_hpc.report.figures import INK, MUTED, PALETTE, Drawing, frame_bare, house_style, new_figure

_MOST_NUMBERS = 12  # classes for which each cell bears its number


def draw_confusion(found: Diagnosis, split: str) -> Drawing:
    """Rows are true classes, in percent of their images; the diagonal is pale so that the errors stand out."""
    share = found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)
    k = len(found.classes)
    with house_style():
        side = min(max(0.46 * k + 1.6, 4.2), 14)
        figure = new_figure(side + 0.6, side)
        axes = figure.subplots()
        errors = np.where(np.eye(k, dtype=bool), np.nan, share)
        worst = max(float(np.nanmax(errors)), 1e-6)
        axes.imshow(errors, cmap="Blues", norm=PowerNorm(0.5, 0, worst))
        if k <= _MOST_NUMBERS:
            for row, column in np.ndindex(k, k):
                value = share[row, column]
                if value >= 0.005:
                    dark = row != column and value > 0.36 * worst
                    weight = "bold" if row == column else "normal"
                    color = "white" if dark else INK if row == column else "black"
                    axes.text(
                        column, row, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=8, fontweight=weight
                    )
        step = 1 if k <= 40 else -(-k // 40)
        axes.set_xticks(range(0, k, step), found.classes[::step], rotation=90 if k > 6 else 0)
        axes.set_yticks(range(0, k, step), found.classes[::step])
        axes.set_xlabel("taken for")
        axes.set_ylabel("true class")
        frame_bare(axes)
        caption = f"Percent of each true class' {split} images; colour marks the errors."
        return Drawing("confusion", "Confusion matrix", caption, figure)


def draw_reliability(found: Diagnosis, split: str) -> Drawing:
    """Accuracy against confidence; a point's size is its share of the images."""
    bins = found.reliability
    with house_style():
        figure = new_figure(4.6, 4.2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (3, 2)), linewidth=1)
        axes.plot(bins.confidence, bins.accuracy, color=PALETTE[0], linewidth=1.2)
        axes.scatter(
            bins.confidence,
            bins.accuracy,
            s=15 + 300 * bins.count / bins.count.sum(),
            color=PALETTE[0],
            alpha=0.75,
            linewidths=0,
        )
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        caption = (
            f"On {split} images, by confidence; on the dashed line it would be calibrated. ECE {100 * bins.ece:.1f} points."
        )
        return Drawing("reliability", "Reliability", caption, figure)
