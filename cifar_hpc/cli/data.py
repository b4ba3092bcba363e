"""`cifar-hpc data`: what is in the images of a spec or a folder, before anything is trained. Computes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.cli.speech import SetOption, say
from cifar_hpc.config.image_folder import folder_fingerprint, list_folder, printable
from cifar_hpc.config.trial import DatasetConfig, TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, to_csv, to_json

if TYPE_CHECKING:
    from cifar_hpc.config.image_folder import ImageFolder

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Report:
    """counts: class -> images in each of SPLITS; about: sizes and modes; notes, problems: sentences."""

    title: str
    counts: dict[str, tuple[int, int, int]]
    about: dict[str, Any]
    notes: list[str]
    problems: list[str]


def data(
    what: Annotated[
        str, typer.Argument(metavar="SPEC|SWEEP|FOLDER", help="a sweep's YAML file or its name, or a folder of images")
    ],
    format: Annotated[Format, typer.Option(help="the form")] = Format.TABLE,
    set_: SetOption = None,
) -> None:
    """Look into every image of SPEC or FOLDER: classes by splits, sizes, duplicates, and what is left out. Exit status 2 where
    something has to be mended before a trial can start."""
    reports = _of_folder(Path(what)) if Path(what).is_dir() else _of_spec(what, set_ or ())
    if format is Format.JSON:
        typer.echo(to_json([_record(report) for report in reports]), nl=False)
    elif format is Format.CSV:
        rows = [(report.title, name, *counts) for report in reports for name, counts in report.counts.items()]
        typer.echo(to_csv([dict(zip(("data", "class", *SPLITS), row, strict=True)) for row in rows]), nl=False)
    else:
        for report in reports:
            _print(report, format)
    if any(report.problems for report in reports):
        raise typer.Exit(2)


def _of_folder(folder: Path) -> list[_Report]:
    listing = list_folder(folder.absolute())
    plain = DatasetConfig(name="folder", folder=str(listing.root), fingerprint=folder_fingerprint(listing))
    return [_folder_report(listing, [TrialConfig(dataset=plain, arch="linear")])]


def _of_spec(spec: str, overrides: Sequence[str]) -> list[_Report]:
    from cifar_hpc.sweep.specs import load_named

    configs = load_named(Layout(results_root()), spec, overrides, say).configs
    reports = []
    for dataset in dict.fromkeys(config.dataset for config in configs):
        theirs = [config for config in configs if config.dataset == dataset]
        if dataset.name == "folder":
            from cifar_hpc.data.files import planned_folder

            reports.append(_folder_report(planned_folder(dataset), theirs))
        else:
            reports.append(_official_report(dataset, theirs[0].image_size or 0))
    return reports


def _folder_report(listing: ImageFolder, configs: Sequence[TrialConfig]) -> _Report:
    from cifar_hpc.data.check import check_folder, notes_of, problems_of
    from cifar_hpc.data.files import data_root

    dataset = configs[0].dataset
    problems = listing.problems(dataset.classes, dataset.val_frac, dataset.train_size)
    notes = listing.notes(dataset.classes, dataset.val_frac)
    about: dict[str, Any] = {}
    if listing.classes:
        check = check_folder(listing, str(dataset.fingerprint), data_root())
        problems += problems_of(check)
        notes += notes_of(check, listing, configs)
        about = {"shorter side, pixels": list(check.sides), "pixels": check.modes}
    about["left out"] = [f"{entry.name}: {entry.reason}" for entry in listing.left_out]
    return _Report(printable(str(listing.root)), _folder_counts(listing, dataset, bool(problems)), about, notes, problems)


def _folder_counts(listing: ImageFolder, dataset: DatasetConfig, broken: bool) -> dict[str, tuple[int, int, int]]:
    """As a trial sees them; where none can, as they lie in the folder."""
    import numpy as np

    from cifar_hpc.data.splits import divide

    names = [name for name in listing.classes if dataset.classes is None or name in dataset.classes]
    lying = {split: [len(listing.splits.get(split, {}).get(name, ())) for name in names] for split in SPLITS}
    if not broken:
        labels_N = np.repeat(np.arange(len(names)), lying["train"])
        stay, held = divide(labels_N, dataset, own_val="val" in listing.splits)
        lying["train"] = np.bincount(labels_N[stay], minlength=len(names)).tolist()
        if "val" not in listing.splits:
            lying["val"] = np.bincount(labels_N[held], minlength=len(names)).tolist()
        elif dataset.val_frac == 0:
            lying["train"] = [a + b for a, b in zip(lying["train"], lying["val"], strict=True)]
            lying["val"] = [0] * len(names)
    rows = zip(*(lying[split] for split in SPLITS), strict=True)
    return {printable(name): (int(a), int(b), int(c)) for name, (a, b, c) in zip(names, rows, strict=True)}


def _official_report(dataset: DatasetConfig, image_size: int) -> _Report:
    from cifar_hpc.data.dataset import load_dataset
    from cifar_hpc.data.files import data_root, why_missing

    missing = why_missing(dataset, data_root())
    if missing:
        raise CifarHpcError(missing)
    found = load_dataset(dataset, image_size, data_root())
    splits = [found.train, found.val, *([found.test] if found.test else [])]
    counts = [split.labels_N.bincount(minlength=len(found.classes)).tolist() for split in splits]
    counts += [[0] * len(found.classes)] * (3 - len(counts))
    side = found.train.images_NCHW.shape[-1]
    rows = {name: (row[0], row[1], row[2]) for name, row in zip(found.classes, zip(*counts, strict=True), strict=True)}
    return _Report(dataset.name, rows, {"shorter side, pixels": [side] * 3}, [], [])


def _record(report: _Report) -> dict[str, Any]:
    classes = [{"class": name, **dict(zip(SPLITS, counts, strict=True))} for name, counts in report.counts.items()]
    return {"data": report.title, "classes": classes, **report.about, "notes": report.notes, "problems": report.problems}


def _print(report: _Report, format: Format) -> None:
    typer.echo(report.title)
    totals = tuple(sum(counts[i] for counts in report.counts.values()) for i in range(3))
    rows = [*report.counts.items(), ("all", totals)]
    columns = [TextColumn("class", tuple(name for name, _ in rows))]
    columns += [TextColumn(split, tuple(f"{counts[i]:,}" for _, counts in rows), right=True) for i, split in enumerate(SPLITS)]
    print_columns(columns, format)
    if sides := report.about.get("shorter side, pixels"):
        typer.echo(
            "shorter side: "
            + (f"{sides[0]} pixels" if sides[0] == sides[2] else f"{sides[0]} to {sides[2]} pixels, median {sides[1]}")
        )
    if modes := report.about.get("pixels"):
        typer.echo("pixels: " + ", ".join(f"{n:,} {mode}" for mode, n in modes.items()))
    left_out = report.about.get("left out", [])
    if left_out:
        typer.echo("\n".join([f"left out ({len(left_out)}):", *(f"  {line}" for line in left_out)]))
    kept = [note for note in report.notes if not note.startswith("left out")]
    typer.echo("\n".join([*(f"note: {note}" for note in kept), *(f"to mend: {problem}" for problem in report.problems)]))
