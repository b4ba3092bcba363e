"""The validated model of a spec -> the flat sections that expand.py multiplies, and where each value stands in the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.words import NO_VALUE
from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.expand import FOLD, FOLD_BY, FOLDS, MAX_TRIALS, Pattern, Point, Sections, count_trials
from cifar_hpc.spec.keys import ARGUMENT_PREFIXES, SEED, TRIAL_KEYS
from cifar_hpc.spec.schema import all_of, given
from cifar_hpc.spec.values import show
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree

RESOURCES = "resources."  # before the keys of a point that a rule sets of a trial's resources
DEFAULTS = {name: key.default for name, key in {**TRIAL_KEYS, "seed": SEED}.items()}


class Origins:
    """Where the values of trial keys stand in the spec, so that a contradiction between two keys has a line."""

    def __init__(self, tree: YamlTree) -> None:
        self.tree = tree
        self._values: dict[str, list[tuple[Any, KeyPath]]] = {}

    def add(self, setter: Point, path: KeyPath) -> None:
        for key, value in setter.items():
            self._values.setdefault(key, []).append((value, path))

    def where(self, key: str, value: Any) -> str:
        """The line that sets the key to that value; else one that sets the key; else the top of the file."""
        known = self._values.get(key, [])
        same = [path for old, path in known if old == value]
        paths = same or [path for _, path in known]
        if paths:
            return self.tree.where(paths[0])
        path = ("base", key) if "." not in key else ("dataset",) if key == "dataset.name" else tuple(key.split("."))
        return self.tree.where(path)

    def has(self, key: str, value: Any) -> bool:
        """Whether some point may have that value."""
        return value in (DEFAULTS.get(key), *(old for old, _ in self._values.get(key, [])))

    def written(self) -> tuple[str, ...]:
        return tuple(self._values)

    def of_some(self) -> tuple[str, ...]:
        """The keys that `include` or `when` sets for some of the points."""
        return tuple(
            key
            for key, known in self._values.items()
            if any(path[0] in ("include", "when") and path[-1] == key for _, path in known)  # else that of a whole data set
        )

    def repeated(self) -> list[str]:
        """A sentence for each value of an axis of grid that the axis has already."""
        sentences = []
        for key, known in self._values.items():
            before: set[Any] = set()
            for value, path in known:
                if path[:2] == ("grid", key):
                    if value in before:
                        where = self.tree.where(path)
                        sentences.append(f"{where}: {show(as_text(value))} stands in the list already; it counts once")
                    before.add(value)
        return sentences

    def lost(self, points: Sequence[Point]) -> list[str]:
        """Where the spec writes a key of a data set for all trials and none of the points has that value."""
        return [
            self.tree.where(path)
            for key, known in self._values.items()
            if key.startswith("dataset.")
            for value, path in known
            if path[0] in ("dataset", "base") and value != DEFAULTS.get(key)
            if not any(point.get(key, DEFAULTS.get(key)) == value for point in points)
        ]

    def switched_on(self) -> tuple[str, ...]:
        """The keys that are written with something else than null or 0 somewhere, or freeze with another depth than all."""
        off = (None, 0, "all")  # svm and knn freeze all in any case: who writes it is right
        return tuple(key for key, known in self._values.items() if any(value not in off for value, _ in known))


def read_sections(model: BaseModel, tree: YamlTree) -> tuple[Sections, Origins, tuple[str, ...]]:
    """The sections, the origins of their values, and the axes that the spec declares, in its order.

    Raises SpecError where zip's lists differ in length, an axis stands twice, or the trials are too many.
    """
    spec, origins = given(model), Origins(tree)
    base: Point = {}
    if "dataset" in spec:
        base |= _setter({"dataset": spec["dataset"]})
        for name in given(spec["dataset"]):
            origins.add({f"dataset.{name}": base[f"dataset.{name}"]}, ("dataset", name))
    stop = {f"stop.{name}": value for name, value in given(spec.get("stop")).items()}
    for name, value in stop.items():
        origins.add({name: value}, ("stop", name.partition(".")[2]))
    base |= stop | _section_setter(spec.get("base"), ("base",), origins)
    axes = {section: _axes(section, spec.get(section), tree, origins) for section in ("grid", "zip")}
    include = [_section_setter(point, ("include", n), origins) for n, point in enumerate(spec.get("include", ()))]
    when = []
    for n, rule in enumerate(spec.get("when", ())):
        parts = given(rule)
        when.append((_pattern(parts["if"]), _section_setter(parts["set"], ("when", n, "set"), origins)))
    sections = Sections(
        base=base,
        grid=tuple(axes["grid"].values()),
        zip=tuple(axes["zip"].values()),
        include=include,
        when=when,
        exclude=[_pattern(pattern) for pattern in spec.get("exclude", ())],
        seeds=spec.get("seeds", [0]),
        folds=_folds(spec.get("folds"), origins),
        defaults=DEFAULTS,
    )
    _refuse_bad_axes(axes, sections, given(spec.get("base")), tree)
    return sections, origins, (*axes["grid"], *axes["zip"])


def _folds(part: BaseModel | None, origins: Origins) -> list[Point]:
    if part is None:
        return [{}]
    keys = all_of(part)
    common = {FOLDS: keys["n"], FOLD_BY: keys["by"]}
    origins.add(common, ("folds",))
    return [{**common, FOLD: number} for number in range(1, keys["n"] * keys["repeats"] + 1)]


def _setter(values: dict[str, Any]) -> Point:
    """Flat keys of what a part sets. A whole dataset sets all its keys, and 'dataset' to its label."""
    flat: Point = {}
    if "dataset" in values:
        written = given(values["dataset"])
        details = [f"{key}={as_text(value)}" for key, value in written.items() if key != "name"]
        flat["dataset"] = " ".join([str(written.get("name", "folder")), *details])
        flat |= {f"dataset.{key}": value for key, value in all_of(values["dataset"]).items()}
    flat |= {f"{RESOURCES}{key}": value for key, value in given(values.get("resources")).items()}
    return flat | {key: value for key, value in values.items() if key not in ("dataset", "resources")}


def _section_setter(part: BaseModel | None, path: KeyPath, origins: Origins) -> Point:
    values = given(part)
    for key, value in values.items():
        if key != "resources":  # they are no trial's: no contradiction looks for them
            origins.add(_setter({key: value}), (*path, key))
    return _setter(values)


def _axes(section: str, part: BaseModel | None, tree: YamlTree, origins: Origins) -> dict[str, Sequence[Point]]:
    """Axis -> its setters, in the order of the file, but whole data sets before keys of a data set."""
    values = given(part)
    order = sorted(values, key=lambda key: key != "dataset" and list(tree.value[section]).index(key) + 1)
    axes = {key: [_setter({key: value}) for value in values[key]] for key in order}
    for key, setters in axes.items():
        for index, setter in enumerate(setters):
            origins.add(setter, (section, key, index))
    return dict(axes)


def _pattern(part: BaseModel) -> Pattern:
    """One alternative, or one for each of the data sets. A data set in a pattern means the keys that are written of it."""
    keys = given(part)
    datasets = [{f"dataset.{k}": v for k, v in given(value).items()} for value in keys.pop("dataset", ())] or [{}]
    return [
        {**keys, **{key: [value] for key, value in dataset.items()}}
        for dataset in datasets
        if all(value in keys.get(key, (value,)) for key, value in dataset.items())
    ]


def _of_one_spelling(section: str, axes: Mapping[str, Sequence[Point]], tree: YamlTree) -> Iterator[Problem]:
    """Values of an argument's axis that are two, such as 1 and "1", or null and "-", and that no table, filter or figure could
    tell apart."""
    for key in (key for key in axes if key.startswith(ARGUMENT_PREFIXES)):
        values = [setter[key] for setter in axes[key]]
        for n, value in enumerate(values):
            for other in values[:n]:
                if reading(value) == reading(other) and (type(value), value) != (type(other), other):
                    found = f"{show(value)} and {show(other)} read alike"
                    yield Problem(tree.where((section, key, n)), found, "values that read differently: they are named by that")
                    break


def reading(value: Any) -> Any:
    """One for all values of an argument that a reader of tables and filters takes for the same; None for what reads as no
    value."""
    text = str(as_text(value)).lower()
    try:
        number = float({"true": "1", "false": "0"}.get(text, text))
    except ValueError:
        return None if text in ("none", "null", NO_VALUE) else text
    return number if math.isfinite(number) else text


def _refuse_bad_axes(
    axes: dict[str, dict[str, Sequence[Point]]], sections: Sections, base: dict[str, Any], tree: YamlTree
) -> None:
    problems = []
    for key in base:
        for section in ("grid", "zip"):
            if key in axes[section]:
                found = f"{key} is an axis too ({tree.where((section, key))})"
                problems.append(Problem(tree.where(("base", key)), found, "a key is fixed in base or swept, not both"))
    lengths = {key: len(setters) for key, setters in axes["zip"].items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        problems.append(Problem(tree.where(("zip",)), found, "lists that are zipped have one length"))
    for key in axes["zip"]:
        if key in axes["grid"]:
            problems.append(Problem(tree.where(("zip", key)), f"{key} is in grid too", "an axis stands in one of them"))
    problems += [problem for section in axes for problem in _of_one_spelling(section, axes[section], tree)]
    if not problems and count_trials(sections) > MAX_TRIALS:
        found = f"{count_trials(sections):,} trials"
        problems.append(Problem(tree.where(("grid",)), found, f"a sweep has at most {MAX_TRIALS:,}"))
    if problems:
        raise SpecError(problems)
