"""`cifar-hpc arch --rank SPEC`: which of a spec's pretrained networks are promising, before any is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.config.features import features_id, images_id, told_apart
from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.status.words import score_text
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, print_records

if TYPE_CHECKING:
    from cifar_hpc.train.transferability import Promise


def print_ranks(spec: str, format: Format) -> None:
    """A row for each network with all that its features depend on, the most promising first, each set of images by itself.
    Raises SpecError, and CifarHpcError where none has weights or before the first one, where images or weights are missing."""
    from cifar_hpc.sweep.preflight import check_there
    from cifar_hpc.sweep.specs import load_named

    layout = Layout(results_root())
    trials = load_named(layout, spec, (), say).trials
    configs = list({features_id(trial.config): trial.config for trial in trials}.values())
    ranked = [config for config in configs if config.weights and not config.weights.startswith(PARENT_PREFIX)]
    if not ranked:
        raise CifarHpcError(f"{spec}: no trial starts from published weights or a file, and no other network is judged")
    for note in check_there(layout, ranked):
        say(f"warning: {note}")
    records = _measured(ranked)
    if format in (Format.JSON, Format.CSV):
        print_records(records, format)
        return
    keys = told_apart(ranked)[0]
    images = dict.fromkeys(record["images"] for record in records)
    columns = [
        TextColumn("#", tuple(str(number) for number in range(1, len(records) + 1)), right=True),
        *(TextColumn(key, _names([str(record[key]) for record in records])) for key in keys),
        TextColumn("ridge %", tuple(score_text(record["ridge_acc"], record["images"]) for record in records), right=True),
        TextColumn("95 %", tuple(_interval(record) for record in records), keep=6),
        TextColumn("against the first", tuple(record["standing"] for record in records), keep=5),
        TextColumn("LogME", tuple(f"{record['logme']:.3f}" for record in records), right=True),
        TextColumn("MMACs", tuple(f"{record['macs'] / 1e6:,.1f}" for record in records), keep=5, right=True),
        TextColumn("pass s", tuple(f"{record['seconds']:.1f}" for record in records), keep=4, right=True),
    ]
    print_columns(columns, format)
    left = sum(config.start is None for config in configs if config not in ranked)  # a probe is of weights that are ranked
    without = f" {plural(left, 'network')} without such weights {'is' if left == 1 else 'are'} not among them." if left else ""
    apart = " Each set of images has a first of its own." if len(set(map(images_id, ranked))) > 1 else ""
    typer.echo(
        f"Ridge on the features before the classifier, {' or '.join(map(str, images))} labelled images in cross-validation; no"
        f" network was trained, and none is ruled out: tuning may turn the order.{apart}{without}",
        err=True,
    )


def _measured(configs: list[TrialConfig]) -> list[dict[str, Any]]:
    from cifar_hpc.collect.statistics import stand_below, wilson_interval
    from cifar_hpc.train.transferability import promise_of

    found = []
    for config, keys in zip(configs, told_apart(configs), strict=True):
        words = {key: as_text(value) for key, value in keys.items()}
        typer.echo(f"{' '.join(map(str, words.values()))} ...", err=True)
        found.append((config, words, promise_of(config)))
    places = list(dict.fromkeys(map(images_id, configs)))
    found.sort(key=lambda one: (places.index(images_id(one[0])), -one[2].acc, -one[2].logme))
    firsts: dict[str, Promise] = {}
    records = []
    for config, words, promise in found:
        first = firsts.setdefault(images_id(config), promise)
        p_value, standing = (None, "") if promise is first else stand_below(first.right_N, promise.right_N)
        low, high = wilson_interval(promise.acc, promise.images)
        records.append(
            {
                "arch": config.arch,
                "weights": str(config.weights),
                "image_size": config.image_size,
                **words,
                "ridge_acc": promise.acc,
                "low": low,
                "high": high,
                "p_value": p_value,
                "standing": standing,
                "logme": promise.logme,
                "images": promise.images,
                "features": promise.features,
                "params": promise.params,
                "macs": promise.macs,
                "seconds": round(promise.seconds, 2),
            }
        )
    return records


def _interval(record: dict[str, Any]) -> str:
    return f"{100 * record['low']:.1f} to {100 * record['high']:.1f}"


def _names(values: Sequence[str]) -> tuple[str, ...]:
    """Files and folders by their names, where these tell them apart."""
    names = tuple(Path(one).name or one for one in values)
    return names if len(set(names)) == len(set(values)) else tuple(values)
