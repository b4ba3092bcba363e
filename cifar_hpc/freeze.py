"""What a `freeze` value means for a list of blocks. Imports no torch, so that a spec can be checked on a login node.

Owns: frozen_blocks. Must not know: models, files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cifar_hpc.errors import CifarHpcError, nearest


def frozen_blocks(names: Sequence[str], freeze: str | int | float) -> int:
    """How many of the first blocks are frozen, 0..len(names) - 1: the classifier, the last block, is always trained.

    'none': 0. 'all': all but the classifier. int: that many. float 0..1: that share of the len(names) - 1 backbone blocks,
    half a block rounded up. A name: up to and including that block; a stage (`layer3`, `denseblock2`, `features.4`): up to
    and including its last block. Raises CifarHpcError that lists the blocks.
    """
    most = len(names) - 1
    if freeze == "none":
        return 0
    if freeze == "all":
        return most
    if isinstance(freeze, bool) or not isinstance(freeze, str | int | float):
        raise CifarHpcError(f"freeze: {freeze!r} is no block count, share or name; allowed: {_allowed(names)}")
    if isinstance(freeze, str):
        return _frozen_by_name(names, freeze)
    if isinstance(freeze, int):
        if not 0 <= freeze <= most:
            raise CifarHpcError(f"freeze: {freeze} blocks; 0 to {most} of them can be frozen: {_listed(names)}")
        return freeze
    if not 0 <= freeze <= 1:
        raise CifarHpcError(f"freeze: {freeze} is no share; allowed: 0.0 to 1.0, or {_allowed(names)}")
    return math.floor(freeze * most + 0.5)


def _frozen_by_name(names: Sequence[str], freeze: str) -> int:
    stages: dict[str, int] = {}  # path of the matched stage -> number of blocks up to and including it
    wanted = freeze.split(".")
    for i, name in enumerate(names):
        parts = name.split(".")
        for start in range(len(parts) - len(wanted) + 1):
            if parts[start : start + len(wanted)] == wanted:
                stages[".".join(parts[: start + len(wanted)])] = i + 1
    if freeze in stages:
        stages = {freeze: stages[freeze]}
    if len(stages) > 1:
        raise CifarHpcError(f"freeze: {freeze!r} may mean {', '.join(stages)}; allowed: {_allowed(names)}")
    if not stages:
        words = [*names, *(part for name in names[:-1] for part in _stages(name))]
        near = nearest(freeze, words)
        hint = f". Did you mean {near!r}?" if near else ""
        raise CifarHpcError(f"freeze: no block is called {freeze!r}; allowed: {_allowed(names)}{hint}")
    (n,) = stages.values()
    if n == len(names):
        raise CifarHpcError(f"freeze: {freeze!r} holds the classifier, which is always trained; allowed: {_allowed(names)}")
    return n


def _stages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:stop]) for start in range(len(parts)) for stop in range(start + 1, len(parts))]


def _allowed(names: Sequence[str]) -> str:
    return f"none, all, 0 to {len(names) - 1}, a share 0.0 to 1.0, or a block: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) or f"(this network has only its classifier, {names[-1]})"
