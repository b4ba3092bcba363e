"""A list or a mapping as one text, the same in every table, name, figure and filter: 'layer2+fc', '1:fc+3:layer4', 'cat:2',
'flip + crop(pad_frac=0.1)'.

Owns: that text, of a value as a TrialConfig holds it and as JSON gives it back, and that of a number in a table. A number or a
word else stays what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_hpc.config.trial import AugmentOp

DIGITS = 6  # significant ones of a number, for a reader


def as_text(value: Any) -> Any:
    """The text of a list, a mapping, pairs or operations; anything else as it is."""
    if isinstance(value, Mapping):
        return "+".join(_pair(*pair) for pair in value.items())
    if not isinstance(value, list | tuple):
        return value
    if value and all(isinstance(item, AugmentOp) for item in value):
        return " + ".join(_operation(op.name, op.args) for op in value)
    if value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return " + ".join(_operation(op["name"], op.get("args", ())) for op in value)
    if value and all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        return "+".join(_pair(*pair) for pair in value)
    return "+".join(_whole(str(item)) for item in value) or "[]"


def float_text(value: float, digits: int = DIGITS) -> str:
    """As a table has it: 1e-05 as 1e-5. digits: significant ones."""
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+")


def _pair(name: Any, value: Any) -> str:
    return f"{_whole(str(name))}:{_plain(value)}"


def _whole(name: str) -> str:
    """In quotation marks where it holds what joins names."""
    return json.dumps(name, ensure_ascii=False) if "+" in name else name


def _operation(name: str, args: Sequence[Sequence[Any]]) -> str:
    told = ",".join(f"{key}={_plain(number)}" for key, number in args)
    return f"{name}({told})" if args else name


def _plain(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(as_text(value))
