"""What one trial is: its full configuration.

Owns: TrialConfig, its parts, and the roles that each of their keys has, for which roles.py is asked. How an id is made of it is
identity.py's, which settings cannot act normalize.py's. Knows nothing of sweeps, executors or files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cifar_hpc.config import catalog, identity
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.keys import Role, part, trial_key
from cifar_hpc.config.own import OwnNetwork, arguments, as_tuples, plain_arguments
from cifar_hpc.config.registry import CLASSIFIERS, OBJECTIVES, OPTIMIZERS, SCHEDULES
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.sources import Source

PARENT_PREFIX = "trial/"  # of `weights`: another trial's at its best epoch; the id that follows stands for them
BY_RULE = "best"  # of `keep`: what the sweep says of its best configurations decides
STAGE_PREFIX = "stage/"  # of `weights` while a spec is read: those of a trial of that stage


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a trial ends before its last epoch; every rule looks at validation only."""

    patience: int | None = trial_key(
        "epochs without improvement of the objective; null: no early stopping",
        Role.MEMBER | Role.TRAINING | Role.AS_WRITTEN,
        None,
        ge=1,
    )
    min_delta: float = trial_key(
        "patience begins again where an epoch betters the value at which it last did by more than this (objective's unit)",
        Role.MEMBER | Role.TRAINING,
        0.0,
        ge=0,
    )
    max_minutes: float | None = trial_key(
        "training time after which the trial ends, minutes; null: no limit", Role.MEMBER | Role.TRAINING, None, gt=0
    )

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON of what enters a trial's id."""
        return identity.canonical_part(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentOp:
    """One named augmentation operation with its arguments, sorted by name."""

    name: str
    args: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that changes what a trial's numbers are, and nothing else. See SPEC in the README for the values."""

    dataset: DatasetConfig = field(metadata=part(Role.COMMON | Role.AS_WRITTEN))
    arch: str = trial_key(
        "architecture: one of ours, a torchvision classification model, timm/NAME, or one's own: FILE.py:NAME, MODULE:NAME",
        Role.COMMON | Role.INHERITED,
    )
    arch_args: tuple[tuple[str, Any], ...] | None = trial_key(
        "what one's own network is called with beside num_classes and in_channels, by name; arch_args.NAME is an axis too",
        Role.COMMON | Role.INHERITED | Role.AS_WRITTEN,
        None,
        late=True,
    )
    sources: tuple[Source, ...] | None = trial_key(
        "the code of what is not the package's, which enters the id by its hash", Role.COMMON, None, derived=True, late=True
    )
    weights: str | None = trial_key(
        "null (random values, or those that one's own network brings), imagenet, one of torchvision's weights such as "
        "IMAGENET1K_V1, a weights file (.pt, .safetensors) or {trial: ID}",
        Role.COMMON,
        None,
    )
    weights_fingerprint: str | None = trial_key(
        "sha256 of a weights file, which stands for its path in the id", Role.COMMON, None, derived=True
    )
    weights_point: str | None = trial_key(
        "point of the trial whose weights these are, where each seed has a parent of its own",
        Role.COMMON,
        None,
        derived=True,
        hashed=False,
    )
    start: str | None = trial_key(
        "probe: the classifier begins as the solved linear probe of the network (classifier: logreg on its frozen features), a "
        "trial of its own that is trained once for all that start from it; null: at random values, or those of `weights`",
        Role.MEMBER | Role.TRAINING,
        None,
        choices=("probe",),
        hashed=False,
    )
    image_size: int | None = trial_key(
        "pixels of a side; null: the data set's own, 224 for a folder. ImageNet's weights, most of which were trained at about "
        "224, are warned of below 64: the last map of a network of stride 32 is one pixel at 32",
        Role.COMMON,
        None,
        ge=1,
    )
    resize: str = trial_key(
        "how a folder's image becomes a square: crop (shorter side to image_size over crop_frac, then the centre), squash "
        "(both sides to image_size) or pad (longer side to image_size, gray 128 around)",
        Role.COMMON,
        "crop",
        choices=catalog.RESIZES,
        late=True,
    )
    crop_frac: float = trial_key(
        "share of the shorter side that resize: crop keeps; 0.875, usual for ImageNet's networks, cuts off 23 % of a square",
        Role.COMMON,
        1.0,
        gt=0,
        le=1,
        late=True,
    )
    stem: str = trial_key(
        "first layers: imagenet (as published) or cifar (3x3, stride 1, no pooling)",
        Role.COMMON | Role.INHERITED,
        "imagenet",
        choices=catalog.STEMS,
    )
    freeze: str | int | float = trial_key(
        "none; all (all but the classifier); n (first n blocks); 0..1, as 0.5 (share of the backbone's blocks); a block",
        Role.MEMBER | Role.PBT | Role.RATES | Role.FITTED | Role.AS_WRITTEN_IF_ACTING,
        "none",
    )
    unfreeze_epoch: int | None = trial_key(
        "epochs with only the classifier trained, before the rest of the network is; null: off",
        Role.MEMBER | Role.TRAINING | Role.BACKBONE | Role.RATES,
        None,
        ge=1,
    )
    unfreeze: tuple[tuple[int, str], ...] | None = trial_key(
        "stepwise unfreezing: {1: fc, 3: layer4, 5: layer3} trains from epoch 1 the last block, from epoch 3 all from layer4 "
        "on, from epoch 5 all from layer3 on; what stands before the last step's block stays frozen; null: off",
        Role.MEMBER | Role.TRAINING | Role.BACKBONE | Role.RATES | Role.AS_WRITTEN,
        None,
        late=True,
    )
    train: str | tuple[str, ...] = trial_key(
        "what trains of the blocks that are not frozen: all; bias (BitFit: biases) or norm (normalisation layers), each with "
        "the whole classifier; a list of blocks: these alone, the classifier (its name, or head) among them or not",
        Role.MEMBER | Role.TRAINING | Role.BACKBONE | Role.RATES | Role.AS_WRITTEN_IF_ACTING,
        "all",
        late=True,
    )
    lora: tuple[tuple[str, Any], ...] | None = trial_key(
        "{rank: 8}: low-rank adaptation: the linear layers of the blocks that are not frozen stay as they are but for the "
        "product of two matrices of that rank, which train with the classifier and nothing else; null: off",
        Role.MEMBER | Role.TRAINING | Role.BACKBONE | Role.RATES | Role.AS_WRITTEN,
        None,
        late=True,
    )
    anchor: float | None = trial_key(
        "L2-SP: half of this times the squared distance from the start's weights is added to the loss, of all that trains but "
        "the classifier, which alone has weight_decay then; null: off",
        Role.MEMBER | Role.TRAINING | Role.BACKBONE,
        None,
        gt=0,
        late=True,
    )
    layer_decay: float | None = trial_key(
        "LR factor from a block to the one below it; null: the same LR everywhere",
        Role.MEMBER | Role.TRAINING | Role.PBT | Role.BACKBONE | Role.RATES | Role.AS_WRITTEN,
        None,
        gt=0,
        le=1,
    )
    classifier: str = trial_key(
        "linear (trained), logreg, svm or knn (scikit-learn on the frozen features; loss and AUROC of svm are those of a "
        "softmax of its margins, which are no probabilities)",
        Role.MEMBER,
        "linear",
        choices=CLASSIFIERS,
    )
    svm_c: float | str | None = trial_key(
        "C of classifier: svm, the weight of the training errors; auto: the best on validation of 15 from 1e-5 to 100; null: 1",
        Role.MEMBER,
        None,
        gt=0,
        also="auto",
        late=True,
    )
    logreg_c: float | str | None = trial_key(
        "C of classifier: logreg, the weight of the training errors; auto or null: the best on validation, as for svm_c",
        Role.MEMBER,
        None,
        gt=0,
        also="auto",
        late=True,
    )
    knn_k: int | None = trial_key("neighbours that vote in classifier: knn; null: 5", Role.MEMBER, None, ge=1, late=True)
    augment: str | tuple[AugmentOp, ...] = trial_key(
        "augmentation of training images: a name, or a list of operations", Role.COMMON | Role.TRAINING | Role.PBT, "none"
    )
    optimizer: str = trial_key(
        "optimiser; muon: of the hidden matrices, with adamw for all other parameters",
        Role.MEMBER | Role.TRAINING | Role.PBT,
        "sgd",
        choices=OPTIMIZERS,
    )
    lr: float | str = trial_key(
        "peak learning rate; auto: found by a range test before the first step",
        Role.MEMBER | Role.TRAINING | Role.PBT | Role.RATES,
        0.01,
        gt=0,
        also="auto",
    )
    weight_decay: float = trial_key(
        "weight decay (L2 for sgd and adam, decoupled for adamw and muon)", Role.MEMBER | Role.TRAINING | Role.PBT, 0.0005, ge=0
    )
    momentum: float | None = trial_key(
        "momentum of sgd (Nesterov) and muon; no effect with adam and adamw; null: 0",
        Role.MEMBER | Role.TRAINING | Role.PBT | Role.AS_WRITTEN_IF_ACTING,
        0.9,
        ge=0,
        lt=1,
    )
    schedule: str = trial_key(
        "learning rate over the steps", Role.MEMBER | Role.TRAINING | Role.RATES, "cosine", choices=SCHEDULES
    )
    warmup_epochs: float = trial_key(
        "epochs of linear warm-up from 0 to lr", Role.MEMBER | Role.TRAINING | Role.RATES, 0.0, ge=0
    )
    label_smoothing: float = trial_key(
        "share of the target spread over all classes", Role.MEMBER | Role.TRAINING | Role.PBT, 0.0, ge=0, lt=1
    )
    class_weights: str | tuple[tuple[str, float], ...] | None = trial_key(
        "what a training image's loss counts, by its class: balanced (as rare as it is, 1 on average), or numbers by name, 1 "
        "for those that are not named; where label_smoothing, mixup or cutmix give an image parts of several classes each part "
        "counts by its own; null: all alike",
        Role.MEMBER | Role.AS_WRITTEN,
        None,
        late=True,
    )
    sampler: str | None = trial_key(
        "balanced: each epoch draws as many training images as there are, one by one and of every class with the same chance, "
        "so that some come several times and some not; null: each image once",
        Role.COMMON | Role.TRAINING,
        None,
        choices=("balanced",),
        late=True,
    )
    dropout: float | None = trial_key(
        "probability of the classifier's dropout; null: the architecture's own",
        Role.MEMBER | Role.TRAINING | Role.PBT,
        None,
        ge=0,
        lt=1,
    )
    ema: float | None = trial_key(
        "decay per step of an exponential moving average of the weights, which is then evaluated; step n, from 0, has at most "
        "(1 + n) / (10 + n); null: off",
        Role.MEMBER | Role.TRAINING | Role.PBT,
        None,
        gt=0,
        lt=1,
    )
    grad_clip: float | None = trial_key("largest gradient norm; null: off", Role.MEMBER | Role.TRAINING | Role.PBT, None, gt=0)
    ghost_batches: int | None = trial_key(
        "parts of each batch, alike but for an image, that BatchNorm takes for a batch each, as without SyncBatchNorm in as "
        "many processes; null: the whole batch, in any number of processes",
        Role.COMMON | Role.TRAINING | Role.BACKBONE,
        None,
        ge=1,
        late=True,
    )
    epochs: int = trial_key("passes over the training images", Role.MEMBER | Role.TRAINING | Role.RATES, 10, ge=1)
    batch_size: int = trial_key(
        "images per optimiser step over all devices, at most: an epoch is cut into steps of one size, give or take an image",
        Role.COMMON | Role.TRAINING | Role.PBT,
        128,
        ge=1,
    )
    precision: str = trial_key(
        "auto (bf16 where the device computes it natively, else fp32), fp32, tf32 (fp32, products rounded on a GPU) or bf16",
        Role.COMMON | Role.PBT,
        "auto",
        choices=catalog.PRECISIONS,
    )
    objective: str = trial_key(
        "validation metric that chooses the best epoch and stops early", Role.MEMBER, "val_acc", choices=OBJECTIVES
    )
    stop: StopConfig = field(default=StopConfig(), metadata=part(Role.MEMBER))
    keep: str | None = trial_key(
        "whose trained networks stay, at their best epoch: weights (of all trials), null (of none), {best: 3, max_gb: 2}; "
        "absent: those of the configuration that is best by validation so far, and of those next to it within 2 GB",
        Role.MEMBER,
        None,
        choices=("weights",),
        hashed=False,
    )
    seed: int = trial_key(
        "seed of initialisation, data order, augmentation and dropout, each its own stream", Role.COMMON, 0, ge=0
    )

    def source_of(self, part: str) -> Source | None:
        """The code of a part that is the user's own: 'arch', 'dataset', 'optimizer', ..."""
        return next((source for source in self.sources or () if source.part == part), None)

    @property
    def network(self) -> str | OwnNetwork:
        """What config/architecture.py knows facts of: the name of an architecture, or the user's own."""
        source = self.source_of("arch")
        if source is None:
            return self.arch
        info = catalog.dataset(self.dataset.name)
        channels = self.dataset.channels or info.channels
        return OwnNetwork(source, self.arch_args or (), self.image_size or info.size or 32, channels)

    @property
    def draw_seed(self) -> int:
        """The seed of what is drawn: each fold starts, shuffles and augments by itself, so that folds vary as seeds do. The
        low-rank matrices of lora alone begin by the seed."""
        fold = self.dataset.fold
        return self.seed if fold is None else stream_seed(self.seed, "fold", fold)

    @property
    def trains(self) -> bool:
        """Whether it takes steps; else its classifier is fitted once, to features of a network that is frozen."""
        return CLASSIFIERS[self.classifier].trained

    @cached_property
    def trial_id(self) -> str:
        """The hash of this config under ID_SCHEME: the same config, the same id, on any machine."""
        return identity.digest(self._members.values())

    @cached_property
    def point_id(self) -> str:
        """The hash of this config without its seed and fold, its parent's among it: what a leaderboard ranks."""
        members = {key: text for key, text in self._members.items() if key != "seed"}
        if self.dataset.fold is not None or self.dataset.split_by_seed:
            members["dataset"] = f'"dataset":{self.dataset.of_point.canonical}'
        if self.weights_point is not None:
            members["weights"] = identity.member_text("weights", f"point/{self.weights_point}")
        return identity.digest(members.values())

    @cached_property
    def _members(self) -> dict[str, str]:
        members = identity.member_texts(self)
        if self.weights_fingerprint is not None:  # which stands for the file's path
            del members["weights"]
        return members

    def to_json(self) -> dict[str, Any]:
        """All keys, nested parts as mappings. `from_json` gives an equal config back."""
        plain = dict(sorted(_own_fields(self).items()))
        if not isinstance(self.augment, str):
            plain["augment"] = [{"name": op.name, "args": [list(arg) for arg in op.args]} for op in self.augment]
        plain["arch_args"] = plain_arguments(self.arch_args)
        if isinstance(self.class_weights, tuple):
            plain["class_weights"] = dict(self.class_weights)
        plain["sources"] = None if self.sources is None else [_own_fields(source) for source in self.sources]
        dataset = _own_fields(self.dataset)
        dataset["args"] = plain_arguments(self.dataset.args)
        if self.dataset.classes is not None:
            dataset["classes"] = list(self.dataset.classes)
        return {**plain, "dataset": dataset, "stop": _own_fields(self.stop)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialConfig:
        """Raises TypeError or KeyError on keys that this version does not know."""
        augment = data.get("augment", "none")
        if not isinstance(augment, str):
            augment = tuple(AugmentOp(name=op["name"], args=tuple((k, v) for k, v in op["args"])) for op in augment)
        sources, class_weights = data.get("sources"), data.get("class_weights")
        return cls(
            **{
                **data,
                "arch_args": arguments(data.get("arch_args")),
                "class_weights": arguments(class_weights) if isinstance(class_weights, dict) else class_weights,
                "unfreeze": as_tuples(data.get("unfreeze")),
                "train": as_tuples(data.get("train", "all")),
                "lora": as_tuples(data.get("lora")),
                "sources": None if sources is None else tuple(Source(**source) for source in sources),
                "dataset": DatasetConfig.from_json(data["dataset"]),
                "stop": StopConfig(**data.get("stop", {})),
                "augment": augment,
            }
        )


def _own_fields(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
