"""The filter of reading commands, 'arch=resnet18 lr>1e-3 status=failed', what it may ask of a trial, and how values
are spelled.

One flattening and one spelling for all: what a table prints is what the filter takes. Knows words and comparisons, no files.

Terms are separated by blanks and all must hold. A term is a key, one of = != > >= < <=, and a value; = and != take several
values with commas and * for any letters; of ids the beginning is enough. What stands between double quotation marks is part of
one value, blanks and commas too. null matches what is absent. Comparisons of absent values, and of text by size, never hold.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.keys import Role
from cifar_hpc.config.normalize import canonical_freeze
from cifar_hpc.config.roles import ARGUMENTS, PARTS, asked_keys, derived_keys, keys_with, unhashed_keys
from cifar_hpc.config.spelled import DIGITS, as_text, float_text
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.config.words import NO_VALUE, usual_key
from cifar_hpc.errors import CifarHpcError, did_you_mean, nearest
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlannedTrial, epochs_in

MOST_VALUES = 8
MOST_DIGITS = 17  # significant ones, that tell any two numbers apart
_TRAINING = frozenset(keys_with(Role.TRAINING))
# What a filter may ask of every trial beside its config and its swept keys.
OWN_KEYS = ("id", "point", "seed", "fold", "status", "outcome", "epochs_done", "val_acc", "test_acc", "reason")
# Keys of a spec that a trial's config has by another name.
_CALLED = {
    "dataset.name": "dataset",
    "folds": "dataset.folds",
    "folds.n": "dataset.folds",
    "folds.by": "dataset.fold_by",
    "objective.metric": "objective",
}
# No parts of the trial, or said by another key; by what images are kept together says more than the digest of which these are.
_UNTOLD = frozenset(unhashed_keys()) - frozenset(asked_keys()) - {"dataset.fold_by"}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_IDS = {"id": ("id", "point"), "point": ("point",)}  # a table's ids are beginnings, of trials or of configurations
_TERM = re.compile(r"([\w.]+)(!=|>=|<=|=|>|<)(.*)", re.S)
_PART = re.compile(r'\s*((?:"[^"]*"|.)+?)\s*(?=\s[\w.]+(?:!=|>=|<=|=|>|<)|$)', re.S)  # up to the next term
_VALUE = re.compile(r'(?:"[^"]*"|[^,])+')
_ORDERED: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison."""

    key: str
    sign: str
    values: tuple[str, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        if self.key in _IDS:
            ids = [row[key] for key in _IDS[self.key] if row.get(key)]
            return any(_begins(found, value) for found in ids for value in self.values) is (self.sign == "=")
        found = row.get(self.key)
        if self.sign in _ORDERED:
            number = _number(found)
            return number is not None and _ORDERED[self.sign](number, float(self.values[0]))
        return any(_equal(found, value, self.key) for value in self.values) is (self.sign == "=")


@dataclass(frozen=True, slots=True)
class Filter:
    """All terms; without any, everything matches."""

    terms: tuple[Term, ...]

    def matches(self, row: Mapping[str, Any]) -> bool:
        return all(term.holds(row) for term in self.terms)


def is_term(word: str) -> bool:
    """Whether a word of the command line is a comparison and no name."""
    return any(sign in word for sign in "=<>")


def split_terms(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names among the words, and the terms; one word may hold several terms, with blanks between."""
    parts = [part for word in words for part in _PART.findall(word.strip())]
    return [part for part in parts if not is_term(part)], [part for part in parts if is_term(part)]


def parse_filter(words: str | Sequence[str], keys: Collection[str]) -> Filter:
    """Raises CifarHpcError with where, found, allowed and the nearest key."""
    names, terms = split_terms([words] if isinstance(words, str) else words)
    return Filter(tuple(_parse_term(word, keys) for word in (*names, *terms)))


def trial_facts(
    trial: PlannedTrial, axes: Mapping[str, Any], stages: Collection[str], starts: Mapping[str, Any], state: TrialState
) -> dict[str, Any]:
    """What a filter may ask of a trial, as of a finished one in a report: its config, spelled as said_by_spec has it, where it
    stands, what it measured. axes: its swept keys, which tell equal spellings apart; stages, starts: those of its sweep."""
    fold = fold_of(trial.config)
    own = {"id": trial.trial_id, "point": trial.point_id, "seed": trial.config.get("seed"), **fold_facts(fold)}
    config = {**flat_config(config_text(trial.config)), **said_by_spec(trial, stages, starts)}
    told = {key: value for key, value in axes.items() if key not in config or config[key] == value}
    return {**config, **told, **measured(state), **own}


def said_by_spec(trial: PlannedTrial, stages: Collection[str], starts: Mapping[str, Any]) -> dict[str, Any]:
    """What of a trial is told as its spec has it, not as its config: freezing depths, a share or a block's name; its stage, the
    stage that it starts from, or the weights of its probe, and what tells parents apart; whether each seed has a split of its
    own. stages, starts: of its sweep."""
    own = {
        "stage",
        *(("weights",) if stages else ()),
        *(key for key in trial.axes if key.partition(".")[0] in stages),
    }
    said = {key: trial.axes[key] for key in own & trial.axes.keys()}
    probe = str(trial.config.get("weights")).removeprefix(PARENT_PREFIX)
    if trial.config.get("start") and not stages and probe in starts:
        said["weights"] = starts[probe]
    freeze = trial.axes.get("freeze")  # of which other keys may leave nothing: unfreeze, train, a classifier that is fitted
    if freeze is not None and canonical_freeze(trial.config["arch"], freeze) == trial.config["freeze"]:
        said["freeze"] = freeze
    dataset = trial.config["dataset"]  # as asked here: another sweep may have trained it by its split's number, or its seed's
    said["dataset.split_seed"] = BY_SEED if dataset.get("split_by_seed") else dataset["split_seed"]
    return said


def stages_of(trials: Iterable[PlannedTrial]) -> frozenset[str]:
    """The names of a sweep's stages; empty where it has none."""
    return frozenset(str(trial.axes["stage"]) for trial in trials if "stage" in trial.axes)


def starts_of(trials: Iterable[PlannedTrial]) -> dict[str, Any]:
    """Of each probe of a sweep the weights that it starts from, as its config has them; none where its C varies, which nothing
    else tells of those that start from it."""
    trials = list(trials)
    parents = {str(t.config.get("weights")).removeprefix(PARENT_PREFIX) for t in trials if t.config.get("start")}
    probes = [trial.config for trial in trials if trial.trial_id in parents]
    one = len({str(probe.get("logreg_c")) for probe in probes}) == 1
    return {t.trial_id: t.config.get("weights") for t in trials if one and t.trial_id in parents}


def fold_facts(fold: int | None) -> dict[str, int | None]:
    """By its short name, and by the one that a trial's config has, which a point's leaves empty."""
    return {"fold": fold, "dataset.fold": fold}


def fold_of(config: Mapping[str, Any]) -> int | None:
    """The fold of a config as JSON has it."""
    dataset = config.get("dataset")
    fold = dataset.get("fold") if isinstance(dataset, dict) else None
    return fold if isinstance(fold, int) else None


def measured(state: TrialState) -> dict[str, Any]:
    """Where a trial stands and what it measured, by the names that every reading command has for it."""
    result = state.result
    return {
        "status": state.status.value,
        "outcome": result.outcome.value if result else None,
        "epochs_done": state.epochs_done if result is None or epochs_in(result.config) else None,
        "val_acc": result.val.acc if result and result.val else None,
        "test_acc": result.test.acc if result and result.test else None,
        "reason": state.reason or None,
    }


def values_there(rows: Iterable[Mapping[str, Any]], chosen: Filter) -> str:
    """'lr is 0.01, 0.1; arch is linear': what the filter's keys could have matched."""
    values: dict[str, dict[str, None]] = {term.key: {} for term in chosen.terms}
    for row in rows:
        for key, known in values.items():
            known["null" if row.get(key) is None else spell(row[key], key)] = None
    return "; ".join(f"{key} is {_some(sorted(known))}" for key, known in values.items())


class Precise(float):
    """A number with as many significant digits as tell it from the others of its key; `with_digits` makes it."""

    digits = DIGITS


def with_digits(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows; where numbers of one key would be spelled alike, with Precise ones in their place."""
    numbers: dict[str, set[float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float):
                numbers.setdefault(key, set()).add(value)
    precise = {key: told for key, values in numbers.items() if (told := _precise(values))}
    own = [{key: told[row[key]] for key, told in precise.items() if row.get(key) in told} for row in rows]
    return [{**row, **changed} if changed else row for row, changed in zip(rows, own, strict=True)]


def _precise(values: Collection[float]) -> dict[float, Precise]:
    """Empty where the usual digits tell them apart."""
    apart = (n for n in range(DIGITS, MOST_DIGITS) if len({f"{value:.{n}g}" for value in values}) == len(values))
    digits = next(apart, MOST_DIGITS)
    found = {value: Precise(value) for value in values if digits > DIGITS}
    for number in found.values():
        number.digits = digits
    return found


def spell(value: Any, key: str = "") -> str:
    """A value in words: None as '-', of weights as 'none given', as one's own network may bring some; 1e-05 as 1e-5, a list
    joined by '+'."""
    if value is None:
        return "none given" if key == "weights" else NO_VALUE
    if isinstance(value, float):
        digits = value.digits if isinstance(value, Precise) else DIGITS
        return float_text(value, digits)
    return str(as_text(value)).replace("\n", "\\n").replace("\t", " ")  # in a cell or a sentence it is one line


def config_text(config: Mapping[str, Any]) -> str:
    """A config's canonical JSON without seed and fold: equal for the trials of a point, each of which may have its own parent
    and its own split."""
    if config.get("weights_point"):
        config = {**config, "weights": f"point/{config['weights_point']}"}
    dataset = config.get("dataset")
    if isinstance(dataset, dict) and (dataset.get("fold") or dataset.get("split_by_seed")):
        split_seed = BY_SEED if dataset.get("split_by_seed") else dataset["split_seed"]
        config = {**config, "dataset": {**dataset, "fold": None, "split_seed": split_seed}}
    return _CANONICAL({key: value for key, value in config.items() if key != "seed"})


@cache
def flat_config(text: str) -> Mapping[str, Any]:
    """A config_text with dotted keys, each value a number or one text, one object for equal texts; `dataset` is the name of the
    data set, of one's own images that of their folder."""
    config = json.loads(text)
    flat = dict(_flattened(config))
    flat["sources"] = tuple(f"{one['name']} {one['sha256'][:8]}" for one in config.get("sources") or ()) or None
    if flat.get("classifier", "linear") != "linear":  # what steers training has no value where nothing was trained
        flat |= {key: None for key in flat if is_training_key(key)}
    if flat.get("dataset.folds") is not None:  # each fold is held out in turn
        flat["dataset.val_frac"] = None
    if folder := flat.get("dataset.folder"):
        flat["dataset"] = PurePath(folder).name
    for key in _UNTOLD:
        flat.pop(key, None)
    return flat


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = prefix.rstrip(".") if prefix == "dataset." and key == "name" else f"{prefix}{key}"
        if isinstance(value, dict) and key in PARTS:
            yield from _flattened(value, f"{key}.")
        elif isinstance(value, dict) and name in ARGUMENTS:
            yield name, as_text(value)
            yield from _flattened(value, f"{name}.")
        elif key != "sources":
            yield name, as_text(value)


def is_training_key(key: str) -> bool:
    """Whether it steers training, so that it says nothing of a classifier that is only fitted."""
    return key in _TRAINING


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:MOST_VALUES]) + (f", ... ({len(words)} in all)" if len(words) > MOST_VALUES else "")


def _parse_term(word: str, keys: Collection[str]) -> Term:
    match = _TERM.fullmatch(word)
    if match is None or not match[3]:
        raise CifarHpcError(f"filter: {word!r} is no term; allowed: key=value, also != > >= < <=, such as lr>1e-3")
    key, sign, value = _CALLED.get(match[1], match[1]), match[2], _unquoted(match[3])
    known = {*keys, *asked_keys(), *_CALLED.values()}
    if key not in known:
        usual = usual_key(key)
        known = (known | {*_CALLED}) - {*derived_keys()}
        near = usual if usual in known else nearest(key, known)
        raise CifarHpcError(f"filter: {key!r} is unknown; allowed: {', '.join(sorted(known))}.{did_you_mean(near)}")
    if sign in _ORDERED and _as_number(value) is None:
        raise CifarHpcError(f"filter: {word!r} compares with {value!r}; allowed: a number after {sign}")
    several = [one for part in _VALUE.findall(match[3]) for one in (part, _unquoted(part))]
    values = (value,) if sign in _ORDERED else (value, match[3], *several)  # commas and quotation marks may be its own
    return Term(key, sign, tuple(dict.fromkeys(values)))


def _unquoted(value: str) -> str:
    """Without the quotation marks around it."""
    return value[1:-1] if re.fullmatch(r"(\"|')[^\"']*\1", value) else value


def _equal(found: Any, value: str, key: str) -> bool:
    """As the spec has it or as a table prints it; of a path its end is enough."""
    spelled = spell(found, key)
    if found is None:
        return value in ("null", spelled)
    number, asked = _number(found), _as_number(value)
    if number is not None and asked is not None:
        return asked in (number, _as_number(spelled))
    words = {str(found).lower(), spelled.lower()}
    if "/" in spelled:
        parts = spelled.lower().split("/")
        words |= {"/".join(parts[place:]) for place in range(len(parts))}
    return value.lower() in words or any(_like(word, value) for word in words)


def _begins(found: str, value: str) -> bool:
    return bool(value) and _like(found, f"{value}*")


def _like(word: str, pattern: str) -> bool:
    """word: in small letters. * in the pattern is any letters, all else itself."""
    return re.fullmatch(".*".join(map(re.escape, pattern.lower().split("*"))), word, re.S) is not None


def _number(found: Any) -> float | None:
    """None of text, also of digits: "1" and "1.0" are two."""
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
