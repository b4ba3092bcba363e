"""What a `freeze` value, or a block's name, means for a list of blocks. Imports no torch, so that a spec can be checked on a
login node.

Owns: frozen_blocks, blocks_called, FreezeError. Must not know: models, files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cifar_hpc.errors import UnusableError, nearest


class FreezeError(UnusableError):
    """A `freeze`, or another key that names blocks, that means nothing for a network."""


def frozen_blocks(names: Sequence[str], freeze: str | int | float) -> int:
    """How many of the first blocks are frozen, 0..len(names) - 1: the classifier, the last block, is always trained.

    'none': 0. 'all': all but the classifier. int: that many. float 0..1: that share of the len(names) - 1 backbone blocks,
    half a block rounded up. A name: up to and including that block; a stage (`layer3`, `denseblock2`, `features.4`): up to
    and including its last block. Raises FreezeError that lists the blocks.
    """
    most = len(names) - 1
    if freeze == "none":
        return 0
    if freeze == "all":
        return most
    if isinstance(freeze, bool) or not isinstance(freeze, str | int | float):
        raise FreezeError("freeze", f"{freeze!r} is no block count, share or name", f"allowed: {_allowed(names)}")
    if isinstance(freeze, str):
        return _frozen_by_name(names, freeze)
    if isinstance(freeze, int):
        if not 0 <= freeze <= most:
            raise FreezeError("freeze", f"{freeze} blocks", f"0 to {most} of them can be frozen: {_listed(names)}")
        return freeze
    if not 0 <= freeze <= 1:
        raise FreezeError("freeze", f"{freeze} is no share", f"allowed: 0.0 to 1.0, or {_allowed(names)}")
    return math.floor(freeze * most + 0.5)


def blocks_called(names: Sequence[str], wanted: str, key: str, head: str) -> range:
    """The blocks that a name means: one block, or all of a stage; `head`, where no block bears that name, the last one.

    key: the spec's, for errors. Raises FreezeError that lists the blocks.
    """
    stages = _stages_called(names, wanted)
    if not stages and wanted == head:
        return range(len(names) - 1, len(names))
    allowed = f"allowed: a block or a stage: {', '.join(names)}, or {head} for the last"
    if len(stages) > 1:
        raise FreezeError(key, f"{wanted!r} may mean {', '.join(stages)}", allowed)
    if not stages:
        near = nearest(wanted, [*names, *(part for name in names for part in _stages(name)), head])
        raise FreezeError(key, f"no block is called {wanted!r}", allowed, near)
    (found,) = stages.values()
    return found


def _stages_called(names: Sequence[str], wanted: str) -> dict[str, range]:
    """The blocks of each stage, or the block, whose path ends in that name."""
    stages: dict[str, range] = {}
    parts_wanted = wanted.split(".")
    for i, name in enumerate(names):
        parts = name.split(".")
        for start in range(len(parts) - len(parts_wanted) + 1):
            if parts[start : start + len(parts_wanted)] == parts_wanted:
                path = ".".join(parts[: start + len(parts_wanted)])
                stages[path] = range(stages[path].start if path in stages else i, i + 1)
    return {wanted: stages[wanted]} if wanted in stages else stages


def _frozen_by_name(names: Sequence[str], freeze: str) -> int:
    stages = _stages_called(names, freeze)
    if len(stages) > 1:
        raise FreezeError("freeze", f"{freeze!r} may mean {', '.join(stages)}", f"allowed: {_allowed(names)}")
    if not stages:
        words = [*names, *(part for name in names[:-1] for part in _stages(name))]
        near = nearest(freeze, words)
        raise FreezeError("freeze", f"no block is called {freeze!r}", f"allowed: {_allowed(names)}", near)
    (found,) = stages.values()
    if found.stop == len(names):
        raise FreezeError("freeze", f"{freeze!r} holds the classifier, which is always trained", f"allowed: {_allowed(names)}")
    return found.stop


def _stages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:stop]) for start in range(len(parts)) for stop in range(start + 1, len(parts))]


def _allowed(names: Sequence[str]) -> str:
    return f"none, all, 0 to {len(names) - 1}, a share 0.0 to 1.0, or a block: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) or f"(this network has only its classifier, {names[-1]})"
