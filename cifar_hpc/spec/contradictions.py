"""Keys that contradict each other, which a single value cannot tell. Pure functions of configs; knows nothing of files and
lines. What a trial merely does not feel: checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cifar_hpc.config import catalog
from cifar_hpc.config.architecture import architecture, known_architecture, misfit, starving_norm
from cifar_hpc.config.freeze import FreezeError, frozen_blocks
from cifar_hpc.config.own import OwnNetwork
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.trained import STILL, depths, ever_stepped, ever_trained, no_layer_for, part_of, rank_of, steps_of
from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.errors import UnusableArchError, nearest
from cifar_hpc.spec.values import WEIGHT_SUFFIXES


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction. key, value: the setting to point at; found, allowed, near as in Problem."""

    key: str
    value: Any
    found: str
    allowed: str
    near: str | None = None


def contradictions(configs: Iterable[TrialConfig]) -> list[Finding]:
    """Every contradiction once, however many trials have it."""
    found: dict[Finding, None] = {}
    for check, facts in _CHECKS:
        seen = set()
        for config in configs:
            key = facts(config)
            if key not in seen:
                seen.add(key)
                finding = check(*key)
                if finding is not None:
                    found[finding] = None
    return list(found)


def training_images(config: TrialConfig) -> int | None:
    dataset = config.dataset
    total = dataset.train_size or catalog.labelled_images(dataset.name, dataset.classes)
    if total is None:
        return None
    if dataset.folds is not None:
        return round(dataset.trained_of(total + (dataset.own_val or 0)))
    held_out = 0 if dataset.own_val is not None else len(dataset.classes or catalog.dataset(dataset.name).classes)
    return min(round(dataset.trained_of(total)), total - held_out)  # one of each class at least


def _check_arch(arch: str | OwnNetwork) -> Finding | None:
    try:
        architecture(arch)
    except UnusableArchError as error:
        return Finding("arch", str(arch), error.found, error.allowed, error.near)
    return None


def _check_stem(arch: str, stem: str) -> Finding | None:
    if stem == "imagenet" or arch in catalog.CIFAR_STEM_ARCHS:
        return None
    return Finding(
        "stem",
        stem,
        f"stem {stem} with arch {arch}",
        "resnet*, resnext*, wide_resnet* and densenet* have one; `when` can set stem: imagenet for the others",
    )


def _check_weights(arch: str | OwnNetwork, weights: str | None) -> Finding | None:
    if weights is None or weights.startswith(PARENT_PREFIX) or weights.endswith(WEIGHT_SUFFIXES):
        return None
    info = known_architecture(arch)
    if info is None:  # told of as an architecture
        return None
    known = tuple(info.weights)
    found = f"weights {weights} with arch {arch}"
    if not known:
        return Finding("weights", weights, found, f"{arch} has no published weights; `when` can set weights: null for it")
    published = tuple(dict.fromkeys(("imagenet", *known)))
    if weights not in published:
        return Finding("weights", weights, found, f"it has {', '.join(published)}", nearest(weights.lower(), known))
    return None


def _check_warmup(warmup_epochs: float, epochs: int) -> Finding | None:
    if warmup_epochs < epochs:
        return None
    return Finding(
        "warmup_epochs", warmup_epochs, f"{warmup_epochs:g} of {epochs} epochs", "warm-up is shorter than the training"
    )


def _check_freeze(arch: str | OwnNetwork, freeze: Any) -> Finding | None:
    info = known_architecture(arch)
    if info is None or freeze == "none":
        return None
    found = f"freeze {freeze} with arch {arch}"
    if arch == "linear":
        return Finding("freeze", freeze, found, "it is all classifier; `when` can set freeze: none for it")
    try:
        frozen_blocks(info.blocks, freeze)
    except FreezeError as error:
        return Finding("freeze", freeze, f"{found}: {error.found}", error.allowed, error.near)
    return None


def _check_classifier(network: str | OwnNetwork, arch: str, classifier: str, start: str | None) -> Finding | None:
    """A solved one is put into the network's own."""
    info, solved = known_architecture(network), CLASSIFIERS[classifier]
    key, value = ("start", start) if solved.trained else ("classifier", classifier)
    if info is None or info.linear_head or value is None or not solved.keeps_weights:
        return None
    found = f"{key}: {value} with arch {arch}, whose block {info.blocks[-1]!r} is not just one linear layer with a bias"
    return Finding(key, value, found, "null" if key == "start" else "linear, knn")


class _Training(NamedTuple):
    """What decides which blocks train: config/trained.Training."""

    freeze: str | int | float
    train: str | tuple[str, ...]
    unfreeze: tuple[tuple[int, str], ...] | None
    unfreeze_epoch: int | None
    lora: tuple[tuple[str, Any], ...] | None


def _training_of(config: TrialConfig) -> _Training:
    return _Training(config.freeze, config.train, config.unfreeze, config.unfreeze_epoch, config.lora)


def _check_training(arch: str | OwnNetwork, training: _Training) -> Finding | None:
    if training.unfreeze is not None and training.unfreeze_epoch is not None:
        return Finding("unfreeze", training.unfreeze, "unfreeze beside unfreeze_epoch", "one of them: {1: head, 4: layer3}")
    info = known_architecture(arch)
    if info is None or _check_freeze(arch, training.freeze) is not None:
        return None
    try:
        steps_of(training, info.blocks)
        depths(training, info.blocks)
    except FreezeError as error:
        value = getattr(training, error.key)
        return Finding(error.key, value, f"{error.found} with arch {arch}", error.allowed, error.near)
    if training.lora is None or any(ever_stepped(training, info)[:-1]):
        return None
    rank, ever = rank_of(training), ever_trained(training, info.blocks)
    most = max((n for n, trains in zip(info.lora_ranks[:-1], ever, strict=False) if trains), default=0)
    options = [f"a rank up to {most}"] if most else []
    if rank <= max(info.lora_ranks[:-1], default=0):
        options.append("a smaller freeze")
    allowed = " or ".join(options) or "a transformer, such as vit_b_16"
    found = f"{no_layer_for(rank)} (arch {arch})"
    return Finding("lora", training.lora, found, f"{allowed}; `when` can set lora: null for {arch}")


def _check_start(begins: bool, anchor: float | None, lora: Any, train: str | tuple[str, ...]) -> Finding | None:
    """What `anchor` and `lora` have to do with. begins: whether there are weights to begin with; one's own network may have
    them."""
    if lora is not None and train != "all":
        return Finding("train", train, f"train {train if isinstance(train, str) else list(train)} beside lora", "all")
    if lora is not None and anchor is not None:
        return Finding("anchor", anchor, f"anchor {anchor:g} beside lora", "null: the matrices of lora begin at no weights")
    if anchor is not None and not begins:
        return Finding("anchor", anchor, f"anchor {anchor:g} with random weights", "null, or `weights` to hold on to")
    return None


def _check_side(arch: str | OwnNetwork, stem: str, image_size: int | None) -> Finding | None:
    info = known_architecture(arch)
    if info is None or image_size is None or stem == "cifar":  # its sides are known for the published stem alone
        return None
    reason = misfit(arch, image_size)
    if reason is not None:
        return Finding("image_size", image_size, f"image_size {image_size} with arch {arch}", reason)
    if image_size >= info.min_side and image_size % info.side_step == 0:
        return None
    steps = f"multiples of {info.side_step} pixels" if info.side_step > 1 else "pixels"
    allowed = f"it takes {steps} from {info.min_side} on"
    return Finding("image_size", image_size, f"image_size {image_size} with arch {arch}", allowed)


def _check_ghost_batches(ghost_batches: int | None, batch_size: int) -> Finding | None:
    if ghost_batches is None or 2 * ghost_batches <= batch_size:
        return None
    found = f"ghost_batches {ghost_batches} of batch_size {batch_size}"
    return Finding("ghost_batches", ghost_batches, found, f"two images a part are needed: at most {batch_size // 2} parts")


def _check_norms(
    network: str | OwnNetwork, stem: str, training: _Training, image_size: int | None, batch_size: int, train_n: int | None
) -> Finding | None:
    """BatchNorm cannot train on a batch that gives it one value a channel. Known for the published stem alone."""
    smallest = batch_size if train_n is None else train_n // -(-train_n // batch_size)
    if smallest > 1 or image_size is None or stem != "imagenet":
        return None
    info, needs = known_architecture(network), starving_norm(network, image_size)
    if info is None or needs is None:
        return None
    try:
        if part_of(training) in STILL or not any(ever_trained(training, info.blocks)[:-1]):  # then none of it trains
            return None
    except FreezeError:  # told by its own check
        return None
    found = f"batch_size {batch_size}" + (f" of {train_n} training images" if batch_size > 1 else "")
    return Finding("batch_size", batch_size, f"{found}: batches of one image", needs)


def _check_train_size(name: str, classes: tuple[str, ...] | None, train_size: int | None) -> Finding | None:
    there = catalog.labelled_images(name, classes)
    if train_size is None or there is None or train_size <= there:
        return None
    return Finding("dataset.train_size", train_size, str(train_size), f"there are {there} labelled training images")


_Facts = Callable[[TrialConfig], tuple[Any, ...]]
_CHECKS: tuple[tuple[Callable[..., Finding | None], _Facts], ...] = (
    (_check_arch, lambda c: (c.network,)),
    (_check_stem, lambda c: (c.arch, c.stem)),
    (_check_weights, lambda c: (c.network, c.weights)),
    (_check_warmup, lambda c: (c.warmup_epochs, c.epochs)),
    (_check_freeze, lambda c: (c.network, c.freeze)),
    (_check_training, lambda c: (c.network, _training_of(c))),
    (_check_classifier, lambda c: (c.network, c.arch, c.classifier, c.start)),
    (_check_start, lambda c: (c.weights is not None or c.source_of("arch") is not None, c.anchor, c.lora, c.train)),
    (_check_side, lambda c: (c.network, c.stem, c.image_size)),
    (_check_ghost_batches, lambda c: (c.ghost_batches, c.batch_size)),
    (
        _check_norms,
        lambda c: (c.network, c.stem, _training_of(c), c.image_size, c.batch_size, training_images(c)),
    ),
    (_check_train_size, lambda c: (c.dataset.name, c.dataset.classes, c.dataset.train_size)),
)
