"""How trials are called: by the beginning of an id, as git calls commits, by a row of a leaderboard, and by what tells them
apart. Owns the form of these names; what they mean where a leaderboard is needed, collect/names.py knows. Reads no files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlannedTrial, PlanRecord
from cifar_hpc.status.axes import axes_of
from cifar_hpc.status.query import (
    parse_filter,
    spell,
    split_terms,
    stages_of,
    starts_of,
    trial_facts,
    values_there,
)

SHORTEST_ID = 8
FEWEST_LETTERS = 4  # that name an id, as git has it: fewer are a misspelt sweep sooner than a trial
_ROW = re.compile(r"(.*?)\s*#\s*(.*)", re.S)


@dataclass(frozen=True, slots=True)
class Asked:
    """What words of a command line ask for. names: of sweeps, or beginnings of ids; terms: a filter; number: the row of their
    leaderboard, from 1; None: no row is named."""

    names: tuple[str, ...]
    terms: str = ""
    number: int | None = None


def parse_words(words: str | Iterable[str] | None) -> Asked:
    """`mysweep`, `mysweep#3`, `#3`, 'mysweep arch=resnet18 lr>1e-3'; one word may hold several. Raises CifarHpcError."""
    parts, terms = split_terms([words] if isinstance(words, str) else words or ())
    names, numbers = [], []
    for part in parts:
        if found := _ROW.fullmatch(part):
            if not found[2].isascii() or not found[2].isdecimal() or int(found[2]) < 1:
                raise CifarHpcError(f"{part!r}: behind # stands the number of a leaderboard's row, such as {found[1]}#1")
            numbers.append(int(found[2]))
            part = found[1]
        names += [part] if part else []
    if len(numbers) > 1:
        raise CifarHpcError(f"{' '.join(parts)!r}: one row at a time, such as {parts[0]}")
    return Asked(tuple(names), " ".join(terms), *numbers)


def resolve_id(prefix: str, ids: Collection[str]) -> str:
    """The one id that begins so, as git does with commits. Raises CifarHpcError where there is none, or several."""
    found = sorted({one for one in ids if begins(prefix, one)})
    if len(found) == 1:
        return found[0]
    if found:
        raise CifarHpcError(
            f"{prefix!r} begins {len(found)} ids ({', '.join(found[:4])}{', ...' * (len(found) > 4)}): give more letters"
        )
    raise CifarHpcError(f"{prefix!r} {begins_none(prefix)}")


def begins_none(prefix: str) -> str:
    """What is said of letters that begin no id."""
    few = f" ({FEWEST_LETTERS} letters or more name one)" if len(prefix) < FEWEST_LETTERS else ""
    return f"begins no id of a trial or configuration here{few}"


def begins(prefix: str, id_: str) -> bool:
    """Whether these letters are the beginning of the id, and enough of it."""
    return len(prefix) >= FEWEST_LETTERS and id_.startswith(prefix.lower())


def select_trials(
    plan: PlanRecord, states: Mapping[str, TrialState], words: Sequence[str] | None
) -> tuple[list[PlannedTrial], str]:
    """The trials that a filter, or beginnings of ids (of trials, or of configurations with all their seeds), mean, all where
    nothing is given; and why they are none."""
    if not words:
        return list(plan.trials), ""
    prefixes, terms = split_terms(words)
    known = {id_ for trial in plan.trials for id_ in (trial.trial_id, trial.point_id)}
    ids = {resolve_id(prefix, known) for prefix in prefixes}
    axes, stages, starts = axes_of(plan.trials), stages_of(plan.trials), starts_of(plan.trials)
    rows = {t.trial_id: trial_facts(t, axes[t.trial_id], stages, starts, states[t.trial_id]) for t in plan.trials}
    wanted = parse_filter(terms, {key for row in rows.values() for key in row})
    chosen = [
        t for t in plan.trials if (not ids or t.trial_id in ids or t.point_id in ids) and wanted.matches(rows[t.trial_id])
    ]
    if not chosen:
        return [], f"no trial matches {' '.join(words)!r}; {values_there(rows.values(), wanted)}"
    return chosen, ""


def short_ids(trial_ids: Collection[str]) -> dict[str, str]:
    """Each id's beginning that no other of them has, at least SHORTEST_ID letters, all of one length."""
    length = SHORTEST_ID
    while len({trial_id[:length] for trial_id in trial_ids}) < len(set(trial_ids)):
        length += 1
    return {trial_id: trial_id[:length] for trial_id in trial_ids}


def names_of(trials: Collection[PlannedTrial], *, seed: bool = True) -> dict[str, str]:
    """Each trial by the swept keys that differ among them: 'arch=linear lr=0.1'; its architecture where none does. Of weights
    files the names are told, where these differ."""
    axes = axes_of(trials)
    spelled: dict[str, set[str]] = defaultdict(set)
    for own in axes.values():
        for key, value in own.items():
            spelled[key].add(str(value))
    telling = [key for key, values in spelled.items() if len(values) > 1 and (seed or key not in ("seed", "fold"))]
    files = {value for own in axes.values() if (value := str(own.get("weights"))).startswith("/")}
    ends = {path: PurePath(path).name for path in files}
    if len(set(ends.values())) < len(files):
        ends = {}
    return {
        t.trial_id: " ".join(f"{key}={ends.get(str(own[key]), spell(own[key], key))}" for key in telling if key in own)
        or str(t.config["arch"])
        for t in trials
        for own in [axes[t.trial_id]]
    }
