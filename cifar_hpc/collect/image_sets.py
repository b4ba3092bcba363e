"""Which trials were measured on the same validation images: only these are ranked together.

The images are those of one data set (of a folder: its fingerprint, wherever it lies) and one split. Knows configs, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import DATASET, FINGERPRINT, Axis, Trial, Unfinished, value_text

ImageSet = tuple[tuple[Axis, Any], ...]


def image_set(config: Mapping[Axis, Any]) -> ImageSet:
    """What decides which images are in the validation split; equal for configs that share it."""
    parts = {key: value for key, value in config.items() if key.startswith(DATASET) and value is not None}
    if FINGERPRINT in parts:
        del parts[DATASET]  # a folder's name, which is its own only here
    return tuple(sorted(parts.items(), key=lambda part: part[0]))


def split_by_images(pool: Pool) -> list[tuple[str, Pool]]:
    """The pool by image sets, each by the name of its data set and what tells it from the others, that of most trials first;
    the whole pool where there is one set or none."""
    everyone: tuple[Trial | Unfinished, ...] = (*pool.trials, *pool.unfinished)
    configs: dict[ImageSet, Mapping[Axis, Any]] = {}
    counts: dict[ImageSet, int] = {}
    by_config: dict[int, ImageSet] = {}
    for trial in everyone:
        key = by_config.setdefault(id(trial.config), image_set(trial.config))
        configs.setdefault(key, trial.config)
        counts[key] = counts.get(key, 0) + 1
    if len(configs) < 2:
        return [(str(next(iter(configs.values()))[DATASET]) if configs else "", pool)]
    names = _names(list(configs.values()))
    order = sorted(zip(configs, names, strict=True), key=lambda item: (-counts[item[0]], item[1]))
    return [(name, pool.where(lambda trial, key=key: by_config[id(trial.config)] == key)) for key, name in order]  # type: ignore[misc]


def _names(configs: Sequence[Mapping[Axis, Any]]) -> list[str]:
    """'cifar10, train_size 500': the data set and what differs among its splits; folders of one name by their fingerprints."""
    names = []
    for config in configs:
        alike = [other for other in configs if other[DATASET] == config[DATASET]]
        keys = dict.fromkeys(key for other in alike for key in other if key.startswith(f"{DATASET}.") and key != FINGERPRINT)
        held_out = {f"{DATASET}.val_frac"} if config.get(f"{DATASET}.folds") else set()  # in folds it plays no part
        differ = [key for key in keys if len({other.get(key) for other in alike}) > 1 and key not in held_out]
        names.append(", ".join([str(config[DATASET]), *_parts(config, differ)]))
    return [
        f"{name} ({_short(config.get(FINGERPRINT))})" if names.count(name) > 1 else name
        for name, config in zip(names, configs, strict=True)
    ]


def _short(fingerprint: str | None) -> str:
    """Older records of one's own data sets have none."""
    return "its images not recorded" if fingerprint is None else fingerprint[:6]


def _parts(config: Mapping[Axis, Any], keys: Sequence[Axis]) -> list[str]:
    return [f"{key.removeprefix(f'{DATASET}.')} {value_text(config[key])}" for key in keys if config.get(key) is not None]
