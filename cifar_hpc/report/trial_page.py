"""The page of one trial: its curves, confusions, classes and calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.collect.curves import make_curve_grid
from cifar_hpc.collect.diagnosis import Diagnosis, diagnose
from cifar_hpc.collect.insight import read_insight
from cifar_hpc.collect.leaderboard import make_leaderboard, value_text
from cifar_hpc.collect.predictions import read_predictions
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import Trial
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_atomic
from cifar_hpc.report.figures import readable, save_drawings
from cifar_hpc.report.figures_curves import draw_curves
from cifar_hpc.report.figures_insight import draw_insight
from cifar_hpc.report.figures_trial import draw_confusion, draw_reliability
from cifar_hpc.report.page import PageTable, render, save_tables
from cifar_hpc.report.tables import count_text
from cifar_hpc.status.words import duration_text


def diagnose_trial(pool: Pool, trial_id: str, layout: Layout) -> tuple[Trial, Diagnosis, str]:
    """The trial, what it gets wrong, and on which split: test where it was measured, else val.

    Raises CifarHpcError where the trial has no result, RecordError where its predictions are torn.
    """
    trial = next((trial for trial in pool.trials if trial.trial_id == trial_id), None)
    if trial is None:
        raise CifarHpcError(f"trial {trial_id} has no result yet: cifar-hpc logs {trial_id} tells what became of it")
    for split, acc in (("test", trial.test_acc), ("val", trial.val_acc)):
        predictions = read_predictions(layout.trial(trial_id), split, acc) if acc is not None else None
        if predictions is not None:
            return trial, diagnose(predictions, trial.classes), split
    raise CifarHpcError(f"trial {trial_id} measured no labelled split ({trial.reason})")


def write_trial_page(pool: Pool, trial: Trial, found: Diagnosis, split: str, layout: Layout) -> Path:
    """Writes report/<trial id>/ with the page and its figures; returns the page's path."""
    folder = layout.report / trial.trial_id
    only = pool.where(lambda other: other.trial_id == trial.trial_id)
    board = make_leaderboard(only)
    grid = make_curve_grid(only, board, None, None, None)
    curves = [drawing for kind in ("acc", "loss") for drawing in draw_curves(grid, board, kind)]
    inside = draw_insight(read_insight(layout.trial(trial.trial_id), split), trial.classes, split)
    drawn = [draw_confusion(found, split), draw_reliability(found, split), *inside, *curves]
    drawings = [readable(drawing) for drawing in drawn]
    save_drawings(drawings, folder / "figures")
    tables = trial_tables(trial, found, split)
    save_tables(tables, folder / "tables")
    page = render(
        title=f"Trial {trial.trial_id}",
        progress=trial.reason,
        summary=trial_summary(trial, found, split),
        drawings=drawings,
        tables=tables,
        trials=[trial],
        root=os.path.relpath(layout.root, folder),
    )
    write_atomic(folder / "index.html", lambda stream: stream.write(page.encode()))
    return folder / "index.html"


def trial_summary(trial: Trial, found: Diagnosis, split: str) -> list[str]:
    """What it reached, and what it mixes up, in words."""
    reached = [
        f"{name} {100 * acc:.2f} %" for name in ("train", "val", "test") if (acc := trial.metric(f"{name}_acc")) is not None
    ]
    lines = [f"{trial.config['arch']}, seed {trial.seed}: {', '.join(reached)} at epoch {trial.best_epoch}."]
    lines.append(
        f"It trained {count_text(trial.params_trained)} of {count_text(trial.params_total)} parameters"
        f" ({trial.frozen_blocks} of {trial.total_blocks} blocks frozen) in {duration_text(trial.train_s)} on {trial.hardware}."
    )
    if found.confusions:
        mixed = "; ".join(f"{a} taken for {b} ({n})" for a, b, n in found.confusions[:3])
        lines.append(f"Its most frequent confusions on the {split} images: {mixed}.")
    return lines


def trial_tables(trial: Trial, found: Diagnosis, split: str) -> list[PageTable]:
    """Per class, the most frequent confusions, the most confident errors, the config."""
    totals = found.confusion.sum(1)
    per_class: Sequence[Sequence[str]] = [
        (name, f"{100 * acc:.1f}", str(totals[found.classes.index(name)])) for name, acc in found.class_accuracy.items()
    ]
    where = "place in the test split" if split == "test" else "place in the official training split"
    errors = [(str(place), true, taken, f"{100 * sure:.1f}") for place, true, taken, sure in found.confident_errors]
    return [
        PageTable("classes", f"Per class ({split})", ("class", "accuracy %", "images"), per_class),
        PageTable(
            "confusions",
            "Most frequent confusions",
            ("true", "taken for", "images"),
            [(a, b, str(n)) for a, b, n in found.confusions],
        ),
        PageTable("errors", "Most confident errors", (where, "true", "taken for", "confidence %"), errors),
        PageTable("config", "Config", ("key", "value"), [(key, value_text(value, key)) for key, value in trial.config.items()]),
    ]
