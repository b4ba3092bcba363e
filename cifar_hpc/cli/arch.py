"""`cifar-hpc arch NAME`: the blocks of a network with parameters, FLOPs and output shape. Computes and draws nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc import catalog
from cifar_hpc.errors import CifarHpcError, nearest

if TYPE_CHECKING:
    from cifar_hpc.models.summary import BlockSummary


class Format(StrEnum):
    """How the blocks are printed on stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


def arch(
    name: Annotated[str, typer.Argument(help="architecture, such as resnet18")],
    image_size: Annotated[int | None, typer.Option(min=1, help="pixels of a side; default: 224, for our own nets 32")] = None,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Show what `freeze` counts and names: the blocks of a network, with parameters, FLOPs and output shape of each."""
    info = catalog.architecture(name)
    if info is None:
        near = nearest(name, catalog.ARCHS)
        hint = f". Did you mean {near!r}?" if near else ""
        raise CifarHpcError(f"arch: {name!r} is unknown; allowed: {', '.join(catalog.ARCHS)}{hint}")
    from cifar_hpc.models.summary import summarize
    from cifar_hpc.models.zoo import IMAGENET_CLASSES, build_shapes, check_side

    side = image_size or (224 if info.weights else 32)
    classes = IMAGENET_CLASSES if info.weights else 10
    check_side(name, side)
    rows = summarize(build_shapes(name, classes, side), side, 3)
    typer.echo(_as_text(format, rows), nl=False)
    if format is Format.TABLE:
        typer.echo(f"{name} for 3x{side}x{side} images and {classes} classes. freeze: n freezes the blocks 1 to n.", err=True)


def _as_text(format: Format, rows: Sequence[BlockSummary]) -> str:
    from cifar_hpc.report import tables

    if format in (Format.JSON, Format.CSV):
        records = [
            {"block": i, "name": row.name, "params": row.params, "flops": row.flops, "output_shape": list(row.output_shape)}
            for i, row in enumerate(rows, 1)
        ]
        return tables.to_json(records) if format is Format.JSON else tables.to_csv(records)
    titles = ("#", "block", "parameters", "MFLOPs", "output")
    cells = [
        (str(i), row.name, f"{row.params:,}", f"{row.flops / 1e6:,.1f}", "x".join(map(str, row.output_shape)))
        for i, row in enumerate(rows, 1)
    ]
    cells.append(("", "all", f"{sum(row.params for row in rows):,}", f"{sum(row.flops for row in rows) / 1e6:,.1f}", ""))
    if format is Format.MD:
        lines = [titles, ("---:", "---", "---:", "---:", "---"), *cells]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
    widths = [max(len(line[i]) for line in (titles, *cells)) for i in range(len(titles))]
    left = (1, 4)
    aligned = [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (titles, *cells)
    ]
    return "".join(f"{line.rstrip()}\n" for line in aligned)
