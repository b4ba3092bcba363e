"""--set key=value: a spec changed for one run, its file left as it is. Works on the plain tree, before values are checked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from cifar_hpc.errors import Problem, SpecError, nearest
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree, parse_yaml

TOP_LEVEL = (
    *("name", "dataset", "base", "grid", "zip", "include", "exclude", "when", "seeds", "folds", "objective", "stop"),
    *("search", "stages", "resources", "keep", "ensemble", "plugins"),
)


def apply_overrides(tree: YamlTree, overrides: Sequence[str]) -> None:
    """Changes the tree in place; the changed values' place is then '--set key=value'. Raises SpecError, all problems at once.

    A trial key (`epochs=2`) fixes that key for every trial: it goes to base and leaves grid, zip and ranges. `grid.lr=[1e-3]`,
    `dataset.train_size=500`, `stop.patience=2`, `resources.gpus=0`, `seeds=3` change what they name. `include` and `when`
    still set what they set, and a key of `dataset` goes onto each value of an axis `dataset`. The value is YAML.
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
    if parts[0] == "stages" and len(parts) > 1 and parts[1] not in (stages := _stages(tree)):
        known = f"the spec has the stages {', '.join(stages)}" if stages else "the spec has no stages"
        raise SpecError([Problem(place, f"the stage {parts[1]!r}", known, nearest(parts[1], stages))])
    if parts == ["seed"]:
        parts, value = ["seeds"], [value]
    if parts[0] not in TOP_LEVEL:
        _fix(tree, key.strip(), value, place)
    elif len(parts) == 1:
        if parts == ["dataset"]:
            _release(tree, "dataset", ("base", "grid", "zip"))
        for stage in _stages(tree).values():
            stage.pop(parts[0], None)
        _put(tree, (parts[0],), value, place)
    elif parts[0] == "dataset":
        _fix_in_dataset(tree, parts, value, place)
    elif parts[0] in ("base", "grid", "zip"):
        _release(tree, ".".join(parts[1:]), () if parts[0] == "base" else ("base",))  # base against an axis is refused later
        _put(tree, (parts[0], ".".join(parts[1:])), value, place)
    elif parts[0] == "stages" and len(parts) > 3 and parts[2] in ("base", "grid", "zip"):
        _put(tree, (*parts[:3], ".".join(parts[3:])), value, place)
    elif parts[0] == "stages" and len(parts) > 3 and parts[2] == "dataset":
        _own_dataset(tree, parts[1])
        _put(tree, tuple(parts), value, place)
    elif parts[0] == "stop":
        _release(tree, ".".join(parts), ("base", "grid", "zip"))
        for stage in _stages(tree).values():
            if isinstance(stage.get("stop"), dict):
                stage["stop"].pop(".".join(parts[1:]), None)
        _put(tree, tuple(parts), value, place)
    else:
        _put(tree, tuple(parts), value, place)


def _fix(tree: YamlTree, key: str, value: Any, place: str) -> None:
    _release(tree, key, ("grid", "zip"))
    _put(tree, ("base", key), value, place)


def _release(tree: YamlTree, key: str, sections: Sequence[str]) -> None:
    """Takes a trial key out of sections that would set it again, and out of all that stages set."""
    inside = [(tree.value, sections), *((stage, ("base", "grid", "zip")) for stage in _stages(tree).values())]
    if "grid" in sections and isinstance(search := tree.value.get("search"), dict):
        inside.append((search, ("ranges",)))
    for holder, names in inside:
        for section in names:
            keys = holder.get(section)
            if isinstance(keys, dict) and key in keys:
                del keys[key]
                if not keys:
                    del holder[section]


def _stages(tree: YamlTree) -> dict[str, dict[str, Any]]:
    """The stages that are mappings; the others are reported as what they are when the spec is read."""
    stages = tree.value.get("stages")
    return {name: stage for name, stage in stages.items() if isinstance(stage, dict)} if isinstance(stages, dict) else {}


def _fix_in_dataset(tree: YamlTree, parts: list[str], value: Any, place: str) -> None:
    """Into the dataset that all trials share, and onto each value of an axis `dataset`, which says all keys of a data set."""
    _release(tree, ".".join(parts), ("base", "grid", "zip"))
    whole: list[KeyPath] = []
    stages: list[tuple[KeyPath, dict[str, Any]]] = [(("stages", name), stage) for name, stage in _stages(tree).items()]
    for path, holder in [((), tree.value), *stages]:
        for section in ("grid", "zip"):
            axes = holder.get(section)
            if isinstance(axes, dict) and isinstance(axes.get("dataset"), list):
                whole += [(*path, section, "dataset", index) for index in range(len(axes["dataset"]))]
        if isinstance(holder.get("base"), dict) and "dataset" in holder["base"]:
            whole.append((*path, "base", "dataset"))
        if path and "dataset" in holder:
            whole.append((*path, "dataset"))
    if not whole or "dataset" in tree.value:
        whole.append(("dataset",))
    for path in whole:
        _name_dataset(tree, path)
        _put(tree, (*path, *parts[1:]), value, place)


def _own_dataset(tree: YamlTree, stage: str) -> None:
    """Gives the stage a data set that can hold further keys: its own, or a copy of the one that all stages have."""
    holder = _stages(tree).get(stage)
    if holder is not None:
        if "dataset" not in holder and "dataset" in tree.value:
            holder["dataset"] = copy.deepcopy(tree.value["dataset"])
            tree.places[("stages", stage, "dataset")] = tree.places.get(("dataset",), tree.origin)
        _name_dataset(tree, ("stages", stage, "dataset"))


def _name_dataset(tree: YamlTree, path: KeyPath) -> None:
    """Writes a data set that is only its name as the mapping that can hold further keys."""
    holder = tree.value
    for part in path[:-1]:
        holder = holder[part]
    given = holder[path[-1]] if isinstance(path[-1], int) else holder.get(path[-1])
    if isinstance(given, str):
        tree.places[(*path, "name")] = tree.places.get(path, tree.origin)
        holder[path[-1]] = {"name": given}


def _put(tree: YamlTree, path: KeyPath, value: Any, place: str) -> None:
    holder = tree.value
    for depth, part in enumerate(path[:-1], 1):
        if isinstance(holder, dict) and holder.get(part) is None:
            holder[part] = {}
        holder = holder[part]
        if not isinstance(holder, dict) and not isinstance(path[depth], int):
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
