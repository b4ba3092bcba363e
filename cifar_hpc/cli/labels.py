"""`cifar-hpc labels SWEEP`: labels in doubt and near-duplicates, over a sweep's predictions. Computes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.store import read_record, write_atomic
from cifar_hpc.status.words import plural, score_text
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, print_records, to_csv

if TYPE_CHECKING:
    from cifar_hpc.collect.doubts import Doubts
    from cifar_hpc.collect.leaderboard import Row
    from cifar_hpc.data.dataset import Dataset, Split
    from cifar_hpc.data.duplicates import Pair


@dataclass(frozen=True)
class _Images:
    """The images that the predictions are of, as splits; names: of their files, by split and row, if any."""

    data: Dataset
    splits: Mapping[str, Split]
    names: Mapping[str, Sequence[str]]

    def name(self, split: str, row: int) -> str:
        names = self.names.get(split)
        return names[row] if names else ""


def labels(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="a sweep's name; with `folds` all labelled images are judged")],
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Images on which unlike networks agree against the label, and near-duplicates between splits, with the accuracy without
    them.

    Writes a contact sheet and tables to correct beside the sweep's report.
    """
    from cifar_hpc.collect.doubts import find_doubts
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.collect.sections import make_sections
    from cifar_hpc.data.duplicates import near_duplicates
    from cifar_hpc.report.places import report_folder

    layout = Layout(results_root())
    board = make_sections(scan(layout, [sweep]).without_earlier_stages(), layout)[0].board
    found = find_doubts(board, layout) if board.measured else None
    if found is None:
        raise CifarHpcError(f"{sweep}: labels are judged by two configurations or more with predictions of the same images")
    best = board.measured[0]
    images = _images_of(layout, best)
    pairs = near_duplicates(images.splits)
    folder = report_folder(layout, (sweep,), "") / "labels"
    _write(folder, found, pairs, images)
    if format in (Format.JSON, Format.CSV):
        print_records(_doubt_records(found, images), format)
        return
    _print(found, pairs, best, layout, format)
    typer.echo(f"{folder / 'labels.png'}: look at them; {folder / 'labels.csv'}: correct the column `label`", err=True)


def _images_of(layout: Layout, best: Row) -> _Images:
    """Of the best configuration's first trial; of folds all labelled images stand as `val`, as their predictions do."""
    from cifar_hpc.data.dataset import load_dataset_of, whole_of
    from cifar_hpc.data.files import data_root
    from cifar_hpc.records.schema import TrialResult

    config = TrialConfig.from_json(read_record(layout.trial(best.trials[0].trial_id).result, TrialResult).config)
    in_folds = config.dataset.fold is not None
    data = load_dataset_of(whole_of(config) if in_folds else config, data_root())
    splits = {"val": data.train} if in_folds else {"train": data.train, "val": data.val}
    if in_folds:  # predictions stand in the order of the images
        splits = {"val": data.train.view(data.train.index_N.argsort())}
    if data.test is not None:
        splits["test"] = data.test
    return _Images(data, splits, _file_names(config, splits))


def _file_names(config: TrialConfig, splits: Mapping[str, Split]) -> dict[str, list[str]]:
    """Of a folder's images, relative to it."""
    if config.dataset.name != "folder":
        return {}
    from cifar_hpc.data.folder import labelled_files

    files = labelled_files(config.dataset)
    joined = config.dataset.fold is not None or config.dataset.val_frac == 0
    known = {
        "train": files["train"],
        "val": [*files["train"], *files["val"]] if joined else files["val"] or files["train"],
        "test": files["test"],
    }
    return {name: [known[name][int(at)] for at in split.index_N] for name, split in splits.items()}


def _write(folder: Path, found: Doubts, pairs: Sequence[Pair], images: _Images) -> None:
    from cifar_hpc.report.figures_doubts import MOST, draw_doubts
    from cifar_hpc.report.figures_look import save_picture

    shown = found.found[:MOST]
    pixels = [images.splits[one.split].pixels(one.row) for one in shown]
    words = [(found.classes[one.label], found.classes[one.suggested]) for one in shown]
    folder.mkdir(parents=True, exist_ok=True)
    if shown:
        save_picture(draw_doubts(pixels, words, len(found.found) - len(shown)), folder / "labels.png")
    tables = {"labels.csv": _table_to_correct(found, images), "duplicates.csv": _pair_records(pairs, images, found.classes)}
    for name, records in tables.items():
        text = to_csv(records)
        write_atomic(folder / name, lambda stream, text=text: stream.write(text.encode()))  # type: ignore[misc]


def _table_to_correct(found: Doubts, images: _Images) -> list[dict[str, Any]]:
    """Of a folder every image, as `dataset.labels` takes it, those in doubt first; else those in doubt."""
    records = _doubt_records(found, images)
    if not images.names:
        return records
    known = {(one.split, one.row) for one in found.found}
    empty = {"suggested": "", "confidence": "", "networks": ""}
    for split, part in images.splits.items():
        for row, label in enumerate(part.labels_N.tolist()):
            if (split, row) not in known:
                word = "train" if split == "val" else split
                records.append({"file": images.name(split, row), "label": found.classes[label], "split": word, **empty})
    return records


def _doubt_records(found: Doubts, images: _Images) -> list[dict[str, Any]]:
    in_folder = bool(images.names)
    return [
        {
            **(
                {"file": images.name(one.split, one.row)}
                if in_folder
                else {"image": one.row if one.index is None else one.index}
            ),
            "label": found.classes[one.label],
            "split": one.split if one.split == "test" or not in_folder else "train",
            "suggested": found.classes[one.suggested],
            "confidence": round(one.confidence, 4),
            "networks": f"{one.agree} of {len(found.networks)}",
        }
        for one in found.found
    ]


def _pair_records(pairs: Sequence[Pair], images: _Images, classes: Sequence[str]) -> list[dict[str, Any]]:
    def side(split: str, row: int) -> dict[str, Any]:
        part = images.splits[split]
        return {"image": images.name(split, row) or int(part.index_N[row]), "label": classes[int(part.labels_N[row])]}

    return [
        {"split": p.split, **side(p.split, p.row), "other_split": p.other_split}
        | {f"other_{key}": value for key, value in side(p.other_split, p.other_row).items()}
        | {"difference": round(p.difference, 4)}
        for p in sorted(pairs, key=lambda pair: (pair.split, pair.difference))
    ]


def _print(found: Doubts, pairs: Sequence[Pair], best: Row, layout: Layout, format: Format) -> None:
    looked = ", ".join(f"{n:,} {name} images" for name, n in found.images.items())
    typer.echo(f"{plural(len(found.found), 'label')} in doubt of {looked}, by {plural(len(found.networks), 'configuration')}.")
    counts = list(found.counts().items())[:12]
    if counts:
        columns = [
            TextColumn("label", tuple(pair[0] for pair, _ in counts)),
            TextColumn("networks say", tuple(pair[1] for pair, _ in counts)),
            TextColumn("images", tuple(str(n) for _, n in counts), right=True),
        ]
        print_columns(columns, format)
    for line in accuracy_without(best, pairs, layout):
        typer.echo(line)


def accuracy_without(best: Row, pairs: Sequence[Pair], layout: Layout) -> list[str]:
    """A sentence for each measured split: its near-duplicates, and what the best configuration reaches without them."""
    import numpy as np

    from cifar_hpc.collect.comparison import point_predictions

    lines = []
    for split, words in (("val", "validation"), ("test", "test")):
        rows = [pair.row for pair in pairs if pair.split == split]
        rounds = list(point_predictions(best, layout, split).values())
        if not rows or not rounds:
            continue
        right_N = np.mean([one.right for one in rounds], axis=0)
        rest = np.setdiff1d(np.arange(len(right_N)), rows)
        now, without = score_text(float(right_N.mean()), len(right_N)), score_text(float(right_N[rest].mean()), len(rest))
        what = "image has a near-duplicate" if len(rows) == 1 else "images have near-duplicates"
        lines.append(f"{len(rows)} {words} {what} in an earlier split: the best reaches {now} %, without them {without} %.")
    return lines or ["No near-duplicates between splits."]
