"""What of a network a trial trains: which blocks, in which epoch, and which parameters of them. Imports no torch, so that a
plan can be looked at on a login node.

Owns: the words of `train`, the blocks that a list of names means, the steps of `unfreeze`. All that share a trunk, train,
estimate and draw ask here; what `freeze` alone means is freeze.py's. Knows no models.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

from cifar_hpc.config.catalog import ArchInfo
from cifar_hpc.config.freeze import FreezeError, blocks_called, frozen_blocks

WORDS = ("all", "bias", "norm")  # of `train`: which parameters of the blocks that are not frozen
LORA = "lora"  # where that key is set: its matrices alone, and the classifier
STILL = ("bias", LORA)  # with which BatchNorm keeps its running statistics, and normalises by them
HEAD = "head"  # the last block, whatever its name


class Training(Protocol):
    """The keys of a trial that decide what trains."""

    @property
    def freeze(self) -> str | int | float: ...
    @property
    def train(self) -> str | tuple[str, ...]: ...
    @property
    def unfreeze(self) -> tuple[tuple[int, str], ...] | None: ...
    @property
    def unfreeze_epoch(self) -> int | None: ...
    @property
    def lora(self) -> tuple[tuple[str, Any], ...] | None: ...


def ever_trained(config: Training, names: Sequence[str]) -> tuple[bool, ...]:
    """Of each block, whether some epoch trains it or a part of it. Raises FreezeError."""
    return _ever(tuple(names), config.freeze, config.train, config.unfreeze)


def trained_in(config: Training, names: Sequence[str], epoch: int) -> tuple[bool, ...]:
    """Of each block, whether this epoch, counted from 1, trains it or a part of it. Raises FreezeError where it trains none."""
    return _in_epoch(tuple(names), config.freeze, config.train, config.unfreeze, config.unfreeze_epoch, epoch)


def part_of(config: Training) -> str:
    """Which parameters of the blocks that train do so: a word of WORDS, or LORA; of the last block, the classifier, all."""
    return LORA if config.lora else config.train if isinstance(config.train, str) else "all"


def rank_of(config: Training) -> int:
    """Of a config with lora."""
    return int(dict(config.lora or ())["rank"])


def ever_stepped(config: Training, info: ArchInfo) -> tuple[bool, ...]:
    """Of each block, whether some epoch trains a parameter of it. Raises FreezeError."""
    return _and_holds(config, info, ever_trained(config, info.blocks))


def stepped_in(config: Training, info: ArchInfo, epoch: int) -> tuple[bool, ...]:
    """Of each block, whether this epoch trains a parameter of it: one that is chosen may have none of that part. Raises
    FreezeError."""
    return _and_holds(config, info, trained_in(config, info.blocks, epoch))


def no_layer_for(rank: int) -> str:
    """Why `lora` of that rank has nothing to train."""
    return f"rank {rank}: no block that trains, but for the classifier, has a linear layer with more rows and columns than that"


def trunk_depth(config: Training, names: Sequence[str]) -> int:
    """How many blocks stand before the first that any epoch trains: they are the trunk. Raises FreezeError."""
    return ever_trained(config, names).index(True)


def first_trained(config: Training, names: Sequence[str], epoch: int) -> int:
    """How many blocks stand before the first that this epoch trains. Raises FreezeError."""
    return trained_in(config, names, epoch).index(True)


def depths(config: Training, names: Sequence[str]) -> set[int]:
    """Every number of blocks that may stand before the first that an epoch trains, the trunk's among them."""
    begins = [1, *(start for start, _ in config.unfreeze or ())]
    if config.unfreeze_epoch is not None:
        begins.append(config.unfreeze_epoch + 1)
    return {trunk_depth(config, names)} | {first_trained(config, names, epoch) for epoch in begins}


def steps_of(config: Training, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """`unfreeze` as pairs of an epoch and the number of blocks before the first that trains from it on. Raises FreezeError
    where a later step does not begin nearer the input."""
    steps = tuple((start, _first_of(tuple(names), name, "unfreeze")) for start, name in config.unfreeze or ())
    for (_, before), (start, depth) in itertools.pairwise(steps):
        if depth >= before:
            found = f"epoch {start} begins at {names[depth]!r}, no nearer the input than the step before it"
            raise FreezeError("unfreeze", found, "each step begins nearer the input: {1: fc, 3: layer4}")
    return steps


def _and_holds(config: Training, info: ArchInfo, chosen: Sequence[bool]) -> tuple[bool, ...]:
    """Of each block, whether it is chosen and has a parameter of the part that trains."""
    part = part_of(config)
    if part == LORA:
        holds = [rank_of(config) <= most for most in info.lora_ranks]
    else:
        counts = {"all": info.block_params, "bias": info.bias_params, "norm": info.norm_params}[part]
        holds = [n > 0 for n in counts]
    holds[-1] = info.block_params[-1] > 0
    return tuple(a and b for a, b in zip(chosen, holds, strict=True))


@functools.lru_cache(maxsize=4096, typed=True)  # typed: one block, 1, is not all of them, 1.0
def _ever(
    names: tuple[str, ...],
    freeze: str | int | float,
    train: str | tuple[str, ...],
    unfreeze: tuple[tuple[int, str], ...] | None,
) -> tuple[bool, ...]:
    first = frozen_blocks(names, freeze)
    if unfreeze:
        first = max(first, min(_first_of(names, name, "unfreeze") for _, name in unfreeze))
    listed = set(range(len(names)))
    if not isinstance(train, str):
        listed = {i for name in train for i in blocks_called(names, name, "train", HEAD)}
        if min(listed) < frozen_blocks(names, freeze):
            found = f"{names[min(listed)]!r}, which freeze {freeze} keeps"
            raise FreezeError("train", found, "blocks after those that `freeze` keeps; without `freeze` the list says all")
    if max(listed) < first:
        raise FreezeError("train", "no block is ever trained", "`train` names a block that `unfreeze` reaches")
    return tuple(i >= first and i in listed for i in range(len(names)))


@functools.lru_cache(maxsize=4096, typed=True)  # it is asked for each batch of each member
def _in_epoch(
    names: tuple[str, ...],
    freeze: str | int | float,
    train: str | tuple[str, ...],
    unfreeze: tuple[tuple[int, str], ...] | None,
    unfreeze_epoch: int | None,
    epoch: int,
) -> tuple[bool, ...]:
    first = 0
    if unfreeze_epoch is not None and epoch <= unfreeze_epoch:
        first = len(names) - 1
    for start, name in unfreeze or ():
        if start <= epoch:
            first = _first_of(names, name, "unfreeze")
    trained = tuple(i >= first and ever for i, ever in enumerate(_ever(names, freeze, train, unfreeze)))
    if not any(trained):
        raise FreezeError("train", f"epoch {epoch} trains no block", "`train` names a block that each epoch may train")
    return trained


def _first_of(names: tuple[str, ...], name: str, key: str) -> int:
    return blocks_called(names, name, key, HEAD).start
