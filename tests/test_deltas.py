"""Kept weights hold what differs from their start, name it, and are the whole network to all that reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.deploy.trained import export_trained, load_trained
from cifar_hpc.deploy.wise import start_state
from cifar_hpc.errors import DataError
from cifar_hpc.models.deltas import Start, pack_trained, whole_weights
from cifar_hpc.models.loading import pack_state, read_weights
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.layout import Layout
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Trials that start from one file, some of which change little of it, and where they lie once trained."""
    tmp_path = tmp_path_factory.mktemp("begun")
    state = build_model(digits_config(seed=5), 10, 1).state_dict()
    path = tmp_path / "start.safetensors"
    path.write_bytes(pack_state(state, {"mean": "[0.3]", "std": "[0.4]"}))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    common = {"weights": str(path), "weights_fingerprint": sha, "keep": "weights", "epochs": 1, "lr": 0.02}
    configs = {
        "bias": digits_config(train="bias", **common),
        "one block": digits_config(train=("features.4",), **common),
        "all": digits_config(**common),
        "probe": digits_config(freeze="all", classifier="logreg", logreg_c=0.1, **common),
    }
    layout = Layout(tmp_path / "results")
    run_job(job_of(*configs.values()), layout, executor="inline")
    return path, configs, layout


def stored(layout, config) -> tuple[set[str], dict]:
    with safe_open(layout.trial(config.trial_id).weights, framework="pt") as file:
        return set(file.keys()), {key: json.loads(text) for key, text in file.metadata().items()}


def test_only_what_differs_is_stored_with_the_start_and_its_hash_and_is_the_whole_network_again(begun, tmp_path):
    path, configs, layout = begun
    start = {"arch": "simple_cnn", "weights": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    head = {"classifier.weight", "classifier.bias"}
    assert stored(layout, configs["probe"]) == (head, {"mean": [0.3], "std": [0.4], "start": start})
    assert stored(layout, configs["bias"])[0] == head | {f"features.{i}.bias" for i in (1, 5, 9)}
    assert {key[:10] for key in stored(layout, configs["one block"])[0]} == {"features.4", "features.5"}
    assert "start" not in stored(layout, configs["all"])[1]
    for config in configs.values():
        trained = load_trained(layout.trial(config.trial_id))
        kept = np.load(layout.trial(config.trial_id).predictions)
        logits = trained.logits(load_dataset_of(config, data_root()).test)
        np.testing.assert_allclose(logits, kept["test_logits"].astype(np.float32), rtol=2e-3, atol=2e-3)
        assert export_trained(trained, tmp_path / "out.safetensors", "safetensors") < 1e-5
        with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
            assert set(file.keys()) == set(trained.model.state_dict())


def test_networks_of_one_start_share_no_memory_so_that_a_soup_of_them_is_their_mean(begun):
    _, configs, layout = begun
    one, other = (load_trained(layout.trial(configs[name].trial_id)).model for name in ("probe", "bias"))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with torch.no_grad():
        for value in one.state_dict().values():
            value.zero_()
    again = load_trained(layout.trial(configs["bias"].trial_id)).model
    for model in (other, again):
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod."])
def test_a_prefix_of_the_starts_names_makes_no_difference_to_what_is_stored(tmp_path, prefix):
    state = build_model(digits_config(seed=5), 10, 1).state_dict()
    path = tmp_path / "start.pth"
    torch.save({"state_dict": {f"{prefix}{key}": value for key, value in state.items()}, "mean": [0.3], "std": [0.4]}, path)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    config = digits_config(train="bias", weights=str(path), weights_fingerprint=sha, keep="weights", epochs=1, lr=0.02)
    layout = Layout(tmp_path / "results")
    run_job(job_of(config), layout, executor="inline")
    head = {"classifier.weight", "classifier.bias"}
    assert stored(layout, config)[0] == head | {f"features.{i}.bias" for i in (1, 5, 9)}
    trained = load_trained(layout.trial(config.trial_id))
    kept = np.load(layout.trial(config.trial_id).predictions)["test_logits"].astype(np.float32)
    logits = trained.logits(load_dataset_of(config, data_root()).test)
    np.testing.assert_allclose(logits, kept, rtol=2e-3, atol=2e-3)
    begun, whole = start_state(layout.trial(config.trial_id), trained)
    assert whole and torch.equal(begun["classifier.weight"], state["classifier.weight"])


def test_names_that_a_published_file_has_and_todays_network_has_not_make_no_difference(tmp_path):
    model = build_model(digits_config(arch="densenet121", image_size=32), 10, 3)
    names = {key: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key) for key in model.state_dict()}
    path = tmp_path / "start.safetensors"
    path.write_bytes(pack_state({names[key]: value for key, value in model.state_dict().items()}, {}))
    start = Start("densenet121", str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    with torch.no_grad():
        model.blocks[-1].get_parameter("body.classifier.bias").add_(1)
    (tmp_path / "kept.safetensors").write_bytes(pack_trained(model, ((0.3,), (0.4,)), start))
    assert set(read_weights(tmp_path / "kept.safetensors").state) == {"classifier.bias"}
    whole = whole_weights(tmp_path / "kept.safetensors").state
    assert set(whole) == set(model.state_dict()) and all(
        torch.equal(whole[key], own) for key, own in model.state_dict().items()
    )


def test_a_child_of_a_delta_has_it_whole_and_its_own_rests_on_no_trial(begun):
    path, configs, layout = begun
    probe = configs["probe"]
    child = dataclasses.replace(
        configs["bias"], weights=f"{PARENT_PREFIX}{probe.trial_id}", weights_fingerprint=None, weights_point=probe.point_id
    )
    other = dataclasses.replace(child, weights=f"{PARENT_PREFIX}{configs['all'].trial_id}")
    run_job(job_of(child, other), layout, executor="inline")
    assert stored(layout, child)[1]["start"]["weights"] == str(path)
    assert "start" not in stored(layout, other)[1]  # its parent's whole weights may be removed one day
    begins = whole_weights(layout.trial(probe.trial_id).weights).state
    tuned = whole_weights(layout.trial(child.trial_id).weights).state
    same = {key for key in begins if torch.equal(begins[key], tuned[key])}
    assert set(begins) - same == stored(layout, child)[0]


def test_a_start_that_is_gone_or_another_is_told_of_by_name_and_hash(begun):
    path, configs, layout = begun
    files, whole = layout.trial(configs["probe"].trial_id), path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + b"\0")
        with pytest.raises(
            DataError, match=r"differs from .*start.safetensors of simple_cnn .* and that file is another one now"
        ):
            load_trained(files)
        path.unlink()
        with pytest.raises(DataError, match=r"which is missing: the file .*start.safetensors does not exist"):
            load_trained(files)
    finally:
        path.write_bytes(whole)
