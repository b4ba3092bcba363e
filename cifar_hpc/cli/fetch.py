"""`cifar-hpc fetch`: brings the data and weights that a spec needs, or one data set, to this machine."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.config import catalog
from cifar_hpc.errors import CifarHpcError, SpecError, did_you_mean, nearest
from cifar_hpc.records.layout import Layout, results_root

TORCHVISION = "torchvision/"
FETCHED = tuple(name for name in catalog.DATASETS if name != "folder")  # a folder of images is the user's own


def fetch(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SPEC|SWEEP|DATASET", help=f"a spec or a sweep's name, {', '.join(FETCHED)} or torchvision/NAME"
        ),
    ],
) -> None:
    """Bring data and weights to this machine; what is there stays. Run it where there is a network."""
    if target in FETCHED:
        from cifar_hpc.data.fetch import fetch_dataset
        from cifar_hpc.data.files import data_root

        fetch_dataset(target, data_root(), say)
    elif target.startswith(TORCHVISION):
        _fetch_torchvision(target)
    else:
        from cifar_hpc.sweep.specs import find_spec

        try:
            spec = find_spec(Layout(results_root()), target, say)
        except SpecError as error:
            near = nearest(target, FETCHED) or error.problems[0].nearest
            raise CifarHpcError(
                f"fetch: {target!r} is neither a spec file, a sweep nor a data set ({', '.join(FETCHED)}).{did_you_mean(near)}"
            ) from None
        if spec.path.is_file():
            for name in sorted(set(re.findall(rf"{TORCHVISION}[A-Za-z0-9]+", spec.path.read_text(errors="replace")))):
                _fetch_torchvision(name)  # first: what it holds is a part of the spec's trials
        from cifar_hpc.sweep.inputs import fetch_inputs

        fetch_inputs(spec.load().configs, say)


def _fetch_torchvision(name: str) -> None:
    from cifar_hpc.data.brought import fetch_torchvision
    from cifar_hpc.data.files import data_root

    folder = fetch_torchvision(name, data_root(), say)
    say(f"{name}: a folder of images now, {folder}")
