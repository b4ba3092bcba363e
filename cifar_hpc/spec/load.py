"""A spec file -> SweepSpec, or every problem that it has, each with its file and line. The door of the spec room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cifar_hpc import catalog
from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.checks import contradictions, doubts, idle_settings
from cifar_hpc.spec.expand import Expansion, Pattern, Point, expand
from cifar_hpc.spec.overrides import apply_overrides
from cifar_hpc.spec.problems import by_line, problems_of
from cifar_hpc.spec.resolve import Resolver, UnresolvedError
from cifar_hpc.spec.schema import all_of, given, spec_model
from cifar_hpc.spec.sections import Origins, read_sections, spell
from cifar_hpc.spec.sweep import Resources, SweepSpec, SweepTrial
from cifar_hpc.spec.values import NOT_YET, show
from cifar_hpc.spec.yaml_tree import YamlTree, read_yaml
from cifar_hpc.trial import TRAINING_KEYS, TrialConfig

_AS_WRITTEN = (
    "dataset",
    "dataset.classes",
    "dataset.folder",
    "stop.patience",
    "layer_decay",
)  # axes that a table shows as the spec spells them
_RESOLVED = ("freeze", "momentum")  # axes that a table shows as the spec spells them where they act


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads, checks and expands a spec. overrides: `--set` arguments ('epochs=2', 'grid.lr=[1e-3]').

    Raises SpecError with all problems of the first stage that has any: the YAML, the values, the points.
    """
    tree, text = read_yaml(path)
    apply_overrides(tree, overrides)
    model = _validate(tree)
    spec = given(model)
    sections, origins, declared = read_sections(model, tree)
    expansion = expand(sections)
    warnings = _unmet(expansion, sections.exclude, origins, tree, strict=not overrides)
    lost = dict.fromkeys(origins.lost(expansion.points))
    warnings += [f"{where}: reaches no trial; a data set in grid or zip says all keys of its own" for where in lost]
    objective = str(given(spec.get("objective")).get("metric", "val_acc"))
    trials = _trials(expansion.points, declared, Resolver(path.parent, objective, spec.get("keep")), origins)
    configs = [trial.config for trial in trials]
    return SweepSpec(
        name=spec["name"],
        path=path,
        text=text,
        trials=trials,
        objective=objective,
        overrides=tuple(overrides),
        resources=Resources(**all_of(spec["resources"])) if "resources" in spec else Resources(),
        warnings=(*warnings, *idle_settings(origins.switched_on(), configs), *doubts(configs)),
    )


def _validate(tree: YamlTree) -> BaseModel:
    """The typed spec. Raises SpecError with every value that is not of its key's form."""
    if not isinstance(tree.value, dict):
        found = "an empty file" if tree.value is None else show(tree.value)
        raise SpecError([Problem(tree.where(()), found, "a spec is a mapping; `cifar-hpc init NAME` writes one")])
    problems = [Problem(tree.where((key,)), f"{key!r} does not work yet", NOT_YET[key]) for key in tree.value if key in NOT_YET]
    # A section whose lines are all commented out is null: it is as good as absent.
    plain = {key: value for key, value in tree.value.items() if key not in NOT_YET and (value is not None or key == "name")}
    try:
        model = spec_model().model_validate(plain)
    except ValidationError as error:
        raise SpecError(by_line(problems + problems_of(error.errors(include_url=False), tree))) from error
    problems += _wrong_objective(model, tree) + _wrong_resources(model, tree)
    if problems:
        raise SpecError(by_line(problems))
    return model


def _wrong_objective(model: BaseModel, tree: YamlTree) -> list[Problem]:
    objective = given(given(model).get("objective"))
    right = catalog.OBJECTIVES[objective.get("metric", "val_acc")]
    if objective.get("mode") in (None, right):
        return []
    found = f"{objective['mode']!r} with {objective.get('metric', 'val_acc')}"
    return [Problem(tree.where(("objective", "mode")), found, f"the mode of this metric is {right}", right)]


def _wrong_resources(model: BaseModel, tree: YamlTree) -> list[Problem]:
    gpus = given(given(model).get("resources")).get("gpus")
    if gpus is None or gpus <= 1 or gpus == int(gpus):
        return []
    return [Problem(tree.where(("resources", "gpus")), f"{gpus:g}", "a share of one GPU, 0..1, or a whole number is needed")]


def _unmet(expansion: Expansion, exclude: Sequence[Pattern], origins: Origins, tree: YamlTree, *, strict: bool) -> list[str]:
    """Warnings for rules that no point meets. strict: an `exclude` that meets none is an error (an override may empty it)."""
    rules = [n for n, uses in enumerate(expansion.rule_uses) if not uses]
    warnings = [f"{tree.where(('when', n, 'if'))}: no point matches" for n in rules]
    problems = []
    for n, uses in enumerate(expansion.pattern_uses):
        if not uses:
            absent = {
                f"{key} {show(spell(any_of[0]))}": None
                for keys in exclude[n]
                for key, any_of in keys.items()
                if not any(origins.has(key, value) for value in any_of)
            }
            why = f": none has {' or '.join(absent)}" if absent else ""
            problems.append(
                Problem(tree.where(("exclude", n)), f"no point matches{why}", "a pattern leaves out at least one point")
            )
    if problems and strict:
        raise SpecError(problems)
    if not expansion.points:
        raise SpecError([Problem(tree.where(("exclude",)), "every point is left out", "at least one trial is needed")])
    return warnings + [f"{problem.where}: {problem.found}" for problem in problems]


def _trials(points: Sequence[Point], declared: Sequence[str], resolver: Resolver, origins: Origins) -> tuple[SweepTrial, ...]:
    """The trials of the points, equal ones as one, with their axes. Raises SpecError with every contradiction."""
    problems: dict[Problem, None] = {}
    unique: dict[str, tuple[TrialConfig, Point]] = {}
    for point in points:
        try:
            config = resolver.config(point)
        except UnresolvedError as error:
            problems[Problem(origins.where(error.key, point.get(error.key)), error.found, error.allowed, error.near)] = None
        else:
            unique.setdefault(config.trial_id, (config, point))
    for finding in contradictions([config for config, _ in unique.values()]):
        where = origins.where(finding.key, finding.value)
        problems[Problem(where, finding.found, finding.allowed, finding.near)] = None
    if problems:
        raise SpecError(by_line(problems))
    axes = _varying(declared, list(unique.values()), origins)
    return tuple(
        SweepTrial(config, {axis: _axis_value(axis, config, point) for axis in axes}) for config, point in unique.values()
    )


def _varying(declared: Sequence[str], trials: Sequence[tuple[TrialConfig, Point]], origins: Origins) -> tuple[str, ...]:
    """The declared axes, then other keys that `include` or `when` make differ, then the seed where there are several."""
    others = [key for key in origins.written() if key not in declared and key != "dataset" and "." not in key]
    differing = [key for key in others if len({_axis_value(key, config, point) for config, point in trials}) > 1]
    several_seeds = len({config.seed for config, _ in trials}) > 1
    return (*declared, *differing, *(("seed",) if several_seeds else ()))


def _axis_value(axis: str, config: TrialConfig, point: Point) -> Any:
    if config.classifier != "linear" and (axis in TRAINING_KEYS or axis.startswith("stop.")):
        return None
    if axis in _AS_WRITTEN:
        return spell(point.get(axis))
    if axis == "weights" and config.weights_fingerprint is not None:
        return point["weights"]
    part, _, key = axis.rpartition(".")
    value = getattr(getattr(config, part) if part else config, key)
    if axis in _RESOLVED and axis in point and value not in ("none", None):
        value = point[axis]
    return spell(value)
