"""A spec as strict pydantic models of its keys, and the JSON Schema for editors. Knows nothing of files and lines."""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, WrapValidator, create_model

from cifar_hpc.config import catalog
from cifar_hpc.config.plugins import NO_PARTS, OwnParts
from cifar_hpc.config.words import usual_key
from cifar_hpc.errors import nearest
from cifar_hpc.spec import values
from cifar_hpc.spec.keys import (
    ALL_KEYS,
    ARGUMENT_PREFIXES,
    DATASET_KEYS,
    FOLD_KEYS,
    KEEP,
    KEEP_KEYS,
    MEMBER_KEYS,
    OBJECTIVE,
    RANGE_KEYS,
    RESOURCE_KEYS,
    SCHEDULER_KEYS,
    SEARCH_KEYS,
    SEED,
    SPECIAL,
    STOP_KEYS,
    TRIAL_KEYS,
    Key,
    plain_type,
)
from cifar_hpc.spec.search import SCHEDULERS
from cifar_hpc.spec.values import refuse

MAX_SEEDS = 10_000
SECTIONS = ("base", "grid", "zip", "include", "exclude", "when")

_NAME = f"^{values.SWEEP_NAME}$"
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def value_type(key: Key, parts: OwnParts = NO_PARTS) -> Any:
    """The pydantic type of one value of a key. parts: whose names may stand there too."""
    key = key.with_choices(parts.names(key.name))
    if key.name in SPECIAL:
        reader, _, json_schema = SPECIAL[key.name]
        if key.name == "augment":
            reader = functools.partial(values.read_augment, known=parts.operations)
        return Annotated[Any, PlainValidator(reader), WithJsonSchema({**json_schema, "description": key.doc})]
    if key.choices:
        kind: Any = Literal[key.choices]
    else:
        kind = Annotated[plain_type(key.kind), Field(**{n: v for n, v in key.limits.items() if n in ("ge", "gt", "le", "lt")})]
    if type(None) in typing.get_args(key.kind):
        kind = kind | None
    if "also" in key.limits:
        word = key.limits["also"]
        null = [{"type": "null"}] if type(None) in typing.get_args(key.kind) else []
        number = {"type": "number", "exclusiveMinimum": key.limits["gt"]}
        schema = {"anyOf": [number, {"const": word}, *null], "description": key.doc}
        either = WrapValidator(lambda value, number: word if value == word else number(value))
        return Annotated[kind, either, WithJsonSchema(schema)]
    return kind


def _as_mapping(value: Any) -> Any:
    """A data set's name alone, or a folder alone, as the mapping that it is short for."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "folder" in value and "name" not in value:
        return {"name": "folder", **value}
    return value


def _count_as_seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise refuse(str(value), f"a count 1..{MAX_SEEDS}, or a list of seeds")
        return list(range(value))
    if not isinstance(value, list) or not value:
        raise refuse(values.show(value), f"a count 1..{MAX_SEEDS}, or a list of seeds")
    for index, seed in enumerate(value):
        if seed in value[:index]:
            raise refuse(f"the seed {seed} twice", "each seed stands once")
    return value


def _count_as_folds(value: Any) -> Any:
    """A number alone is that of the parts."""
    return {"n": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _known_keep(value: Any, keep: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, dict):
        return keep(value)
    if value == "weights":
        return value
    near = nearest(value, ["weights"]) if isinstance(value, str) else None
    raise refuse(values.show(value), "weights (of all trials), null (of none), or a mapping: {best: 3, max_gb: 2}", near)


def _name_stages(value: Any) -> Any:
    """Stages by their names; a section whose lines are all commented out is as good as absent."""
    if not isinstance(value, dict) or not value:
        raise refuse(values.show(value), "stages by name: {pretrain: {...}, finetune: {...}}")
    for name in value:
        if not values.STAGE_NAME.fullmatch(name) or name in (*SECTIONS, "dataset", "stop"):
            raise refuse(f"a stage named {name!r}", "letters, digits and '_', a letter first, at most 32; no key of a spec")
    return {
        name: {key: part for key, part in stage.items() if part is not None} if isinstance(stage, dict) else stage or {}
        for name, stage in value.items()
    }


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _model(name: str, doc: str, fields: Mapping[str, tuple[Any, Any]], prefix: str = "") -> type[BaseModel]:
    """A strict model of alias -> (type, default); an alias may hold a point ('dataset.train_size').

    prefix + alias is the key whose doc describes the field.
    """
    specs: dict[str, Any] = {}
    for alias, (kind, default) in fields.items():
        known = ALL_KEYS.get(prefix + alias)
        text = known.doc if known else _SECTION_DOCS.get(alias, "one argument, by name")
        specs[alias.replace(".", "__") + "_"] = (kind, Field(default, alias=alias, description=text))
    return create_model(name, __config__=_STRICT, __doc__=doc, **specs)


def _part(name: str, doc: str, keys: Mapping[str, Key]) -> type[BaseModel]:
    """A mapping of its own: the keys without their prefix, with their defaults."""
    prefix = name.lower() + "."
    fields = {key.name.removeprefix(prefix): (value_type(key), key.default) for key in keys.values()}
    return _model(name, doc, fields, prefix)


_SECTION_DOCS = {
    "name": "name of the sweep: its folder under results/",
    "dataset": "data set: a name, or a mapping of its keys",
    "base": "keys fixed for every trial",
    "grid": "axes: every combination of their values",
    "zip": "axes that move together; lists of one length",
    "include": "extra configurations: base and these keys",
    "exclude": "configurations left out: every key of the pattern matches (a list matches any of its values)",
    "when": "rules in order: what matches `if` gets the keys of `set`, `resources` too; what becomes equal is one",
    "seeds": "seeds of every configuration: a list, or a count n for 0..n-1",
    "folds": "cross-validation: a count of parts, each held out once, or a mapping; all labelled images measure each",
    "objective": "what chooses the best epoch and ranks configurations; validation only",
    "stop": "when a trial ends before its last epoch",
    "keep": KEEP.doc,
    "resources": "what one trial needs",
    "plugins": "Python files, relative to the spec, or modules, that register parts of one's own",
    "stages": "stages by name, in order; trials of one start from those of an earlier one by `weights: {stage: NAME}`",
    "search": "configurations sampled from the grid, on one machine through Ray Tune; or the order of the grid, or its halving",
    "ranges": "further axes: {low: ..., high: ..., log: true} for a key that is a number, not of dataset or stop",
    "low": "smallest value",
    "high": "largest value",
    "log": "sample every order of magnitude alike",
    "scheduler": "which trials go on, by what others reached on validation; absent: every trial gets all its epochs",
    "ensemble": "which ensembles of its trials `report` makes, chosen on validation",
    "members": "which trials `uniform` and `accuracy` take; the other methods choose by themselves",
    "if": "the pattern that a configuration must match",
    "set": "the keys that it then gets",
}


def argument_keys(value: Any) -> frozenset[str]:
    """The keys of a plain spec that are one argument of what is the user's own, such as 'arch_args.width'."""
    if isinstance(value, list):
        return frozenset().union(*map(argument_keys, value))
    if not isinstance(value, dict):
        return frozenset()
    own = {key for key in value if key.startswith(ARGUMENT_PREFIXES) and key.rpartition(".")[2].isidentifier()}
    return frozenset(own).union(*map(argument_keys, value.values()))


@functools.lru_cache(maxsize=16)
def spec_model(argument_names: frozenset[str] = frozenset(), parts: OwnParts = NO_PARTS) -> type[BaseModel]:
    """The model of a whole spec. argument_names: see argument_keys; parts: what its plugins register.

    Made on the first call: 0.1 s that `--help` need not pay.
    """
    argument: Any = Annotated[Any, PlainValidator(values.read_argument)]
    dataset = _part("Dataset", "A data set with its keys.", DATASET_KEYS)
    dataset_value: Any = Annotated[dataset, BeforeValidator(_as_mapping)]
    setters = {"dataset": dataset_value, **{key.name: value_type(key, parts) for key in TRIAL_KEYS.values()}}
    setters |= dict.fromkeys(sorted(argument_names), argument)
    resources = _part("Resources", "What one trial needs.", RESOURCE_KEYS)
    sections = _sections(setters, resources)
    name: Any = Annotated[Any, PlainValidator(values.read_name), WithJsonSchema({"type": "string", "pattern": _NAME})]
    stage = _model("Stage", "One stage; beside `stages` stands what all have in common.", sections)
    return _model(
        "Spec",
        "A sweep: one question, asked of every combination of its axes.",
        {
            "name": (name, ...),
            **sections,
            "stages": (Annotated[dict[str, stage], BeforeValidator(_name_stages)], None),  # type: ignore[valid-type]
            "objective": (_objective_part(parts), None),
            "keep": (
                Annotated[_part("Keep", "Whose trained networks stay.", KEEP_KEYS) | None, WrapValidator(_known_keep)],
                None,
            ),
            "plugins": (list[str], None),
            "search": (_search_part(), None),
            "ensemble": (_ensemble_part(), None),
            "resources": (resources, None),
        },
    )


def _sections(setters: Mapping[str, Any], resources: type[BaseModel]) -> dict[str, tuple[Any, Any]]:
    """The keys that a stage may have too, each with its type and default. setters: the type of each trial key's value."""
    some = Field(min_length=1)
    seed: Any = value_type(SEED)
    matchers = {**setters, "seed": seed}
    one_each: dict[str, tuple[Any, Any]] = {name: (kind, None) for name, kind in setters.items()}
    point: Any = _model("Point", "Trial keys with one value each.", one_each)
    axes = _model(
        "Axes",
        "Trial keys with a list each.",
        {n: (Annotated[list[kind], some], None) for n, kind in setters.items()},  # type: ignore[valid-type]
    )
    pattern: Any = _model(
        "Pattern",
        "Trial keys with a value, or a list of which any matches.",
        {n: (Annotated[list[kind], some, BeforeValidator(_as_list)], None) for n, kind in matchers.items()},  # type: ignore[valid-type]
    )
    changed = _model("Set", "Trial keys with one value each, and resources.", {**one_each, "resources": (resources, None)})
    rule: Any = _model("Rule", "What matches `if` gets the keys of `set`.", {"if": (pattern, ...), "set": (changed, ...)})
    return {
        "dataset": (setters["dataset"], None),
        "base": (point, None),
        "grid": (axes, None),
        "zip": (axes, None),
        "include": (list[point], None),
        "exclude": (list[pattern], None),
        "when": (list[rule], None),
        "seeds": (Annotated[list[seed], BeforeValidator(_count_as_seeds)], [0]),
        "folds": (Annotated[_part("Folds", "Cross-validation.", FOLD_KEYS), BeforeValidator(_count_as_folds)], None),
        "stop": (_part("Stop", "When a trial ends before its last epoch.", STOP_KEYS), None),
    }


def _objective_part(parts: OwnParts) -> type[BaseModel]:
    metric = value_type(ALL_KEYS["objective.metric"], parts), OBJECTIVE.default
    fields = {"metric": metric, "mode": (Literal["max", "min"] | None, None)}
    return _model("Objective", "The metric, and max or min, as the metric wants it.", fields, "objective.")


def _range_part(key: Key) -> Any:
    """low and high, each as the key's value may be."""
    kind = value_type(key)
    fields = {"low": (kind, ...), "high": (kind, ...), "log": (bool, False)}
    return _model(f"Range_{key.name}", f"Numbers to sample {key.name} from.", fields, "search.ranges.")


def _search_part() -> type[BaseModel]:
    ranges = _model("Ranges", "Axes that are ranges.", {name: (_range_part(key), None) for name, key in RANGE_KEYS.items()}, "")
    prefix = "search.scheduler."
    keys = {key.name.removeprefix(prefix): (value_type(key), key.default) for key in SCHEDULER_KEYS.values()}
    scheduler = _model("Scheduler", "Which trials go on.", keys, prefix)
    own = {key.name.removeprefix("search."): (value_type(key), key.default) for key in SEARCH_KEYS.values()}
    either: Any = Annotated[scheduler, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
    fields = {**own, "ranges": (ranges, None), "scheduler": (either, None)}
    return _model("Search", "Configurations sampled instead of the full grid.", fields, "search.")


def _ensemble_part() -> type[BaseModel]:
    prefix = "ensemble.members."
    keys = {key.name.removeprefix(prefix): (value_type(key), key.default) for key in MEMBER_KEYS.values()}
    members = _model("Members", "Which trials the rules take.", keys, prefix)
    methods = Annotated[list[Literal[catalog.ENSEMBLE_METHODS]], Field(min_length=1)]  # type: ignore[valid-type]
    fields = {"methods": (methods, list(catalog.ENSEMBLE_METHODS)), "members": (members, None)}
    return _model("Ensemble", "Ensembles of a sweep's trials.", fields, "ensemble.")


def given(model: BaseModel | None) -> dict[str, Any]:
    """What the user wrote in a part, by the keys as written."""
    if model is None:
        return {}
    fields = type(model).model_fields
    return {str(fields[name].alias): getattr(model, name) for name in fields if name in model.model_fields_set}


def all_of(model: BaseModel) -> dict[str, Any]:
    """All keys of a part, defaults included."""
    return {str(f.alias): getattr(model, name) for name, f in type(model).model_fields.items()}


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a spec, with every key's description, for editors."""
    schema = spec_model().model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    any_dataset = {"anyOf": [{"enum": list(catalog.DATASETS)}, {"$ref": "#/$defs/Dataset"}]}
    for part in (schema, definitions["Stage"], definitions["Point"], definitions["Set"]):
        part["properties"]["dataset"] = {**any_dataset, "description": _SECTION_DOCS["dataset"]}
    for part in (definitions["Axes"], definitions["Pattern"]):
        part["properties"]["dataset"] = {"type": "array", "items": any_dataset, "description": _SECTION_DOCS["dataset"]}
    for name, kind in definitions["Pattern"]["properties"].items():
        definitions["Pattern"]["properties"][name] = {
            "anyOf": [kind["items"], kind],
            "description": kind.get("description", ""),
        }
    schedulers = {"anyOf": [{"enum": list(SCHEDULERS)}, {"$ref": "#/$defs/Scheduler"}]}
    definitions["Search"]["properties"]["scheduler"] = {**schedulers, "description": _SECTION_DOCS["scheduler"]}
    del definitions["Dataset"]["required"]  # {folder: PATH} alone is one
    schema["properties"]["keep"]["anyOf"].append({"const": "weights"})
    del schema["properties"]["keep"]["default"]  # absent is not null
    count = {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS}
    for part in (schema, definitions["Stage"]):
        seeds = {"anyOf": [count, part["properties"]["seeds"]], "description": _SECTION_DOCS["seeds"], "default": 1}
        part["properties"]["seeds"] = seeds
        parts = {"type": "integer", "minimum": 2, "maximum": FOLD_KEYS["folds.n"].limits["le"]}
        folds = {"anyOf": [parts, {"$ref": "#/$defs/Folds"}], "description": _SECTION_DOCS["folds"]}
        part["properties"]["folds"] = folds
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "spec of a sweep of cifar-hpc"}


def schema_text() -> str:
    """The same as a file for editors."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False)


def describe_keys() -> list[dict[str, str]]:
    """What a person looks up: key, default, what may stand there and its meaning, the top level first."""
    rows = []
    for field in spec_model().model_fields.values():
        if str(field.alias) not in ALL_KEYS:
            rows.append({"key": str(field.alias), "default": "", "allowed": "", "meaning": str(field.description)})
    ranges = {"key": "search.ranges.KEY", "default": "", "allowed": "{low: ..., high: ..., log: true}"}
    rows.append(
        {
            **ranges,
            "meaning": "an axis to sample between two ends, for a number, not of dataset or stop; log: every order alike",
        }
    )
    for key in ALL_KEYS.values():
        if key is not SEED:  # `seeds` at the top level are its values
            default = "" if key.default is ... else "null" if key.default is None else str(key.default)
            rows.append({"key": key.name, "default": default, "allowed": key.allowed, "meaning": key.doc})
    return rows


def nearest_key(word: str, section: str) -> str | None:
    """The key that an unknown one most likely means, as it would be written inside that section ('' is the top level)."""
    usual = usual_key(word)
    if section == "":
        top = [str(field.alias) for field in spec_model().model_fields.values()]
        if usual in TRIAL_KEYS:
            return f"base.{usual}"
        near = nearest(usual, top) or nearest(usual, TRIAL_KEYS)
        return f"base.{near}" if near in TRIAL_KEYS else near
    names = _part_keys(section)
    return usual if usual in names else nearest(word, names)


def _part_keys(section: str) -> list[str]:
    """The keys that may stand in a part of a spec, or, beside these parts, in one that sets trial keys."""
    if section == "ranges":
        return list(RANGE_KEYS)
    written = {
        "rule": ["if", "set"],
        "range": ["low", "high", "log"],
        "search": ["ranges", "scheduler"],
        "ensemble": ["members"],
    }
    inside = [key.rpartition(".")[2] for key in ALL_KEYS if key.rpartition(".")[0].rpartition(".")[2] == section]
    return [*inside, *written.get(section, ())] or list(TRIAL_KEYS)
