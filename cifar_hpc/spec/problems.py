"""pydantic's errors as Problems in the words of a spec: where, what was found, what is allowed, the nearest right one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from cifar_hpc.config.plugins import NO_PARTS, OwnParts
from cifar_hpc.config.words import usual_setting
from cifar_hpc.errors import Problem, nearest
from cifar_hpc.spec.keys import ALL_KEYS, RANGE_KEYS, TRIAL_KEYS, Key
from cifar_hpc.spec.overrides import TOP_LEVEL
from cifar_hpc.spec.schema import SECTIONS, nearest_key
from cifar_hpc.spec.values import show
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree

ONE_VALUE = ("arch", "freeze", "weights")  # of the keys with a reader of their own those that never hold a list
_PARTS = ("dataset", "folds", "stop", "keep", "resources", "objective", "search", "scheduler", "ensemble", "members", "ranges")


def problems_of(errors: Iterable[Mapping[str, Any]], tree: YamlTree, parts: OwnParts = NO_PARTS) -> list[Problem]:
    """One problem for each error of a ValidationError. parts: whose names stand beside the package's own."""
    return [_problem(error, tree, parts) for error in errors]


def by_line(problems: Iterable[Problem]) -> list[Problem]:
    """The problems in the order in which a reader of the file meets them; those of `--set` first."""

    def line(problem: Problem) -> int:
        number = re.match(r"(?!--set).*?:(\d+)", problem.where)
        return int(number.group(1)) if number else 0

    return sorted(problems, key=line)


def _problem(error: Mapping[str, Any], tree: YamlTree, parts: OwnParts) -> Problem:
    path: KeyPath = tuple(error["loc"])
    where = tree.where(_as_written(path, tree))
    written, path = path, path[2:] if path[0] == "stages" and len(path) > 2 else path  # a stage holds what a spec holds
    kind, value = error["type"], error["input"]
    if kind == "refused":
        context = error["ctx"]
        swept = (
            "; axes stand in grid"
            if isinstance(value, list) and path[0] in ("base", "include") and path[-1] in ONE_VALUE
            else ""
        )
        return Problem(where, context["found"], context["allowed"] + swept, context["nearest"])
    if kind == "extra_forbidden":
        return _unknown_key(path, value, tree.where(written), in_stage=path != written)
    if kind == "missing":
        return Problem(tree.where(written), "nothing", f"{path[-1]!r} is needed")
    if kind in ("list_type", "too_short"):
        place = (
            "a range in search.ranges"
            if isinstance(value, dict) and path[-1] in RANGE_KEYS
            else "a value for every trial stands in base"
        )
        example = f" ({place}: {path[-1]})" if path[0] in ("grid", "zip") else ""
        return Problem(where, show(value), f"a list with at least one value is needed{example}")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Problem(where, show(value), "a mapping (key: value) is needed")
    key = ALL_KEYS.get(_flat_key(path))
    if path[:2] == ("search", "ranges") and path[-1] in ("low", "high"):
        key = RANGE_KEYS[str(path[2])]  # whose values the ends of a range are
    if key is None:
        return Problem(where, show(value), _lower_first(str(error["msg"])))
    key = key.with_choices(parts.names(key.name))
    if isinstance(value, list) and path[0] in ("base", "include"):
        return Problem(where, show(value), f"{key.allowed}; axes stand in grid")
    return wrong_value(where, value, key)


def wrong_value(where: str, value: Any, key: Key) -> Problem:
    """A value that is not of its key's form."""
    if key.choices:
        return Problem(where, show(value), key.allowed, nearest(value, key.choices) if isinstance(value, str) else None)
    quoted = "; a number stands without quotes" if _is_number(value) else ""
    whole = str(int(value)) if isinstance(value, float) and value.is_integer() and key.takes(int(value)) else None
    return Problem(where, show(value), f"{key.allowed} is needed{quoted}", whole)


def _unknown_key(path: KeyPath, value: Any, where: str, *, in_stage: bool) -> Problem:
    word, section = str(path[-1]), _section(path[:-1])
    if in_stage and section == "" and word in ("name", "objective", "keep", "resources", "ensemble", "plugins"):
        return Problem(where, f"the key {word!r}", "it stands beside `stages`, for all of them")
    if in_stage and section == "" and word in ("search", "stages"):
        return Problem(where, f"the key {word!r}", "no stage has one")
    if section == "trial":
        if word == "seed":
            return Problem(where, "'seed'", "seeds stand at the top level, as a list or a count", "seeds")
        if word in TOP_LEVEL:
            return Problem(where, f"the key {word!r}", "it stands at the top level: mind the indentation")
        return Problem(
            where, f"the key {word!r}", "it is no trial key", usual_setting(word, value) or nearest_key(word, "trial")
        )
    if section in _PARTS and word in TOP_LEVEL and not in_stage:
        return Problem(where, f"the key {word!r}", "it stands at the top level: mind the indentation", word)
    if section == "ranges" and word in TRIAL_KEYS:
        return Problem(where, f"the key {word!r}", "it has no range: its values are a list in grid")
    near = nearest_key(word, section)
    if section == "":
        allowed = "a trial key stands in base, grid or zip" if word in TRIAL_KEYS else "it is no key of a spec"
        setting = usual_setting(word, value)
        return Problem(where, f"the key {word!r}", allowed, f"base.{setting}" if setting else near)
    said = {"ranges": "it is no trial key that is a number", "range": "it is no key of a range"}
    return Problem(where, f"the key {word!r}", said.get(section, f"it is no key of {section}"), near)


def _section(path: KeyPath) -> str:
    """'' for the top level, a part's name, 'rule' for an item of when, 'trial' where trial keys stand."""
    words = [part for part in path if isinstance(part, str)]
    if not words:
        return ""
    if words[-1] in _PARTS:
        return words[-1]
    if words[:2] == ["search", "ranges"]:
        return "range"
    return "rule" if words == ["when"] else "trial"


def _flat_key(path: KeyPath) -> str:
    words = [part for part in path if isinstance(part, str) and part not in (*SECTIONS, "if", "set")]
    return "seed" if words == ["seeds"] else ".".join(words)


def _as_written(path: KeyPath, tree: YamlTree) -> KeyPath:
    """A single value where a list may stand has no [0] in the file."""
    while path and isinstance(path[-1], int) and path not in tree.places:
        path = path[:-1]
    return path


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
