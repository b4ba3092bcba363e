"""By which objective trials are ranked: the one that their sweeps, or else they, agree on; accuracy where they differ.

Owns: what the plans tell of objectives of the user's own, and which of them is a trial's. Those of one name are told apart by
the hash of their code; no code of the user's is imported here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpc.collect.trials import Axis, Trial
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import ranked_by, read_plan
from cifar_hpc.records.schema import PlanRecord

Objectives = tuple[tuple[str, ObjectiveInfo], ...]  # by name, which may stand more than once
Ranked = tuple[str, ObjectiveInfo | None]  # by what a sweep ranks: a name and what it is; None: nothing here tells
_SHORT = 8  # characters of a hash in a flat config's sources


@dataclass(frozen=True, slots=True)
class Chosen:
    """name: of the objective that ranks; own: what it is, where it is the user's own; notes: why it is not one that was asked
    for. known: all of the user's own that plans tell of; asked: by trial, the objectives by which its sweeps rank it."""

    name: str
    own: ObjectiveInfo | None
    known: Objectives
    notes: tuple[str, ...]
    asked: Mapping[str, frozenset[Ranked]]

    def among(self, trial_ids: Iterable[str]) -> Chosen:
        """The choice for these trials alone, which may agree where others do not."""
        return _chosen(self.known, self.asked, frozenset().union(*(self.asked.get(one, ()) for one in trial_ids)))


def objectives_of(layout: Layout, plans: Sequence[PlanRecord], trials: Sequence[Trial]) -> Chosen:
    """By the plans; without any, by the trials of the whole pool and what all plans there tell of them."""
    asked: dict[str, frozenset[Ranked]] = {}
    if plans:
        known = _told(plans)
        for plan in plans:
            of_plan = frozenset({(plan.objective, dict([ranked_by(plan)]).get(plan.objective))})
            asked |= {trial.trial_id: asked.get(trial.trial_id, frozenset()) | of_plan for trial in plan.trials}
    else:
        configs = {id(trial.config): trial.config for trial in trials}
        unknown = any(config["objective"] not in OBJECTIVES for config in configs.values())
        known = _told(_all_plans(layout)) if unknown else ()
        named = {key: (str(config["objective"]), known_own(config, known)) for key, config in configs.items()}
        found = {key: frozenset({(name, own or OBJECTIVES.get(name))}) for key, (name, own) in named.items()}
        asked = {trial.trial_id: found[id(trial.config)] for trial in trials}
    return _chosen(known, asked, frozenset().union(*asked.values()))


def _chosen(known: Objectives, asked: Mapping[str, frozenset[Ranked]], found: frozenset[Ranked]) -> Chosen:
    if len(found) == 1:
        ((name, info),) = found
        if info is not None:
            return Chosen(name, info if info.sha256 else None, known, (), asked)
    return Chosen("val_acc", None, known, tuple(_reasons(found)), asked)


def known_own(config: Mapping[Axis, Any], known: Objectives) -> ObjectiveInfo | None:
    """The objective of a flat config, where it is the user's own and among the known ones."""
    code = {text.rpartition(" ")[2] for text in config.get("sources") or ()}
    return next(
        (info for name, info in known if name == config.get("objective") and (info.sha256 or "")[:_SHORT] in code), None
    )


def _reasons(found: frozenset[Ranked]) -> list[str]:
    names = {name for name, _ in found}
    reasons = []
    if len(names) > 1:
        reasons.append(f"These trials have different objectives ({', '.join(sorted(names))}), so accuracy ranks them together.")
    for name in sorted(names):
        infos = [info for other, info in found if other == name]
        if None in infos:
            reasons.append(
                f"No plan here says what the objective {name!r} is, so accuracy ranks; sweep its spec again, and the plan does."
            )
        elif len(infos) > 1:
            reasons.append(f"The objective {name!r} has different code in these sweeps, so accuracy ranks them together.")
    return reasons


def _told(plans: Sequence[PlanRecord]) -> Objectives:
    return tuple(dict.fromkeys(ranked_by(plan) for plan in plans if plan.own_objective is not None))


def _all_plans(layout: Layout) -> list[PlanRecord]:
    plans = []
    for sweep in layout.sweeps():
        with contextlib.suppress(CifarHpcError):  # whoever asks for that sweep is told
            plans.append(read_plan(layout, sweep.name))
    return plans
