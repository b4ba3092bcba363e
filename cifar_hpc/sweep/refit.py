"""A sweep's best configurations, or an ensemble's members, once more on training and validation images together.

Owns: which trials those are. They form a sweep of their own, SWEEP-refit, whose trials have no validation figure and no rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_hpc.config.normalize import refitted
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.planning.lineage import parent_of
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import MIN_SEEDS, known_plan, read_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.ties import read_valid
from cifar_hpc.spec.checks import outlasting
from cifar_hpc.spec.expand import MAX_TRIALS
from cifar_hpc.spec.parts import Resources, SweepTrial
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.sweep.driver import run_plan
from cifar_hpc.sweep.listener import Listener, SweepOutcome
from cifar_hpc.sweep.where import Where

if TYPE_CHECKING:
    from cifar_hpc.collect.trials import Trial

FROM_FOLD = "from_fold"  # the swept key by which it is told which fold's network a refit starts from


def refit_named(layout: Layout, name: str, top: int | None, where: Where, listener: Listener) -> SweepOutcome:
    """The best `top` configurations of a sweep (None: one), of each data set and split that it has, or the one that is named;
    all their seeds."""
    from cifar_hpc.collect.leaderboard import SEEN
    from cifar_hpc.collect.names import find_best

    found = find_best(layout, name, top)
    sweep = found[0].sweep
    if sweep is None:
        raise CifarHpcError(f"refit: {name!r} is of no one sweep, and a refit is named after its sweep: give SWEEP or SWEEP#3")
    plan, keeping = read_plan(layout, sweep), [named for named in found if named.row.keeps_weights]
    for named in found:
        if not named.row.keeps_weights:
            no_weights = f"{named.row.label}: its classifier keeps no weights that could label new images"
            if keeping:
                listener.note(f"{no_weights}, and it is not trained again")
                continue
            others = (other.row.point_id for other in find_best(layout, sweep, MAX_TRIALS) if other.row.keeps_weights)
            point = next(others, None)
            best = f"the best that does: `cifar-hpc refit {point}`" if point else "none of the sweep does"
            raise CifarHpcError(f"refit: {no_weights}; {best}")
    found = keeping
    refits = [
        refit_of(layout, trial, named.row.best_epoch or 1, named.row.told_by)  # of a classifier that is solved none
        for named in found
        for trial in named.row.trials
        if trial.best_epoch is not None
    ]
    if not refits:
        raise CifarHpcError(f"refit: no trial of {name} has a figure on validation that counts: cifar-hpc status {sweep}")
    for named in found:
        left = named.row.runs_n - sum(trial.best_epoch is not None for trial in named.row.trials)
        if left:
            listener.note(f"{named.row.label}: without a best epoch that counts: {left} of its {named.row.runs_n} trials")
        if named.row.cut:
            listener.note(
                f"{named.row.label}: a search ended {named.row.cut} of its trials early: their best epochs are of those"
            )
        if named.row.seen:
            listener.note(f"{named.row.label}: {SEEN}: the number by which it is the best is flattered")
    if any(named.row.seeds < MIN_SEEDS for named in found):
        listener.note(
            "fewer than three seeds: the best configurations are those with the best numbers, and no ranking is claimed"
        )
    command = ("cifar-hpc", "refit", name, *(() if top is None else ("--top", str(top))))
    return train_refits(layout, f"{sweep}-refit", refits, plan, command, where, listener)


def refit_of(layout: Layout, trial: Trial, best_epoch: float, axes: Mapping[str, Any]) -> SweepTrial:
    """The trial on all its labelled images. best_epoch: the mean over its point's seeds; axes: what tells it apart."""
    epochs = max(1, round(best_epoch))
    _, config = read_valid(layout.trial(trial.trial_id), trial.trial_id)
    from_fold = {FROM_FOLD: trial.fold} if trial.fold is not None and parent_of(config) else {}
    return SweepTrial(refitted(config, epochs), {**axes, "epochs": epochs, "seed": trial.seed, **from_fold})


def _each_once(refits: Iterable[SweepTrial]) -> tuple[SweepTrial, ...]:
    """Of those that are one trial, as the folds of a round that start from one network, what they have in common."""
    found: dict[str, SweepTrial] = {}
    for refit in refits:
        first = found.setdefault(refit.config.trial_id, refit)
        common = {key: value for key, value in first.axes.items() if refit.axes.get(key) == value}
        found[refit.config.trial_id] = dataclasses.replace(first, axes=common)
    return tuple(found.values())


def train_refits(
    layout: Layout,
    name: str,
    refits: Iterable[SweepTrial],
    like: PlanRecord,
    command: tuple[str, ...],
    where: Where,
    listener: Listener,
) -> SweepOutcome:
    """Runs them as a sweep of that name, with the resources of the plan `like`. command: what goes on with it when typed.

    Raises CifarHpcError where a sweep that is no refit has the name.
    """
    before = known_plan(layout, name)
    if before is not None and before.command[:2] != command[:2]:
        raise CifarHpcError(f"refit: {name!r} is a sweep already, of {before.spec_path}: give that one another name")
    spec = SweepSpec(
        name=name,
        path=Path(like.spec_path),
        text="",
        trials=_each_once(refits),
        objective="val_acc",
        resources=Resources(**like.resources),
        warnings=(),
        where=where.words,
    )
    starts = {parent for trial in spec.trials if (parent := parent_of(trial.config))}
    if starts:
        network, stays = ("network", "stays") if len(starts) == 1 else ("networks", "stay")
        listener.note(
            f"the {network} that these start from {stays} as trained, without what was held out then; only what follows trains"
            " again"
        )
    for warning in outlasting([trial.config for trial in spec.trials]):
        listener.note(f"warning: {warning}")
    plan = make_plan(spec, share=like.share)
    record = dataclasses.replace(plan_record(plan), command=command)
    return run_plan(layout, plan, record, where, listener)
