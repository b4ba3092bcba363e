"""Configs that train alike become equal: settings that cannot act have one value. Owns: normalise, refitted."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.freeze import FreezeError, blocks_called, frozen_blocks
from cifar_hpc.config.keys import Role
from cifar_hpc.config.plugins import optimizer_of, schedule_of
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.trained import HEAD, ever_trained, steps_of
from cifar_hpc.config.trial import StopConfig, TrialConfig

DEFAULTS = {f.name: f.default for f in dataclasses.fields(TrialConfig)}
TRAINING = tuple(key for key in keys_with(Role.TRAINING) if key in DEFAULTS)
_FLOAT_TYPES = ("float", "float | None", "float | str", "float | str | None")
_FLOATS = tuple(f.name for f in dataclasses.fields(TrialConfig) if f.type in _FLOAT_TYPES)


def normalise(config: TrialConfig) -> TrialConfig:
    """The config with settings that cannot act set to one value, so that points that train alike have one id.

    freeze -> the number of blocks that it means, none for 0 of them and all for all but the classifier (for a network beyond
    the catalogue only 0, 0.0 and 1.0 are; what means nothing stays), and all before the first block that `train` or `unfreeze`
    ever train; a list of `train` -> all where it leaves out none of the others, else the stages that it means; `unfreeze` of
    two steps, the classifier and all others -> unfreeze_epoch; momentum -> None for adam and adamw, null -> 0.0 for the
    others; warmup_epochs -> 0 for onecycle, which has its own rise; layer_decay 1.0 and ghost_batches 1 -> None; layer_decay,
    unfreeze_epoch, unfreeze, train, lora, anchor and ghost_batches -> their defaults where only the classifier is trained;
    patience not below epochs -> None; min_delta -> 0 without patience; the weights that `imagenet`
    means -> imagenet; whole numbers -> floats where the key is one; the objective of a trial without validation -> val_acc;
    svm_c, logreg_c and knn_k -> None where their classifier is not used; class_weights of 1 and those of knn -> None. Of svm,
    logreg and knn, which are fitted once to frozen features: freeze -> all, what steers training -> its default, and where all
    seeds have the same features and images the seed -> 0, as nothing is drawn.
    """
    freeze = canonical_freeze(config.arch, config.freeze)
    whole = {name: float(value) for name in _FLOATS if type(value := getattr(config, name)) is int}
    changes = {**whole, "freeze": freeze, **_settings_of_images(config), **_settings_of_the_classifier(config)}
    if config.trains:
        return dataclasses.replace(config, **(changes | _settings_of_training(config, freeze)))
    return _normalise_frozen(dataclasses.replace(config, **changes))


def _settings_of_images(config: TrialConfig) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if config.dataset.name != "folder" and config.resize != DEFAULTS["resize"]:
        changes["resize"] = DEFAULTS["resize"]
    if config.crop_frac != 1 and (config.dataset.name != "folder" or config.resize != "crop"):
        changes["crop_frac"] = 1.0
    if config.dataset.val_frac == 0 and config.objective != "val_acc":
        changes["objective"] = "val_acc"
    return changes


def _settings_of_the_classifier(config: TrialConfig) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if isinstance(config.class_weights, tuple):
        weights = tuple((name, float(weight)) for name, weight in config.class_weights if weight != 1)
        changes["class_weights"] = weights or None
    if not CLASSIFIERS[config.classifier].keeps_weights:  # votes have no loss
        changes["class_weights"] = None
    for name, info in CLASSIFIERS.items():
        if info.argument is not None:
            changes[info.argument] = (getattr(config, info.argument) or info.default) if name == config.classifier else None
    return changes


def _settings_of_training(config: TrialConfig, freeze: str | float) -> dict[str, Any]:
    changes: dict[str, Any] = {"momentum": (config.momentum or 0.0) if optimizer_of(config).momentum else None}
    if schedule_of(config).own_rise:
        changes["warmup_epochs"] = 0.0
    trained = _canonical_training(config, freeze)
    changes |= trained
    freeze = trained.get("freeze", freeze)
    alone = trains_classifier_alone(config.arch, freeze)
    if config.ghost_batches is not None and (alone or config.ghost_batches == 1):
        changes["ghost_batches"] = None
    if config.layer_decay is not None and (alone or config.layer_decay == 1):
        changes["layer_decay"] = None
    if alone:
        changes |= {name: DEFAULTS[name] for name in ("unfreeze_epoch", "unfreeze", "train", "lora", "anchor")}
    patience = None if config.stop.patience is None or config.stop.patience >= config.epochs else config.stop.patience
    stop = dataclasses.replace(config.stop, patience=patience, min_delta=0.0 if patience is None else config.stop.min_delta)
    if stop != config.stop:
        changes["stop"] = stop
    if config.weights in catalog.imagenet_weights(config.arch)[:1]:
        changes["weights"] = "imagenet"
    return changes


def refitted(config: TrialConfig, epochs: int) -> TrialConfig:
    """The trial that trains on all labelled images, those that were held out for validation too, for that many epochs.

    Nothing stops it early; warm-up keeps its share of the epochs; what is unfrozen is so in the epoch in which
    it was, as in the network of the best epoch. Its weights are kept: they are what it is for.
    """
    return normalise(
        dataclasses.replace(
            config,
            dataset=dataclasses.replace(config.dataset, val_frac=0.0, folds=None, fold=None, fold_groups=None, fold_by=None),
            epochs=epochs,
            warmup_epochs=config.warmup_epochs * epochs / config.epochs,
            stop=StopConfig(),
            keep="weights",
        )
    )


def trains_classifier_alone(arch: str, freeze: str | float) -> bool:
    """Whether the classifier is all that there is to train, as far as the catalogue tells. freeze: normalised."""
    return freeze == "all" or len(catalog.block_names(arch) or ()) == 1


@lru_cache(maxsize=4096, typed=True)  # typed: one block, 1, is not all of them, 1.0
def canonical_freeze(arch: str, freeze: str | float) -> str | int | float:
    """As a config has it: none, all, or the number of blocks; as it is where the network's blocks are not known."""
    names = catalog.block_names(arch)
    if names is None:
        every = isinstance(freeze, float) and freeze == 1.0
        return "none" if freeze == 0 else "all" if every else freeze
    try:
        n = frozen_blocks(names, freeze)
    except FreezeError:  # the spec refuses it, with its line
        return freeze
    return "none" if n == 0 else "all" if n == len(names) - 1 else n


def _canonical_training(config: TrialConfig, freeze: str | float) -> dict[str, Any]:
    """What `freeze`, `train`, `unfreeze` and unfreeze_epoch are where the blocks are known; nothing where they mean nothing."""
    names = catalog.block_names(config.arch)
    if names is None or (config.train == "all" and config.unfreeze is None):
        return {}
    config = dataclasses.replace(config, freeze=freeze)
    try:
        trained, steps = ever_trained(config, names), steps_of(config, names)
    except FreezeError:
        return {}
    first = trained.index(True)
    changes: dict[str, Any] = {"freeze": canonical_freeze(config.arch, first)}
    if not isinstance(config.train, str):
        changes["train"] = "all" if all(trained[first:]) else _stages_of(names, trained)
    if steps and config.unfreeze_epoch is None:
        changes |= _canonical_steps(names, trained, steps)
    return changes


def _canonical_steps(names: tuple[str, ...], trained: tuple[bool, ...], steps: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Each step at the first block that it begins to train; those that begin to train none are left out."""
    kept: list[tuple[int, int]] = []
    for start, depth in steps:
        begins = next((i for i in range(depth, len(names)) if trained[i]), len(names))
        if not kept or begins < kept[-1][1]:
            kept.append((start, begins))
    if kept[0][1] == len(names):  # nothing trains in the first epoch: the spec refuses it
        return {}
    if len(kept) == 1:
        return {"unfreeze": None}
    if len(kept) == 2 and kept[0][1] == len(names) - 1:
        return {"unfreeze": None, "unfreeze_epoch": kept[1][0] - 1}
    return {"unfreeze": tuple((start, names[depth]) for start, depth in kept)}


def _stages_of(names: tuple[str, ...], trained: tuple[bool, ...]) -> tuple[str, ...]:
    """The fewest blocks and stages that are those blocks, in forward order."""
    wanted = {i for i, one in enumerate(trained) if one}
    paths = {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
    ranges = {path: blocks_called(names, path, "train", HEAD) for path in paths}
    found: list[tuple[int, str]] = []
    for path, blocks in sorted(ranges.items(), key=lambda pair: (-len(pair[1]), pair[1].start, len(pair[0]))):
        if wanted.issuperset(blocks):
            wanted -= set(blocks)
            found.append((blocks.start, path))
    return tuple(path for _, path in sorted(found))


def features_are_shared(arch: str, weights: str | None, weights_point: str | None) -> bool:
    """Whether the frozen features of an image are the same for all seeds: those of weights that all have, or its pixels."""
    return weights_point is None and (weights is not None or arch == "linear")


def _normalise_frozen(config: TrialConfig) -> TrialConfig:
    changes: dict[str, Any] = {name: DEFAULTS[name] for name in TRAINING} | {"epochs": 1, "stop": StopConfig()}
    changes["freeze"] = "none" if config.arch == "linear" else "all"
    if features_are_shared(config.arch, config.weights, config.weights_point) and not config.dataset.split_by_seed:
        changes["seed"] = 0
    if config.weights is not None and config.weights in catalog.imagenet_weights(config.arch)[:1]:
        changes["weights"] = "imagenet"
    return dataclasses.replace(config, **changes)
