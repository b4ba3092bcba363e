"""Configs that train alike become equal: settings that cannot act have one value. Owns: normalise, refitted."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.freeze import FreezeError, frozen_blocks
from cifar_hpc.config.keys import Role
from cifar_hpc.config.plugins import optimizer_of, schedule_of
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.trial import StopConfig, TrialConfig, keys_with

DEFAULTS = {f.name: f.default for f in dataclasses.fields(TrialConfig)}
TRAINING = tuple(key for key in keys_with(Role.TRAINING) if key in DEFAULTS)
_FLOAT_TYPES = ("float", "float | None", "float | str", "float | str | None")
_FLOATS = tuple(f.name for f in dataclasses.fields(TrialConfig) if f.type in _FLOAT_TYPES)


def normalise(config: TrialConfig) -> TrialConfig:
    """The config with settings that cannot act set to one value, so that points that train alike have one id.

    freeze -> the number of blocks that it means, none for 0 of them and all for all but the classifier (for a network beyond
    the catalogue only 0, 0.0 and 1.0 are; what means nothing stays); momentum -> None for adam and adamw, null -> 0.0 for the
    others; warmup_epochs -> 0 for onecycle, which has its own rise; layer_decay 1.0 and ghost_batches 1 -> None; layer_decay,
    unfreeze_epoch and ghost_batches -> None where only the classifier is trained; patience that ends nothing before the last
    epoch -> None; min_delta -> 0 without patience; the weights that `imagenet` means -> imagenet; whole numbers -> floats
    where the key is one; the objective of a trial without validation -> val_acc; svm_c, logreg_c and knn_k -> None where their
    classifier is not used; class_weights of 1 and those of knn -> None. Of svm, logreg and knn, which are fitted once to frozen
    features: freeze -> all, what steers training -> its default, and with weights that all seeds share the seed -> 0, as
    nothing is drawn.
    """
    changes: dict[str, Any] = {}
    for name in _FLOATS:
        value = getattr(config, name)
        if type(value) is int:
            changes[name] = float(value)
    freeze = _canonical_freeze(config.arch, config.freeze)
    if freeze != config.freeze:
        changes["freeze"] = freeze
    if config.dataset.name != "folder" and config.resize != DEFAULTS["resize"]:
        changes["resize"] = DEFAULTS["resize"]
    if config.crop_frac != 1 and (config.dataset.name != "folder" or config.resize != "crop"):
        changes["crop_frac"] = 1.0
    if config.dataset.val_frac == 0 and config.objective != "val_acc":
        changes["objective"] = "val_acc"
    if isinstance(config.class_weights, tuple):
        weights = tuple((name, float(weight)) for name, weight in config.class_weights if weight != 1)
        changes["class_weights"] = weights or None
    if not CLASSIFIERS[config.classifier].keeps_weights:  # votes have no loss
        changes["class_weights"] = None
    for name, info in CLASSIFIERS.items():
        if info.argument is not None:
            changes[info.argument] = (getattr(config, info.argument) or info.default) if name == config.classifier else None
    if not config.trains:
        return _normalise_frozen(dataclasses.replace(config, **changes))
    if optimizer_of(config).momentum:
        changes["momentum"] = config.momentum or 0.0
    else:
        changes["momentum"] = None
    if schedule_of(config).own_rise:
        changes["warmup_epochs"] = 0.0
    alone = trains_classifier_alone(config.arch, freeze)
    if config.ghost_batches is not None and (alone or config.ghost_batches == 1):
        changes["ghost_batches"] = None
    if config.layer_decay is not None and (alone or config.layer_decay == 1):
        changes["layer_decay"] = None
    if config.unfreeze_epoch is not None and alone:
        changes["unfreeze_epoch"] = None
    patience = None if config.stop.patience is None or config.stop.patience >= config.epochs else config.stop.patience
    stop = dataclasses.replace(config.stop, patience=patience, min_delta=0.0 if patience is None else config.stop.min_delta)
    if stop != config.stop:
        changes["stop"] = stop
    if config.weights in catalog.imagenet_weights(config.arch)[:1]:
        changes["weights"] = "imagenet"
    return dataclasses.replace(config, **changes) if changes else config


def refitted(config: TrialConfig, epochs: int) -> TrialConfig:
    """The trial that trains on all labelled images, those that were held out for validation too, for that many epochs.

    Nothing stops it early; warm-up keeps its share of the epochs. Its weights are kept: they are what it is for.
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
def _canonical_freeze(arch: str, freeze: str | float) -> str | int | float:
    names = catalog.block_names(arch)
    if names is None:
        every = isinstance(freeze, float) and freeze == 1.0
        return "none" if freeze == 0 else "all" if every else freeze
    try:
        n = frozen_blocks(names, freeze)
    except FreezeError:  # the spec refuses it, with its line
        return freeze
    return "none" if n == 0 else "all" if n == len(names) - 1 else n


def _normalise_frozen(config: TrialConfig) -> TrialConfig:
    changes: dict[str, Any] = {name: DEFAULTS[name] for name in TRAINING} | {"epochs": 1, "stop": StopConfig()}
    changes["freeze"] = "none" if config.arch == "linear" else "all"
    if config.weights is not None:
        if config.weights_point is None and not config.dataset.split_by_seed:  # else each seed has its own weights or images
            changes["seed"] = 0
        if config.weights in catalog.imagenet_weights(config.arch)[:1]:
            changes["weights"] = "imagenet"
    return dataclasses.replace(config, **changes)
