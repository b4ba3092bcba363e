"""Labels in doubt and near-duplicates as sentences, tables to correct and a contact sheet. Finds none of them itself.

It is handed the images, and reads none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_hpc.collect.doubts import Doubt, Doubts
from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.collect.rounds import on_same_images, point_predictions
from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.image_table import ImageTable, columns_of, file_column
from cifar_hpc.config.words import plural
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_text
from cifar_hpc.report.corrections import write_corrected
from cifar_hpc.report.figures_doubts import MOST, draw_doubts
from cifar_hpc.report.figures_look import save_picture
from cifar_hpc.status.words import score_text
from cifar_hpc.terminal.harmless import to_csv_text
from cifar_hpc.terminal.tables import TextColumn, to_csv

if TYPE_CHECKING:
    from cifar_hpc.data.duplicates import Pair
    from cifar_hpc.data.labelled import LabelledImages

_SHOWN_COUNTS = 12
_SAID = ("suggested", "confidence", "networks")  # of an image in doubt
_PAIR = ("split", "image", "label", "other_split", "other_image", "other_label", "difference")


def doubt_line(found: Doubts) -> str:
    """'3 labels in doubt of 400 val images, 100 test images, by 4 configurations.'; and which split that is, of several."""
    looked = ", ".join(plural(n, f"{name} image") for name, n in found.images.items())
    said = f"{plural(len(found.found), 'label')} in doubt of {looked}, by {plural(len(found.networks), 'configuration')}."
    drawn = found.trial.config.get("dataset.split_seed") == BY_SEED and found.trial.config.get("dataset.train_size")
    if found.trial.own_split and (found.trial.fold is None or drawn):
        return f"{said} Each seed has a split of its own: the validation images are those of seed {found.trial.seed}."
    return said


def doubt_columns(found: Doubts) -> list[TextColumn]:
    """How often which label is doubted for which, the most frequent first; empty where none is."""
    every = list(found.counts().items())
    if not every:
        return []
    counts, rest = every[:_SHOWN_COUNTS], every[_SHOWN_COUNTS:]
    counts += [(("others", ""), sum(n for _, n in rest))] if rest else []
    return [
        TextColumn("label", tuple(pair[0] for pair, _ in counts)),
        TextColumn("networks say", tuple(pair[1] for pair, _ in counts)),
        TextColumn("images", tuple(str(n) for _, n in counts), right=True),
    ]


def doubt_records(found: Doubts, images: LabelledImages) -> list[dict[str, Any]]:
    """A row for each image in doubt, the clearest first, by `doubt_titles`."""

    def cells(one: Doubt) -> tuple[Any, ...]:
        in_folder = images.table is not None
        return (
            images.name(one.split, one.row) if in_folder else one.row if one.index is None else one.index,
            found.classes[one.label],
            images.split_in_folder(one.split, one.row) if in_folder else one.split,
            found.classes[one.suggested],
            round(one.confidence, 4),
            f"{one.agree} of {len(found.networks)}",
        )

    return [dict(zip(doubt_titles(images), cells(one), strict=True)) for one in found.found]


def doubt_titles(images: LabelledImages) -> tuple[str, ...]:
    """What is told of an image in doubt: its file, or its place in the official split."""
    return ("image" if images.table is None else "file", "label", "split", *_SAID)


def write_labels(folder: Path, found: Doubts, pairs: Sequence[Pair], images: LabelledImages) -> tuple[Path | None, int]:
    """labels.png, the clearest on one sheet, which is returned where any is in doubt; labels.csv, to correct, and how many rows
    of it stay as a reader corrected them; duplicates.csv. Raises OSError, and CifarHpcError where there is a labels.csv that is
    no table, before anything is written."""
    sheet = folder / "labels.png"
    shown = found.found[:MOST]
    pixels = [images.pixels(one.split, one.row) for one in shown]
    words = [(found.classes[one.label], found.classes[one.suggested]) for one in shown]
    folder.mkdir(parents=True, exist_ok=True)
    records, corrected_n, table = doubt_records(found, images), 0, images.table
    if table is None:
        write_text(folder / "labels.csv", to_csv(records, doubt_titles(images)))
    else:
        rows = _table_to_correct(records, table)
        name = table.header[file_column(columns_of(table.header))]
        corrected_n = write_corrected(folder / "labels.csv", rows, name, rows[0][-len(_SAID) :])
    write_text(folder / "duplicates.csv", to_csv_text([_PAIR, *_pair_rows(pairs, images, found.classes)]))
    sheet.unlink(missing_ok=True)  # of labels that were in doubt before
    if shown:
        save_picture(draw_doubts(pixels, words, len(found.found) - len(shown)), sheet)
    return sheet if shown else None, corrected_n


def _table_to_correct(records: Sequence[Mapping[str, Any]], table: ImageTable) -> list[list[Any]]:
    """The folder's table as `dataset.labels` takes it, whole, those in doubt first, with what the networks say of them. Columns
    of an earlier table to correct are written again; where the user's own have such a name, they stay and ours get another."""
    columns = columns_of(table.header)
    ours = [f"{title} of labels" if f"{title} of labels" in columns else title for title in _SAID]
    again = set(ours) <= set(columns)
    kept = [at for at, name in enumerate(columns) if not (again and name in ours)]
    titles = ours if again else [title if title not in columns else f"{title} of labels" for title in _SAID]
    said = {record["file"]: [record[key] for key in _SAID] for record in records}
    order = {name: place for place, name in enumerate(said)}
    rows = sorted(zip(table.files, table.rows, strict=True), key=lambda row: order.get(row[0], len(order)))
    return [
        [*(table.header[at] for at in kept), *titles],
        *([*(cells[at] for at in kept), *said.get(name, [""] * len(_SAID))] for name, cells in rows),
    ]


def _pair_rows(pairs: Sequence[Pair], images: LabelledImages, classes: Sequence[str]) -> list[tuple[Any, ...]]:
    def side(split: str, row: int) -> tuple[Any, ...]:
        return split, images.name(split, row) or images.index(split, row), classes[images.label(split, row)]

    return [
        (*side(pair.split, pair.row), *side(pair.other_split, pair.other_row), round(pair.difference, 4))
        for pair in sorted(pairs, key=lambda pair: (pair.split, pair.difference))
    ]


def duplicate_lines(best: Row, pairs: Sequence[Pair], layout: Layout) -> list[str]:
    """A sentence for each measured split: its near-duplicates, and what the best configuration reaches without them."""
    lines = []
    for split, words in (("val", "validation"), ("test", "test")):
        rows = [pair.row for pair in pairs if pair.split == split]
        rounds = on_same_images(point_predictions(best, layout, split))
        if not rows:
            continue
        what = "image has a near-duplicate" if len(rows) == 1 else "images have near-duplicates"
        where = (
            "another fold" if any(pair.other_split == split for pair in pairs if pair.split == split) else "an earlier split"
        )
        lines.append(f"{len(rows)} {words} {what} in {where}{_without(best, rounds, rows)}.")
    between = "splits" if best.config.get("dataset.folds") is None else "folds"
    return lines or [f"No near-duplicates between {between}."]


def _without(best: Row, rounds: Sequence[SplitPredictions], rows: Sequence[int]) -> str:
    """What the best configuration reaches with and without these images; nothing where its predictions are not there."""
    if not rounds:
        return ""
    right_N = np.mean([one.right for one in rounds], axis=0)
    rest = np.setdiff1d(np.arange(len(right_N)), rows)
    now = score_text(float(right_N.mean()), len(right_N))
    without = "and no image is without one"
    if len(rest):
        without = f"without them {score_text(float(right_N[rest].mean()), len(rest))} %"
    return f": {best.label} has an accuracy of {now} %, {without}"
