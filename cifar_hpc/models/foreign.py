"""The tensors in a weights file of a stranger, or one sentence on why there are none. Never unpickles code.

Owns: which entry of a file is the state dict, what is refused (pickled objects, pointers, tensors that are not numbers).
Whatever a library raises on a file is that file's fault. Knows no networks: which of the tensors fit is in loading.py.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cifar_hpc.errors import DataError

# Entries under which training scripts keep a network, the likeliest first; beside them stand optimisers, averages and counters.
ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "module", "model_state", "weights", "params", "ema")
_DEEPEST = 3  # mappings within mappings that are looked into
_NAMED = 6  # objects or entries that a sentence names


@dataclass(frozen=True)
class Contents:
    """state: tensors by name; notes: what else stands in the file; entry: where it stood, '' for the file itself."""

    state: OrderedDict[str, Tensor]
    notes: Mapping[str, Any]
    entry: str


def read_contents(path: Path) -> Contents:
    """Raises DataError with one sentence, whatever is in the file."""
    try:
        _refuse_at_sight(path)
        found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        _refuse_numbers(found.state)
        return found
    except DataError as error:
        raise DataError(f"weights: {path} {error}") from error.__cause__
    except Exception as error:
        raise DataError(f"weights: {path} cannot be read as tensors ({_in_short(error)})") from error


def _refuse_at_sight(path: Path) -> None:
    if not path.is_file():
        raise DataError("is no regular file")
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise DataError("is empty")
    if head.startswith(b"version https://git-lfs"):
        raise DataError("is a pointer of Git LFS, not the file itself: run `git lfs pull` where it came from")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DataError("is a web page, not weights: download the file itself")


def _read_safetensors(path: Path) -> Contents:
    with safe_open(path, framework="pt") as file:
        notes = {}
        for key, text in (file.metadata() or {}).items():
            try:
                notes[key] = json.loads(text)
            except ValueError:
                notes[key] = text
        state = OrderedDict((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
    if not state:
        raise DataError("holds no tensors")
    return Contents(state, notes, "")


def _read_pickle(path: Path) -> Contents:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        objects = _objects(path)
        if objects:
            more = f" and {len(objects) - _NAMED} more" if len(objects) > _NAMED else ""
            raise DataError(
                f"holds pickled objects ({', '.join(objects[:_NAMED])}{more}), which reading would run as code: save the "
                "network's state_dict() in its place, as torch.save(model.state_dict(), PATH)"
            ) from error
        raise
    entries = dict(_state_dicts(content, ()))
    if not entries:
        raise DataError("holds no state dict (a mapping of names to tensors)" + _has(content))
    path_of = _chosen(entries)
    state = entries[path_of]
    plain = OrderedDict(state.items())
    if hasattr(state, "_metadata"):  # versions that torchvision's modules convert old files by
        plain._metadata = state._metadata  # type: ignore[attr-defined]
    return Contents(plain, content if path_of else {}, ".".join(path_of))


def _objects(path: Path) -> list[str]:
    """The names of what a pickle would make by code."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return sorted(str(name) for name in found)
    except Exception:
        return []


def _state_dicts(content: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    """Every mapping of names to tensors alone in the content, by the keys that lead there."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield at, content
    elif len(at) < _DEEPEST:
        for key, value in content.items():
            if not re.search("optim|sched|scaler", key, re.IGNORECASE):
                yield from _state_dicts(value, (*at, key))


def _chosen(entries: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    """The network's entry. Raises DataError where it is not plain."""
    if len(entries) == 1:
        return next(iter(entries))
    for name in ENTRIES:
        found = [at for at in entries if at[-1:] == (name,)]
        if len(found) == 1:
            return found[0]
    names = ", ".join(".".join(at) for at in list(entries)[:_NAMED])
    raise DataError(f"holds several state dicts ({names}): save the one that is meant in a file of its own")


def _has(content: Any) -> str:
    if isinstance(content, Mapping) and content:
        return f"; its entries are {', '.join(str(key) for key in list(content)[:_NAMED])}"
    return f", but a {type(content).__name__}"


def _refuse_numbers(state: Mapping[str, Tensor]) -> None:
    """Raises DataError where a tensor is no plain array of finite numbers."""
    for key, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise DataError(f"holds {key}, which is no plain tensor of numbers")
        if tensor.is_floating_point():
            wrong = int((~torch.isfinite(tensor.float())).sum())
            if wrong:
                raise DataError(f"holds NaN or infinity in {key}: {wrong} of its {tensor.numel()} numbers")


def _in_short(error: Exception) -> str:
    """The first line of what a library said, without colours and without its advice to load unsafely."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0]
    text = re.sub(r"Weights only load failed\..*", "it is no file of torch.save", text)
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text[:200] or type(error).__name__
