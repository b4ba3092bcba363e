"""A network's weights file that holds only what differs from the weights that it started from, which it names with their hash.

Owns: when a file is such a delta, what is in it, and how the whole network's weights are read again. A start is a published
weights file or a file of the user's: what other trials keep may be removed, so that a delta never rests on them. Knows no
trials.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cifar_hpc.errors import CifarHpcError, DataError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.loading import Normalisation, Weights, common_prefix, named_without, pack_state, read_weights
from cifar_hpc.models.lora import FACTORS, factors_of, merged, plain_state
from cifar_hpc.models.weights import weights_path, weights_sha256

MOST_FRAC = 0.5  # of the network's bytes: where more than that differs the file holds all of it
_NOTE = "start"


@dataclass(frozen=True)
class Start:
    """The weights that a network started from: of an architecture, by the name or path of `weights`, and their SHA-256."""

    arch: str
    weights: str
    sha256: str


def start_of(arch: str, weights: str | None, *, lasting: bool) -> Start | None:
    """The start of a network that begins with these weights; where they are a delta themselves, theirs. None without weights,
    or where they are whole and not lasting: another trial's, which may be removed. Raises DataError where a file is missing."""
    if weights is None:
        return None
    named = _named_in(weights_path(arch, weights))
    return named or (Start(arch, weights, str(weights_sha256(arch, weights))) if lasting else None)


def pack_trained(model: BlockModel, normalisation: Normalisation, start: Start | None) -> bytes:
    """A .safetensors of the network that `whole_weights` reads: what differs from the start, or all of it where there is none
    or most differs. Matrices of low rank stay as their factors in the former and are merged in the latter."""
    notes = dict(zip(("mean", "std"), map(json.dumps, normalisation), strict=True))
    state = plain_state(model)
    if start is None:
        return pack_state(state, notes)
    factors = factors_of(model)
    prefix = common_prefix(state, _tensors_of(start))
    known = named_without(prefix, _tensors_of(start))
    differing = {key: value for key, value in state.items() if key not in factors and not _is_equal(value, known.get(key))}
    for key, pair in factors.items():
        differing |= {f"{key}.{name}": factor for name, factor in zip(FACTORS, pair, strict=True)}
    if _bytes(differing) > MOST_FRAC * _bytes(state):
        return pack_state(state, notes)
    note = dataclasses.asdict(start) | ({"prefix": prefix} if prefix else {})
    return pack_state(differing, {**notes, _NOTE: json.dumps(note)})


def whole_weights(path: Path) -> Weights:
    """The weights of a file, all of the network's. Raises DataError, also where a delta's start is missing or another."""
    weights = read_weights(path)
    if weights.start is None:
        return weights
    start, prefix = _told_in(weights.start)
    known = named_without(prefix, _tensors_of(_checked(start, path)))
    state = OrderedDict((key, value.clone()) for key, value in known.items())  # a network is made of them, and may change them
    for key, value in weights.state.items():
        if not key.endswith(tuple(f".{name}" for name in FACTORS)):
            state[key] = value
    for key in [key.removesuffix(f".{FACTORS[0]}") for key in weights.state if key.endswith(f".{FACTORS[0]}")]:
        down, up = (weights.state[f"{key}.{name}"] for name in FACTORS)
        state[key] = merged(state[key].float(), down, up)
    return Weights(state, weights.normalisation, weights.entry)


def _named_in(path: Path) -> Start | None:
    if path.suffix != ".safetensors":
        return None
    found = read_weights(path).start
    return None if found is None else _told_in(found)[0]


def _told_in(note: Mapping[str, str]) -> tuple[Start, str]:
    """The start, and the prefix that its file's names have before the network's."""
    return Start(note["arch"], note["weights"], note["sha256"]), note.get("prefix", "")


def _checked(start: Start, path: Path) -> Start:
    what = f"weights: {path} holds what differs from {start.weights} of {start.arch} (SHA-256 {start.sha256[:16]}...)"
    try:
        found = weights_sha256(start.arch, start.weights)
    except CifarHpcError as error:
        raise DataError(f"{what}, which is missing: {str(error).removeprefix('weights: ')}") from error
    if found != start.sha256:
        raise DataError(f"{what}, and that file is another one now (SHA-256 {str(found)[:16]}...)")
    return start


@functools.lru_cache(maxsize=1)
def _tensors_of(start: Start) -> Mapping[str, Tensor]:
    """By name, as its file has them. Of a file that only timm's own loader reads: none."""
    try:
        return read_weights(weights_path(start.arch, start.weights)).state
    except DataError:
        return {}


def _is_equal(value: Tensor, known: Tensor | None) -> bool:
    if known is None or known.shape != value.shape:
        return False
    own = value.detach().cpu()
    return bool((own == known.to(own.dtype)).all())


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in state.values())
