"""`cifar-hpc data`: what is in the images of a spec or a folder, before anything is trained. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import SetOption, say
from cifar_hpc.config.image_folder import left_out_lines
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, to_csv, to_json

if TYPE_CHECKING:
    from cifar_hpc.data.overview import Overview


def data(
    what: Annotated[
        str, typer.Argument(metavar="SPEC|SWEEP|FOLDER", help="a sweep's YAML file or its name, or a folder of images")
    ],
    format: Annotated[Format, typer.Option(help="the form")] = Format.TABLE,
    set_: SetOption = None,
) -> None:
    """Look into every image of SPEC or FOLDER: classes by splits, sizes, duplicates, and what is left out. Exit status 2 where
    something has to be mended before a trial can start."""
    from cifar_hpc.data.overview import SPLITS, overview_of_folder, overviews_of
    from cifar_hpc.sweep.specs import load_named

    if Path(what).is_dir():
        reports = [overview_of_folder(Path(what))]
    else:
        reports = overviews_of(load_named(Layout(results_root()), what, set_ or (), say).configs)
    if format is Format.JSON:
        typer.echo(to_json([report.record() for report in reports]), nl=False)
    elif format is Format.CSV:
        rows = [(report.title, name, *counts) for report in reports for name, counts in report.counts.items()]
        typer.echo(to_csv([dict(zip(("data", "class", *SPLITS), row, strict=True)) for row in rows]), nl=False)
    else:
        for report in reports:
            _print(report, format)
    if any(report.problems for report in reports):
        raise typer.Exit(2)


def _print(report: Overview, format: Format) -> None:
    from cifar_hpc.data.overview import SPLITS

    typer.echo(report.title)
    totals = tuple(sum(counts[i] for counts in report.counts.values()) for i in range(3))
    rows = [*report.counts.items(), ("all", totals)]
    columns = [TextColumn("class", tuple(name for name, _ in rows))]
    columns += [TextColumn(split, tuple(f"{counts[i]:,}" for _, counts in rows), right=True) for i, split in enumerate(SPLITS)]
    print_columns(columns, format)
    modes = report.about.get("pixels", {})
    files_n = sum(modes.values())
    of = f" of the folder's {files_n:,} images" if files_n > sum(totals) else ""  # a trial takes a part of them
    if sides := report.about.get("shorter side, pixels"):
        typer.echo(
            f"shorter side{of}: "
            + (f"{sides[0]} pixels" if sides[0] == sides[2] else f"{sides[0]} to {sides[2]} pixels, median {sides[1]}")
        )
    if modes:
        typer.echo(f"pixels{of}: " + ", ".join(f"{n:,} {mode}" for mode, n in modes.items()))
    if report.left_out:
        typer.echo("\n".join([f"left out ({len(report.left_out)}):", *(f"  {x}" for x in left_out_lines(report.left_out))]))
    kept = [note for note in report.notes if not note.startswith("left out")]
    typer.echo("\n".join([*(f"note: {note}" for note in kept), *(f"to mend: {problem}" for problem in report.problems)]))
