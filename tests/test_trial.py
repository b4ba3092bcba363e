"""A trial's id: what it depends on, what it does not, and that it never changes by accident."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.keys import Role, trial_key
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.roles import keys_with, unhashed_keys
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.sources import Source
from cifar_hpc.config.trial import AugmentOp, StopConfig, TrialConfig

REPTILES = ("crocodile", "dinosaur", "lizard", "snake", "turtle")
PLAIN = TrialConfig(dataset=DatasetConfig(name="cifar10"), arch="resnet18", image_size=32)
RICH = TrialConfig(
    dataset=DatasetConfig(name="cifar100", classes=REPTILES, train_size=500, val_frac=0.2),
    arch="resnet50",
    weights="imagenet",
    image_size=64,
    freeze=0.5,
    augment=(AugmentOp(name="rotate", args=(("degrees", 30.0),)),),
    optimizer="adamw",
    lr=1e-3,
    momentum=None,
    stop=StopConfig(patience=3, min_delta=0.001),
    seed=7,
)


TEN = {
    ("46vvbdrz5tyu", "7whbi2o3uzyy"): PLAIN,
    ("cdlroxiqj7fm", "2tb63hymybdr"): RICH,
    ("alrxhe2ar7mq", "uftv33qkaj25"): TrialConfig(
        dataset=DatasetConfig(name="digits", train_size=400, val_frac=0.2), arch="linear", image_size=8, lr=0.05, epochs=2
    ),
    ("uvdhxiqusf4g", "j25o45lll5ak"): normalise(
        dataclasses.replace(PLAIN, classifier="svm", weights="imagenet", freeze=0.5, svm_c=3.0)
    ),
    ("f33s2xfigj7m", "ftkrnnntq5e3"): normalise(dataclasses.replace(PLAIN, classifier="knn", weights="imagenet", seed=4)),
    ("zt2plzcsok5m", "esxwgoyo3otb"): normalise(
        dataclasses.replace(PLAIN, optimizer="muon", lr=0.02, layer_decay=0.7, unfreeze_epoch=2, freeze="layer3")
    ),
    ("zzweirs3fi32", "6cg7q3qvnn2k"): normalise(
        dataclasses.replace(PLAIN, schedule="onecycle", lr="auto", warmup_epochs=2, augment="flip_crop", ema=0.99)
    ),
    ("2hb7s2w7kfan", "zitxnggob2h5"): dataclasses.replace(
        PLAIN, dataset=DatasetConfig(name="folder", folder="/x", fingerprint="0123456789abcdef"), image_size=224
    ),
    ("pblsdok2t5fr", "bzyhtqxhncab"): dataclasses.replace(
        PLAIN, ghost_batches=4, precision="bf16", objective="val_loss", stop=StopConfig(patience=2, min_delta=0.1)
    ),
    ("5cvyjf7prn7x", "ekejxwncee33"): dataclasses.replace(
        PLAIN, weights="trial/26upibhhfy27", weights_point="bphilrgyrsyx", keep="weights", seed=3
    ),
}


def test_the_ids_of_ten_literal_configs_are_these_literal_ids() -> None:
    """Where this fails, results on disk lose their trials: raise ID_SCHEME only if the numbers really change."""
    assert [(config.trial_id, config.point_id) for config in TEN.values()] == list(TEN)


@pytest.mark.parametrize("config", [PLAIN, RICH])
def test_a_config_survives_json_with_its_id(config: TrialConfig) -> None:
    back = TrialConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert back == config
    assert back.trial_id == config.trial_id


def test_every_key_that_changes_the_numbers_changes_the_id() -> None:
    others = {
        "arch": "resnet34",
        "weights": "imagenet",
        "weights_fingerprint": "f" * 64,
        "image_size": 64,
        "resize": "pad",
        "crop_frac": 0.875,
        "stem": "cifar",
        "freeze": 1,
        "unfreeze_epoch": 1,
        "layer_decay": 0.5,
        "classifier": "svm",
        "svm_c": 0.5,
        "class_weights": "balanced",
        "sampler": "balanced",
        "logreg_c": 0.5,
        "knn_k": 3,
        "augment": "flip",
        "optimizer": "adam",
        "lr": 0.1,
        "weight_decay": 0.0,
        "momentum": 0.5,
        "schedule": "step",
        "warmup_epochs": 1.0,
        "label_smoothing": 0.1,
        "dropout": 0.5,
        "ema": 0.99,
        "grad_clip": 1.0,
        "ghost_batches": 4,
        "unfreeze": ((1, "fc"), (3, "layer4")),
        "train": "bias",
        "lora": (("rank", 8),),
        "anchor": 0.01,
        "epochs": 1,
        "batch_size": 1,
        "precision": "bf16",
        "objective": "val_loss",
        "stop": StopConfig(patience=1),
        "seed": 1,
        "dataset": DatasetConfig(name="cifar10", split_seed=1),
        "arch_args": (("width", 8),),
        "sources": (Source(part="arch", name="a.py:Net", sha256="0" * 64),),
    }
    assert set(others) == {f.name for f in dataclasses.fields(TrialConfig)} - {"keep", "weights_point", "start"}
    assert dataclasses.replace(PLAIN, keep="weights").trial_id == PLAIN.trial_id
    ids = {dataclasses.replace(PLAIN, **{key: value}).trial_id for key, value in others.items()}
    assert len(ids | {PLAIN.trial_id}) == len(others) + 1


def test_seeds_of_one_point_share_its_point_id() -> None:
    other = dataclasses.replace(PLAIN, seed=1)
    assert other.point_id == PLAIN.point_id
    assert other.trial_id != PLAIN.trial_id


def test_where_a_folder_or_a_weights_file_lies_is_no_part_of_the_id() -> None:
    def at(place: str) -> TrialConfig:
        images = DatasetConfig(name="folder", folder=f"{place}/photos", fingerprint="0123456789abcdef")
        return dataclasses.replace(PLAIN, dataset=images, weights=f"{place}/w.pt", weights_fingerprint="ab" * 32)

    assert at("/home/ann").trial_id == at("/scratch/bob").trial_id
    assert at("/home/ann").trial_id != dataclasses.replace(at("/home/ann"), weights_fingerprint="cd" * 32).trial_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"freeze": 0}, {"freeze": "none"}),
        ({"freeze": 0.0}, {"freeze": "none"}),
        ({"freeze": 1.0}, {"freeze": "all"}),
        ({"freeze": 9}, {"freeze": "all"}),
        ({"freeze": 0.5}, {"freeze": 5}),
        ({"freeze": "layer2"}, {"freeze": "layer2.1"}),
        ({"freeze": 0.01}, {"freeze": "none"}),
        ({"momentum": None}, {"momentum": 0.0}),
        ({"optimizer": "muon", "momentum": None}, {"optimizer": "muon", "momentum": 0}),
        ({"schedule": "onecycle", "warmup_epochs": 2}, {"schedule": "onecycle"}),
        ({"layer_decay": 1.0}, {"layer_decay": None}),
        (
            {"epochs": 3, "stop": StopConfig(patience=3, min_delta=0.1, max_minutes=2.0)},
            {"epochs": 3, "stop": StopConfig(max_minutes=2.0)},
        ),
        ({"lr": 1}, {"lr": 1.0}),
        ({"optimizer": "adamw", "momentum": 0.5}, {"optimizer": "adamw", "momentum": None}),
        ({"stop": StopConfig(min_delta=0.1)}, {"stop": StopConfig()}),
        ({"arch": "resnet50", "weights": "IMAGENET1K_V2"}, {"arch": "resnet50", "weights": "imagenet"}),
        ({"arch": "linear", "freeze": 0.5}, {"arch": "linear", "freeze": "none"}),
        ({"svm_c": 3.0}, {"knn_k": 3}),
        ({"classifier": "svm"}, {"classifier": "svm", "svm_c": 1.0, "freeze": 0.5, "lr": 3.0, "epochs": 3, "augment": "flip"}),
        ({"classifier": "knn", "weights": "imagenet", "seed": 1}, {"classifier": "knn", "weights": "imagenet", "knn_k": 5}),
        ({"arch": "linear", "classifier": "svm", "seed": 1}, {"arch": "linear", "classifier": "svm"}),
    ],
)
def test_configs_that_train_alike_have_one_id(one: dict[str, object], other: dict[str, object]) -> None:
    left, right = (normalise(dataclasses.replace(PLAIN, **changes)) for changes in (one, other))  # type: ignore[arg-type]
    assert left == right
    assert left.trial_id == right.trial_id


@pytest.mark.parametrize(
    "changes",
    [
        {"freeze": 8},
        {"momentum": 0.5},
        {"optimizer": "adamw", "momentum": None, "layer_decay": 0.9},
        {"epochs": 3, "stop": StopConfig(patience=2, min_delta=0.1)},
        {"freeze": "no_such_block"},
        {"arch": "timm/some_net", "freeze": 0.5},
    ],
)
def test_what_acts_or_cannot_be_told_stays_as_it_is(changes: dict[str, object]) -> None:
    config = dataclasses.replace(PLAIN, **changes)  # type: ignore[arg-type]
    assert normalise(config) == config


def test_one_frozen_block_is_not_all_of_them() -> None:
    assert (
        normalise(dataclasses.replace(PLAIN, freeze=1)).trial_id != normalise(dataclasses.replace(PLAIN, freeze=1.0)).trial_id
    )
    assert normalise(dataclasses.replace(PLAIN, arch="resnet50", weights="IMAGENET1K_V1")).weights == "IMAGENET1K_V1"


def test_an_id_does_not_depend_on_which_ids_were_taken_before() -> None:
    """1 and 1.0 are equal in Python; a cache that forgot their type would mix them up."""
    whole, real = (dataclasses.replace(PLAIN, freeze=value) for value in (1, 1.0))
    assert whole.trial_id != real.trial_id
    assert dataclasses.replace(PLAIN, freeze=1).trial_id == whole.trial_id
    assert dataclasses.replace(PLAIN, freeze=1.0).trial_id == real.trial_id


def test_named_streams_differ_and_stay() -> None:
    assert stream_seed(0, "init") == 2434554855615985730
    seeds = {stream_seed(s, p, *c) for s in (0, 1) for p in ("init", "order") for c in ((), (1,), (1, 1), (11,))}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_key_says_its_roles_where_it_is_declared() -> None:
    parts = [(TrialConfig, ""), (DatasetConfig, "dataset."), (StopConfig, "stop.")]
    declared = [f"{prefix}{f.name}" for part, prefix in parts for f in dataclasses.fields(part)]
    assert sorted(keys_with(Role.COMMON | Role.MEMBER)) == sorted(declared)
    assert not set(keys_with(Role.COMMON)) & set(keys_with(Role.MEMBER))
    with pytest.raises(TypeError, match="roles"):
        trial_key("a key that somebody adds")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="either COMMON or MEMBER"):
        trial_key("a key that somebody adds", Role.TRAINING)


def test_what_derives_from_the_roles_is_what_stood_in_lists() -> None:
    """A cohort that differs in a key of COMMON would train one member with another's setting."""
    assert set(keys_with(Role.COMMON)) >= {"dataset", "arch", "weights", "image_size", "augment", "batch_size", "seed"}
    assert keys_with(Role.RATES) == (
        *("freeze", "unfreeze_epoch", "unfreeze", "train", "lora"),
        *("layer_decay", "lr", "schedule", "warmup_epochs", "epochs"),
    )
    assert {"dataset.folder", "dataset.labels", "weights_point", "keep"} <= set(unhashed_keys())
    assert "stop.patience" in keys_with(Role.TRAINING) and "freeze" not in keys_with(Role.TRAINING)
