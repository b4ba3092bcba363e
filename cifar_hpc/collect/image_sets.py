"""Which trials were measured on the same validation images: only these are ranked together.

Owns: a pool's parts and their names. What decides it, config/dataset.py knows. Knows configs, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import DATASET, FINGERPRINT, Axis, Trial, Unfinished, value_text
from cifar_hpc.config.dataset import measured_on
from cifar_hpc.config.identity import canonical
from cifar_hpc.config.roles import ARGUMENTS


def image_set(config: Mapping[Axis, Any], own_val: int | None, split: str = "val") -> str:
    """What decides which images are in the split, val or test; equal for configs that share it. own_val: as in Trial."""
    return canonical(_parts(config, own_val, split))


def split_by_images(pool: Pool) -> list[tuple[str, Pool]]:
    """The pool by image sets, each by the name of its data set and what tells it from the others, that of most trials first;
    the whole pool where there is one set or none."""
    everyone: tuple[Trial | Unfinished, ...] = (*pool.trials, *pool.unfinished)
    # Older records of a data set do not say that it brings validation images.
    own_val = {data_of(trial.config): trial.own_val for trial in everyone if trial.own_val is not None}
    configs: dict[str, Mapping[Axis, Any]] = {}
    arguments: dict[str, dict[str, Any]] = {}  # those that all trials of a set have
    counts: dict[str, int] = {}
    by_config: dict[int, str] = {}
    for trial in everyone:
        if id(trial.config) not in by_config:
            by_config[id(trial.config)] = key = image_set(trial.config, own_val.get(data_of(trial.config)))
            called = _arguments_of(trial.config)
            arguments[key] = {name: v for name, v in arguments.get(key, called).items() if name in called and called[name] == v}
        key = by_config[id(trial.config)]
        configs.setdefault(key, trial.config)
        counts[key] = counts.get(key, 0) + 1
    if len(configs) < 2:
        return [(str(next(iter(configs.values()))[DATASET]) if configs else "", pool)]
    told = [{**_parts(c, own_val.get(data_of(c))), **_kept_by(c), **arguments[key]} for key, c in configs.items()]
    names = _names(list(zip(configs.values(), told, strict=True)))
    order = sorted(zip(configs, names, strict=True), key=lambda item: (-counts[item[0]], item[1]))
    return [(name, pool.where(lambda trial, key=key: by_config[id(trial.config)] == key)) for key, name in order]  # type: ignore[misc]


def data_of(config: Mapping[Axis, Any]) -> tuple[Any, Any]:
    """Equal for configs of one data set, whatever they take of it."""
    fingerprint = config.get(FINGERPRINT)
    return fingerprint, None if fingerprint else config.get(DATASET)  # a folder's name is its own only here


def _parts(config: Mapping[Axis, Any], own_val: int | None, split: str = "val") -> dict[str, Any]:
    own = {
        key.removeprefix(f"{DATASET}."): value
        for key, value in config.items()
        if key.startswith(f"{DATASET}.") and key not in ARGUMENTS  # each argument stands beside them
    }
    return measured_on({**own, "name": config.get(DATASET), "own_val": own_val}, split)


def _names(sets: Sequence[tuple[Mapping[Axis, Any], Mapping[str, Any]]]) -> list[str]:
    """'cifar10, train_size 500': the data set and what differs among its splits; folders of one name by their fingerprints."""
    names = []
    for config, parts in sets:
        alike = [others for other, others in sets if other[DATASET] == config[DATASET]]
        keys = dict.fromkeys(key for other in alike for key in other if key not in ("name", "fingerprint", "fold_groups"))
        differ = [key for key in keys if key in parts and len({_text(other, key) for other in alike}) > 1]
        names.append(", ".join([str(config[DATASET]), *(f"{key} {_text(parts, key)}" for key in differ)]))
    return [
        f"{name} ({_short(config.get(FINGERPRINT))})" if names.count(name) > 1 else name
        for name, (config, _) in zip(names, sets, strict=True)
    ]


def _kept_by(config: Mapping[Axis, Any]) -> dict[str, Any]:
    """What keeps images in one fold together, in words; nothing where each is by itself."""
    return {"fold_by": config.get("dataset.fold_by")} if config.get("dataset.fold_groups") else {}


def _arguments_of(config: Mapping[Axis, Any]) -> dict[str, Any]:
    """What one's own data set was called with."""
    return {key.removeprefix("dataset."): value for key, value in config.items() if key.startswith("dataset.args.")}


def _short(fingerprint: str | None) -> str:
    """Older records of one's own data sets have none."""
    return "its images not recorded" if fingerprint is None else fingerprint[:6]


def _text(parts: Mapping[str, Any], key: str) -> str:
    return value_text(parts.get(key))
