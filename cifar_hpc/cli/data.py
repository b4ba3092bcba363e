"""`cifar-hpc data`: what is in the images of a spec or a folder, before anything is trained. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import SetOption, say
from cifar_hpc.config.image_folder import left_out_lines
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.terminal.harmless import to_csv_text
from cifar_hpc.terminal.tables import Format, TextColumn, heading, print_columns, to_json

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
        typer.echo(to_csv_text([("data", "class", *SPLITS), *rows]), nl=False)
    else:
        for report in reports:
            typer.echo(heading(report.title, format))
            print_columns(_columns(report), format)
            for line in _about(report) if format is Format.TABLE else ():
                typer.echo(line)
    if format in (Format.CSV, Format.MD, Format.LATEX):  # in JSON it has keys
        for line in (f"{report.title}: {line}" for report in reports for line in _about(report)):
            typer.echo(line, err=True)
    if any(report.problems for report in reports):
        raise typer.Exit(2)


def _columns(report: Overview) -> list[TextColumn]:
    from cifar_hpc.data.overview import SPLITS

    rows = [*report.counts.items(), ("all", report.totals)]
    columns = [TextColumn("class", tuple(name for name, _ in rows))]
    return columns + [
        TextColumn(split, tuple(f"{counts[i]:,}" for _, counts in rows), right=True) for i, split in enumerate(SPLITS)
    ]


def _about(report: Overview) -> list[str]:
    """What the counts do not tell, line by line."""
    lines = []
    modes = report.about.get("pixels", {})
    files_n = sum(modes.values())
    of = f" of the folder's {files_n:,} images" if files_n > sum(report.totals) else ""  # a trial takes a part of them
    if sides := report.about.get("shorter side, pixels"):
        side = f"{sides[0]} pixels" if sides[0] == sides[2] else f"{sides[0]} to {sides[2]} pixels, median {sides[1]}"
        lines.append(f"shorter side{of}: {side}")
    if modes:
        lines.append(f"pixels{of}: " + ", ".join(f"{n:,} {mode}" for mode, n in modes.items()))
    if report.left_out:
        lines += [f"left out ({len(report.left_out)}):", *(f"  {line}" for line in left_out_lines(report.left_out))]
    lines += [f"note: {note}" for note in report.notes if not note.startswith("left out")]
    return lines + [f"to mend: {problem}" for problem in report.problems]
