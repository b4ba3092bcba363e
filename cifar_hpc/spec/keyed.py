"""A YAML file whose keys are the fields of one dataclass -> their values, or every problem of it: Slurm profiles.

Owns: what may stand at a key, by the annotation of its field; text, lines and mappings beside the numbers that a spec has. The
errors have the words of a spec's. Knows no key.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model

from cifar_hpc.errors import Problem, SpecError, nearest
from cifar_hpc.spec.keys import Key, keys_of, plain_type
from cifar_hpc.spec.problems import by_line, wrong_value
from cifar_hpc.spec.schema import value_type
from cifar_hpc.spec.values import refuse, show
from cifar_hpc.spec.yaml_tree import YamlTree

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
TEXT_ALLOWED = "text on one line"


def read_keys(tree: YamlTree, cls: type, what: str) -> dict[str, Any]:
    """What is written, by the names of the dataclass's fields. what: such as 'profile'. Raises SpecError with all problems.

    A field that is a mapping of names to a dataclass holds one of these for each name.
    """
    if tree.value is None:
        return {}
    if not isinstance(tree.value, dict):
        raise SpecError([Problem(tree.where(()), show(tree.value), f"a {what} is a mapping (key: value)")])
    try:
        model = _model(cls).model_validate(tree.value)
    except ValidationError as error:
        problems = [_problem(found, tree, cls, what) for found in error.errors(include_url=False)]
        raise SpecError(by_line(problems)) from error
    return _written(model, cls)


def _model(cls: type) -> type[BaseModel]:
    fields: dict[str, Any] = {
        f"{name}_": (_kind(key, _part(cls, name)), Field(None, alias=name)) for name, key in keys_of(cls).items()
    }
    return create_model(cls.__name__, __config__=_STRICT, **fields)


def _part(cls: type, name: str) -> type | None:
    """The dataclass of which the field holds several by name; None where it holds plain values."""
    arguments = typing.get_args(typing.get_type_hints(cls)[name])
    return typing.cast(type, arguments[1]) if len(arguments) == 2 and dataclasses.is_dataclass(arguments[1]) else None


def _kind(key: Key, part: type | None) -> Any:
    if part is not None:
        return dict[str, _model(part)]  # type: ignore[misc]
    plain = plain_type(key.kind)
    reader = _READERS.get(typing.get_origin(plain) or plain)
    if reader is None or key.choices:
        return value_type(key)
    nullable = type(None) in typing.get_args(key.kind)
    return Annotated[Any, PlainValidator(lambda value: None if value is None and nullable else reader(value, key))]


def _read_text(value: Any, key: Key) -> str:
    """A number stands for its digits: account 4711."""
    if isinstance(value, bool | list | dict) or value is None or not str(value).strip() or "\n" in str(value):
        null = " or null" if type(None) in typing.get_args(key.kind) else ""
        raise refuse(show(value), f"{TEXT_ALLOWED}{null}")
    return str(value)


def _read_lines(value: Any, key: Key) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        raise refuse(show(value), key.allowed)
    return tuple(items)


def _read_mapping(value: Any, key: Key) -> dict[str, str | int | bool]:
    """Plain values by name: of flags as they are, of variables as text."""
    if not isinstance(value, dict) or not all(isinstance(item, str | int | float) for item in value.values()):
        raise refuse(show(value), key.allowed)
    flags = bool in typing.get_args(typing.get_args(key.kind)[1])
    return {name: item if flags and isinstance(item, bool | int) else _plain(item) for name, item in value.items()}


_READERS: Mapping[Any, Any] = {str: _read_text, tuple: _read_lines, dict: _read_mapping}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problem(error: Mapping[str, Any], tree: YamlTree, cls: type, what: str) -> Problem:
    path, value = tuple(error["loc"]), error["input"]
    where, word = tree.where(path), str(path[-1])
    part = _part(cls, str(path[0])) if len(path) > 1 and path[0] in keys_of(cls) else None
    keys = keys_of(part or cls)
    match error["type"]:
        case "refused":
            context = error["ctx"]
            return Problem(where, context["found"], context["allowed"], context["nearest"])
        case "extra_forbidden":
            section = f"{path[0]}.{path[1]}" if part else f"a {what}"
            return Problem(where, f"the key {word!r}", f"it is no key of {section}", nearest(word, keys))
        case "model_type" | "model_attributes_type" | "dict_type":
            return Problem(where, show(value), "a mapping (key: value) is needed")
    return wrong_value(where, value, keys[word])


def _written(model: BaseModel, cls: type) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for field in model.model_fields_set:
        name = str(type(model).model_fields[field].alias)
        value, part = getattr(model, field), _part(cls, name)
        written[name] = {item: part(**_written(of, part)) for item, of in value.items()} if part else value
    return written
