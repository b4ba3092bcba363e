"""One trial as pictures: its confusion matrix and its reliability diagram."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter

from cifar_hpc.collect.diagnosis import BINS, Diagnosis
from cifar_hpc.collect.statistics import wilson_interval
from cifar_hpc.report.figures import MUTED, PALETTE, Drawing, frame_bare, house_style, new_figure
from cifar_hpc.report.lettering import fitting_names
from cifar_hpc.status.words import digits_of, score_text

_MOST_NUMBERS = 12  # classes for which each cell bears its number
_LONGEST = 26  # letters of a name beside a row or column


def draw_confusion(found: Diagnosis, where: str) -> Drawing:
    """where: the images, in words. Rows are true classes, in percent of their images. The diagonal has a colour of its own, so
    that errors stand out."""
    share = np.where(found.totals[:, None] > 0, found.confusion / np.maximum(found.totals[:, None], 1), np.nan)
    k = len(found.classes)
    digits = [digits_of(int(images), most=1) for images in found.totals]
    with house_style():
        side = min(max(0.46 * k + 1.6, 4.2), 14)
        figure = new_figure(side + 1.5, side)
        axes = figure.subplots()
        diagonal = np.eye(k, dtype=bool)
        errors, hits = np.where(diagonal, np.nan, share), np.where(diagonal, share, np.nan)
        worst = max(float(np.nanmax(errors)), 1e-6)
        norm = PowerNorm(0.5, 0, worst)
        drawn = axes.imshow(errors, cmap="Blues", norm=norm)
        axes.imshow(hits, cmap="Greens", vmin=0, vmax=1.4)
        if k <= _MOST_NUMBERS:
            for row, column in zip(*np.nonzero(~np.isnan(share)), strict=True):
                value = share[row, column]
                dark = norm(value) > 0.6 if row != column else value > 0.85
                color = "white" if dark else "#9aa3ab" if value == 0 else "black"
                text = f"{100 * value:.{digits[row]}f}" if value else "0"
                weight = "bold" if row == column else "normal"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8, fontweight=weight)
        if np.nanmax(errors) > 0:
            bar = figure.colorbar(drawn, ax=axes, shrink=0.75, format=FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
            bar.set_label("of the class taken for another", fontsize=8)
            bar.outline.set_visible(False)
        step = 1 if k <= 40 else -(-k // 40)
        names = fitting_names(found.classes, _LONGEST)
        axes.set_xticks(range(0, k, step), names[::step], rotation=90 if k > 6 or max(map(len, names)) > 10 else 0)
        axes.set_yticks(range(0, k, step), names[::step])
        axes.set_xlabel("taken for")
        axes.set_ylabel("true class")
        frame_bare(axes)
        wrong = "errors in blue on a scale of their own" if np.nanmax(errors) > 0 else "and no image is taken for another class"
        caption = f"Percent of each true class' images ({where}): right in green, {wrong}."
        return Drawing("confusion", "Confusion matrix", caption, figure)


def draw_reliability(found: Diagnosis, where: str) -> Drawing:
    """Accuracy against confidence above, how many images each bin holds below."""
    bins = found.reliability
    with house_style():
        figure = new_figure(4.6, 5.0)
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (3, 2)), linewidth=1)
        reach = [wilson_interval(float(share), int(n)) for share, n in zip(bins.accuracy, bins.count, strict=True)]
        below_above = [
            [float(share) - low for share, (low, _) in zip(bins.accuracy, reach, strict=True)],
            [high - float(share) for share, (_, high) in zip(bins.accuracy, reach, strict=True)],
        ]
        axes.errorbar(
            bins.confidence, bins.accuracy, yerr=np.maximum(below_above, 0), fmt="o-", color=PALETTE[0], markersize=4, capsize=2
        )
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("accuracy")
        middles = (
            np.clip(np.ceil(bins.confidence * BINS), 1, BINS) - 0.5
        ) / BINS  # the means of two may be as near as they like
        below.bar(middles, bins.count, width=0.85 / BINS, color=PALETTE[0], alpha=0.7)
        for confidence, count in zip(middles, bins.count, strict=True):
            below.annotate(f"{count:,}", (confidence, count), (0, 2), textcoords="offset points", ha="center", fontsize=6.5)
        below.set_ylim(0, 1.25 * max(float(bins.count.max(initial=0)), 1))
        below.set_ylabel("images")
        below.set_xlabel("confidence")
        caption = (
            f"How often it is right at each confidence ({where}), with 95 % intervals; on the dashed line it is right as often"
            " as it says. The mean distance from that line, the expected calibration error, is"
            f" {score_text(bins.ece, int(bins.count.sum()), most=1)} pp."
        )
        return Drawing("reliability", "Reliability", caption, figure)
