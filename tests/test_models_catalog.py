"""Over every catalogue entry: blocks, keys, forward, freezing. Large networks are checked on shapes, others train a step."""

from __future__ import annotations

import copy
import functools
import pickle
import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy

from cifar_hpc.config import catalog
from cifar_hpc.config.freeze import frozen_blocks
from cifar_hpc.models import facts
from cifar_hpc.models.blocks import Block, BlockModel, cut, linear_layer
from cifar_hpc.models.facts import takes_side
from cifar_hpc.models.freezing import choose_trained, freeze_blocks
from cifar_hpc.models.loading import classifier_name, without_initial_values
from cifar_hpc.models.lora import largest_rank
from cifar_hpc.models.nets import NETS
from cifar_hpc.models.zoo import IMAGENET_CLASSES, make_network

LARGEST_TRAINED = 31_000_000  # parameters; of larger families none trains but these
LARGE_TRAINED = ("alexnet", "linear", "vit_b_32")
OTHER_BLOCKS = ("resnet50",)  # bottlenecks, which the smallest of its family does not have


def _info(arch: str) -> catalog.ArchInfo:
    info = catalog.architecture(arch)
    assert info is not None
    return info


def _family(arch: str) -> str:
    """Networks that differ in their size alone: one function of torchvision's builds them."""
    found = re.match(r"[a-z]+(_[xy]|_v\d)?", arch)
    assert found is not None
    return arch if arch in NETS else found[0]


def _smallest_of_families() -> list[str]:
    smallest: dict[str, str] = {}
    for arch in sorted(catalog.ARCHS, key=lambda arch: _info(arch).params):
        smallest.setdefault(_family(arch), arch)
    small = [arch for arch in smallest.values() if _info(arch).params < LARGEST_TRAINED]
    return sorted({*small, *LARGE_TRAINED, *OTHER_BLOCKS})


TRAINED = _smallest_of_families()


@functools.cache
def _shapes(arch: str) -> tuple[BlockModel, set[str], str]:
    """The cut network without values, the keys and the classifier's name of the network before the cut."""
    with without_initial_values():
        network = make_network(arch, IMAGENET_CLASSES, 3, 224, "imagenet")
    keys, head = set(network.state_dict()), classifier_name(network)
    return cut(network), keys, head


def test_the_catalogue_holds_torchvisions_classification_models():
    published = set(torchvision.models.list_models(module=torchvision.models))
    assert set(catalog.TORCHVISION_ARCHS) <= published
    if torchvision.__version__.startswith("0.29."):  # a newer one may have more
        assert set(catalog.TORCHVISION_ARCHS) == published


@pytest.mark.parametrize("arch", catalog.ARCHS)
def test_the_facts_for_login_nodes_agree_with_the_built_model(arch: str):
    info = _info(arch)
    model, keys, head = _shapes(arch)
    assert model.names == info.blocks
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(info.block_params) == info.params
    for part, told in {"all": info.block_params, "bias": info.bias_params, "norm": info.norm_params}.items():
        chosen = copy.deepcopy(model)
        choose_trained(chosen, [True] * len(told), part)
        counted = [sum(p.numel() for p in block.parameters() if p.requires_grad) for block in chosen.blocks]
        assert counted[:-1] == list(told[:-1]) and counted[-1] == info.block_params[-1]
    assert tuple(largest_rank(block) for block in model.blocks) == info.lora_ranks
    assert (linear_layer(model) is not None) is info.linear_head
    assert set(model.state_dict()) == keys
    weighted = {key.rpartition(".")[0] for key in model.blocks[-1].state_dict()}
    assert weighted == {head}  # the classifier alone
    if arch not in NETS:
        enum = torchvision.models.get_model_weights(arch)
        assert next(iter(info.weights)) == enum["DEFAULT"].name
        assert all(enum[name].url.endswith(f"/{file_name}") for name, file_name in info.weights.items())


@pytest.mark.parametrize("arch", catalog.ARCHS)
def test_no_random_layer_ends_a_trunk(arch: str):
    for block in list(_shapes(arch)[0].blocks)[:-1]:
        calls = [node for node in block.body.graph.nodes if node.op == "call_module"]
        assert not isinstance(block.body.get_submodule(calls[-1].target), nn.Dropout)


@pytest.mark.parametrize("arch", catalog.ARCHS)
def test_freezing_marks_exactly_the_first_blocks_and_survives_train_copies_and_pickles(arch: str):
    original = _shapes(arch)[0]
    n = frozen_blocks(original.names, "all")
    freeze_blocks(original, n)
    model = copy.deepcopy(original)
    for candidate in (model, pickle.loads(pickle.dumps(model))):
        candidate.train()
        for i, block in enumerate(candidate.blocks):
            assert all(parameter.requires_grad == (i >= n) for parameter in block.parameters())
            assert all(module.training == (i >= n) for module in block.modules())


@pytest.mark.parametrize("arch", TRAINED)
def test_frozen_weights_and_statistics_stay_bitwise_equal_after_a_step_and_the_rest_moves(arch: str):
    info = _info(arch)
    side = max(info.min_side, 32)
    torch.manual_seed(0)
    network = make_network(arch, 4, 3, side, "imagenet")
    x_NCHW = torch.randn(2, 3, side, side)
    network.eval()
    with torch.no_grad():
        uncut_NK = network(x_NCHW)
    model = cut(network)
    with torch.no_grad():
        assert torch.equal(model(x_NCHW), uncut_NK)

    n = frozen_blocks(model.names, 0.5)
    freeze_blocks(model, n)
    model.train()
    with torch.no_grad():
        trunk = model.forward_blocks(x_NCHW, 0, n)
        assert torch.equal(model.forward_blocks(x_NCHW, 0, n), trunk)  # nothing random is left in frozen blocks
    before = [_state(block) for block in model.blocks]
    _step(model, x_NCHW)
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for key, value in block.state_dict().items():
            old = before[i][key]
            if i < n:
                assert torch.equal(value, old), f"{key} is frozen and has changed"
            elif old.any() and "relative" not in key and "logit_scale" not in key:
                assert not torch.equal(value, old), f"{key} is trained and has not changed"


def _state(block: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in block.state_dict().items()}


def _step(model: BlockModel, x_NCHW: torch.Tensor) -> None:
    """One step whose weight decay moves whatever has a gradient, a vanishing one included."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    cross_entropy(model(x_NCHW), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    optimizer.step()


@pytest.mark.parametrize("arch", ["alexnet", "vgg11", "squeezenet1_0", "googlenet", "densenet121", "swin_t", "convnext_tiny"])
def test_the_smallest_side_is_the_smallest_that_works(arch: str):
    info = _info(arch)
    assert takes_side(arch, info.min_side)
    assert not takes_side(arch, info.min_side - 1)


def test_batch_norm_takes_one_image_from_the_side_that_the_catalogue_says():
    for arch in ("resnet18", "mobilenet_v3_small", "simple_cnn"):
        info = catalog.architecture(arch)
        assert facts.norms_take_one_image(arch, info.norm_side) and not facts.norms_take_one_image(arch, info.norm_side - 1)
    assert catalog.architecture("vit_b_16").norm_side == 0


def test_a_copy_of_a_network_has_numbers_of_its_own_and_the_same_code():
    torch.manual_seed(0)
    original = cut(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)))
    model, x_NCHW = copy.deepcopy(original), torch.randn(2, 1, 4, 4)
    before = original.eval()(x_NCHW)
    assert torch.equal(model.eval()(x_NCHW), before)
    assert {p.data_ptr() for p in original.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    with torch.no_grad():
        list(model.parameters())[-1].add_(1)
    assert torch.equal(original(x_NCHW), before)
    torch.testing.assert_close(model(x_NCHW), before + 1)
