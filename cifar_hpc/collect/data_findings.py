"""What sweeps found out about their images and weights before they began, and of which of their trials that is.

Knows plans, no other file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.records.schema import PlanRecord


@dataclass(frozen=True, slots=True)
class Finding:
    """trial_ids: of those on the data sets that it is of; None: of all that are looked at."""

    sentence: str
    trial_ids: frozenset[str] | None


def findings_of(plans: Sequence[PlanRecord]) -> tuple[Finding, ...]:
    """Those of the plans, each once; of several sweeps whose it is, where it is not that of all."""
    found: dict[str, dict[str, frozenset[str] | None]] = {}
    for plan in plans:
        by_set = _by_data_set(plan) if plan.findings_of else {}
        everyone = None if len(plans) == 1 else frozenset(trial.trial_id for trial in plan.trials)
        for sentence in plan.findings:
            sets = plan.findings_of.get(sentence, ())
            of = frozenset().union(*(by_set.get(one, ()) for one in (*sets, None))) if sets else everyone
            found.setdefault(sentence, {})[plan.sweep] = of
    return tuple(
        Finding(
            sentence if len(whose) == len(plans) else f"{', '.join(whose)}: {sentence}",
            None if None in whose.values() else frozenset().union(*(of for of in whose.values() if of is not None)),
        )
        for sentence, whose in found.items()
    )


def _by_data_set(plan: PlanRecord) -> dict[str | None, set[str]]:
    """The plan's trials by the digest of their data set; under None those that nobody can tell, of which a finding may be."""
    digests: dict[str, str | None] = {}
    found: dict[str | None, set[str]] = {}
    for trial in plan.trials:
        written = json.dumps(trial.config.get("dataset"))
        if written not in digests:
            try:
                digests[written] = DatasetConfig.from_json(trial.config["dataset"]).digest
            except (TypeError, KeyError, AttributeError, ValueError):  # of another version
                digests[written] = None
        found.setdefault(digests[written], set()).add(trial.trial_id)
    return found
