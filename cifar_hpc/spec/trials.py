"""The sections of a spec, or of one stage of it, as trials: expanded, resolved, checked, each with its axes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.keys import Role
from cifar_hpc.config.normalize import trains_classifier_alone
from cifar_hpc.config.own import Arguments, plain_arguments
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.trial import STAGE_PREFIX, TrialConfig
from cifar_hpc.errors import Problem, SpecError, UnusableError
from cifar_hpc.spec.contradictions import contradictions
from cifar_hpc.spec.expand import FOLD, Expansion, Pattern, Point, Sections, expand
from cifar_hpc.spec.keys import ARGUMENT_PREFIXES
from cifar_hpc.spec.parents import STARTED_BY, Parents, keeping_parents, start_from_parents
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.spec.probes import start_from_probes
from cifar_hpc.spec.problems import by_line
from cifar_hpc.spec.resolve import Resolver
from cifar_hpc.spec.sections import RESOURCES, Origins, read_sections, reading
from cifar_hpc.spec.values import show
from cifar_hpc.spec.yaml_tree import YamlTree

_AS_WRITTEN, _AS_WRITTEN_IF_ACTING = keys_with(Role.AS_WRITTEN), keys_with(Role.AS_WRITTEN_IF_ACTING)
_TRAINING, _BACKBONE = keys_with(Role.TRAINING), keys_with(Role.BACKBONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTrials:
    """What one stage gives. points: every point with its trial, also those that are the same trial; warnings: of rules and
    data sets; written: the keys that the spec switches on."""

    trials: tuple[SweepTrial, ...]
    points: tuple[tuple[Point, TrialConfig], ...]
    axes: tuple[str, ...]
    warnings: tuple[str, ...]
    written: tuple[str, ...]


def read_trials(
    model: BaseModel, tree: YamlTree, resolver: Resolver, earlier: Mapping[str, StageTrials], *, strict: bool
) -> StageTrials:
    """earlier: the stages from which these trials may start. strict: an `exclude` that meets no point is an error.

    Raises SpecError with all problems of the first step that has any.
    """
    sections, origins, declared = read_sections(model, tree)
    expansion = expand(sections)
    warnings = unmet(expansion, sections, origins, tree, strict=strict)
    lost = dict.fromkeys(origins.lost(expansion.points))
    warnings += [f"{where}: reaches no trial; a data set in grid or zip says all keys of its own" for where in lost]
    warnings += origins.repeated()
    parents = {name: Parents(name, stage.points, stage.axes) for name, stage in earlier.items()}
    started = start_from_parents(expansion.points, parents, origins)
    probes, points = start_from_probes(started.points, resolver)
    resolved = resolve_points([*probes, *points], resolver, origins)
    unique: dict[str, tuple[TrialConfig, Point]] = {}
    for point, config in resolved:
        unique.setdefault(config.trial_id, (config, point))
    told_apart = ["classifier"] if probes and "classifier" not in declared else []
    axes = varying([*started.axes, *declared, *told_apart], list(unique.values())[len(probes) :], origins)
    return StageTrials(
        trials=keeping_parents(as_trial(config, point, axes) for config, point in unique.values()),
        points=tuple(resolved),
        axes=axes,
        warnings=tuple(warnings),
        written=origins.switched_on(),
    )


def as_trial(config: TrialConfig, point: Point, axes: Sequence[str]) -> SweepTrial:
    wanted = {key.removeprefix(RESOURCES): value for key, value in point.items() if key.startswith(RESOURCES)}
    return SweepTrial(config, {axis.removeprefix(STAGE_PREFIX): _axis_value(axis, config, point) for axis in axes}, wanted)


def unmet(
    expansion: Expansion, sections: Sections, origins: Origins, tree: YamlTree, *, strict: bool, sampled: Collection[str] = ()
) -> list[str]:
    """Warnings for rules that no point meets. strict: an `exclude` that meets none is an error (an override may empty it).
    sampled: keys with values between those of the points, which a rule on one of them may meet."""
    exclude, told = sections.exclude, [pattern for pattern, _ in sections.when]
    rules = [n for n, uses in enumerate(expansion.rule_uses) if not uses and not _asks(told[n], sampled)]
    warnings = [f"{tree.where(('when', n, 'if'))}: no configuration matches" for n in rules]
    problems = []
    for n, uses in enumerate(expansion.pattern_uses):
        if not uses and not _asks(exclude[n], sampled):
            absent = {
                f"{key} {show(as_text(any_of[0]))}": None
                for keys in exclude[n]
                for key, any_of in keys.items()
                if key != "seed"
                and not key.startswith(ARGUMENT_PREFIXES)
                and not any(origins.has(key, value) for value in any_of)
            }
            why = f": none has {' or '.join(absent)}" if absent else ""
            problems.append(
                Problem(tree.where(("exclude", n)), f"no configuration matches{why}", "a pattern leaves out at least one")
            )
    if problems and strict:
        raise SpecError(problems)
    if not expansion.points:
        raise SpecError([Problem(tree.where(("exclude",)), "every configuration is left out", "at least one trial is needed")])
    return warnings + [f"{problem.where}: {problem.found}" for problem in problems]


def _asks(pattern: Pattern, keys: Collection[str]) -> bool:
    return any(key in alternative for alternative in pattern for key in keys)


def resolve_points(points: Sequence[Point], resolver: Resolver, origins: Origins) -> list[tuple[Point, TrialConfig]]:
    """Each point with its config. Raises SpecError with every contradiction."""
    problems: dict[Problem, None] = {}
    resolved = []
    for point in points:
        try:
            resolved.append((point, resolver.config(point)))
        except UnusableError as error:
            problems[Problem(origins.where(error.key, point.get(error.key)), error.found, error.allowed, error.near)] = None
    for finding in contradictions([config for _, config in resolved]):
        where = origins.where(finding.key, finding.value)
        problems[Problem(where, finding.found, finding.allowed, finding.near)] = None
    for config in _of_two_splits(config for _, config in resolved):
        where = origins.where("dataset.split_seed", BY_SEED)
        found = f"{BY_SEED}, of which seed {config.seed} is the same trial as with split_seed {config.dataset.split_seed}"
        problems[Problem(where, found, f"beside {BY_SEED} stand numbers that are no seed of the sweep, such as 100")] = None
    for key, one, other in _of_one_reading([config for _, config in resolved]):
        names = [show(as_text(args)) if args else "no arguments" for args in (one, other)]
        allowed = 'arguments that read differently: 1, "1" and true, or null and nothing, do not'
        problems[Problem(origins.where(key, one), f"{names[0]} beside {names[1]}", allowed)] = None
    if problems:
        raise SpecError(by_line(problems))
    return resolved


def _of_two_splits(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """The trials that a configuration with a split for each seed and one with one split for all have in common: a mean over
    seeds has each, and a trial is in one mean."""
    first: dict[str, TrialConfig] = {}
    return [
        config
        for config in configs
        if first.setdefault(config.trial_id, config).dataset.split_by_seed != config.dataset.split_by_seed
    ]


def _of_one_reading(configs: Collection[TrialConfig]) -> Iterator[tuple[str, Any, Any]]:
    """Where no table, filter or figure could tell two trials apart: the key, and the arguments of either."""
    first: dict[Any, TrialConfig] = {}
    if not any(config.arch_args or config.dataset.args for config in configs):
        return
    for config in configs:
        bare = replace(config, arch_args=None, dataset=replace(config.dataset, args=None, fingerprint=None))
        other = first.setdefault((bare, _read(config.arch_args), _read(config.dataset.args)), config)
        for key, one, another in (
            ("arch_args", config.arch_args, other.arch_args),
            ("dataset.args", config.dataset.args, other.dataset.args),
        ):
            if repr(one) != repr(another):
                yield key, plain_arguments(one), plain_arguments(another)


def _read(args: Arguments | None) -> frozenset[tuple[str, Any]]:
    """Arguments as they read, without those that read as none."""
    return frozenset((name, read) for name, value in args or () if (read := reading(value)) is not None)


def varying(declared: Sequence[str], trials: Sequence[tuple[TrialConfig, Point]], origins: Origins) -> tuple[str, ...]:
    """The declared axes, then other keys that `include` or `when` make differ, then seed and fold where there are several."""
    plain = [key for key in origins.written() if key != "dataset" and "." not in key]
    others = [key for key in dict.fromkeys([*plain, *origins.of_some()]) if key not in declared]
    differing = [key for key in others if len({_axis_value(key, config, point) for config, point in trials}) > 1]
    several_seeds = len({config.seed for config, _ in trials}) > 1
    several_folds = any(config.dataset.fold for config, _ in trials)
    return (*declared, *differing, *(("seed",) if several_seeds else ()), *((FOLD,) if several_folds else ()))


def _axis_value(axis: str, config: TrialConfig, point: Point) -> Any:
    if axis == FOLD:
        return config.dataset.fold
    if not config.trains and axis in _TRAINING:
        return None
    if axis in _BACKBONE and trains_classifier_alone(config.arch, config.freeze):
        return None
    if axis in _AS_WRITTEN or axis.startswith((STAGE_PREFIX, *ARGUMENT_PREFIXES)):
        return as_text(point.get(axis))
    if axis == "weights" and STARTED_BY in point:
        return point[STARTED_BY]
    if axis == "weights" and config.weights_fingerprint is not None:
        return point["weights"]
    if axis == "dataset.split_seed" and config.dataset.split_by_seed:
        return BY_SEED
    part, _, key = axis.rpartition(".")
    value = getattr(getattr(config, part) if part else config, key)
    if axis in _AS_WRITTEN_IF_ACTING and axis in point and value not in ("none", None):
        value = point[axis]
    return as_text(value)
