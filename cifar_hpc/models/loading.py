"""What is in a weights file, and putting it into a network. Owns: reading (never unpickling code), fitting, normalisation.

Must not know: where files lie, blocks, training.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cifar_hpc.errors import CifarHpcError, DataError
from cifar_hpc.models.blocks import classifier_name

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, pixels 0..1
LISTED = 10  # tensors that a message names


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by qualified name, and the normalisation it was trained with where the file says so."""

    state: OrderedDict[str, Tensor]
    normalisation: Normalisation | None


class without_initial_values(TorchFunctionMode):  # noqa: N801 - a context manager reads as a verb phrase
    """Parameters are made without memory or values, as those that a file is about to fill."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **meta})


def read_weights(path: Path) -> Weights:
    """Raises DataError on a file that is no state dict. Accepts a bare one or one under 'state_dict' or 'model'; either may
    be accompanied by 'mean' and 'std' (in a .safetensors: JSON lists in the metadata)."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                notes = {key: json.loads(text) for key, text in (file.metadata() or {}).items() if key in ("mean", "std")}
                return _weights(OrderedDict((key, file.get_tensor(key)) for key in file.keys()), notes)  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise DataError(f"weights: {path} cannot be read as tensors ({error})") from error
    state = content
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            state = content[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"weights: {path} holds no state dict (a mapping of names to tensors)")
    return _weights(state, content)


def _weights(state: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Weights:
    plain = OrderedDict((key.removeprefix("module."), value) for key, value in state.items())
    if hasattr(state, "_metadata"):  # versions that torchvision's modules convert old files by
        plain._metadata = state._metadata  # type: ignore[attr-defined]
    mean, std = notes.get("mean"), notes.get("std")
    if isinstance(mean, list | tuple) and isinstance(std, list | tuple):
        return Weights(plain, (tuple(mean), tuple(std)))
    return Weights(plain, None)


def pack_weights(network: nn.Module, normalisation: Normalisation) -> bytes:
    """A .safetensors of the network that `read_weights` reads, with the normalisation of the images that it was trained on."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    return save(state, dict(zip(("mean", "std"), map(json.dumps, normalisation), strict=True)))


def fit_weights(network: nn.Module, weights: Weights, name: str, *, new_stem: bool = False) -> list[str]:
    """Put the weights into an uncut network made `without_initial_values` and say what was left out.

    A classifier of another class count stays out, and the network's own is initialised as torch does by default. new_stem:
    so does a first convolution of another kernel size, which is told. Positional embeddings are interpolated to the
    network's image size. Raises CifarHpcError that lists tensors which are missing, unknown or of another shape. name: the
    file and the architecture, for errors.
    """
    state = _converted(network, weights.state)
    own = network.state_dict()
    warnings: list[str] = []
    head = classifier_name(network)
    renewed: list[str] = []
    if _differs(own, state, f"{head}.weight") and own[f"{head}.weight"].shape[1:] == state[f"{head}.weight"].shape[1:]:
        renewed.append(head)
    stem = next(path for path, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
    if (
        new_stem
        and _differs(own, state, f"{stem}.weight")
        and own[f"{stem}.weight"].shape[:2] == state[f"{stem}.weight"].shape[:2]
    ):
        renewed.append(stem)
        warnings.append(f"{stem} has another kernel than in the weights: it starts from random values (stem: cifar)")
    for path in renewed:
        for key in [key for key in state if key.startswith(f"{path}.")]:
            del state[key]
    wrong = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in state
        if _differs(own, state, key)
    ]
    if wrong:
        raise CifarHpcError(_misfit(name, wrong))
    found = network.load_state_dict(state, strict=False, assign=True)
    anew = tuple(f"{path}." for path in renewed)
    wrong = [f"{key}: missing in the file" for key in found.missing_keys if not key.startswith(anew)]
    wrong += [f"{key}: unknown to the network" for key in found.unexpected_keys]
    if wrong:
        raise CifarHpcError(_misfit(name, wrong))
    for path in renewed:
        layer = network.get_submodule(path).to_empty(device="cpu")
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        layer.reset_parameters()
    return warnings


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The file's tensors under today's names, in float32, without the auxiliary classifiers."""
    kept: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        if key.startswith(("AuxLogits.", "aux1.", "aux2.")):
            continue
        # The first densenets were saved with submodules called norm.1; torchvision's own loader renames them alike.
        renamed = re.sub(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$", r"\1\2", key)
        kept[renamed] = value.float() if value.is_floating_point() else value
    if hasattr(state, "_metadata"):
        kept._metadata = state._metadata  # type: ignore[attr-defined]
    if isinstance(network, VisionTransformer):
        size, patch = network.image_size, network.patch_size
        if _differs(network.state_dict(), kept, "encoder.pos_embedding"):
            kept = interpolate_embeddings(size, patch, kept)
    return kept


def _differs(own: Mapping[str, Tensor], state: Mapping[str, Tensor], key: str) -> bool:
    return key in own and key in state and own[key].shape != state[key].shape


def _misfit(name: str, wrong: Sequence[str]) -> str:
    more = f"; and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
    return f"weights: {name}: {len(wrong)} tensors do not fit: {'; '.join(wrong[:LISTED])}{more}"
