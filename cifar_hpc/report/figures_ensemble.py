"""Ensembles as pictures: accuracy against size, and how differently the members err."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter, MaxNLocator

from cifar_hpc.collect.ensemble_pool import Ensembles
from cifar_hpc.report.figures import IN_A_LEGEND, PALETTE, Drawing, frame_bare, house_style, new_figure
from cifar_hpc.report.lettering import fitting_names


def draw_gain(found: Ensembles) -> Drawing:
    """Validation accuracy of greedy ensembles by size."""
    with house_style():
        figure = new_figure(5.6, 3.5)
        axes = figure.subplots()
        axes.plot(range(1, len(found.gain) + 1), found.gain, "o-", color=PALETTE[0], markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        axes.set_xlabel("members, counted with repetition")
        axes.set_ylabel("validation accuracy")
        caption = (
            "The accuracy of a greedy ensemble as members are added. They are chosen on one half of the validation images and"
            " measured on the other; then the halves change places, so that each image is measured once."
        )
        return Drawing("ensemble_gain", "Gain by size", caption, figure)


def draw_disagreement(found: Ensembles) -> Drawing:
    """A matrix of the members' pairwise disagreement, in percent."""
    count = len(found.shown)
    with house_style():
        archs = list(dict.fromkeys(str(trial.config["arch"]) for trial in found.shown))
        fitting = dict(zip(archs, fitting_names(archs, IN_A_LEGEND), strict=True))
        names = [f"{fitting[str(trial.config['arch'])]} {trial.trial_id[:5]}" for trial in found.shown]
        figure = new_figure(0.5 * count + 1.4 + 0.075 * max(map(len, names)), max(0.42 * count + 1.2, 3.2))
        axes = figure.subplots()
        axes.imshow(found.disagreement, cmap="Blues", vmin=0, vmax=max(2 * found.disagreement.max(), 1e-6))
        for row in range(count):
            for column in range(count):
                if row != column:
                    text = f"{100 * found.disagreement[row, column]:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color="black", fontsize=8)
        axes.set_xticks(range(count), [trial.trial_id[:5] for trial in found.shown], rotation=60, ha="right")
        axes.set_yticks(range(count), names)
        frame_bare(axes)
        caption = "Percent of the validation images to which two of these members give different classes."
        return Drawing("ensemble_disagreement", "How differently the members err", caption, figure)
