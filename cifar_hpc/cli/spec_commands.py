"""`cifar-hpc schema` and `cifar-hpc init NAME`: what a person needs to write a spec. Knows nothing of trials and results."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, to_csv


def schema(
    format: Annotated[
        Format, typer.Option(help="json: the JSON Schema; else every key with its default and meaning")
    ] = Format.JSON,
) -> None:
    """Print the JSON Schema of a sweep spec, from which an editor completes and checks one; or, as a table, all its keys."""
    if format is Format.JSON:
        from cifar_hpc.spec.schema import schema_text

        typer.echo(schema_text())
        if sys.stdout.isatty():
            typer.echo("To read rather than for an editor: cifar-hpc schema --format table", err=True)
        return
    from cifar_hpc.spec.schema import describe_keys

    rows = describe_keys()
    if format is Format.CSV:
        typer.echo(to_csv(rows), nl=False)
        return
    said = [row["meaning"] if not row["allowed"] else f"{row['meaning']} [{row['allowed']}]" for row in rows]
    columns = [
        TextColumn("key", tuple(row["key"] for row in rows)),
        TextColumn("default", tuple(row["default"] for row in rows), keep=7),
        TextColumn("meaning [allowed]", tuple(said), prose=True),
    ]
    print_columns(columns, format)


def init(
    name: Annotated[str, typer.Argument(help="Name of the sweep, a folder of images, or the path of the new file.")],
) -> None:
    """Write a commented spec that runs as it stands, and beside it the schema for editors: of a folder of images one for these.
    Nothing is overwritten."""
    from cifar_hpc.spec.begin import write_new_spec

    path = write_new_spec(name)
    typer.echo(path)
    say(f"next: cifar-hpc fetch {shlex.quote(str(path))}")
