"""From the sections of a spec to its points, in the order grid x zip, include, when, exclude, each with every seed and fold.

A point is a flat mapping {'arch': 'resnet18', 'dataset.name': 'cifar10', ...} of what the spec sets; what it does not set has
its default. Values have been checked, each once; nothing here looks at a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpc.config.own import Arguments, arguments
from cifar_hpc.config.roles import ARGUMENTS

MAX_TRIALS = 100_000

FOLD, FOLDS, FOLD_BY = "fold", "dataset.folds", "dataset.fold_by"  # keys of a point: see DatasetConfig
Point = dict[str, Any]
Conjunction = Mapping[str, Sequence[Any]]  # key -> the values of which any matches; all keys must
Pattern = Sequence[Conjunction]  # alternatives, one for each data set that is written out in full


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The typed sections. A setter is one value of an axis as the flat keys that it sets ('dataset' sets several)."""

    base: Point
    grid: Sequence[Sequence[Point]]  # for each axis, its setters
    zip: Sequence[Sequence[Point]]
    include: Sequence[Point]
    when: Sequence[tuple[Pattern, Point]]
    exclude: Sequence[Pattern]
    seeds: Sequence[int]
    folds: Sequence[Point]  # what each fold sets; one that sets nothing where there are none
    defaults: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expansion:
    """points: with their seed under 'seed', their fold under FOLD, FOLDS and FOLD_BY. used_rules, used_patterns: how many
    points each `when` and `exclude` met."""

    points: tuple[Point, ...]
    rule_uses: tuple[int, ...]
    pattern_uses: tuple[int, ...]


def count_trials(sections: Sections) -> int:
    """Trials before `when` and `exclude`, without making them."""
    product = math.prod(len(axis) for axis in sections.grid) * (len(sections.zip[0]) if sections.zip else 1)
    points = (product if sections.grid or sections.zip or not sections.include else 0) + len(sections.include)
    return points * len(sections.seeds) * len(sections.folds)


def expand(sections: Sections) -> Expansion:
    """All points in the spec's order, excluded ones gone. The caller has looked at count_trials and at the lengths of zip."""
    rule_uses, pattern_uses = [0] * len(sections.when), [0] * len(sections.exclude)
    kept: list[Point] = []
    for point in _with_seeds(_raw_points(sections), sections):
        for index, (pattern, changes) in enumerate(sections.when):
            if _matches(point, pattern, sections.defaults):
                rule_uses[index] += 1
                point.update(changes)
        met = [index for index, pattern in enumerate(sections.exclude) if _matches(point, pattern, sections.defaults)]
        for index in met:
            pattern_uses[index] += 1
        if not met:
            kept.append(point)
    return Expansion(tuple(kept), tuple(rule_uses), tuple(pattern_uses))


def _raw_points(sections: Sections) -> Iterator[Point]:
    axes: list[Sequence[Iterable[Point]]] = [[(setter,) for setter in axis] for axis in sections.grid]
    if sections.zip:
        axes.append(list(zip(*sections.zip, strict=True)))
    if axes or not sections.include:
        for chosen in itertools.product(*axes):
            point = dict(sections.base)
            # A whole data set says all its keys: it goes first, wherever it stands, so that an axis of one key remains.
            for setter in sorted(itertools.chain(*chosen), key=lambda setter: "dataset" not in setter):
                point.update(setter)
            yield point
    for extra in sections.include:
        yield {**sections.base, **extra}


def _with_seeds(points: Iterable[Point], sections: Sections) -> Iterator[Point]:
    for point in points:
        for seed in sections.seeds:
            for fold in sections.folds:
                yield {**point, "seed": seed, **fold}


def _matches(point: Point, pattern: Pattern, defaults: Mapping[str, Any]) -> bool:
    """Plain equality does: values are canonical, so that freeze 1 (a block) never meets 1.0, which is 'all'."""
    return any(all(_value(point, key, defaults) in any_of for key, any_of in keys.items()) for keys in pattern)


def _value(point: Point, key: str, defaults: Mapping[str, Any]) -> Any:
    """An argument of one's own code is a key of its own, or stands in the mapping of them."""
    whole, _, name = key.rpartition(".")
    if key in ARGUMENTS:
        return arguments_of(key, point)
    if whole in ARGUMENTS:
        return dict(arguments_of(whole, point) or ()).get(name)
    return point.get(key, defaults.get(key))


def arguments_of(key: str, point: Mapping[str, Any]) -> Arguments | None:
    """Those of the mapping, and those that are keys of their own."""
    single = {name.removeprefix(f"{key}."): value for name, value in point.items() if name.startswith(f"{key}.")}
    return arguments({**(dict(point.get(key) or ())), **single})
