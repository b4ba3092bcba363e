"""Writes cifar_hpc/config/architectures.json, the facts on every architecture that a login node needs without torch.

Run `python -m cifar_hpc.models.facts` after a change of our own networks or of torchvision. Owns: how the facts are found.
"""

from __future__ import annotations

import bisect
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models
from torchvision.models import get_model_weights, list_models

from cifar_hpc.config import catalog
from cifar_hpc.config.own import OwnNetwork
from cifar_hpc.config.sources import own_line
from cifar_hpc.errors import CifarHpcError, UnusableArchError
from cifar_hpc.models.blocks import BlockModel, is_layer_alone, linear_layer
from cifar_hpc.models.freezing import params_of
from cifar_hpc.models.loading import without_initial_values
from cifar_hpc.models.lora import largest_rank
from cifar_hpc.models.nets import NETS
from cifar_hpc.models.own_nets import cut_own, make_own
from cifar_hpc.models.summary import summarize
from cifar_hpc.models.timm_nets import pretrained
from cifar_hpc.models.zoo import IMAGENET_CLASSES, build_shapes, make_network, side_step

OWN_CLASSES = 10
NATIVE_SIDE = 224  # pixels: the constructor's own image size where layers depend on it


def find_facts(arch: str) -> dict[str, Any]:
    """The fields of catalog.ArchInfo, from the built network."""
    model = build_shapes(arch, IMAGENET_CLASSES, NATIVE_SIDE)
    step = side_step(arch)
    weights: dict[str, str] = {}
    if arch not in NETS:
        enum = get_model_weights(arch)
        named = [enum["DEFAULT"], *(member for member in enum if member is not enum["DEFAULT"])]
        # A set without categories (vgg16's for detectors) has no classifier and its linear layers are not numbers.
        weights = {member.name: member.url.rsplit("/", 1)[1] for member in named if member.meta["categories"]}
    return {
        **_sizes(model, NATIVE_SIDE),
        "min_side": step if step > 1 else smallest_side(arch),
        "side_step": step,
        "norm_side": norm_side(arch, step if step > 1 else 1),
        "weights": weights,
    }


def find_timm_facts(arch: str) -> catalog.ArchInfo:
    """Of a model of timm, counted at the image side of its default configuration. Which sides it takes is not among them:
    architecture.misfit tries one. Raises UnusableArchError where there is no such model or it cannot be cut into blocks."""
    default = pretrained(arch)
    try:
        sizes = _sizes(build_shapes(arch, IMAGENET_CLASSES, default.side), default.side)
    except CifarHpcError as error:
        raise UnusableArchError(
            str(error), "an architecture that torch.fx can cut (`cifar-hpc arch NAME` tries one)"
        ) from error
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
    plain["flops"] = round(sizes["flops"] * (NATIVE_SIDE / default.side) ** 2)
    return catalog.ArchInfo(
        **plain, min_side=1, side_step=1, norm_side=0, weights={"imagenet": default.files[0][1]} if default.files else {}
    )


def find_own_facts(network: OwnNetwork) -> catalog.ArchInfo:
    """Of a network of the user's own, from its build for ten classes. Raises UnusableArchError where it cannot be used."""
    model = cut_own(network, make_own(network, OWN_CLASSES, network.channels))
    try:
        sizes = _sizes(model, network.side, network.channels)
        sizes["linear_head"] = sizes["linear_head"] and _does_nothing_else(model, network)
    except CifarHpcError as error:
        raise UnusableArchError(str(error), "blocks that hand on one tensor each") from error
    except Exception as error:  # whatever its code raises on an image
        image = f"{network.channels}x{network.side}x{network.side}"
        raise UnusableArchError(own_line(error, network.source.path), f"an image of {image} goes through it") from error
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
    plain["flops"] = round(sizes["flops"] * (NATIVE_SIDE / network.side) ** 2)
    return catalog.ArchInfo(**plain, min_side=1, side_step=1, weights={})


@torch.no_grad()
def _does_nothing_else(model: BlockModel, network: OwnNetwork) -> bool:
    """Whether the last block is, in eval mode, its linear layer of what the block before it puts out, flattened."""
    pixels = network.channels * network.side**2
    x = torch.linspace(0, 1, 2 * pixels).reshape(2, network.channels, network.side, network.side)
    last, path = BlockModel(model.names[-1:], list(model.blocks)[-1:]).eval(), linear_layer(model)
    assert path is not None
    return is_layer_alone(last, path, model.eval().forward_blocks(x, 0, len(model.blocks) - 1))


def _sizes(model: BlockModel, side: int, channels: int = 3) -> dict[str, Any]:
    rows = summarize(model, side, channels)
    operations = sum(row.flops for row in rows)
    return {
        "blocks": list(model.names),
        "params": sum(row.params for row in rows),
        "flops": operations,
        "block_params": [row.params for row in rows],
        "bias_params": [params_of(block, "bias") for block in model.blocks],
        "norm_params": [params_of(block, "norm") for block in model.blocks],
        "lora_ranks": [largest_rank(block) for block in model.blocks],
        "linear_head": linear_layer(model) is not None,
        "flop_shares": [round(row.flops / max(operations, 1), 4) for row in rows],
    }


def takes_side(arch: str, side: int) -> bool:
    """Whether images of this side leave at least one pixel everywhere in the network."""
    try:
        summarize(build_shapes(arch, IMAGENET_CLASSES, side), side, 3)
    except RuntimeError:
        return False
    return True


def smallest_side(arch: str) -> int:
    """Pixels; by bisection, as every larger side works too."""
    low, high = 0, NATIVE_SIDE
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes_side(arch, middle) else (middle, high)
    return high


def norm_side(arch: str, step: int) -> int:
    """Pixels: the least side of one image, a multiple of step, that gives each BatchNorm several values a channel; 0 where
    there is no BatchNorm or no side up to NATIVE_SIDE does. By bisection, as every larger side works too."""
    if not _norms(_network(arch, NATIVE_SIDE)):
        return 0
    sides = range(step, NATIVE_SIDE + 1, step)
    at = bisect.bisect_left(sides, True, key=lambda side: norms_take_one_image(arch, side))
    return sides[at] if at < len(sides) else 0


def norms_take_one_image(arch: str, side: int) -> bool:
    """Whether one image of this side gives each BatchNorm several values a channel."""
    try:
        return _fewest_values(_network(arch, side), torch.empty(1, 3, side, side, device="meta")) > 1
    except RuntimeError:  # too small to leave a pixel
        return False


def feeds_norms(network: str | OwnNetwork, side: int) -> bool:
    """The same of a network of timm or of the user's own; also where it has no BatchNorm, or takes no such image."""
    try:
        if isinstance(network, OwnNetwork):
            made = make_own(network, OWN_CLASSES, network.channels).eval()
            return _fewest_values(made, torch.zeros(1, network.channels, side, side)) > 1
        return _fewest_values(_network(network, side), torch.empty(1, 3, side, side, device="meta")) > 1
    except Exception:  # which other checks tell of
        return True


@torch.no_grad()
def _fewest_values(network: nn.Module, x_NCHW: torch.Tensor) -> float:
    """Values a channel that a BatchNorm is given of these images, at the least; infinity without BatchNorm."""
    values: list[float] = [math.inf]
    for norm in _norms(network):
        norm.register_forward_pre_hook(lambda _, inputs: values.append(inputs[0].numel() / inputs[0].shape[1]))
    network(x_NCHW)
    return min(values)


def _network(arch: str, side: int) -> nn.Module:
    with without_initial_values():
        return make_network(arch, IMAGENET_CLASSES, 3, side, "imagenet").eval().to("meta")


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def write_facts(path: Path) -> None:
    """Every architecture of ours and of torchvision's, one line each: the catalogue."""
    lines = [
        f"{json.dumps(arch)}: {json.dumps(find_facts(arch))}"
        for arch in (*catalog.OWN_ARCHS, *sorted(list_models(module=models)))
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_facts(Path(catalog.__file__).with_name("architectures.json"))
