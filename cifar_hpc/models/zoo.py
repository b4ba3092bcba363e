"""From a trial's config to its network. Owns: build_model, which channels and which normalisation a network expects.

A network is initialised from the trial's 'init' stream, so that one seed gives one network on any machine, and the global
generators stay as they were. Must not know: data, training, devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.models import get_model, get_model_weights

from cifar_hpc.config import catalog
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError, did_you_mean, nearest
from cifar_hpc.models.blocks import Block, BlockModel, cut
from cifar_hpc.models.deltas import whole_weights
from cifar_hpc.models.loading import (
    Normalisation,
    Weights,
    common_prefix,
    fit_weights,
    named_without,
    without_initial_values,
)
from cifar_hpc.models.nets import NETS
from cifar_hpc.models.own_nets import cut_own, make_own
from cifar_hpc.models.small_maps import trim_convolutions
from cifar_hpc.models.summary import summarize
from cifar_hpc.models.timm_nets import closed_parts, is_timm, make_shapes, make_timm, pretrained
from cifar_hpc.models.weights import is_file, weights_name, weights_path

IMAGENET_CLASSES = 1000


def build_model(config: TrialConfig, num_classes: int, in_channels: int) -> BlockModel:
    """The network of a trial, on the CPU, in training mode, nothing frozen.

    in_channels: as `in_channels` gives it. Raises CifarHpcError on an unknown architecture or an image size or a stem that
    it cannot have, on weights that are missing or do not fit.
    """
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(stream_seed(config.draw_seed, "init"))
        network, warnings, has_classifier = _build_network(config, num_classes, in_channels)
    finally:
        torch.set_rng_state(state)
    own = config.network
    model = _cut(config.arch, network, warnings) if isinstance(own, str) else cut_own(own, network)
    model.warnings, model.drawn_classifier = tuple(warnings), not has_classifier
    if is_timm(config.arch):
        _check_passes(config.arch, model, image_side(config), in_channels)
    trim_convolutions(model)
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    return model


def in_channels(config: TrialConfig, dataset_channels: int) -> int:
    """Our own networks and timm's take the data's channels, or those that their weights have;
    torchvision's are given 3. The user's own are as ours."""
    if config.arch not in NETS and not is_timm(config.arch) and isinstance(config.network, str):
        return 3
    if config.weights is None:
        return dataset_channels
    if not is_file(config.weights):
        return 3
    state = whole_weights(weights_path(config.arch, config.weights)).state
    depths = {tensor.shape[1] for tensor in state.values() if tensor.ndim == 4} & {1, 3}
    if depths <= {dataset_channels} or depths == {3}:
        return max(depths, default=dataset_channels)
    rng = torch.get_rng_state()
    try:  # a depth of 1 may be that of depthwise convolutions: which network has these shapes?
        built = (channels for channels in (dataset_channels, 3, 1) if _fits(network_of(config, 10, channels), state))
        return next(built, dataset_channels)
    finally:
        torch.set_rng_state(rng)


def _fits(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether its convolutions are those of the file, but for how many classes they put out."""
    own = network.state_dict()
    there = named_without(common_prefix(own, state), state)
    return all(own[key].shape[1:] == one.shape[1:] for key, one in there.items() if key in own and one.ndim == 4)


def normalisation(config: TrialConfig) -> Normalisation | None:
    """Mean and standard deviation, per channel of pixels 0..1, that the weights were trained with; None: the data set's own.

    A file says its own; one with torchvision's 1000 classes is taken for weights that were trained as torchvision's were, and
    one with as many classes as timm's for timm's.
    """
    if config.weights is None:
        return None
    if is_timm(config.arch):
        return _timm_normalisation(config.arch, config.weights)
    name = "imagenet"
    if is_file(config.weights):
        weights = whole_weights(weights_path(config.arch, config.weights))
        info = catalog.architecture(config.arch)
        known = info is not None and info.weights and _classes(weights, info.blocks[-1]) == IMAGENET_CLASSES
        if weights.normalisation or not known:
            return weights.normalisation
    else:
        name = config.weights
    if config.arch in ("googlenet", "inception_v3"):  # torchvision's builder makes these normalise once more, to -1..1
        return (0.5,) * 3, (0.5,) * 3
    transforms = get_model_weights(config.arch)[weights_name(config.arch, name)].transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def _timm_normalisation(arch: str, weights: str) -> Normalisation | None:
    default = pretrained(arch)
    if not is_file(weights):
        return default.normalisation
    file = whole_weights(weights_path(arch, weights))
    alike = default.classifier is not None and _classes(file, default.classifier) == default.classes
    return file.normalisation or (default.normalisation if alike else None)


def _classes(weights: Weights, classifier: str) -> int | None:
    """How many classes the file's classifier has: the length of the last tensor of its block."""
    lengths = [tensor.shape[0] for key, tensor in weights.state.items() if f".{classifier}." in f".{key}" and tensor.ndim]
    return lengths[-1] if lengths else None


def image_side(config: TrialConfig) -> int:
    """Pixels of a side that the network sees. Raises CifarHpcError where neither the config nor the data set says it."""
    side = config.image_size or catalog.dataset(config.dataset.name).size
    if side is None:
        raise CifarHpcError(f"image_size: not given; data set {config.dataset.name!r} has no size of its own, so give one")
    return side


def check_side(arch: str, side: int) -> None:
    """Raises CifarHpcError where images of this side, pixels, are too small for the architecture or do not divide."""
    info = catalog.architecture(arch)
    if info and (side < info.min_side or side % info.side_step):
        steps = f"multiples of {info.side_step} pixels" if info.side_step > 1 else "pixels"
        raise CifarHpcError(f"image_size: {side} for {arch}; allowed: {steps} from {info.min_side} on")


def build_shapes(arch: str, num_classes: int, side: int) -> BlockModel:
    """A catalogue entry for 3 channels whose parameters have neither memory nor values. Raises CifarHpcError."""
    if is_timm(arch):
        model = _cut(arch, make_shapes(arch, num_classes, side))
        _check_passes(arch, model, side, 3)
        return model
    with without_initial_values():
        return cut(make_network(arch, num_classes, 3, side, "imagenet"))


def _cut(arch: str, network: nn.Module, warnings: Sequence[str] = ()) -> BlockModel:
    if not is_timm(arch):
        return cut(network, warnings)
    try:
        return cut(network, warnings, *closed_parts())
    except CifarHpcError as error:
        raise CifarHpcError(f"{arch}: {error}") from error


def _check_passes(arch: str, model: BlockModel, side: int, channels: int) -> None:
    """What timm does not tell beforehand: whether an image of this side gets through, one tensor from block to block."""
    try:
        summarize(model, side, channels)
    except CifarHpcError as error:
        raise CifarHpcError(f"{arch} cannot be cut into blocks: {error}") from error
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CifarHpcError(f"image_size: {side} for {arch}: {reason or type(error).__name__}") from error


def _build_network(config: TrialConfig, num_classes: int, channels: int) -> tuple[nn.Module, list[str], bool]:
    """Uncut; what is worth knowing of it; whether its classifier is the weights', or it has none of a file."""
    side = image_side(config)
    if config.stem == "imagenet":  # the other stem keeps the image's size, so it takes any
        check_side(config.arch, side)
    if config.weights is None:
        return network_of(config, num_classes, channels), [], True
    path = weights_path(config.arch, config.weights)
    if is_timm(config.arch) and not is_file(config.weights):
        return make_timm(config.arch, num_classes, channels, side, path), [], True
    network = network_to_fill(config, num_classes, channels)
    return network, *fit_weights(
        network, whole_weights(path), f"{path.name} for {config.arch}", new_stem=config.stem == "cifar"
    )


def network_of(config: TrialConfig, num_classes: int, channels: int) -> nn.Module:
    """The uncut network of a trial, as make_network or make_own gives it."""
    own = config.network
    if isinstance(own, str):
        return make_network(own, num_classes, channels, image_side(config), config.stem)
    return make_own(own, num_classes, channels)


def network_to_fill(config: TrialConfig, num_classes: int, channels: int) -> nn.Module:
    """The same, of the catalogue's without values: timm's constructors run parts of some networks, or make of values what no
    file holds, and the user's own may."""
    with without_initial_values() if config.arch in catalog.ARCHS else nullcontext():
        return network_of(config, num_classes, channels)


def make_network(arch: str, num_classes: int, channels: int, side: int, stem: str) -> nn.Module:
    """The uncut network, initialised as its authors do from the global generator. Raises CifarHpcError."""
    if stem == "cifar" and arch not in catalog.CIFAR_STEM_ARCHS:
        raise CifarHpcError(f"stem: cifar for {arch}; allowed: imagenet, or one of {', '.join(catalog.CIFAR_STEM_ARCHS)}")
    if arch in NETS:
        network = NETS[arch](num_classes, channels, side)
    elif arch in catalog.TORCHVISION_ARCHS:
        if channels != 3:
            raise CifarHpcError(f"{arch} takes images of 3 channels, not {channels}")
        network = get_model(arch, weights=None, num_classes=num_classes, **_arguments(arch, side))
    elif is_timm(arch):
        network = make_timm(arch, num_classes, channels, side)
    else:
        near = nearest(arch, catalog.ARCHS)
        raise CifarHpcError(f"arch: {arch!r} is unknown; allowed: {', '.join(catalog.ARCHS)}.{did_you_mean(near)}")
    if stem == "cifar":
        _use_cifar_stem(arch, network)
    return network


def side_step(arch: str) -> int:
    """The image sides that the architecture takes are multiples of this many pixels: of its patch, or of its 32 windows."""
    if arch.startswith("vit_"):
        return int(arch.rsplit("_", 1)[1])
    return 224 if arch.startswith("maxvit_") else 1


def _arguments(arch: str, side: int) -> dict[str, Any]:
    """What torchvision's constructor has to be told: no auxiliary classifiers; the image side where layers depend on it."""
    if arch in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    if arch.startswith("vit_"):
        return {"image_size": side}
    return {"input_size": (side, side)} if arch.startswith("maxvit_") else {}


def _use_cifar_stem(arch: str, network: nn.Module) -> None:
    """A 3x3 convolution of stride 1 and no pooling as first layers (He et al. 2016, section 4.2)."""
    first, pool = ("features.conv0", "features.pool0") if arch.startswith("densenet") else ("conv1", "maxpool")
    old = network.get_submodule(first)
    assert isinstance(old, nn.Conv2d)
    conv = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(first, conv)
    network.set_submodule(pool, nn.Identity())


def _set_dropout(model: BlockModel, p: float) -> None:
    """Set the dropouts among the fully connected layers at the end; where there is none, put one before the classifier."""
    tail: list[Block] = []
    for block in reversed(model.blocks):
        assert isinstance(block, Block)
        if tail and not _is_linear(block):
            break
        tail.append(block)
    dropouts = [module for block in tail for module in block.modules() if isinstance(module, _DropoutNd)]
    for dropout in dropouts:
        dropout.p = p
    if not dropouts:
        tail[0].prepend_dropout(p)


def _is_linear(block: Block) -> bool:
    weighted = [module for module in block.modules() if any(True for _ in module.parameters(recurse=False))]
    return all(isinstance(module, nn.Linear) for module in weighted)
