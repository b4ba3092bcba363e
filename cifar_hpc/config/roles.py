"""Which keys of a trial have a role, those of its parts among them.

Owns: no role and no key. What a role is keys.py says, and which keys have it trial.py and dataset.py, where they declare them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.keys import Role
from cifar_hpc.config.trial import StopConfig, TrialConfig

PARTS = {"dataset": DatasetConfig, "stop": StopConfig}
ARGUMENTS = ("arch_args", "dataset.args")  # of one's own code; each is a key of its own too: arch_args.width


def keys_with(role: Role) -> tuple[str, ...]:
    """The keys that have the role, or one of several, in the order of their declaration; those of a part as 'stop.patience'."""
    return tuple(key for key, metadata in _declared() if role & metadata["roles"])


def unhashed_keys() -> tuple[str, ...]:
    """The keys that are no part of an id."""
    return tuple(key for key, metadata in _declared() if metadata.get("hashed") is False)


def asked_keys() -> tuple[str, ...]:
    """The keys that a spec may hold of a trial and that its numbers depend on; `start`, in whose words a user asks for what the
    hashed weights say, among them."""
    others = {*derived_keys(), *PARTS}
    hashed = (key for key, metadata in _declared() if metadata.get("hashed", True) or key == "start")
    return tuple(key for key in hashed if key not in others)


def derived_keys() -> tuple[str, ...]:
    """The keys that are worked out while the spec is read."""
    return tuple(key for key, metadata in _declared() if metadata.get("derived"))


def _declared() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for f in dataclasses.fields(TrialConfig):
        yield f.name, f.metadata
        if f.name in PARTS:
            yield from ((f"{f.name}.{inner.name}", inner.metadata) for inner in dataclasses.fields(PARTS[f.name]))
