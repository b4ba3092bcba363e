"""build_model: initialisation, own networks, stems, dropout, sides; the summary and `cifar-hpc arch`."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights
from typer import Typer
from typer.testing import CliRunner

from cifar_hpc.cli.arch import arch as arch_command
from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.nets import NETS
from cifar_hpc.models.summary import flops, summarize
from cifar_hpc.models.zoo import build_model, build_shapes, image_side, in_channels


def _config(arch: str, dataset: str = "cifar10", **keys) -> TrialConfig:
    return TrialConfig(dataset=DatasetConfig(name=dataset), arch=arch, **keys)


def test_the_seed_alone_decides_the_initial_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(_config("simple_cnn", seed=3), 10, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = build_model(_config("simple_cnn", seed=3), 10, 3).state_dict()
    other = build_model(_config("simple_cnn", seed=4), 10, 3).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize("arch", sorted(NETS))
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32), (3, 37)])
def test_our_networks_take_gray_and_colour_images_of_any_side(arch: str, channels: int, side: int):
    model = build_model(_config(arch, image_size=side), 7, channels)
    logits_NK = model(torch.randn(2, channels, side, side))
    assert logits_NK.shape == (2, 7)
    logits_NK.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_convnet12_has_twelve_weight_layers_and_convnet5_its_published_widths():
    twelve = build_model(_config("convnet12"), 10, 3)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in twelve.modules()) == 12
    five = build_model(_config("convnet5"), 10, 3)
    assert [module.out_channels for module in five.modules() if isinstance(module, nn.Conv2d)] == [128, 512, 512, 512, 512]


def test_own_networks_take_the_datas_channels_and_torchvisions_three():
    assert in_channels(_config("simple_cnn", "mnist"), 1) == 1
    assert in_channels(_config("resnet18", "mnist"), 1) == 3


def test_the_image_side_is_the_data_sets_own_unless_the_config_says_it():
    assert image_side(_config("simple_cnn", "mnist")) == 28
    assert image_side(_config("simple_cnn", "mnist", image_size=64)) == 64
    with pytest.raises(CifarHpcError, match="image_size: not given"):
        image_side(_config("simple_cnn", "folder"))


@pytest.mark.parametrize("arch", ["resnet18", "densenet121"])
def test_a_cifar_stem_keeps_the_images_side_and_the_blocks_names(arch: str):
    model = build_model(_config(arch, stem="cifar"), 10, 3)
    assert model.names == catalog.block_names(arch)
    assert summarize(model, 32, 3)[0].output_shape == (64, 32, 32)


@pytest.mark.parametrize(
    ("arch", "keys", "words"),
    [
        ("resnet19", {}, "Did you mean 'resnet"),
        ("vgg11", {"stem": "cifar"}, "stem: cifar for vgg11; allowed: imagenet, or one of densenet121"),
        ("inception_v3", {}, "image_size: 32 for inception_v3; allowed: pixels from 75 on"),
        ("vit_b_16", {"image_size": 40}, "multiples of 16 pixels from 16 on"),
        ("maxvit_t", {}, "multiples of 224 pixels"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_what_is_allowed(arch: str, keys, words: str):
    with pytest.raises(CifarHpcError) as error:
        build_model(_config(arch, **keys), 10, 3)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("arch", "count"),
    [("simple_cnn", 1), ("resnet18", 1), ("mobilenet_v3_small", 1), ("alexnet_cifar", 2), ("squeezenet1_1", 1)],
)
def test_dropout_sets_that_of_the_fully_connected_layers_or_adds_one(arch: str, count: int):
    config = _config(arch, dropout=0.9)
    model = build_model(config, 10, 3)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.9] * count
    assert model.state_dict().keys() == build_model(_config(arch), 10, 3).state_dict().keys()
    x_NCHW = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(x_NCHW), model(x_NCHW))
    assert torch.equal(model.eval()(x_NCHW), model(x_NCHW))


def test_a_dropout_before_a_block_is_not_before_its_copies():
    block = build_model(_config("simple_cnn"), 10, 3).blocks[-1]
    before, x = copy.deepcopy(block), torch.ones(2, 128)
    block.prepend_dropout(0.5)
    after = copy.deepcopy(block)
    assert [sum(isinstance(m, nn.Dropout) for m in one.modules()) for one in (before, block, after)] == [0, 1, 1]
    assert torch.equal(before(x), block.eval()(x)) and torch.equal(before(x), after.eval()(x))
    assert list(before.state_dict()) == list(block.state_dict())


@pytest.mark.parametrize(
    "arch", ["alexnet", "resnet50", "densenet121", "googlenet", "mobilenet_v2", "vgg11", "swin_t", "vit_b_16", "maxvit_t"]
)
def test_parameters_and_operations_agree_with_torchvisions_published_ones(arch: str):
    meta = get_model_weights(arch)["DEFAULT"].meta
    model = build_shapes(arch, 1000, 224)
    assert sum(row.params for row in summarize(model, 224, 3)) == meta["num_params"]
    assert flops(model, 224, 3) == pytest.approx(2e9 * meta["_ops"], rel=0.01)


def test_summing_up_a_model_leaves_its_modes_and_values_alone():
    model = build_model(_config("simple_cnn"), 10, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    summarize(model, 32, 3)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_with_other_keys_is_refused():
    model = build_model(_config("simple_cnn"), 10, 3)
    state = dict(model.state_dict())
    model.load_state_dict(state)
    state["surplus"] = state.pop("classifier.bias")
    with pytest.raises(RuntimeError, match=r"missing \['classifier.bias'\], unexpected \['surplus'\]"):
        model.load_state_dict(state)


def test_arch_prints_the_blocks_in_four_forms():
    app = Typer()
    app.command()(arch_command)
    run = CliRunner().invoke
    rows = json.loads(run(app, ["resnet9", "--format", "json"]).stdout)
    assert [row["name"] for row in rows] == list(catalog.block_names("resnet9") or ())
    assert rows[0] == {"block": 1, "name": "prep", "params": 1856, "macs": 86704128, "output_shape": [64, 224, 224]}
    assert run(app, ["resnet9", "--format", "csv"]).stdout.splitlines()[-1] == "7,classifier,512000,512000,1000"
    assert "| 7 | classifier | 512,000 | 0.5 | 1000 |" in run(app, ["resnet9", "--format", "md"]).stdout
    assert "7,080,000" in run(app, ["resnet9", "--image-size", "64"]).stdout
    assert "Did you mean 'resnet101'" in str(run(app, ["resnet100"]).exception)
