"""The filter of reading commands: 'arch=resnet18 lr>1e-3 status=failed'. Knows words and comparisons, no files.

Terms are separated by blanks and all must hold. A term is a key, one of = != > >= < <=, and a value; = and != take several
values with commas and * for any letters. null matches what is absent. Comparisons of absent values never hold.
"""

from __future__ import annotations

import fnmatch
import operator
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpc.errors import CifarHpcError, nearest
from cifar_hpc.spec.words import usual_key

MOST_VALUES = 8
_TERM = re.compile(r"([\w.]+)(!=|>=|<=|=|>|<)(.*)", re.S)
_ORDERED: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison."""

    key: str
    sign: str
    values: tuple[str, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        found = row.get(self.key)
        if self.sign in _ORDERED:
            number = _number(found)
            return number is not None and _ORDERED[self.sign](number, float(self.values[0]))
        return any(_equal(found, value) for value in self.values) is (self.sign == "=")


@dataclass(frozen=True, slots=True)
class Filter:
    """All terms; without any, everything matches."""

    terms: tuple[Term, ...]

    def matches(self, row: Mapping[str, Any]) -> bool:
        return all(term.holds(row) for term in self.terms)


def parse_filter(text: str, keys: Collection[str]) -> Filter:
    """Raises CifarHpcError with where, found, allowed and the nearest key."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CifarHpcError(f"filter {text!r}: {error}") from error
    return Filter(tuple(_parse_term(word, keys) for word in words))


def values_there(rows: Iterable[Mapping[str, Any]], chosen: Filter) -> str:
    """'lr is 0.01, 0.1; arch is linear': what the filter's keys could have matched."""
    values: dict[str, dict[str, None]] = {term.key: {} for term in chosen.terms}
    for row in rows:
        for key, known in values.items():
            known["null" if row.get(key) is None else str(row[key])] = None
    return "; ".join(f"{key} is {_some(sorted(known))}" for key, known in values.items())


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:MOST_VALUES]) + (f", ... ({len(words)} in all)" if len(words) > MOST_VALUES else "")


def flat_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's config with dotted keys (dataset.train_size); `dataset` itself is the data set's name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= {key if part == "name" else f"{key}.{part}": item for part, item in value.items()}
        else:
            flat[key] = value
    return flat


def _parse_term(word: str, keys: Collection[str]) -> Term:
    match = _TERM.fullmatch(word)
    if match is None or not match[3]:
        raise CifarHpcError(f"filter: {word!r} is no term; allowed: key=value, also != > >= < <=, such as lr>1e-3")
    key, sign, value = match[1], match[2], match[3]
    if key not in keys:
        usual = usual_key(key)
        near = usual if usual in keys else nearest(key, keys)
        hint = f". Did you mean {near!r}?" if near else ""
        raise CifarHpcError(f"filter: {key!r} is unknown; allowed: {', '.join(sorted(keys))}{hint}")
    if sign in _ORDERED and _number(value) is None:
        raise CifarHpcError(f"filter: {word!r} compares with {value!r}; allowed: a number after {sign}")
    return Term(key, sign, (value,) if sign in _ORDERED else tuple(value.split(",")))


def _equal(found: Any, value: str) -> bool:
    if found is None:
        return value == "null"
    left, right = _number(found), _number(value)
    if left is not None and right is not None:
        return left == right
    return fnmatch.fnmatchcase(str(found).lower(), value.lower())


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
