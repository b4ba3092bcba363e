"""--set key=value: a spec changed for one run, its file left as it is. Works on the plain tree, before values are checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree, parse_yaml

_TOP_LEVEL = ("name", "dataset", "base", "grid", "zip", "include", "exclude", "when", "seeds", "objective", "stop", "resources")


def apply_overrides(tree: YamlTree, overrides: Sequence[str]) -> None:
    """Changes the tree in place; the changed values' place is then '--set key=value'. Raises SpecError, all problems at once.

    A trial key (`epochs=2`) fixes that key for every trial: it goes to base and leaves grid and zip. `grid.lr=[1e-3]`,
    `dataset.train_size=500`, `stop.patience=2`, `resources.gpus=0`, `seeds=3` change what they name. `include` and `when`
    still set what they set. The value is YAML.
    """
    problems: list[Problem] = []
    for override in overrides:
        try:
            _apply(tree, override)
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError(problems)


def _apply(tree: YamlTree, override: str) -> None:
    place = f"--set {override}"
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise SpecError([Problem(place, "no key=value", "write --set epochs=2 or --set 'grid.lr=[1e-3, 3e-3]'")])
    value = parse_yaml(text, place, fixed_place=place).value
    if not isinstance(tree.value, dict):
        return  # reported as what it is when the spec is read
    if parts == ["seed"]:
        parts, value = ["seeds"], [value]
    if parts[0] not in _TOP_LEVEL:
        _fix(tree, key.strip(), value, place)
    elif len(parts) == 1:
        _put(tree, (parts[0],), value, place)
    elif parts[0] == "dataset":
        _fix_in_dataset(tree, parts, value, place)
    elif parts[0] in ("base", "grid", "zip"):
        _put(tree, (parts[0], ".".join(parts[1:])), value, place)
    else:
        _put(tree, tuple(parts), value, place)


def _fix(tree: YamlTree, key: str, value: Any, place: str) -> None:
    for section in ("grid", "zip"):
        axes = tree.value.get(section)
        if isinstance(axes, dict):
            axes.pop(key, None)
            if not axes:
                del tree.value[section]
    _put(tree, ("base", key), value, place)


def _fix_in_dataset(tree: YamlTree, parts: list[str], value: Any, place: str) -> None:
    """Into the dataset that all trials share; where `dataset` is an axis, onto each of its values."""
    name = ".".join(parts)
    for section in ("grid", "zip"):
        axes = tree.value.get(section)
        if isinstance(axes, dict) and ("dataset" in axes or name in axes):
            _fix(tree, name, value, place)
            return
    if isinstance(tree.value.get("dataset"), str):
        tree.places[("dataset", "name")] = tree.places[("dataset",)]
        tree.value["dataset"] = {"name": tree.value["dataset"]}
    _put(tree, tuple(parts), value, place)


def _put(tree: YamlTree, path: KeyPath, value: Any, place: str) -> None:
    holder = tree.value
    for depth, part in enumerate(path[:-1], 1):
        if holder.get(part) is None:
            holder[part] = {}
        holder = holder[part]
        if not isinstance(holder, dict):
            where = tree.where(path[:depth])
            raise SpecError([Problem(place, f"{where} is not a mapping", "a key can only be set inside a mapping")])
    for known in [known for known in tree.places if known[: len(path)] == path]:
        del tree.places[known]
    _mark(tree, path, value, place)
    holder[path[-1]] = value


def _mark(tree: YamlTree, path: KeyPath, value: Any, place: str) -> None:
    tree.places[path] = place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        _mark(tree, (*path, key), part, place)
