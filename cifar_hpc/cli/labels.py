"""`cifar-hpc labels SWEEP [FILTER]`: labels in doubt and near-duplicates, over predictions. Computes nothing itself."""

from __future__ import annotations

from typing import Annotated

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.ties import read_valid
from cifar_hpc.status.names import parse_words
from cifar_hpc.terminal.tables import Format, print_columns, print_records


def labels(
    words: Annotated[
        list[str],
        typer.Argument(metavar="SWEEP [FILTER...]", help="whose networks judge; with `folds` all labelled images are judged"),
    ],
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Images on which unlike networks agree against the label, and near-duplicates between splits or folds, with the accuracy
    without them.

    Writes a contact sheet and tables beside the sweep's report; of a folder of images the one to correct names them all.
    """
    from cifar_hpc.collect.doubts import find_doubts
    from cifar_hpc.collect.rounds import on_same_images, point_predictions
    from cifar_hpc.collect.sections import chosen_sections, one_section
    from cifar_hpc.data.duplicates import near_duplicates
    from cifar_hpc.data.labelled import labelled_images
    from cifar_hpc.report.labels import doubt_columns, doubt_line, doubt_records, doubt_titles, duplicate_lines, write_labels
    from cifar_hpc.report.places import report_folder

    layout = Layout(results_root())
    asked = parse_words(words)
    if asked.number is not None:
        raise CifarHpcError(f"labels are judged by several configurations: a sweep and a filter, not row #{asked.number}")
    board = one_section(chosen_sections(layout, asked.names, asked.terms), "labels").board
    found = find_doubts(board, layout) if board.measured else None
    if found is None:
        said = " ".join(words)
        raise CifarHpcError(f"{said}: labels are judged by two configurations or more with predictions of the same images")
    images = labelled_images(read_valid(layout.trial(found.trial.trial_id), found.trial.trial_id)[1])
    rounds = on_same_images(point_predictions(found.first, layout, "val"))
    pairs = near_duplicates(images.splits, [one.fold for one in rounds if one.fold is not None])
    folder = report_folder(layout, asked.names, asked.terms) / "labels"
    sheet, corrected_n = write_labels(folder, found, pairs, images)
    if corrected_n:
        stay = "row stays" if corrected_n == 1 else "rows stay"
        say(f"{folder / 'labels.csv'}: {corrected_n} {stay} as you corrected them; delete it to begin again")
    if format in (Format.JSON, Format.CSV):
        print_records(doubt_records(found, images), format, doubt_titles(images))
        return
    typer.echo(doubt_line(found))
    if columns := doubt_columns(found):
        print_columns(columns, format)
    for line in duplicate_lines(found.first, pairs, layout):
        typer.echo(line)
    if sheet is not None:
        table = images.table  # None: of a set that takes no table of labels
        what = "the place of each" if table is None else f"correct the column `{table.label}`"
        typer.echo(f"{sheet}: look at them; {folder / 'labels.csv'}: {what}", err=True)
