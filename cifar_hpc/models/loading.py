"""Putting the tensors of a weights file into a network, and a network into a file. Owns: fitting, normalisation, the bytes.

Must not know: where files lie, blocks, training.
"""

from __future__ import annotations

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.foreign import read_contents
from cifar_hpc.models.tracing import classifier_name

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, pixels 0..1
LISTED = 10  # tensors that a message names
DEEPEST_PREFIX = 4  # parts of a name that a wrapper may have put before the network's own


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by qualified name, and the normalisation it was trained with where the file says so. entry: where
    they stood in the file, '' for the file itself; start: what a file names that holds only what differs from it."""

    state: OrderedDict[str, Tensor]
    normalisation: Normalisation | None
    entry: str = ""
    start: Mapping[str, str] | None = None


class without_initial_values(TorchFunctionMode):  # noqa: N801 - a context manager reads as a verb phrase
    """Parameters are made without memory or values, as those that a file is about to fill."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **meta})


def read_weights(path: Path) -> Weights:
    """The state dict of a file, under whichever wrapper, with the 'mean' and 'std' that may accompany it (in a .safetensors:
    JSON lists in the metadata). Raises DataError."""
    found = read_contents(path)
    mean, std = found.notes.get("mean"), found.notes.get("std")
    normalisation = None
    if isinstance(mean, list | tuple) and isinstance(std, list | tuple):
        normalisation = (tuple(mean), tuple(std))
    start = found.notes.get("start") if path.suffix == ".safetensors" else None
    parts = start if isinstance(start, dict) and set(start) - {"prefix"} == {"arch", "weights", "sha256"} else {}
    is_one = bool(parts) and all(isinstance(part, str) for part in parts.values())
    return Weights(found.state, normalisation, found.entry, parts if is_one else None)


def pack_weights(network: nn.Module, normalisation: Normalisation) -> bytes:
    """A .safetensors of the network that `read_weights` reads, with the normalisation of the images that it was trained on."""
    return pack_state(network.state_dict(), dict(zip(("mean", "std"), map(json.dumps, normalisation), strict=True)))


def pack_state(state: Mapping[str, Tensor], notes: Mapping[str, str]) -> bytes:
    """A .safetensors whose bytes depend on tensors and notes alone: the library writes notes in an order drawn by chance."""
    packed = save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, dict(notes))
    length = int.from_bytes(packed[:8], "little")
    header = json.dumps(json.loads(packed[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + packed[8 + length :]


def _of_other_shape(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in state
        if _differs(own, state, key)
    ]


def _of_other_kind(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key}: {state[key].dtype} in the file, {own[key].dtype} in the network"
        for key in state
        if key in own and state[key].is_floating_point() != own[key].is_floating_point()
    ]


def fit_weights(network: nn.Module, weights: Weights, name: str, *, new_stem: bool = False) -> tuple[list[str], bool]:
    """Put the weights into an uncut network made `without_initial_values`; say what was taken off or left out, and
    whether the classifier is the file's.

    A prefix that all of the network's names have in the file is taken off. A classifier that the file has not, or has for
    another number of classes, is initialised as torch does by default. new_stem: so is a first convolution of another kernel
    size. Positional embeddings are interpolated to the network's image size. Raises CifarHpcError that lists tensors which are
    missing, unknown or of another shape. name: the file and the architecture, for errors.
    """
    own = network.state_dict()
    state, warnings = _unwrapped(own, weights)
    state = _converted(network, state)
    head = classifier_name(network)
    renewed = _absent_classifier(network, state, head)
    if renewed:
        warnings.append(f"the weights have no classifier ({', '.join(renewed)})")
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
    if wrong := [*_of_other_shape(own, state), *_of_other_kind(own, state)]:
        raise CifarHpcError(_misfit(name, wrong))
    found = network.load_state_dict(state, strict=False, assign=True)
    renewed_keys = tuple(f"{path}." for path in renewed)
    missing = [f"{key}: missing in the file" for key in found.missing_keys if not key.startswith(renewed_keys)]
    unknown = [f"{key}: unknown to the network" for key in found.unexpected_keys]
    if missing or unknown:
        raise CifarHpcError(_misfit(name, missing, unknown))
    for path in renewed:
        layer = network.get_submodule(path).to_empty(device="cpu")
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        layer.reset_parameters()
    return warnings, head not in renewed


def common_prefix(own: Container[str], names: Iterable[str]) -> str:
    """Of a file's names the prefix without which most of them are the network's own; mostly ''."""
    hits = Counter({"": 0})
    for key in names:
        parts = key.split(".")
        for depth in range(min(len(parts), DEEPEST_PREFIX + 1)):
            if ".".join(parts[depth:]) in own:
                hits["".join(f"{part}." for part in parts[:depth])] += 1
    return min(hits, key=lambda prefix: (-hits[prefix], len(prefix)))


def named_without(prefix: str, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A file's tensors that have the prefix, by the names that a network of today has them by."""
    return OrderedDict((_of_today(key.removeprefix(prefix)), value) for key, value in state.items() if key.startswith(prefix))


def _of_today(key: str) -> str:
    """The first densenets were saved with submodules called norm.1; torchvision's own loader renames them alike."""
    return re.sub(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$", r"\1\2", key)


def _unwrapped(own: Mapping[str, Tensor], weights: Weights) -> tuple[OrderedDict[str, Tensor], list[str]]:
    """The tensors under the prefix that is taken off, and sentences on what that took."""
    prefix = common_prefix(own, weights.state)
    said = [f"the weights stand under {weights.entry!r} in their file"] if weights.entry else []
    if not prefix:
        return weights.state, said
    state = OrderedDict((key.removeprefix(prefix), value) for key, value in weights.state.items() if key.startswith(prefix))
    if hasattr(weights.state, "_metadata"):
        versions = weights.state._metadata
        state._metadata = {  # type: ignore[attr-defined]
            f"{key}.".removeprefix(prefix)[:-1]: value for key, value in versions.items() if f"{key}.".startswith(prefix)
        }
    said.append(f"the prefix {prefix!r} of the weights' names is taken off")
    others = [key for key in weights.state if not key.startswith(prefix)]
    if others:
        beside = f"{plural(len(others), 'tensor')} beside {prefix!r} left out: {', '.join(others[:LISTED])}"
        said.append(f"of the weights' file {beside}")
    return state, said


def _absent_classifier(network: nn.Module, state: Mapping[str, Tensor], head: str) -> list[str]:
    """The layers of the classifier where the file holds none of them: of the last layer alone, or of the part it ends."""
    own = network.state_dict()
    part = head.rpartition(".")[0]
    for prefix in (f"{head}.", f"{part.split('.')[0]}." if part else f"{head}."):
        layers = {key.rpartition(".")[0]: None for key in own if key.startswith(prefix)}
        plain = all(isinstance(network.get_submodule(layer), nn.Conv2d | nn.Linear) for layer in layers)
        rest = [key for key in own if not key.startswith(prefix)]
        if plain and not any(key.startswith(prefix) for key in state) and rest and all(key in state for key in rest):
            return list(layers)
    return []


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The file's tensors under today's names, in float32, each in memory of its own, without the auxiliary classifiers."""
    kept: OrderedDict[str, Tensor] = OrderedDict()
    taken: set[int] = set()
    for key, value in state.items():
        if key.startswith(("AuxLogits.", "aux1.", "aux2.")):
            continue
        plain = (value.float() if value.is_floating_point() else value).contiguous()
        place = plain.untyped_storage().data_ptr()
        kept[_of_today(key)] = plain.clone() if place in taken else plain
        taken.add(place)
    versions = getattr(state, "_metadata", None)
    if versions is None:  # mnasnets load nothing of which no version is known, and a .safetensors tells none
        versions = {"": {"version": network._version}}
    kept._metadata = versions  # type: ignore[attr-defined]
    if isinstance(network, VisionTransformer):
        size, patch = network.image_size, network.patch_size
        if _differs(network.state_dict(), kept, "encoder.pos_embedding"):
            kept = interpolate_embeddings(size, patch, kept)
    return kept


def _differs(own: Mapping[str, Tensor], state: Mapping[str, Tensor], key: str) -> bool:
    return key in own and key in state and own[key].shape != state[key].shape


def _misfit(name: str, *kinds: Sequence[str]) -> str:
    """Of each kind of misfit as many as there is room for, so that the file's names stand beside the network's."""
    count = sum(map(len, kinds))
    room = LISTED // max(1, sum(map(bool, kinds)))
    shown = [line for kind in kinds for line in kind[:room]]
    more = f"; and {count - len(shown)} more" if count > len(shown) else ""
    fit = "tensor does not fit" if count == 1 else "tensors do not fit"
    return f"weights: {name}: {count} {fit}: {'; '.join(shown)}{more}"
