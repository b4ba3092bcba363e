"""`cifar-hpc arch --plan SPEC`: which blocks of a network train in which epoch, and at what learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.config.architecture import known_architecture
from cifar_hpc.config.keys import Role
from cifar_hpc.config.schedule import block_rates
from cifar_hpc.config.trial import TrialConfig, keys_with
from cifar_hpc.errors import CifarHpcError, nearest
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, print_records

SHOWN_PLANS = 6
SHOWN_EPOCHS = 8
_PARTS = ("bias", "norm")  # of `train`: not all of a block
_DECIDING = keys_with(Role.RATES)


def print_plans(spec: str, arch: str | None, format: Format) -> None:
    """A table of blocks and epochs for each plan that the spec's trials follow, of one architecture where it is named.

    Raises SpecError, and CifarHpcError where nothing in the spec trains in blocks.
    """
    from cifar_hpc.sweep.specs import load_named

    configs = [trial.config for trial in load_named(Layout(results_root()), spec, (), say).trials]
    known = [c for c in configs if c.trains and known_architecture(c.network) and arch in (None, c.arch)]
    plans = list({tuple(_facts(config).values()): config for config in reversed(known)}.values())[::-1]
    if not plans:
        archs = dict.fromkeys(config.arch for config in configs)
        near = nearest(arch, archs) if arch else None
        hint = f" Did you mean {near!r}?" if near else ""
        asked = f" with arch {arch!r}" if arch else ""
        raise CifarHpcError(
            f"{spec}: no trial{asked} trains a network whose blocks are known; it has {', '.join(archs)}.{hint}"
        )
    if format in (Format.JSON, Format.CSV):
        records = [record for config in plans for record in _records(config)]
        print_records(records, format)
        return
    for config in plans[:SHOWN_PLANS]:
        facts = {key: value for key, value in _facts(config).items() if value is not None and (key, value) != ("train", "all")}
        typer.echo(" ".join(f"{key}={value}" for key, value in facts.items()))
        print_columns(_columns(config), format)
        typer.echo()
    typer.echo("Learning rates in the middle of an epoch; - : not trained, batch statistics included.", err=True)
    if any(config.train in _PARTS for config in plans[:SHOWN_PLANS]):
        typer.echo(
            "train: bias trains biases alone and keeps batch statistics, norm the normalisation layers; of the last "
            "block all trains.",
            err=True,
        )
    if len(plans) > SHOWN_PLANS:
        typer.echo(f"... and {len(plans) - SHOWN_PLANS} more plans: NAME for those of one, --format csv for all.", err=True)


def _facts(config: TrialConfig) -> Mapping[str, Any]:
    from cifar_hpc.spec.sections import spell

    return {"arch": config.arch, **{key: spell(getattr(config, key)) for key in _DECIDING}}


def _names(config: TrialConfig) -> tuple[str, ...]:
    info = known_architecture(config.network)
    return info.blocks if info else ()


def _rates(config: TrialConfig, epoch: int) -> tuple[float | None, ...]:
    """As block_rates has them; a block without parameters has none."""
    info = known_architecture(config.network)
    assert info is not None  # print_plans has left the others out
    rates = block_rates(config, info.blocks, epoch)
    return tuple(rate if share else None for rate, share in zip(rates, info.param_shares, strict=True))


def _columns(config: TrialConfig) -> list[TextColumn]:
    names = _names(config)
    columns = [TextColumn("#", tuple(str(i) for i in range(1, len(names) + 1)), right=True), TextColumn("block", names)]
    unit = " x lr" if config.lr == "auto" else ""
    for epoch in _shown(config):
        cells = tuple("-" if rate is None else f"{rate:.2g}{unit}" for rate in _rates(config, epoch))
        columns.append(TextColumn(f"epoch {epoch}", cells, right=True))
    return columns


def _shown(config: TrialConfig) -> list[int]:
    """Where something begins or ends, and epochs evenly spread between."""
    last, unfreeze = config.epochs, config.unfreeze_epoch or 0
    marks = {1, unfreeze, unfreeze + 1, *(start for start, _ in config.unfreeze or ()), last}
    steps = SHOWN_EPOCHS - len(marks)
    spread = {round(1 + (last - 1) * i / max(1, steps)) for i in range(steps)}
    return sorted(epoch for epoch in marks | spread if 1 <= epoch <= last)


def _records(config: TrialConfig) -> list[dict[str, Any]]:
    names = _names(config)
    return [
        {**_facts(config), "epoch": epoch, "number": number, "block": name, "rate": rate}
        for epoch in range(1, config.epochs + 1)
        for number, (name, rate) in enumerate(zip(names, _rates(config, epoch), strict=True), 1)
    ]
