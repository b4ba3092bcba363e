"""What the features of a pretrained network depend on, before any of it is trained: its keys, as their roles say.

Owns: which trials have the same features of the labelled images, and what tells others apart. Computes no feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cifar_hpc.config import identity
from cifar_hpc.config.keys import Role
from cifar_hpc.config.roles import derived_keys, keys_with, unhashed_keys
from cifar_hpc.config.trial import TrialConfig

# The seed draws nothing of a network with weights; the data set has keys of its own; of the sources two matter.
_OTHERS = {"seed", "dataset", "sources", *keys_with(Role.TRAINING)}
_KEYS = tuple(key for key in keys_with(Role.COMMON) if key not in _OTHERS)
_WRITTEN = tuple(key for key in _KEYS if key not in derived_keys())
_HASHED = tuple(key for key in _KEYS if key not in unhashed_keys())


def features_id(config: TrialConfig) -> str:
    """Equal for trials whose networks, before training, have the same features of the same labelled images."""
    sources = [config.source_of(part) for part in ("arch", "dataset")]
    code = [source.sha256 for source in sources if source is not None]
    return identity.digest([identity.canonical([[_value(config, key) for key in _HASHED], code])])


def images_id(config: TrialConfig) -> str:
    """Equal for trials with the same labelled images."""
    return config.dataset.trainval.digest


def told_apart(configs: Sequence[TrialConfig]) -> list[dict[str, Any]]:
    """Of each, the keys of a spec that its features depend on and in which the configs differ; `arch` in any case."""
    found = [{key: _value(config, key) for key in _WRITTEN} for config in configs]
    differing = [key for key in _WRITTEN if key == "arch" or len({repr(values[key]) for values in found}) > 1]
    return [{key: values[key] for key in sorted(differing, key=lambda key: key != "arch")} for values in found]


def _value(config: TrialConfig, key: str) -> Any:
    part, _, name = key.rpartition(".")
    return getattr(config.dataset.trainval.of_point if part else config, name)
