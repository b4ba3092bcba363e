"""What of a config enters its id, as canonical JSON, and the id that is a hash of it. Knows no key: its metadata say how it is
hashed, so that a new one cannot be forgotten here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from typing import Any

ID_SCHEME = 2  # raise it when a change of the code changes what an unchanged config trains to
ID_LENGTH = 12  # base32 characters: 60 bits


def hashed_fields(part: Any) -> dict[str, Any]:
    """The fields of a part of a config that enter its id: not those of hashed=False, nor a late one that has its default."""
    found = {}
    for name, late in _hashed(part.__class__).items():
        value = getattr(part, name)
        if not (late and value == late[0]):
            found[name] = value
    return found


@cache
def _hashed(kind: type[Any]) -> dict[str, tuple[Any, ...]]:
    """The fields that may enter an id, by name -> the default of a late one, which does not; of others nothing."""
    known = sorted((f for f in fields(kind) if f.metadata.get("hashed") is not False), key=lambda f: f.name)
    return {f.name: (f.default,) if f.metadata.get("late") else () for f in known}


def canonical_part(part: Any) -> str:
    """Canonical JSON of what of a part enters the id."""
    return canonical(hashed_fields(part))


def member_texts(config: Any) -> dict[str, str]:
    """key -> '"key":value' of canonical JSON, keys sorted, for what enters the id. A part has it ready as `canonical`."""
    texts = {}
    for key, value in hashed_fields(config).items():
        if value is None or isinstance(value, str | int | float):
            texts[key] = member_text(key, value)
        elif isinstance(value, tuple):
            texts[key] = f'"{key}":{canonical([hashed_fields(item) if is_dataclass(item) else item for item in value])}'
        else:
            texts[key] = f'"{key}":{value.canonical}'
    return texts


@lru_cache(maxsize=4096, typed=True)  # typed: 1 and 1.0 are two values. The values of a sweep's axes are few
def member_text(key: str, value: str | float | None) -> str:
    return f'"{key}":{canonical(value)}'


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(members: Iterable[str]) -> str:
    """The id of those members."""
    text = f'{{"id_scheme":{ID_SCHEME},{",".join(members)}}}'
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10])[:ID_LENGTH].decode().lower()
