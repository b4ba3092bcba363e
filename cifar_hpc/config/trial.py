"""What one trial is: its full configuration, its canonical JSON and the id that is a hash of it.

Owns: TrialConfig and its parts, ID_SCHEME, the seeds of the named random streams. Knows nothing of sweeps, executors or files.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.freeze import FreezeError, frozen_blocks
from cifar_hpc.config.registry import CLASSIFIERS, OBJECTIVES, OPTIMIZERS, SCHEDULES

ID_SCHEME = 2  # raise it when a change of the code changes what an unchanged config trains to
ID_LENGTH = 12  # base32 characters: 60 bits
PARENT_PREFIX = "trial/"  # of `weights`: another trial's at its best epoch; the id that follows stands for them
STAGE_PREFIX = "stage/"  # of `weights` while a spec is read: those of a trial of that stage


def spec_key(doc: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A trial key: its docstring, default and limits (choices, ge, gt, le, lt), which spec/schema.py shows and enforces.

    derived=True: worked out while the spec is read, never written by a user. hashed=False: no part of the id. also: a word
    that may stand in place of a number. late=True: no part of the id while it is at its default, so that a key which came
    later leaves the ids of older results as they are.
    """
    return field(default=default, metadata={"doc": doc, **limits})


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which images a trial trains on and how they are split."""

    name: str = spec_key("data set", choices=tuple(catalog.DATASETS))
    classes: tuple[str, ...] | None = spec_key("classes kept, in official label order; null: all", None)
    train_size: int | None = spec_key(
        "labelled training images used (stratified), before the validation split; null: all", None, gt=0
    )
    val_frac: float = spec_key("share of them held out for validation, stratified", 0.1, gt=0, lt=1)
    split_seed: int = spec_key("seed of the sub-sample and of the split; the seeds of a sweep share one split", 0, ge=0)
    folder: str | None = spec_key("folder of one's own images; where it lies is not part of the trial's id", None, hashed=False)
    fingerprint: str | None = spec_key(
        "digest of a folder's file names and contents, which stands for it in the id", None, derived=True
    )

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON of what enters a trial's id."""
        return _canonical({f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("hashed") is not False})


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a trial ends before its last epoch; every rule looks at validation only."""

    patience: int | None = spec_key("epochs without improvement of the objective; null: no early stopping", None, ge=1)
    min_delta: float = spec_key(
        "least improvement that counts against patience, over the value that last did, in the objective's unit", 0.0, ge=0
    )
    max_minutes: float | None = spec_key("training time after which the trial ends, minutes; null: no limit", None, gt=0)

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON of what enters a trial's id."""
        return _canonical(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentOp:
    """One named augmentation operation with its arguments, sorted by name."""

    name: str
    args: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that changes what a trial's numbers are, and nothing else. See SPEC in the README for the values."""

    dataset: DatasetConfig
    arch: str = spec_key("architecture: one of ours, a torchvision classification model, or timm/NAME")
    weights: str | None = spec_key(
        "null (from scratch), imagenet, a torchvision weight enum, a weights file (.pt, .safetensors), {trial: ID}", None
    )
    weights_fingerprint: str | None = spec_key(
        "sha256 of a weights file, which stands for its path in the id", None, derived=True
    )
    weights_point: str | None = spec_key(
        "point of the trial whose weights these are, where each seed has a parent of its own", None, derived=True, hashed=False
    )
    image_size: int | None = spec_key("pixels of a side after resizing on the device; null: the data set's own", None, ge=1)
    resize: str = spec_key(
        "how a folder's image becomes a square: crop (shorter side to image_size over crop_frac, then the centre), squash "
        "(both sides to image_size) or pad (longer side to image_size, gray 128 around); one of the right size stays as it is",
        "crop",
        choices=catalog.RESIZES,
        late=True,
    )
    crop_frac: float = spec_key(
        "share of the shorter side that resize: crop keeps; 0.875, usual for ImageNet's networks, cuts off 23 % of a square",
        1.0,
        gt=0,
        le=1,
        late=True,
    )
    stem: str = spec_key(
        "first layers: imagenet (as published) or cifar (3x3, stride 1, no pooling)", "imagenet", choices=catalog.STEMS
    )
    freeze: str | int | float = spec_key(
        "none; all (all but the classifier); n (first n blocks); 0..1 with a point (share of the backbone's blocks); a block",
        "none",
    )
    unfreeze_epoch: int | None = spec_key(
        "epochs with only the classifier trained, before the rest of the network is; null: off", None, ge=1
    )
    layer_decay: float | None = spec_key(
        "LR factor from a block to the one below it; null: the same LR everywhere", None, gt=0, le=1
    )
    classifier: str = spec_key(
        "linear (trained), svm or knn (scikit-learn on the frozen features)", "linear", choices=CLASSIFIERS
    )
    svm_c: float | None = spec_key("C of classifier: svm, the weight of the training errors; null: 1", None, gt=0, late=True)
    knn_k: int | None = spec_key("neighbours that vote in classifier: knn; null: 5", None, ge=1, late=True)
    augment: str | tuple[AugmentOp, ...] = spec_key("augmentation of training images: a name, or a list of operations", "none")
    optimizer: str = spec_key(
        "optimiser; muon: of the hidden matrices, with adamw for all other parameters", "sgd", choices=OPTIMIZERS
    )
    lr: float | str = spec_key("peak learning rate; auto: found by a range test before the first step", 0.01, gt=0, also="auto")
    weight_decay: float = spec_key("weight decay (L2 for sgd and adam, decoupled for adamw and muon)", 0.0005, ge=0)
    momentum: float | None = spec_key("momentum of sgd (Nesterov) and muon; no effect elsewhere", 0.9, ge=0, lt=1)
    schedule: str = spec_key("learning rate over the steps", "cosine", choices=SCHEDULES)
    warmup_epochs: float = spec_key("epochs of linear warm-up from 0 to lr", 0.0, ge=0)
    label_smoothing: float = spec_key("share of the target spread over all classes", 0.0, ge=0, lt=1)
    dropout: float | None = spec_key("probability of the classifier's dropout; null: the architecture's own", None, ge=0, lt=1)
    ema: float | None = spec_key(
        "decay per step of an exponential moving average of the weights, which is then evaluated; step n, from 0, has at most "
        "(1 + n) / (10 + n); null: off",
        None,
        gt=0,
        lt=1,
    )
    grad_clip: float | None = spec_key("largest gradient norm; null: off", None, gt=0)
    ghost_batches: int | None = spec_key(
        "parts of each batch, alike but for an image, that BatchNorm takes for a batch each, as without SyncBatchNorm in as "
        "many processes; null: the whole batch, in any number of processes",
        None,
        ge=1,
        late=True,
    )
    epochs: int = spec_key("passes over the training images", 10, ge=1)
    batch_size: int = spec_key("images per optimiser step over all devices", 128, ge=1)
    precision: str = spec_key(
        "auto (bf16 where the device computes it natively, else fp32), fp32 or bf16", "auto", choices=catalog.PRECISIONS
    )
    objective: str = spec_key("validation metric that chooses the best epoch and stops early", "val_acc", choices=OBJECTIVES)
    stop: StopConfig = StopConfig()
    keep: str | None = spec_key(
        "what stays of a finished trial beside its numbers: weights (of the whole network at its best epoch); null: nothing",
        None,
        choices=("weights",),
        hashed=False,
    )
    seed: int = spec_key("seed of initialisation, data order, augmentation and dropout, each its own stream", 0, ge=0)

    @property
    def trains(self) -> bool:
        """Whether it takes steps; else its classifier is fitted once, to features of a network that is frozen."""
        return CLASSIFIERS[self.classifier].trained

    @cached_property
    def trial_id(self) -> str:
        """The hash of this config under ID_SCHEME: the same config, the same id, on any machine."""
        return _digest(self._members.values())

    @cached_property
    def point_id(self) -> str:
        """The hash of this config without its seed, its parent's among it: what a leaderboard ranks."""
        members = {key: text for key, text in self._members.items() if key != "seed"}
        if self.weights_point is not None:
            members["weights"] = _member("weights", f"point/{self.weights_point}")
        return _digest(members.values())

    @cached_property
    def _members(self) -> dict[str, str]:
        """key -> '"key":value' of canonical JSON, for what enters the id, keys sorted."""
        members = {}
        for key in _SORTED_KEYS:
            value = getattr(self, key)
            if key in _UNHASHED or (key in _LATE and value == _LATE[key]):
                continue
            if isinstance(value, DatasetConfig | StopConfig):
                members[key] = f'"{key}":{value.canonical}'
            elif isinstance(value, tuple):
                members[key] = f'"{key}":{_canonical([asdict(op) for op in value])}'
            elif key != "weights" or self.weights_fingerprint is None:
                members[key] = _member(key, value)
        return members

    def to_json(self) -> dict[str, Any]:
        """All keys, nested parts as mappings. `from_json` gives an equal config back."""
        plain = {key: getattr(self, key) for key in _SORTED_KEYS}
        if not isinstance(self.augment, str):
            plain["augment"] = [{"name": op.name, "args": [list(arg) for arg in op.args]} for op in self.augment]
        dataset = _own_fields(self.dataset)
        if self.dataset.classes is not None:
            dataset["classes"] = list(self.dataset.classes)
        return {**plain, "dataset": dataset, "stop": _own_fields(self.stop)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialConfig:
        """Raises TypeError or KeyError on keys that this version does not know."""
        augment = data.get("augment", "none")
        if not isinstance(augment, str):
            augment = tuple(AugmentOp(name=op["name"], args=tuple((k, v) for k, v in op["args"])) for op in augment)
        dataset = {**data["dataset"]}
        if dataset.get("classes") is not None:
            dataset["classes"] = tuple(dataset["classes"])
        return cls(
            **{
                **data,
                "dataset": DatasetConfig(**dataset),
                "stop": StopConfig(**data.get("stop", {})),
                "augment": augment,
            }
        )


def normalise(config: TrialConfig) -> TrialConfig:
    """The config with settings that cannot act set to one value, so that points that train alike have one id.

    freeze -> the number of blocks that it means, none for 0 of them and all for all but the classifier (for a network beyond
    the catalogue only 0, 0.0 and 1.0 are; what means nothing stays); momentum -> None for adam and adamw, null -> 0.0 for the
    others; warmup_epochs -> 0 for onecycle, which has its own rise; layer_decay 1.0 and ghost_batches 1 -> None; layer_decay,
    unfreeze_epoch and ghost_batches -> None where only the classifier is trained; patience that ends nothing before the last
    epoch -> None; min_delta -> 0 without patience; the weights that `imagenet` means -> imagenet; whole numbers -> floats
    where the key is one; the objective of a trial without validation -> val_acc; svm_c and knn_k -> None where their
    classifier is not used. Of svm and knn, which are fitted once to frozen features: freeze -> all, what steers training ->
    its default, and with weights that all seeds share the seed -> 0, as nothing is drawn.
    """
    changes: dict[str, Any] = {}
    for name in _FLOATS:
        value = getattr(config, name)
        if type(value) is int:
            changes[name] = float(value)
    freeze = _canonical_freeze(config.arch, config.freeze)
    if freeze != config.freeze:
        changes["freeze"] = freeze
    if config.dataset.name != "folder" and config.resize != _DEFAULTS["resize"]:
        changes["resize"] = _DEFAULTS["resize"]
    if config.crop_frac != 1 and (config.dataset.name != "folder" or config.resize != "crop"):
        changes["crop_frac"] = 1.0
    if config.dataset.val_frac == 0 and config.objective != "val_acc":
        changes["objective"] = "val_acc"
    for name, info in CLASSIFIERS.items():
        if info.argument is not None:
            changes[info.argument] = (getattr(config, info.argument) or info.default) if name == config.classifier else None
    if not config.trains:
        return _normalise_frozen(dataclasses.replace(config, **changes))
    if OPTIMIZERS[config.optimizer].momentum:
        changes["momentum"] = config.momentum or 0.0
    else:
        changes["momentum"] = None
    if SCHEDULES[config.schedule].own_rise:
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
            dataset=dataclasses.replace(config.dataset, val_frac=0.0),
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
    changes: dict[str, Any] = {name: _DEFAULTS[name] for name in TRAINING_KEYS} | {"epochs": 1, "stop": StopConfig()}
    changes["freeze"] = "none" if config.arch == "linear" else "all"
    if config.weights is not None:
        if config.weights_point is None:  # else each seed has weights of its own
            changes["seed"] = 0
        if config.weights in catalog.imagenet_weights(config.arch)[:1]:
            changes["weights"] = "imagenet"
    return dataclasses.replace(config, **changes)


def stream_seed(seed: int, purpose: str, *counters: int) -> int:
    """The seed, 0..2**63-1, of one named random stream, such as stream_seed(seed, 'augment', epoch, step)."""
    text = f"{seed}/{purpose}/" + "/".join(map(str, counters))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


_FLOATS = tuple(f.name for f in fields(TrialConfig) if f.type in ("float", "float | None", "float | str"))
_DEFAULTS = {f.name: f.default for f in fields(TrialConfig)}
_UNHASHED = frozenset(f.name for f in fields(TrialConfig) if f.metadata.get("hashed") is False)
_LATE = {f.name: f.default for f in fields(TrialConfig) if f.metadata.get("late")}
TRAINING_KEYS = (  # what a classifier that is fitted once to frozen features does not feel
    "unfreeze_epoch",
    "layer_decay",
    "augment",
    "optimizer",
    "lr",
    "weight_decay",
    "momentum",
    "schedule",
    "warmup_epochs",
    "label_smoothing",
    "dropout",
    "ema",
    "grad_clip",
    "ghost_batches",
    "epochs",
    "batch_size",
)
_SORTED_KEYS = tuple(sorted(f.name for f in fields(TrialConfig)))


def _own_fields(part: DatasetConfig | StopConfig) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in fields(part)}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@lru_cache(maxsize=4096, typed=True)  # typed: 1 and 1.0 are two values. The values of a sweep's axes are few
def _member(key: str, value: str | float | None) -> str:
    return f'"{key}":{_canonical(value)}'


def _digest(members: Iterable[str]) -> str:
    text = f'{{"id_scheme":{ID_SCHEME},{",".join(members)}}}'
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10])[:ID_LENGTH].decode().lower()
