"""How trials are called: by the beginning of an id, as git calls commits, and by what tells them apart. Reads no files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlannedTrial, PlanRecord
from cifar_hpc.status.query import parse_filter, spell, split_terms, trial_facts, values_there

SHORTEST_ID = 8


def resolve_trial(prefix: str, trial_ids: Collection[str]) -> str:
    """The one id that begins so, as git does with commits. Raises CifarHpcError where there is none, or several."""
    found = sorted({trial_id for trial_id in trial_ids if trial_id.startswith(prefix.lower())})
    if len(found) == 1:
        return found[0]
    what = f"means {len(found)} trials ({', '.join(found[:4])}...): give more letters" if found else "begins no trial's id here"
    raise CifarHpcError(f"trial: {prefix!r} {what}")


def select_trials(
    plan: PlanRecord, states: Mapping[str, TrialState], words: Sequence[str] | None
) -> tuple[list[PlannedTrial], str]:
    """The trials that a filter, or beginnings of ids, mean, all where nothing is given; and why they are none."""
    prefixes, terms = split_terms(words or ())
    ids = {resolve_trial(prefix, [trial.trial_id for trial in plan.trials]) for prefix in prefixes}
    rows = {trial.trial_id: trial_facts(trial, states[trial.trial_id]) for trial in plan.trials}
    wanted = parse_filter(terms, {key for row in rows.values() for key in row})
    chosen = [t for t in plan.trials if (not ids or t.trial_id in ids) and wanted.matches(rows[t.trial_id])]
    if words and not chosen:
        return [], f"no trial matches {' '.join(words)!r}; {values_there(rows.values(), wanted)}"
    return chosen, ""


def short_ids(trial_ids: Collection[str]) -> dict[str, str]:
    """Each id's beginning that no other of them has, at least SHORTEST_ID letters, all of one length."""
    length = SHORTEST_ID
    while len({trial_id[:length] for trial_id in trial_ids}) < len(set(trial_ids)):
        length += 1
    return {trial_id: trial_id[:length] for trial_id in trial_ids}


def names_of(trials: Collection[PlannedTrial], *, seed: bool = True) -> dict[str, str]:
    """Each trial by the swept keys that differ among them: 'arch=linear lr=0.1'; its architecture where none does."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for trial in trials:
        for key, value in trial.axes.items():
            spelled[key].add(str(value))
    telling = [key for key, values in spelled.items() if len(values) > 1 and (seed or key != "seed")]
    return {
        t.trial_id: " ".join(f"{key}={spell(t.axes[key], key)}" for key in telling if key in t.axes) or str(t.config["arch"])
        for t in trials
    }
