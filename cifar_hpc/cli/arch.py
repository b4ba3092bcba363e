"""`cifar-hpc arch`: all architectures, or the blocks of one with parameters, MACs and output shape; what a spec's networks
promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.config import catalog
from cifar_hpc.config.architecture import architecture
from cifar_hpc.config.own import OwnNetwork
from cifar_hpc.config.sources import find_source, is_own
from cifar_hpc.errors import CifarHpcError, did_you_mean, nearest
from cifar_hpc.terminal.tables import Format, TextColumn, print_rows

if TYPE_CHECKING:
    from cifar_hpc.models.summary import BlockSummary

USUAL_SIDE = 224
MACS = "A MAC is one multiplication with its addition, of a forward pass of one image: what papers and torchvision call a FLOP."


def arch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="such as resnet18, or one's own: FILE.py:NAME; none: lists all")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="pixels of a side; default: 224, of timm's models their own, of FILE.py:NAME 32")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(metavar="SPEC|SWEEP", help="which blocks train in which epoch of a spec, and at what learning rate"),
    ] = None,
    rank: Annotated[
        str | None, typer.Option(metavar="SPEC|SWEEP", help="order a spec's pretrained networks by what their features promise")
    ] = None,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Show what `freeze` counts and names: the blocks of a network, with parameters, MACs and output shape of each."""
    if rank is not None and (name, image_size, plan) != (None, None, None):
        raise CifarHpcError(
            "arch: --rank is of all networks of a spec as they are there: without NAME, --image-size and --plan"
        )
    if image_size is not None and (name is None or plan is not None):
        raise CifarHpcError("arch: --image-size is of the blocks of one network: `cifar-hpc arch NAME --image-size N`")
    if plan is not None:
        from cifar_hpc.cli.arch_plan import print_plans

        print_plans(plan, name, format)
        return
    if rank is not None:
        from cifar_hpc.cli.arch_rank import print_ranks

        print_ranks(rank, format)
        return
    if name is None:
        _list_all(format)
        return
    if is_own(name):
        _show_own(name, image_size or 32, format)
        return
    info = architecture(name)
    if info is None:
        near = nearest(name, catalog.ARCHS)
        raise CifarHpcError(
            f"arch: {name!r}; one of {len(catalog.ARCHS)} architectures is needed (`cifar-hpc arch` lists them)."
            f"{did_you_mean(near)}"
        )
    from cifar_hpc.models.summary import summarize
    from cifar_hpc.models.timm_nets import is_timm, pretrained
    from cifar_hpc.models.zoo import IMAGENET_CLASSES, build_shapes, check_side

    side = image_size or (pretrained(name).side if is_timm(name) else USUAL_SIDE)
    check_side(name, side)
    rows = summarize(build_shapes(name, IMAGENET_CLASSES, side), side, 3)
    _print(format, rows)
    if format is Format.TABLE:
        _explain(name, side, IMAGENET_CLASSES)


def _show_own(name: str, side: int, format: Format) -> None:
    """A network of the user's own, built for three channels and ten classes with the defaults of its further arguments."""
    from cifar_hpc.models.facts import OWN_CLASSES
    from cifar_hpc.models.own_nets import cut_own, make_own
    from cifar_hpc.models.summary import summarize

    network = OwnNetwork(find_source("arch", name, Path.cwd()), (), side, 3)
    _print(format, summarize(cut_own(network, make_own(network, OWN_CLASSES, 3)), side, 3))
    if format is Format.TABLE:
        _explain(str(network), side, OWN_CLASSES)


def _explain(name: str, side: int, classes: int) -> None:
    typer.echo(f"{name} for 3x{side}x{side} images and {classes} classes. freeze: n freezes the blocks 1 to n.", err=True)
    typer.echo(MACS, err=True)


def _list_all(format: Format) -> None:
    known = {name: info for name in catalog.ARCHS if (info := catalog.architecture(name))}
    records = [
        {
            "arch": name,
            "params": info.params,
            "macs": info.flops // 2,
            "blocks": len(info.blocks),
            "min_side": info.min_side,
            "weights": list(info.weights),
        }
        for name, info in known.items()
    ]
    columns = [
        TextColumn("arch", tuple(known)),
        TextColumn("M parameters", tuple(f"{info.params / 1e6:,.1f}" for info in known.values()), right=True),
        TextColumn("GMACs", tuple(f"{info.flops / 2e9:,.2f}" for info in known.values()), right=True),
        TextColumn("blocks", tuple(str(len(info.blocks)) for info in known.values()), right=True),
        TextColumn("from pixels", tuple(str(info.min_side) for info in known.values()), right=True),
        TextColumn("weights", tuple("imagenet" if info.weights else "" for info in known.values())),
    ]
    print_rows(records, columns, format)
    if format is Format.TABLE:
        typer.echo("Counted for 1000 classes and 3x224x224 images. The blocks of one: `cifar-hpc arch NAME`.", err=True)
        typer.echo(MACS, err=True)


def _print(format: Format, rows: Sequence[BlockSummary]) -> None:
    records = [
        {"block": i, "name": row.name, "params": row.params, "macs": row.flops // 2, "output_shape": list(row.output_shape)}
        for i, row in enumerate(rows, 1)
    ]
    params, flops = sum(row.params for row in rows), sum(row.flops for row in rows)
    columns = [
        TextColumn("#", (*(str(i) for i in range(1, len(rows) + 1)), ""), right=True),
        TextColumn("block", (*(row.name for row in rows), "all")),
        TextColumn("parameters", tuple(f"{n:,}" for n in (*(row.params for row in rows), params)), right=True),
        TextColumn("MMACs", tuple(f"{n / 2e6:,.1f}" for n in (*(row.flops for row in rows), flops)), right=True),
        TextColumn("output", (*("x".join(map(str, row.output_shape)) for row in rows), "")),
    ]
    print_rows(records, columns, format)
