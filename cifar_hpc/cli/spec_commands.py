"""`cifar-hpc schema` and `cifar-hpc init NAME`: what a person needs to write a spec. Knows nothing of trials and results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, to_csv

_NEW_SPEC = """\
# yaml-language-server: $schema=./{schema}
# The question that this sweep answers.
#
# Cost: the trials times the minutes of one (`cifar-hpc sweep {file} --dry-run` counts them).
# Expect: what you think the answer is, before you look.
name: {name}
dataset: {{name: cifar10, train_size: 5000}}   # or cifar100, mnist, fashion_mnist, digits, {{folder: PATH}}
base:                                        # the same in every trial
  epochs: 5
  batch_size: 128
grid:                                        # every combination
  arch: [linear, simple_cnn]
  augment: [none, flip_crop]
  lr: [1e-2, 1e-1]
seeds: 1                                     # 3 or more before a difference means anything
objective: {{metric: val_acc, mode: max}}
# stop: {{patience: 3}}                        # epochs without improvement
# exclude: [{{arch: linear, augment: flip_crop}}]
# when: [{{if: {{arch: linear}}, set: {{weight_decay: 0}}}}]
# resources: {{gpus: 1, cpus_per_gpu: 4, memory_gb: 16, minutes: 30}}
"""
_SCHEMA_FILE = "spec.schema.json"


def schema(
    format: Annotated[
        Format, typer.Option(help="json: the JSON Schema; else every key with its default and meaning")
    ] = Format.JSON,
) -> None:
    """Print the JSON Schema of a sweep spec, from which an editor completes and checks one; or, as a table, all its keys."""
    if format is Format.JSON:
        typer.echo(_schema_text())
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


def init(name: Annotated[str, typer.Argument(help="Name of the sweep, or the path of the new file.")]) -> None:
    """Write a commented spec that runs as it stands, and beside it the schema for editors. Nothing is overwritten."""
    given = Path(name)
    path = given if given.suffix in (".yaml", ".yml") else given.with_name(f"{given.name}.yaml")
    if given.parent == Path() and given.suffix == "" and Path("sweeps").is_dir():
        path = Path("sweeps") / path
    from cifar_hpc.spec.values import wrong_name

    if problem := wrong_name(path.stem):
        raise CifarHpcError(f"init: {problem}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(_NEW_SPEC.format(name=path.stem, file=path, schema=_SCHEMA_FILE))
        (path.parent / _SCHEMA_FILE).write_text(_schema_text() + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise CifarHpcError(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise CifarHpcError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(path)


def _schema_text() -> str:
    from cifar_hpc.spec.schema import json_schema  # here: pydantic takes 0.1 s that `--help` need not pay

    return json.dumps(json_schema(), indent=2, ensure_ascii=False)
