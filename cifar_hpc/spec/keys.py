"""The keys of a spec, made from the fields of the dataclasses that hold them: one source for docs, defaults and limits.

Owns: Key, which keys there are and under which names, what may stand there in words. Makes no models; knows no files.
"""

from __future__ import annotations

import dataclasses
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import BY_SEED, DatasetConfig
from cifar_hpc.config.roles import ARGUMENTS
from cifar_hpc.config.trained import WORDS
from cifar_hpc.config.trial import StopConfig, TrialConfig
from cifar_hpc.spec import values
from cifar_hpc.spec.parts import Ensembling, Folds, Keep, Resources
from cifar_hpc.spec.search import Scheduler, SearchKeys

_WORD = {"type": "string"}
SPECIAL: dict[str, tuple[Any, str, dict[str, Any]]] = {  # key -> its reader, the words for what it allows, JSON Schema
    "arch": (
        values.read_arch,
        values.ARCH_ALLOWED,
        {"anyOf": [{"enum": list(catalog.ARCHS)}, {"type": "string", "pattern": f"^{catalog.TIMM}|:"}]},
    ),
    "arch_args": (values.read_arguments, values.ARGUMENTS_ALLOWED, {"anyOf": [{"type": "object"}, {"type": "null"}]}),
    "dataset.args": (values.read_arguments, values.ARGUMENTS_ALLOWED, {"anyOf": [{"type": "object"}, {"type": "null"}]}),
    "dataset.name": (
        values.read_dataset_name,
        values.DATASET_ALLOWED,
        {"anyOf": [{"enum": list(catalog.DATASETS)}, {"type": "string", "pattern": "^torchvision/|^hf/|:"}]},
    ),
    "freeze": (values.read_freeze, values.FREEZE_ALLOWED, {"anyOf": [_WORD, {"type": "number", "minimum": 0}]}),
    "train": (
        values.read_train,
        values.TRAIN_ALLOWED,
        {"anyOf": [{"enum": list(WORDS)}, {"type": "array", "items": _WORD, "minItems": 1}]},
    ),
    "lora": (
        values.read_lora,
        values.LORA_ALLOWED,
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"rank": {"type": "integer", "minimum": 1}},
                    "required": ["rank"],
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        },
    ),
    "unfreeze": (
        values.read_unfreeze,
        values.UNFREEZE_ALLOWED,
        {"anyOf": [{"type": "object", "patternProperties": {"^[1-9][0-9]*$": _WORD}}, {"type": "null"}]},
    ),
    "weights": (
        values.read_weights,
        values.WEIGHTS_ALLOWED,
        {
            "anyOf": [
                _WORD,
                {"type": "null"},
                *(
                    {"type": "object", "properties": {of: _WORD}, "required": [of], "additionalProperties": False}
                    for of in ("stage", "trial")
                ),
            ]
        },
    ),
    "augment": (
        values.read_augment,
        values.AUGMENT_ALLOWED,
        {
            "anyOf": [
                {"enum": list(catalog.AUGMENTATIONS)},
                {"type": "array", "items": {"anyOf": [{"enum": list(catalog.AUGMENT_OPS)}, {"type": "object"}]}},
            ]
        },
    ),
    "class_weights": (
        values.read_class_weights,
        values.CLASS_WEIGHTS_ALLOWED,
        {
            "anyOf": [
                {"const": values.BALANCED},
                {"type": "null"},
                {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
            ]
        },
    ),
    "dataset.split_seed": (
        values.read_split_seed,
        values.SPLIT_SEED_ALLOWED,
        {"anyOf": [{"type": "integer", "minimum": 0}, {"const": BY_SEED}]},
    ),
    "dataset.classes": (
        values.read_classes,
        values.CLASSES_ALLOWED,
        {"anyOf": [_WORD, {"type": "array", "items": _WORD}, {"type": "null"}]},
    ),
}


_NOUNS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    tuple: "a list of lines",
    dict: "a mapping of names to plain values",
}


_BOUNDS = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a spec: flat name ('dataset.train_size'), default, type and limits."""

    name: str
    doc: str
    kind: Any  # the annotation: float, int | None, ...
    default: Any  # ... where there is none
    limits: Mapping[str, Any]

    def with_choices(self, more: tuple[str, ...]) -> Key:
        """The key with further words that may stand there, where it takes some of a list."""
        if not more or not self.choices:
            return self
        return dataclasses.replace(self, limits={**self.limits, "choices": tuple(dict.fromkeys((*self.choices, *more)))})

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.limits.get("choices", ()))

    def takes(self, number: int) -> bool:
        """Whether it is a key of whole numbers within whose limits this one is."""
        limits = [(getattr(operator, name), self.limits[name]) for name in _BOUNDS if name in self.limits]
        return plain_type(self.kind) is int and all(within(number, limit) for within, limit in limits)

    @property
    def allowed(self) -> str:
        """What may stand there, in words."""
        if self.name in SPECIAL:
            return SPECIAL[self.name][1]
        null = " or null" if type(None) in typing.get_args(self.kind) else ""
        if self.choices:
            return f"one of {', '.join(self.choices)}{null}"
        bounds = " and ".join(text.format(self.limits[name]) for name, text in _BOUNDS.items() if name in self.limits)
        null = f"{null}, or {self.limits['also']}" if "also" in self.limits else null
        kind = plain_type(self.kind)
        noun = _NOUNS.get(kind) or _NOUNS[typing.get_origin(kind)]
        return " ".join(part for part in (noun, bounds) if part) + null


def plain_type(kind: Any) -> type:
    if isinstance(kind, types.UnionType):
        return typing.cast(type, next(part for part in typing.get_args(kind) if part is not type(None)))
    return typing.cast(type, kind)


def keys_of(cls: type, prefix: str = "") -> dict[str, Key]:
    """The keys that the fields of a dataclass declare, by their names with the prefix."""
    hints = typing.get_type_hints(cls)
    found = {}
    for f in dataclasses.fields(cls):
        if "doc" in f.metadata and not f.metadata.get("derived"):
            limits = {name: f.metadata[name] for name in ("choices", "ge", "gt", "le", "lt", "also") if name in f.metadata}
            default = ... if f.default is dataclasses.MISSING else f.default
            found[prefix + f.name] = Key(prefix + f.name, f.metadata["doc"], hints[f.name], default, limits)
    return found


DATASET_KEYS = keys_of(DatasetConfig, "dataset.")
STOP_KEYS = keys_of(StopConfig, "stop.")
_OWN = keys_of(TrialConfig)
OBJECTIVE = _OWN.pop("objective")
KEEP = _OWN.pop("keep")
SEED = _OWN.pop("seed")
TRIAL_KEYS: dict[str, Key] = {**DATASET_KEYS, **_OWN, **STOP_KEYS}  # what base, grid, zip, include and when.set may hold
ARGUMENT_PREFIXES = tuple(f"{key}." for key in ARGUMENTS)  # one argument as a key of its own: an axis
FOLD_KEYS = keys_of(Folds, "folds.")
KEEP_KEYS = keys_of(Keep, "keep.")
RESOURCE_KEYS = keys_of(Resources, "resources.")
SEARCH_KEYS = keys_of(SearchKeys, "search.")
SCHEDULER_KEYS = keys_of(Scheduler, "search.scheduler.")
MEMBER_KEYS = keys_of(Ensembling, "ensemble.members.")
RANGE_KEYS = {  # what a search may sample from a range: the numbers that steer training, and no word or null beside them
    name: dataclasses.replace(
        key, kind=plain_type(key.kind), limits={limit: value for limit, value in key.limits.items() if limit != "also"}
    )
    for name, key in _OWN.items()
    if name not in SPECIAL and not key.choices and plain_type(key.kind) is not str
}
ALL_KEYS: dict[str, Key] = {
    **TRIAL_KEYS,
    **FOLD_KEYS,
    **KEEP_KEYS,
    **RESOURCE_KEYS,
    **SEARCH_KEYS,
    **SCHEDULER_KEYS,
    **MEMBER_KEYS,
    "ensemble.methods": Key(
        "ensemble.methods",
        "how trials are combined; a list; absent: all of these",
        str,
        ...,
        {"choices": catalog.ENSEMBLE_METHODS},
    ),
    "seed": SEED,
    "keep": dataclasses.replace(KEEP, default=...),  # absent is not null
    "objective.metric": dataclasses.replace(OBJECTIVE, name="objective.metric"),
    "objective.mode": Key(
        "objective.mode", "max or min, as the metric wants it", str | None, None, {"choices": ("max", "min")}
    ),
}
