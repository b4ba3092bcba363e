"""The page of one trial: its curves, confusions, classes and calibration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cifar_hpc.collect.curves import make_curve_grid
from cifar_hpc.collect.diagnosis import Diagnosis, diagnose
from cifar_hpc.collect.insight import read_insight
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.predictions import ContradictionError, read_predictions
from cifar_hpc.collect.rounds import read_rounds
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import Trial, short_paths, value_text, with_short_paths
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.store import write_text
from cifar_hpc.records.ties import files_of
from cifar_hpc.report.figures import readable, save_drawings
from cifar_hpc.report.figures_curves import draw_curves
from cifar_hpc.report.figures_insight import draw_insight
from cifar_hpc.report.figures_trial import draw_confusion, draw_reliability
from cifar_hpc.report.page import Part, render_page
from cifar_hpc.report.page_tables import PageTable, save_tables
from cifar_hpc.report.places import trial_folder
from cifar_hpc.report.tables import count_text
from cifar_hpc.report.words import axis_words, how_trained
from cifar_hpc.status.words import duration_text, score_text

SPLITS = {"train": "training", "val": "validation", "test": "test"}


def diagnose_trial(pool: Pool, trial_id: str, layout: Layout) -> tuple[Trial, Diagnosis, str]:
    """The trial, what it gets wrong, and on which split: test where it was measured and its predictions are there, else val; of
    a fold, all images of its round, each by the fold's network that did not train on it.

    Raises CifarHpcError where the trial has no result, RecordError where its predictions are corrupt or are of no split.
    """
    trial = next((trial for trial in pool.trials if trial.trial_id == trial_id), None)
    if trial is None:
        raise CifarHpcError(f"trial {trial_id} has no result yet: `cifar-hpc logs {trial_id}` tells what became of it")
    round_ = [other for other in pool.trials if trial.fold and (other.point_id, other.round) == (trial.point_id, trial.round)]
    if round_ and len(round_) == trial.config["dataset.folds"] and all(other.told("val") for other in round_):
        return trial, diagnose(read_rounds(round_, layout), trial.classes), "val"
    files, unread = files_of(layout, trial), None
    for split in ("test", "val"):
        if (told := trial.told(split)) is None:
            continue
        try:
            predictions = read_predictions(files, split, told, trial.classes)
        except ContradictionError:
            raise
        except RecordError as error:
            unread = unread or error
            continue
        if predictions is not None:
            why = str(unread).removeprefix(f"{files.folder}/") if unread else ""
            return trial, replace(diagnose(predictions, trial.classes), unread=why), split
    if unread is not None:
        raise unread
    raise CifarHpcError(f"trial {trial_id} measured no labelled split ({trial.reason})")


def write_trial_page(pool: Pool, trial: Trial, found: Diagnosis, split: str, layout: Layout) -> Path:
    """Writes report/<trial id>/ with the page and its figures; returns the page's path."""
    folder = trial_folder(layout, trial)
    only = pool.where(lambda other: other.trial_id == trial.trial_id)
    board = make_leaderboard(only)
    grid = make_curve_grid(only, board, None, None, None)
    curves = [drawing for kind in ("acc", "loss") for drawing in draw_curves(grid, board, kind)] if trial.epochs > 1 else []
    sure = _has_confidence(trial)
    inside = draw_insight(read_insight(files_of(layout, trial), split), trial.classes, split, trial.fold, sure=sure)
    where = images_words(trial, found, split)
    drawn = [draw_confusion(found, where), *([draw_reliability(found, where)] if sure else []), *inside, *curves]
    drawings = [readable(drawing) for drawing in drawn]
    save_drawings(drawings, folder / "figures")
    tables = trial_tables(trial, found, split)
    save_tables(tables, folder / "tables")
    ended = trial.reason[:1].upper() + trial.reason[1:]
    part = Part(
        str(trial.config["dataset"]),
        trial_summary(trial, found, split, seen=trial.trial_id in pool.seen),
        drawings,
        tables,
        [trial],
        ended,
    )
    page = render_page([part], [], title=trial_title(trial), links=_links(trial, layout, folder))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def images_words(trial: Trial, found: Diagnosis, split: str) -> str:
    """'test', 'validation', or 'validation, all 5 folds together': which images it was diagnosed on."""
    together = split == "val" and trial.fold is not None and int(found.totals.sum()) != trial.val_n
    return f"{SPLITS[split]}, all {trial.config['dataset.folds']} folds together" if together else SPLITS[split]


def trial_title(trial: Trial) -> str:
    """'resnet18 on cifar10, freeze 0.5, flip_crop, lr 0.01, seed 0': what the trial was."""
    keys = ("weights", "freeze", "train", "lora", "classifier", "augment", "lr")
    usual = {"train": (None, "all"), "classifier": (None, "linear"), "weights": ()}
    config = with_short_paths(trial.config, short_paths([trial.config.get("weights")]))
    parts = [axis_words(key, config.get(key)) for key in keys if config.get(key) not in usual.get(key, (None,))]
    return f"{config['arch']} on {config['dataset']}, {', '.join(parts)}, {trial.run}"


def trial_summary(trial: Trial, found: Diagnosis, split: str, *, seen: bool = False) -> list[str]:
    """What it reached, and what it mixes up, in words. seen: whether its validation images may have trained what it starts
    from."""
    counts = {"train": trial.train_n, "val": trial.val_n, "test": trial.test_n}
    reached = [
        f"{SPLITS[name]} {score_text(acc, n)} %{f' of {n:,} images' if n else ''}"
        f"{how_trained(trial.config) if name == 'train' else ''}"
        for name, n in counts.items()
        if (acc := trial.metric(f"{name}_acc")) is not None
    ]
    wanted = trial.config.get("epochs")
    asked = f" (it was to have {wanted})" if isinstance(wanted, int) and trial.epochs < wanted else ""
    at = f"Best epoch {trial.best_epoch} of {trial.epochs}{asked}: " if trial.best_epoch and wanted else ""  # solved: none
    lines = [f"{at}{', '.join(reached)}."]
    if seen:
        lines.append("What it starts from may have trained on these validation images, which flatters it on them.")
    flops = f", {count_text(trial.flops // 2)} MACs an image" if trial.flops else ""
    trained = f"{count_text(trial.params_trained)} of {count_text(trial.params_total)} parameters ({what_stayed(trial)}{flops})"
    if missed := trial.missed_unfreezing:
        trained = f"no more than it had unfrozen: it ended before epoch {missed}, which was to unfreeze others,"
    part = f", its part of the time of {n} trials side by side," if (n := trial.trunk_shared_by) > 1 else ""
    lines.append(f"It trained {trained} in {duration_text(trial.train_s)}{part} on {trial.hardware}.")
    if found.unread:
        lines.append(f"What follows is of validation, not of test: {found.unread}.")
    if found.confusions:
        of = f"{images_words(trial, found, split)}, {int(found.totals.sum()):,} images"
        lines.append(f"Most often taken for another ({of}): {most_confused(found.confusions)}.")
    if untold := int(found.untold.sum()):
        lines.append(f"Of {plural(untold, 'image')} a logit is no number (NaN): none of these is right, or taken for a class.")
    return lines


def most_confused(confusions: Sequence[tuple[str, str, int]]) -> str:
    """The two most frequent and those as frequent; where that makes more than four, the two and that there are others."""
    tied = [each for each in confusions[2:] if each[2] == confusions[1][2]]
    named = [f"{a} for {b} ({n})" for a, b, n in (*confusions[:2], *(tied if len(tied) <= 2 else ()))]
    words = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"{words}; others as often" if len(tied) > 2 else words


def what_stayed(trial: Trial) -> str:
    train, first, of = trial.config.get("train") or "all", trial.frozen_blocks, trial.total_blocks
    words = {"bias": "biases and the classifier", "norm": "normalisation layers and the classifier"}
    but = "low-rank matrices and the classifier" if trial.config.get("lora") else words.get(train, train.replace("+", ", "))
    if but == "all":
        return f"{first} of {of} blocks frozen"
    if first and (train in words or trial.config.get("lora")):
        return f"the first {first} of {of} blocks frozen, of the others all but {but}"
    return f"of {of} blocks all but {but} frozen"


def _has_confidence(trial: Trial) -> bool:
    """Whether what it answers is a confidence that could be right as often as it says; margins are none."""
    return CLASSIFIERS[str(trial.config.get("classifier") or "linear")].probabilistic


def trial_tables(trial: Trial, found: Diagnosis, split: str) -> list[PageTable]:
    """Per class, the most frequent confusions, the most confident errors, the config."""
    per_class: Sequence[Sequence[str]] = [
        (name, str(s.images), *(score_text(value, s.images) or "-" for value in (s.precision, s.recall, s.f1)))
        for name, s in found.scores.items()
    ]
    place = "place in the test split" if split == "test" else "place in what validation is drawn from"
    where = images_words(trial, found, split)
    config = {**trial.config, "seed": trial.seed, **({} if trial.fold is None else {"dataset.fold": trial.fold})}
    errors = [(str(at), true, taken, f"{100 * sure:.1f}") for at, true, taken, sure in found.confident_errors]
    told = (place, "true", "taken for", "confidence %")[: 4 if _has_confidence(trial) else 3]
    return [
        PageTable(
            "classes",
            f"Per class ({where})",
            ("class", "images", "precision %", "recall %", "F1 %"),
            per_class,
            "Recall is the class' accuracy; precision: how many of the images taken for it are of it.",
        ),
        PageTable(
            "confusions",
            f"Most frequent confusions ({where})",
            ("true", "taken for", "images"),
            [(a, b, str(n)) for a, b, n in found.confusions],
        ),
        PageTable("errors", f"Most confident errors ({where})", told, [error[: len(told)] for error in errors]),
        PageTable("config", "Config", ("key", "value"), [(key, value_text(value, key)) for key, value in config.items()]),
    ]


def _links(trial: Trial, layout: Layout, folder: Path) -> list[tuple[str, str]]:
    """The pages of the sweeps that have the trial, and its files."""
    pages = []
    for sweep in layout.sweeps():
        page = sweep.report / "index.html"
        with contextlib.suppress(RecordError, OSError):
            if page.exists() and any(planned.trial_id == trial.trial_id for planned in read_plan(layout, sweep.name).trials):
                pages.append((os.path.relpath(page, folder), f"sweep {sweep.name}"))
    return [*pages, (os.path.relpath(layout.trial(trial.trial_id).folder, folder) + "/", f"files of trial {trial.trial_id}")]
