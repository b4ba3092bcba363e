"""A spec file -> SweepSpec, or every problem that it has, each with its file and line. The door of the spec room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cifar_hpc.config.data_notes import joined, whose
from cifar_hpc.config.plugins import NO_PARTS, OwnParts, installed_plugins, read_plugin
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.config.sources import OwnCodeError
from cifar_hpc.config.trial import BY_RULE, TrialConfig
from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.checks import idle_settings, warnings_of
from cifar_hpc.spec.overrides import apply_overrides
from cifar_hpc.spec.parts import Ensembling, Keep, Resources
from cifar_hpc.spec.problems import by_line, problems_of
from cifar_hpc.spec.resolve import Resolver
from cifar_hpc.spec.schema import all_of, argument_keys, given, spec_model
from cifar_hpc.spec.space import halving_warnings, read_halving, read_order, read_search
from cifar_hpc.spec.stages import read_stages, refuse_beside_stages
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.spec.trials import read_trials
from cifar_hpc.spec.values import show
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree, parse_yaml, read_yaml


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads, checks and expands a spec. overrides: `--set` arguments ('epochs=2', 'grid.lr=[1e-3]').

    Raises SpecError with all problems of the first stage that has any: the YAML, the values, the points.
    """
    tree, text = read_yaml(path)
    return _read(tree, text, path, path.parent, overrides)


def spec_of(text: str, path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """As `load_spec` of a text that is no file yet; paths in it are relative to the working directory. path: where it will be
    kept."""
    return _read(parse_yaml(text, "spec", fixed_place="spec"), text, path, Path.cwd(), overrides)


def _read(tree: YamlTree, text: str, path: Path, base: Path, overrides: Sequence[str]) -> SweepSpec:
    apply_overrides(tree, overrides)
    parts = _read_plugins(tree, base)
    model = _validate(tree, parts)
    spec = given(model)
    objective = str(given(spec.get("objective")).get("metric", "val_acc"))
    keep = _keep_rule(spec.get("keep", Keep()))
    resolver = Resolver(base, objective, spec["keep"] if spec.get("keep") == "weights" else BY_RULE if keep else None, parts)
    search, order, halving = None, read_order(model, tree), read_halving(model, tree)
    if "stages" in spec:
        trials, warnings = read_stages(tree, resolver, strict=not overrides)
    elif "search" in spec and order is None and halving is None:
        trials, search, warnings = read_search(model, tree, resolver, strict=not overrides)
    else:
        found = read_trials(model, tree, resolver, {}, strict=not overrides)
        trials = found.trials
        configs = [trial.config for trial in trials]
        told = halving_warnings(halving, configs) if halving else []
        warnings = (*found.warnings, *idle_settings(found.written, configs), *told)
    all_configs = search.corners if search else [trial.config for trial in trials]
    resources = Resources(**all_of(spec["resources"])) if "resources" in spec else Resources()
    if search:
        _check_parts(search.corners, resources, tree)
    for asked in dict.fromkeys(replace(resources, **trial.resources) for trial in trials):
        _check_parts([t.config for t in trials if replace(resources, **t.resources) == asked], asked, tree)
    return SweepSpec(
        name=spec["name"],
        path=path,
        text=text,
        trials=trials,
        objective=objective,
        own_objective=parts.objective(objective),
        findings=joined(resolver.notes),
        overrides=tuple(overrides),
        resources=resources,
        warnings=(
            *warnings,
            *_unstacked(spec),
            *whose(resolver.notes, [config.dataset for config in all_configs]),
            *warnings_of(all_configs, sampled=search is not None),
        ),
        search=search,
        order=order,
        halving=halving,
        ensemble=_ensembling(spec["ensemble"]) if "ensemble" in spec else None,
        keep=keep,
    )


def _read_plugins(tree: YamlTree, folder: Path) -> OwnParts:
    """What installed packages and those that `plugins` names register, before the names are checked. Raises SpecError."""
    written = tree.value.get("plugins") if isinstance(tree.value, dict) else None
    names = written if isinstance(written, list) and all(isinstance(name, str) for name in written) else []  # else: told later
    parts, problems = NO_PARTS.with_more(installed_plugins()), []
    for index, name in enumerate(names):
        try:
            parts = parts.with_more(read_plugin(name, folder))
        except OwnCodeError as error:
            problems.append(Problem(tree.where(("plugins", index)), error.found, error.allowed, error.near))
    if problems:
        raise SpecError(problems)
    return parts if parts.parts else NO_PARTS


def _check_parts(configs: Sequence[TrialConfig], resources: Resources, tree: YamlTree) -> None:
    """Raises SpecError where the processes of a trial could not hold whole parts of its batches."""
    processes = resources.nodes * (resources.processes or max(1, round(resources.gpus or 0)))
    for parts in dict.fromkeys(config.ghost_batches for config in configs):
        if parts is not None and parts % processes:
            where = tree.where(("resources",))
            found = f"{processes} processes for ghost_batches {parts}"
            raise SpecError([Problem(where, found, "each process holds whole parts: ghost_batches is a multiple of them")])


def _keep_rule(given: Keep | BaseModel | str | None) -> Keep | None:
    """None where all trials keep their networks, or none does."""
    if given is None or isinstance(given, str):
        return None
    return given if isinstance(given, Keep) else Keep(**all_of(given))


def _unstacked(spec: Mapping[str, Any]) -> list[str]:
    """Its coefficients are of one network each: there is none for the mean of several folds'."""
    asked = "folds" in spec and "ensemble" in spec and "stacking" in given(spec["ensemble"]).get("methods", ())
    return ["ensemble.methods: stacking has no effect: with folds a member is several networks"] if asked else []


def _ensembling(part: BaseModel) -> Ensembling:
    found = all_of(part)
    members = all_of(found["members"]) if found["members"] is not None else {}
    return Ensembling(methods=tuple(dict.fromkeys(found["methods"])), **members)


def _validate(tree: YamlTree, parts: OwnParts) -> BaseModel:
    """The typed spec. Raises SpecError with every value that is not of its key's form."""
    if not isinstance(tree.value, dict):
        found = "an empty file" if tree.value is None else show(tree.value)
        raise SpecError([Problem(tree.where(()), found, "a spec is a mapping; `cifar-hpc init NAME` writes one")])
    # A section whose lines are all commented out is null: it is as good as absent.
    plain = {key: value for key, value in tree.value.items() if value is not None or key in ("name", "keep")}
    try:
        model = spec_model(argument_keys(plain), parts).model_validate(plain)
    except ValidationError as error:
        raise SpecError(by_line(problems_of(error.errors(include_url=False), tree, parts))) from error
    problems = _wrong_objective(model, tree, parts) + _wrong_resources(model, tree)
    unsaid = "search" in tree.value and tree.value["search"] is None  # unlike other sections it says what the grid is for
    if unsaid and not tree.where(("search",)).startswith("--set "):  # which takes a spec's search away
        allowed = "search: {num_points: 20} samples points; without the line the whole grid is trained"
        problems.append(Problem(tree.where(("search",)), "an empty search", allowed))
    if "stages" in plain:
        problems += refuse_beside_stages(tree)
    if problems:
        raise SpecError(by_line(problems))
    return model


def _wrong_objective(model: BaseModel, tree: YamlTree, parts: OwnParts) -> list[Problem]:
    objective = given(given(model).get("objective"))
    name = objective.get("metric", "val_acc")
    right = (parts.objective(name) or OBJECTIVES[name]).mode
    if objective.get("mode") in (None, right):
        return []
    found = f"{objective['mode']!r} with {name}"
    return [Problem(tree.where(("objective", "mode")), found, f"the mode of this metric is {right}", right)]


def _wrong_resources(model: BaseModel, tree: YamlTree) -> list[Problem]:
    spec = given(model)
    parts: list[tuple[KeyPath, Any]] = [(("resources",), spec.get("resources"))]
    sections: list[tuple[KeyPath, dict[str, Any]]] = [((), spec)]
    sections += [(("stages", name), given(stage)) for name, stage in (spec.get("stages") or {}).items()]
    for place, section in sections:
        for n, rule in enumerate(section.get("when") or ()):
            parts.append(((*place, "when", n, "set", "resources"), given(given(rule)["set"]).get("resources")))
    asked = [(path, given(part).get("gpus")) for path, part in parts]
    return [
        Problem(tree.where((*path, "gpus")), f"{gpus:g}", "a share of one GPU, 0..1, or a whole number is needed")
        for path, gpus in asked
        if gpus is not None and gpus > 1 and gpus != int(gpus)
    ]
