"""Which trials of an earlier stage the points of a stage start from: `weights: {stage: NAME}`.

A point and a trial of that stage belong together where they agree in every axis that both stages sweep, in the seed and the
fold where the earlier stage has several, and in the architecture and stem, which a point without them takes over. Where several
remain, each gives a point: the axes in which they differ become axes of this stage, under the earlier one's name
('pretrain.epochs').
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpc.config.keys import Role
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.trial import PARENT_PREFIX, STAGE_PREFIX, TrialConfig
from cifar_hpc.errors import Problem, SpecError, UnusableError, nearest
from cifar_hpc.spec.expand import FOLD, Point, arguments_of
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.spec.problems import by_line
from cifar_hpc.spec.sections import DEFAULTS, Origins
from cifar_hpc.spec.values import show

STARTED_BY = f"{STAGE_PREFIX}.weights"  # key of a point: the stage whose weights it starts from
_INHERITED = keys_with(Role.INHERITED)
_ARGUMENT = "arch_args."


@dataclass(frozen=True, slots=True)
class Parents:
    """An earlier stage. points: each with its trial; axes: what tells its trials apart."""

    stage: str
    points: Sequence[tuple[Point, TrialConfig]]
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """points: with the id of their parent in `weights`, and with what tells parents apart; axes: the names of the latter,
    those of the parents' own keys after STAGE_PREFIX."""

    points: tuple[Point, ...]
    axes: tuple[str, ...]


def start_from_parents(points: Sequence[Point], earlier: Mapping[str, Parents], origins: Origins) -> Started:
    """Raises SpecError where a point names no earlier stage, or one without a trial that belongs to it."""
    problems: dict[Problem, None] = {}
    started: list[Point] = []
    axes: dict[str, None] = {}
    for point in points:
        weights = point.get("weights") or ""
        if not weights.startswith(STAGE_PREFIX):
            started.append(point)
            continue
        stage = weights.removeprefix(STAGE_PREFIX)
        try:
            chosen, names = _children(point, _known(stage, earlier), _swept(points, weights))
        except UnusableError as error:
            problems[Problem(origins.where("weights", weights), error.found, error.allowed, error.near)] = None
        else:
            started += chosen
            axes |= dict.fromkeys(names)
    if problems:
        raise SpecError(by_line(problems))
    return Started(tuple(started), tuple(axes))


def keeping_parents(trials: Iterable[SweepTrial]) -> tuple[SweepTrial, ...]:
    """The trials; those from which others of them start keep their weights."""
    trials = tuple(trials)
    parents = {str(trial.config.weights).removeprefix(PARENT_PREFIX) for trial in trials}
    return tuple(
        dataclasses.replace(trial, config=dataclasses.replace(trial.config, keep="weights"))
        if trial.config.trial_id in parents
        else trial
        for trial in trials
    )


def _known(stage: str, earlier: Mapping[str, Parents]) -> Parents:
    if stage in earlier:
        return earlier[stage]
    before = f"before this one stand {', '.join(earlier)}" if earlier else "no stage stands before this one"
    raise UnusableError("weights", f"the stage {stage!r}", before, nearest(stage, earlier))


def _swept(points: Sequence[Point], weights: str) -> frozenset[str]:
    """The keys that differ among the points that start from that stage."""
    ours = [point for point in points if point.get("weights") == weights]
    return frozenset(key for key in {key for point in ours for key in point} if _varies(ours, key))


def _children(point: Point, parents: Parents, swept: frozenset[str]) -> tuple[list[Point], list[str]]:
    written, point = point, _with_single_arguments(point)
    left = [(_with_single_arguments(one), config) for one, config in parents.points]
    theirs = [one for one, _ in left]
    of_network = (*_INHERITED, *dict.fromkeys(key for one in theirs for key in one if key.startswith(_ARGUMENT)))
    told_apart = [axis for axis in parents.axes if axis not in of_network and _varies(theirs, axis)]
    shared = [axis for axis in told_apart if axis in swept or axis in ("seed", FOLD)]
    given = [key for key in of_network if key in point and (key in _INHERITED or _varies(theirs, key))]
    for key in dict.fromkeys((*given, *shared)):
        agreeing = [(one, config) for one, config in left if _value(one, key) == _value(point, key)]
        if not agreeing:
            raise _no_match(key, point, parents, [one for one, _ in left], key in given)
        left = agreeing
    inherited = [key for key in of_network if key not in point and any(key in one for one in theirs)]
    others = [axis for axis in told_apart if axis not in shared]
    names = {axis: axis if axis.startswith(STAGE_PREFIX) else f"{STAGE_PREFIX}{parents.stage}.{axis}" for axis in others}
    one_each = not {"seed", FOLD}.isdisjoint(shared)  # a point's trials have parents of their own
    chosen: dict[str, Point] = {}
    for one, config in left:
        if not CLASSIFIERS[config.classifier].keeps_weights:
            keeping = " or ".join(CLASSIFIERS.names_where(lambda info: info.keeps_weights))
            found = f"a trial of stage {parents.stage} with classifier {config.classifier}"
            raise UnusableError("weights", found, f"it keeps no weights: {keeping} do")
        own = {
            "weights": f"{PARENT_PREFIX}{config.trial_id}",
            STARTED_BY: parents.stage,
            "weights_point": config.point_id if one_each else None,
            **{key: one[key] for key in inherited if key in one},
            **{name: as_text(_value(one, axis)) for axis, name in names.items()},
        }
        chosen.setdefault(config.trial_id, {**written, **own})  # an axis of it is told as written
    varying = [name for axis, name in names.items() if _varies(theirs, axis)]
    return list(chosen.values()), [*(key for key in inherited if _varies(theirs, key)), *varying]


def _with_single_arguments(point: Point) -> Point:
    """Each argument of one's own network as a key of its own."""
    single = {f"{_ARGUMENT}{name}": value for name, value in arguments_of("arch_args", point) or ()}
    return {key: value for key, value in point.items() if key != "arch_args"} | single


def _no_match(key: str, point: Point, parents: Parents, left: Iterable[Point], given: bool) -> UnusableError:
    there = ", ".join(dict.fromkeys(str(as_text(_value(one, key))) for one in left))
    value = show(as_text(_value(point, key))).strip("'")
    found = f"no trial of stage {parents.stage} with {key} {value} belongs to a point of this stage"
    if given:
        return UnusableError("weights", found, f"it has {there}; a stage that says no {key} takes over its parents'")
    rule = f"by their {key}s where it has several" if key in ("seed", FOLD) else "by the axes that both stages sweep"
    return UnusableError(
        "weights", found, f"it has {there}; trials are matched {rule}: give both stages the same values of {key}"
    )


def _varies(points: Sequence[Point], key: str) -> bool:
    first = _value(points[0], key)
    return any(_value(point, key) != first for point in points)


def _value(point: Point, key: str) -> Any:
    if key == "weights" and STARTED_BY in point:
        return point[STARTED_BY]
    return point.get(key, DEFAULTS.get(key))
