"""Muon: whose matrices it takes, that its step is torch's own on them, that a trial with it goes on bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch

from cifar_hpc.errors import Interrupted
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.layout import Layout
from cifar_hpc.train.muon import is_hidden
from cifar_hpc.train.optimizers import build_optimizer, set_rates
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone


def hidden_of(arch, size=32):
    model = build_model(digits_config(arch=arch, image_size=size), 10, 3)
    return {
        name.removeprefix("body.") for block in model.blocks[:-1] for name, p in block.named_parameters() if is_hidden(name, p)
    }


def test_hidden_matrices_are_the_weights_between_input_layer_and_classifier():
    resnet = hidden_of("resnet18")
    assert {"layer1.0.conv1.weight", "layer4.0.downsample.0.weight"} <= resnet and len(resnet) == 19
    assert not resnet & {"conv1.weight", "fc.weight", "layer1.0.bn1.weight"}
    mobilenet = hidden_of("mobilenet_v2")
    assert "features.1.conv.0.0.weight" not in mobilenet  # depthwise
    assert "features.1.conv.1.weight" in mobilenet
    vit = hidden_of("vit_b_16")
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in vit
    assert not vit & {"conv_proj.weight", "class_token", "encoder.pos_embedding", "heads.head.weight"}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_its_step_on_a_convolution_is_torchs_on_the_flattened_filters(memory_format):
    config = digits_config(optimizer="muon", lr=0.02, weight_decay=0.1, momentum=0.95)
    model = build_model(config, 10, 1).to(memory_format=memory_format)
    optimizer = build_optimizer(config, list(model.blocks))
    conv = model.get_submodule(_second_conv(model)).weight
    start = conv.detach().clone()
    flat = torch.nn.Parameter(conv.detach().clone(memory_format=torch.contiguous_format).flatten(1))
    reference = torch.optim.Muon([flat], 0.01, 0.1, 0.95, adjust_lr_fn="match_rms_adamw")
    head = model.blocks[-1]
    before = [p.detach().clone() for p in head.parameters()]
    for _ in range(3):
        set_rates(optimizer, lambda height: 0.01)
        optimizer.zero_grad()
        model(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))).square().mean().backward()
        flat.grad = conv.grad.contiguous().flatten(1)
        optimizer.step()
        reference.step()
    assert torch.allclose(conv.detach().flatten(1), flat, atol=2e-3)  # bfloat16 iterations, sums in another order
    moved = (conv.detach() - start).norm()
    assert (conv.detach().flatten(1) - flat).norm() < 0.05 * moved
    assert all((new - old).abs().max() > 0 for new, old in zip(head.parameters(), before, strict=True))


def test_a_trial_with_muon_interrupted_at_any_step_goes_on_to_the_same_bits(tmp_path):
    config = digits_config(optimizer="muon", lr=0.02, epochs=3, layer_decay=0.7, freeze=1)
    layout = Layout(tmp_path / "results")
    for stop_at in (2, 7):
        left = itertools.count()
        with pytest.raises(Interrupted):
            run_job(job_of(config), layout, executor="inline", interrupted=lambda: next(left) >= stop_at)  # noqa: B023
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    assert result.attempts == 3 and numbers(result) == numbers(run_alone(tmp_path, config))


def test_muon_learns_and_with_all_frozen_is_adamw(tmp_path):
    assert run_alone(tmp_path, digits_config(optimizer="muon", lr=0.02, epochs=6)).test.acc > 0.8
    muon = run_alone(tmp_path, digits_config(optimizer="muon", freeze="all", lr=0.01))
    adamw = run_alone(tmp_path, digits_config(optimizer="adamw", freeze="all", lr=0.01))
    for one, other in zip(muon.curves, adamw.curves, strict=True):
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)


def _second_conv(model):
    convs = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    return convs[1]
