"""What a trial says of a network or data set of the user's own: its code, its images, the arguments that it is called with.

Owns: OwnNetwork, arguments as a config holds them. Knows no fields of a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifar_hpc.config.sources import Source

Arguments = tuple[tuple[str, Any], ...]  # sorted by name; values are what YAML can write, lists as tuples


@dataclass(frozen=True)
class OwnNetwork:
    """A network of the user's own, as far as planning has to know it. side, channels: of its images."""

    source: Source
    args: Arguments
    side: int
    channels: int

    def __str__(self) -> str:
        return self.source.name


def arguments(given: Mapping[str, Any] | None) -> Arguments | None:
    """Arguments by name as a config holds them."""
    return tuple((name, as_tuples(given[name])) for name in sorted(given)) if given else None


def plain_arguments(args: Arguments | None) -> dict[str, Any] | None:
    """The same as a mapping again."""
    return None if args is None else {name: _thawed(value) for name, value in args}


def as_tuples(value: Any) -> Any:
    """Lists within lists as tuples, as a config holds them."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    return list(map(_thawed, value)) if isinstance(value, tuple) else value
