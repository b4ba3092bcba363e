"""`cifar-hpc arch --plan SPEC`: which blocks of a network train in which epoch, and at what learning rate."""

from __future__ import annotations

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.config.schedule import STEPS
from cifar_hpc.config.trained import LORA, part_of
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError, did_you_mean, nearest
from cifar_hpc.planning.block_rates import blocks_of, facts_of, plans_of, rates_at, rates_records, telling_epochs
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, print_records

SHOWN_PLANS = 6
_PARTS = {  # what of a block trains where not all of it does
    "bias": "train: bias trains biases alone and keeps batch statistics",
    "norm": "train: norm trains the normalisation layers alone",
    LORA: "lora trains its matrices alone and keeps batch statistics",
}


def print_plans(spec: str, arch: str | None, format: Format) -> None:
    """A table of blocks and epochs for each plan that the spec's trials follow, of one architecture where it is named.

    Raises SpecError, and CifarHpcError where nothing in the spec trains in blocks.
    """
    from cifar_hpc.sweep.specs import load_named

    configs = [trial.config for trial in load_named(Layout(results_root()), spec, (), say).trials]
    plans = plans_of(configs, arch)
    if not plans:
        archs = dict.fromkeys(config.arch for config in configs)
        near = nearest(arch, archs) if arch else None
        asked = f" with arch {arch!r}" if arch else ""
        raise CifarHpcError(
            f"{spec}: no trial{asked} trains a network whose blocks are known; it has {', '.join(archs)}.{did_you_mean(near)}"
        )
    if format in (Format.JSON, Format.CSV):
        records = [record for config in plans for record in rates_records(config)]
        print_records(records, format)
        return
    for config in plans[:SHOWN_PLANS]:
        facts = {
            key: value for key, value in facts_of(config).items() if value is not None and (key, value) != ("train", "all")
        }
        typer.echo(" ".join(f"{key}={value}" for key, value in facts.items()))
        print_columns(_columns(config), format)
        typer.echo()
    typer.echo(
        f"Learning rates in the middle of an epoch of {STEPS:,} steps; - : not trained, batch statistics included.", err=True
    )
    parts = {part_of(config) for config in plans[:SHOWN_PLANS]}
    if told := "; ".join(sentence for part, sentence in _PARTS.items() if part in parts):
        typer.echo(f"{told}; of the last block all trains.", err=True)
    if len(plans) > SHOWN_PLANS:
        typer.echo(f"... and {len(plans) - SHOWN_PLANS} more plans: NAME for those of one, --format csv for all.", err=True)


def _columns(config: TrialConfig) -> list[TextColumn]:
    names = blocks_of(config)
    columns = [TextColumn("#", tuple(str(i) for i in range(1, len(names) + 1)), right=True), TextColumn("block", names)]
    unit = " x lr" if config.lr == "auto" else ""
    for epoch in telling_epochs(config):
        cells = tuple("-" if rate is None else f"{rate:.2g}{unit}" for rate in rates_at(config, epoch))
        columns.append(TextColumn(f"epoch {epoch}", cells, right=True))
    return columns
