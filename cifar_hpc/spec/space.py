"""`search:` and the axes beside it -> Search. Everything between whose ends a search samples is read and checked as a grid is,
before anything starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.checks import idle_settings
from cifar_hpc.spec.expand import Expansion, Point, expand
from cifar_hpc.spec.keys import RANGE_KEYS
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.spec.resolve import Resolver
from cifar_hpc.spec.schema import all_of, given
from cifar_hpc.spec.search import HALVING, PBT_AXES, Range, Scheduler, Search, Space, corners, make_axes
from cifar_hpc.spec.sections import Origins, read_sections
from cifar_hpc.spec.trials import as_trial, resolve_points, unmet, varying
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree

_NO_MATTER = (
    "name",
    "resources",
    "keep",
)  # what may change in a search that goes on; of `search` only num_points, but for a population


def read_search(
    model: BaseModel, tree: YamlTree, resolver: Resolver, *, strict: bool
) -> tuple[tuple[SweepTrial, ...], Search, tuple[str, ...]]:
    """The trials of `include`, which are tried first, the search, and warnings. Raises SpecError with all problems of the first
    step that has any. strict: an `exclude` that meets no point is an error."""
    sections, origins, declared = read_sections(model, tree)
    spec = given(model)
    keys = all_of(spec["search"])
    if "folds" in spec and keys["scheduler"] is not None:
        raise SpecError([_folds_judged(all_of(keys["scheduler"])["name"], tree)])
    ranges = _ranges(keys.pop("ranges"), declared, given(spec.get("base")), tree, origins)
    scheduler = keys.pop("scheduler")
    del keys["order"]
    if keys["num_points"] is None or not (declared or ranges):
        raise SpecError([_nothing_to_sample(keys["num_points"], tree)])
    expansion = _sum([expand(corner) for corner in corners(sections, ranges)])
    warnings = unmet(expansion, sections, origins, tree, strict=strict, sampled=ranges) + origins.repeated()
    _refuse_probes(expansion.points, origins)
    resolved = resolve_points(expansion.points, resolver, origins)
    unique = {config.trial_id: (config, point) for point, config in resolved}
    axes = varying([*declared, *ranges], list(unique.values()), origins)

    def trials_of(points: Sequence[Point]) -> tuple[SweepTrial, ...]:
        try:
            found = resolve_points(points, resolver, origins)
        except SpecError:  # ends of ranges agree where numbers between them need not
            return ()
        return tuple({config.trial_id: as_trial(config, point, axes) for point, config in found}.values())

    bare = dataclasses.replace(sections, include=())
    size = None if ranges else len({trial.config.point_id for trial in trials_of(expand(bare).points)})
    extra = dataclasses.replace(sections, grid=(), zip=())
    search = Search(
        **keys,
        scheduler=Scheduler(**all_of(scheduler)) if scheduler is not None else None,
        space=Space(axes=make_axes(declared, sections, ranges), size=size, sections=bare, trials_of=trials_of),
        seeds_n=len(sections.seeds),
        folds_n=len(sections.folds),
        corners=tuple(config for config, _ in unique.values()),
        definition=_definition(tree, with_size=scheduler is not None and all_of(scheduler)["name"] == "pbt"),
    )
    if search.is_population:
        _check_population(search, tree, origins, axes, has_include=bool(sections.include))
    warnings += [*_search_warnings(search), *idle_settings(origins.switched_on(), search.corners, sampled=True)]
    return trials_of(expand(extra).points) if sections.include else (), search, tuple(warnings)


def _folds_judged(scheduler: str, tree: YamlTree) -> Problem:
    allowed = (
        "it judges trials one by one, and folds are not alike: `search: {scheduler: halving}` judges a grid by their means"
    )
    return Problem(tree.where(("folds",)), f"folds beside scheduler {scheduler}", allowed)


def _nothing_to_sample(num_points: int | None, tree: YamlTree) -> Problem:
    if num_points is None:
        allowed = "how many points are sampled; order: rank alone and scheduler halving alone train them all"
        return Problem(tree.where(("search", "num_points")), "no num_points", allowed)
    return Problem(tree.where(("search",)), "no axes", "a search samples from grid, zip and search.ranges")


def _refuse_probes(points: Sequence[Point], origins: Origins) -> None:
    probed = next((point for point in points if point.get("start") is not None), None)
    if probed is not None:
        where = origins.where("start", probed["start"])
        allowed = "a search samples trials that wait for no other; a grid starts from probes"
        raise SpecError([Problem(where, "start: probe in a search", allowed)])


def read_order(model: BaseModel, tree: YamlTree) -> str | None:
    """The order of a grid that is trained whole; None where points are sampled. Raises SpecError."""
    part = given(given(model).get("search"))
    order: str | None = part.get("order")
    if order is None:
        return None
    others = [key for key in part if key != "order"]
    if others:
        allowed = f"order: {order} trains the full grid: it stands alone"
        raise SpecError([Problem(tree.where(("search", key)), f"{key} beside order: {order}", allowed) for key in others])
    return order


def read_halving(model: BaseModel, tree: YamlTree) -> Scheduler | None:
    """The scheduler halving, which samples nothing; None where another one is asked for. Raises SpecError."""
    part = given(given(model).get("search"))
    scheduler = Scheduler(**all_of(part["scheduler"])) if part.get("scheduler") is not None else None
    if scheduler is None or scheduler.name != HALVING:
        return None
    others = [key for key in part if key != "scheduler"] + ["scheduler.brackets"] * ("brackets" in given(part["scheduler"]))
    if others:
        allowed = "halving trains the full grid: grace_epochs and reduction are all that it has"
        raise SpecError(
            [Problem(tree.where(("search", *key.split("."))), f"{key} beside scheduler halving", allowed) for key in others]
        )
    return scheduler


def halving_warnings(halving: Scheduler, configs: Sequence[TrialConfig]) -> list[str]:
    """Sentences on what it does not do."""
    if halving.grace_epochs >= max((config.epochs for config in configs if config.trains), default=0):
        return [f"search.scheduler has no effect: no trial is longer than {halving.grace_epochs} epochs"]
    return []


def _ranges(
    part: BaseModel | None, declared: Sequence[str], fixed: Collection[str], tree: YamlTree, origins: Origins
) -> dict[str, Range]:
    """The ranges by their key; what they set is known to origins. Raises SpecError."""
    ranges, problems = {}, []
    for name, bounds in given(part).items():
        low, high, log = (all_of(bounds)[key] for key in ("low", "high", "log"))
        where = tree.where(("search", "ranges", name))
        if name in declared:
            problems.append(Problem(where, f"{name} is in grid or zip too", "an axis stands in one of them"))
        elif name in fixed:
            problems.append(Problem(where, f"{name} is in base too", "a key is fixed in base or swept, not both"))
        elif low >= high:
            problems.append(Problem(where, f"low {low}, high {high}", "low is below high"))
        elif log and low <= 0:
            problems.append(Problem(where, f"log with low {low}", "a logarithmic range begins above 0"))
        else:
            ranges[name] = Range(low, high, log, RANGE_KEYS[name].kind is int)
            for value in (low, high):
                origins.add({name: value}, ("search", "ranges", name))
    if problems:
        raise SpecError(problems)
    return ranges


def _check_population(search: Search, tree: YamlTree, origins: Origins, axes: Sequence[str], has_include: bool) -> None:
    """Raises SpecError where a population cannot train what the spec says. axes: what differs between points."""
    scheduler = search.scheduler
    assert scheduler is not None
    problems = []

    def refuse(path: KeyPath, found: str, allowed: str) -> None:
        problems.append(Problem(tree.where(path), found, f"{allowed} with scheduler pbt"))

    for key in axes:
        if key not in (*PBT_AXES, "seed"):
            allowed = f"an axis is one of {', '.join(PBT_AXES)} with scheduler pbt"
            problems.append(Problem(origins.where(key, None), f"the axis {key}", allowed))
    if search.num_points < 2:
        refuse(("search", "num_points"), f"{search.num_points}", "a population of 2 or more is needed")
    if search.space.size is not None and search.num_points > search.space.size:
        refuse(
            ("search", "num_points"), f"{search.num_points}", f"the grid has {search.space.size} points: no more is possible"
        )
    if search.seeds_n > 1:
        refuse(("seeds",), f"{search.seeds_n} seeds", "one seed is needed; other populations by search.seed")
    if has_include:
        refuse(("include",), "points of their own", "all points belong to the population")
    epochs = {config.epochs for config in search.corners}
    if len(epochs) > 1 or search.generations < 2 or search.max_epochs % scheduler.grace_epochs:
        told = f"epochs {', '.join(map(str, sorted(epochs)))} in generations of {scheduler.grace_epochs}"
        refuse(("search", "scheduler"), told, "grace_epochs divides epochs into 2 generations or more")
    wanted = {
        "schedule": "constant",
        "classifier": "linear",
        "unfreeze_epoch": None,
        "unfreeze": None,
        "anchor": None,
        "lora": None,
        "warmup_epochs": 0.0,
    }
    for name, value in wanted.items():
        given = next((getattr(c, name) for c in search.corners if getattr(c, name) != value), value)
        if given != value and name not in axes:
            default = "" if name in origins.written() else " (the default)"
            allowed = f"{name}: {'null' if value is None else value} is needed with scheduler pbt"
            problems.append(Problem(origins.where(name, given), f"{name} {given}{default}", allowed))
    if any(config.lr == "auto" for config in search.corners):
        refuse(("base", "lr"), "lr auto", "a number is needed")
    if problems:
        raise SpecError(problems)


def _sum(expansions: Sequence[Expansion]) -> Expansion:
    return Expansion(
        tuple(point for expansion in expansions for point in expansion.points),
        tuple(map(sum, zip(*(expansion.rule_uses for expansion in expansions), strict=True))),
        tuple(map(sum, zip(*(expansion.pattern_uses for expansion in expansions), strict=True))),
    )


def _search_warnings(search: Search) -> list[str]:
    sentences = []
    if search.space.size is not None and search.num_points >= search.space.size and not search.is_population:
        sentences.append(f"search.num_points {search.num_points}: the grid has {search.space.size} points, and all are trained")
    if search.scheduler is not None and search.scheduler.grace_epochs >= search.max_epochs:
        sentences.append(f"search.scheduler has no effect: no trial is longer than {search.scheduler.grace_epochs} epochs")
    if (
        search.scheduler is not None
        and search.scheduler.name != "hyperband"
        and search.scheduler.brackets != Scheduler.brackets
    ):
        sentences.append("search.scheduler.brackets has no effect: only hyperband has them")
    return sentences


def _definition(tree: YamlTree, with_size: bool) -> str:
    plain: dict[str, Any] = {key: value for key, value in tree.value.items() if key not in _NO_MATTER and value is not None}
    plain["search"] = {key: value for key, value in plain["search"].items() if with_size or key != "num_points"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
