"""`cifar-hpc fetch`: brings the data and weights that a spec needs, or one data set, to this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cifar_hpc.config import catalog
from cifar_hpc.config.trial import DatasetConfig, TrialConfig
from cifar_hpc.errors import CifarHpcError, nearest
from cifar_hpc.planning.lineage import parent_of

TORCHVISION = "torchvision/"
FETCHED = tuple(name for name in catalog.DATASETS if name != "folder")  # a folder of images is the user's own


def fetch(
    target: Annotated[str, typer.Argument(metavar="SPEC|DATASET", help=f"a spec, {', '.join(FETCHED)} or torchvision/NAME")],
) -> None:
    """Bring data and weights to this machine; what is there stays. Run it where there is a network."""
    if target in FETCHED:
        from cifar_hpc.data.fetch import fetch_dataset
        from cifar_hpc.data.files import data_root

        fetch_dataset(target, data_root(), _say)
    elif target.startswith(TORCHVISION):
        _fetch_torchvision(target)
    elif Path(target).is_file():
        from cifar_hpc.spec.load import load_spec

        for name in sorted(set(re.findall(rf"{TORCHVISION}[A-Za-z0-9]+", Path(target).read_text(errors="replace")))):
            _fetch_torchvision(name)  # first: what it holds is a part of the spec's trials
        fetch_for(list(load_spec(Path(target)).configs))
    else:
        near = nearest(target, FETCHED)
        hint = f" Did you mean {near!r}?" if near else ""
        raise CifarHpcError(f"fetch: {target!r} is neither a spec file nor a data set ({', '.join(FETCHED)}).{hint}")


def _fetch_torchvision(name: str) -> None:
    from cifar_hpc.data.brought import fetch_torchvision
    from cifar_hpc.data.files import data_root

    folder = fetch_torchvision(name, data_root(), _say)
    _say(f"{name}: a folder of images now, {folder}")


def fetch_for(configs: list[TrialConfig]) -> None:
    """Bring what the trials need, each thing once; everything is tried before the problems are told together."""
    from cifar_hpc.data.fetch import fetch_dataset
    from cifar_hpc.data.files import data_root, why_missing
    from cifar_hpc.models.weights import fetch_weights

    root = data_root()
    problems: list[str] = []
    datasets: dict[DatasetConfig, None] = dict.fromkeys(config.dataset for config in configs)
    wanted = {dataset.name: reason for dataset in datasets if (reason := why_missing(dataset, root))}
    for name in dict.fromkeys(dataset.name for dataset in datasets):
        if name not in wanted:
            _say(f"{name}: there")
            continue
        try:
            fetch_dataset(name, root, _say)
        except CifarHpcError as error:
            problems.append(wanted[name] if name == "folder" else str(error))
    public = [config for config in configs if config.weights is not None and parent_of(config) is None]
    for arch, weights in dict.fromkeys((config.arch, config.weights) for config in public):
        try:
            fetch_weights(arch, weights, _say)
        except CifarHpcError as error:
            problems.append(str(error))
    if problems:
        raise CifarHpcError("\n".join(problems))


def _say(line: str) -> None:
    typer.echo(line, err=True)
