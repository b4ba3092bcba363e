"""`lora`: the steps of twenty lines of torch on a transformer, small files, and a plain network for all who take it."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.deploy.trained import export_trained, load_trained
from cifar_hpc.errors import CifarHpcError, SpecError
from cifar_hpc.models.blocks import cut
from cifar_hpc.models.loading import pack_state
from cifar_hpc.models.lora import FACTORS, add_low_rank, factors_of, plain_state
from cifar_hpc.models.zoo import build_model, network_of
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import load_spec, spec_of
from cifar_hpc.train.features import Trunk
from cifar_hpc.train.member import Member
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers

VIT = {"arch": "timm/test_vit", "image_size": 32, "lora": (("rank", 4),), "lr": 0.05, "freeze": 1}


class Adapted(nn.Module):
    """A linear layer beside which two small ones train."""

    def __init__(self, plain: nn.Linear, down: torch.Tensor) -> None:
        super().__init__()
        self.plain, self.down = plain, nn.Parameter(down.clone())
        self.up = nn.Parameter(torch.zeros(plain.out_features, len(down)))

    def forward(self, x):
        return self.plain(x) + x @ self.down.T @ self.up.T


def test_the_steps_are_those_of_linear_layers_with_small_ones_beside_them_alone_and_in_a_cohort(tmp_path):
    pytest.importorskip("timm")
    config, layout = digits_config(**VIT), Layout(tmp_path)
    beside = digits_config(**{**VIT, "lora": (("rank", 2),), "ema": 0.9})
    run_job(job_of(config, beside, together=True), layout, executor="inline")
    result = read_record(layout.trial(config.trial_id).result, TrialResult)
    alone = Layout(tmp_path / "alone")
    run_job(job_of(config, beside), alone, executor="inline")
    for one in (config, beside):
        own, shared = (read_record(place.trial(one.trial_id).result, TrialResult) for place in (alone, layout))
        assert numbers(own) == numbers(shared)

    data, net = load_dataset_of(config, data_root()), network_of(config, 10, 1)
    start = build_model(config, 10, 1)
    net.load_state_dict(start.state_dict())
    net.requires_grad_(False)
    begun = factors_of(Member(config, start, Trunk(start, torch.float32), 1).model)
    for key, (down, _) in begun.items():
        path = key.removesuffix(".weight")
        net.set_submodule(path, Adapted(net.get_submodule(path), down.detach()))
    net.head.requires_grad_(True)
    trained = [p for p in net.parameters() if p.requires_grad]
    assert len(begun) >= 8 and result.params_trained == sum(p.numel() for p in trained)
    optimizer = torch.optim.SGD(trained, 1.0, 0.9, weight_decay=config.weight_decay, nesterov=True)
    x = nn.functional.interpolate(
        (data.train.images_NCHW / 255 - torch.tensor(data.mean).view(1, -1, 1, 1)) / torch.tensor(data.std).view(1, -1, 1, 1),
        (32, 32),
        mode="bilinear",
        antialias=False,
    )
    losses, steps = [], -(-len(x) // config.batch_size)
    for epoch in (1, 2):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(stream_seed(config.seed, "order", epoch)))
        total = 0.0
        for step, index in enumerate(torch.tensor_split(order, steps)):
            optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * ((epoch - 1) * steps + step) / 2 / steps)) / 2
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[index]), data.train.labels_N[index])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        losses.append(total / len(x))
    assert [record.train_loss for record in result.curves] == pytest.approx(losses, rel=1e-4)


def test_attention_of_torchvision_has_them_too_and_the_merged_network_is_the_plain_one():
    torch.manual_seed(0)
    plain = VisionTransformer(image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    nn.init.normal_(plain.heads.head.weight)
    model, x = cut(copy.deepcopy(plain)), torch.randn(4, 3, 32, 32)
    add_low_rank(model, [True] * len(model.blocks), 2, 0)
    model = copy.deepcopy(model)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))  # it begins as the plain one
    kinds = {key.partition("layer_0.")[2] for key in factors_of(model) if "layer_0" in key}
    assert kinds == {f"self_attention.{w}_weight" for w in ("in_proj",)} | {
        "self_attention.out_proj.weight",
        "mlp.0.weight",
        "mlp.3.weight",
    }
    for _, up in factors_of(model).values():
        nn.init.normal_(up)
    moved = model.eval()(x)
    assert (moved - plain(x)).abs().max() > 0.01
    plain.load_state_dict(plain_state(model))
    torch.testing.assert_close(plain.eval()(x), moved, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.train()(x), model.train()(x), rtol=1e-4, atol=1e-5)


def test_a_file_holds_the_factors_and_is_merged_for_all_who_load_it(tmp_path):
    pytest.importorskip("timm")
    path = tmp_path / "start.safetensors"
    path.write_bytes(pack_state(build_model(digits_config(**VIT), 10, 1).state_dict(), {"mean": "[0.3]", "std": "[0.4]"}))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    config = digits_config(**VIT, weights=str(path), weights_fingerprint=sha, keep="weights", epochs=1)
    layout = Layout(tmp_path / "results")
    run_job(job_of(config), layout, executor="inline")
    files = layout.trial(config.trial_id)
    assert files.weights.stat().st_size < 0.5 * path.stat().st_size
    trained, kept = load_trained(files), np.load(files.predictions)
    assert not [key for key in trained.model.state_dict() if FACTORS[0] in key or "parametrizations" in key]
    logits = trained.logits(load_dataset_of(config, data_root()).test)
    np.testing.assert_allclose(logits, kept["test_logits"].astype(np.float32), rtol=5e-3, atol=5e-3)
    assert export_trained(trained, tmp_path / "out.safetensors", "safetensors") < 1e-5


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("arch: resnet18, lora: {rank: 8}", "a transformer, such as vit_b_16; `when` can set lora: null for resnet18"),
        ("arch: vit_b_16, lora: {rank: 900}", "a rank up to 767"),
        ("arch: mobilenet_v3_small, lora: {rank: 8}, unfreeze: {1: head}", None),
        ("arch: mobilenet_v3_small, lora: {rank: 576}, freeze: none", "a rank up to 575"),
        ("arch: convnext_tiny, lora: {rank: 700}, freeze: features.7.2", None),
        ("arch: swin_t, lora: {rank: 90}, unfreeze: {1: head, 2: features.7}", None),
        ("arch: net.py:Early, lora: {rank: 8}, freeze: 1", "a rank up to 3 or a smaller freeze"),
        ("arch: net.py:Early, lora: {rank: 8}", None),
    ],
)
def test_lora_that_could_train_nothing_is_refused_when_the_spec_is_read(tmp_path, base, words):
    (tmp_path / "net.py").write_text(EARLY)
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: digits\nbase: {{image_size: 64}}\ninclude: [{{{base}}}]\n")
    if words is None:
        assert load_spec(path).trials
        return
    with pytest.raises(SpecError) as error:
        load_spec(path)
    assert "has a linear layer with more rows and columns than that" in str(error.value) and words in str(error.value)


EARLY = """\
from torch import nn


def Early(num_classes, in_channels):
    low, high, head = nn.Linear(64 * 64, 32), nn.Linear(32, 4), nn.Linear(4, num_classes)
    return nn.Sequential(nn.Flatten(), low, nn.ReLU(), high, nn.ReLU(), head)
"""


def test_what_has_no_linear_layer_or_no_use_for_it_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(CifarHpcError, match="lora: rank 4: no block that trains"):
        start = build_model(digits_config(), 10, 1)
        Member(dataclasses.replace(digits_config(), lora=(("rank", 4),)), start, Trunk(start, torch.float32), 1)
    for line, words in {
        "lora: 8": "Did you mean '{rank: 8}'?",
        "lora: {rank: 0}": "the rank 0; {rank: 8}, a whole number from 1 on",
        "lora: {rank: 8}, train: bias": "train bias beside lora",
        "lora: {rank: 8}, anchor: 0.1": "anchor 0.1 beside lora",
        "anchor: 0.1": "anchor 0.1 with random weights",
    }.items():
        with pytest.raises(SpecError) as error:
            spec_of(f"name: x\ndataset: cifar10\nbase: {{arch: vit_b_16, image_size: 64, {line}}}\n", tmp_path / "x.yaml")
        assert words in str(error.value), str(error.value)
