"""Which trials of a sweep are others because the user's own code changed. Compares plans; imports no code."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from cifar_hpc.config.words import plural
from cifar_hpc.records.schema import PlannedTrial, PlanRecord


def changed_code(before: PlanRecord, now: PlanRecord) -> list[str]:
    """A sentence for each piece of code that is another than in the plan before. Whether its trials train again is not said:
    where it is as it once was, they have their results."""
    known = {trial.trial_id for trial in before.trials}
    older = {_without_hashes(trial): trial for trial in before.trials}
    changed: Counter[str] = Counter()
    for trial in now.trials:
        like = None if trial.trial_id in known else older.get(_without_hashes(trial))
        if like is not None:
            changed.update(name for name, code in _code(trial).items() if _code(like).get(name) != code)
    return [f"{name} has changed, and with it {plural(n, 'trial')}" for name, n in changed.items()]


def _code(trial: PlannedTrial) -> dict[str, tuple[str, str | None]]:
    return {one["name"]: (one["sha256"], one["version"]) for one in trial.config.get("sources") or ()}


def _without_hashes(trial: PlannedTrial) -> str:
    config: dict[str, Any] = {**trial.config, "sources": list(_code(trial))}
    return json.dumps(config, sort_keys=True)
