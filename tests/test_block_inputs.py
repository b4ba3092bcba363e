"""No block writes into its input: in a cohort other members read the same tensor."""

from __future__ import annotations

import pytest
import torch

from cifar_hpc.models.zoo import build_shapes
from cifar_hpc.records.layout import Layout
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone, run_job

FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16"),
    *("simple_cnn", "convnet5", "convnet12", "alexnet_cifar", "resnet9"),
)


@pytest.mark.parametrize("arch", FAMILIES)
def test_no_block_writes_into_its_input(arch):
    model = build_shapes(arch, 10, 224).to("meta").train()
    x = torch.empty(2, 3, 224, 224, device="meta")
    for name, block in zip(model.names, model.blocks, strict=True):
        given = x.detach().requires_grad_(False)
        before = given._version
        x = block(given)
        assert given._version == before, name


def test_a_classifier_that_begins_with_dropout_in_place_leaves_its_neighbours_alone(tmp_path):
    layout = Layout(tmp_path / "results")
    configs = [digits_config(arch="mobilenet_v3_small", image_size=32, freeze="all", lr=lr, epochs=1) for lr in (0.01, 0.02)]
    run_job(job_of(*configs, together=True), layout, executor="inline")
    for config in configs:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config))
