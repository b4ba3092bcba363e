"""The plan of a sweep by the sweep's name, and what a trial's files mean for it.

Owns: what is said to who names a sweep that is not there, when a plan is rewritten, results that do not end a trial for it,
what ranks its trials, and which of its configurations are measured by a part of their trials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.config.sources import Source, keep_copy
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.errors import CifarHpcError, RecordError, did_you_mean, nearest
from cifar_hpc.records.claims import TrialState, read_state
from cifar_hpc.records.jobs import JobEvent, next_number
from cifar_hpc.records.layout import Layout, is_name
from cifar_hpc.records.schema import PlannedTrial, PlanRecord, Status, TrialResult
from cifar_hpc.records.store import read_record, read_records, write_changed, write_record
from cifar_hpc.records.ties import read_valid

MIN_SEEDS = 3  # fewer: no ±, no test, no claim of a ranking


def read_plan(layout: Layout, name: str) -> PlanRecord:
    """Raises CifarHpcError with the nearest name where there is none, RecordError where it cannot be read or is another's."""
    try:
        if not is_name(name):
            raise FileNotFoundError
        plan = read_record(layout.sweep(name).plan, PlanRecord)
    except PermissionError:
        raise RecordError(_may_not_read(layout.sweep(name).folder)) from None
    except FileNotFoundError:
        if layout.root in layout.closed():
            raise RecordError(_may_not_read(layout.root)) from None
        raise no_sweep(layout, name) from None
    if plan.sweep != name:
        raise RecordError(f"{layout.sweep(name).plan}: is a plan of {plan.sweep!r:.80}, another sweep than its folder's")
    return plan


def no_sweep(layout: Layout, name: str, nor: str = "") -> CifarHpcError:
    """What is said of a name that is no sweep's. nor: what else it might have been and is not."""
    sweep, stroke, _ = name.partition("/")
    if stroke and layout.has_sweep(sweep):
        return CifarHpcError(
            f"{name!r} is written as an ensemble of {sweep} is, which `predict`, `refit` and `export` take; "
            f"this command takes a sweep, a configuration or a trial"
        )
    names = [one.name for one in layout.sweeps()]
    near = nearest(name, names) or nearest(Path(name).stem, names)  # who names the spec's file means its sweep
    there = ", ".join(names) or "none yet"
    return CifarHpcError(f"{name!r} is no sweep under {layout.root}{nor}; sweeps: {there}.{did_you_mean(near)}")


def known_plan(layout: Layout, name: str) -> PlanRecord | None:
    """The plan as it stands; None where there is none. Raises OSError, and RecordError where one stands that cannot be read:
    who takes that for none would write over a search's sampled points, or take another sweep's name."""
    path = layout.sweep(name).plan
    try:
        return read_record(path, PlanRecord)
    except FileNotFoundError:
        return None
    except RecordError as error:
        away = shlex.join(["mv", str(path), f"{path}.refused"])
        mend = error.mend or "it is not written over: put it back as it was, or move it away to plan from the beginning"
        raise type(error)(error.found, f"{mend}: {away}") from error


def _may_not_read(folder: Path) -> str:
    return f"results: you may not read {folder}: whoever it belongs to can open it (chmod -R go+rX; umask 022)"


def write_plan(layout: Layout, plan: PlanRecord) -> Path | None:
    """Keeps the plan, with the time of the first that was like it, and a copy of the user's own code that its trials are made
    of. Where it leaves out trials of the plan before, that one stays readable beside it, in the file that is returned.

    Raises OSError, and OwnCodeError where the code is no longer what was planned."""
    for source in {Source(**source) for trial in plan.trials for source in trial.config.get("sources") or ()}:
        keep_copy(source, layout.sources)
    files = layout.sweep(plan.sweep)
    kept = None
    if (before := known_plan(layout, plan.sweep)) is not None:
        same = dataclasses.replace(plan, created_at=before.created_at).encode()
        if same == dataclasses.replace(before, where=plan.where).encode():
            with contextlib.suppress(OSError):  # where one may only read, an older one stays without its digest
                write_changed(files.plan, same + b"\n")
            return None
        if {trial.trial_id for trial in before.trials} - {trial.trial_id for trial in plan.trials}:
            kept = files.earlier_plan(before.created_at)
            write_record(kept, before)
    write_record(files.plan, plan)
    return kept


def since_when(layout: Layout, plan: PlanRecord) -> PlanRecord:
    """With the number of the first job whose trials halving may have ended by the plan's rules: what other rules ended begins
    again."""
    if plan.halving is None:
        return plan
    known = known_plan(layout, plan.sweep)
    before = known.halving if known else None
    if before is not None and before == {**plan.halving, "first_job": before.get("first_job")}:
        return dataclasses.replace(plan, halving=before)
    first_job = next_number(read_records(layout.sweep(plan.sweep).jobs, JobEvent))
    return dataclasses.replace(plan, halving={**plan.halving, "first_job": first_job})


def ranked_by(plan: PlanRecord) -> tuple[str, ObjectiveInfo]:
    """The plan's objective; accuracy where it is the user's own and an older plan does not say what it is. Imports no code of
    the user's: the plan says all that who ranks has to know."""
    own = plan.own_objective
    if own is not None:
        info = ObjectiveInfo(doc="", mode=own.mode, noun=own.noun, share=own.share, sha256=own.sha256)
        return plan.objective, info
    name = plan.objective if plan.objective in OBJECTIVES else "val_acc"
    return name, OBJECTIVES[name]


def parent_in(config: Mapping[str, Any]) -> str | None:
    """The id of the trial whose weights a config, as records have it, starts from, if any."""
    weights = str(config.get("weights") or "")
    return weights.removeprefix(PARENT_PREFIX) if weights.startswith(PARENT_PREFIX) else None


def answering(plan: PlanRecord) -> tuple[PlannedTrial, ...]:
    """The trials that answer the sweep's question: those of stages from which no other stage starts. Without stages: all."""
    stage_of = {trial.trial_id: trial.axes["stage"] for trial in plan.trials if "stage" in trial.axes}
    parents = {(stage_of.get(parent_in(trial.config) or ""), trial.axes.get("stage")) for trial in plan.trials}
    earlier = {before for before, stage in parents if before not in (None, stage)}
    return tuple(trial for trial in plan.trials if trial.axes.get("stage") not in earlier)


def is_partial(rounds: Sequence[Hashable], runs_n: int, folds: int | None) -> bool:
    """Whether so few of a configuration's trials have measured it that luck may stand for it: not all folds of a repeat, or
    fewer seeds than it is to have and than an order means something with. rounds: seed and repeat of each that measured;
    runs_n: its trials, finished or not."""
    if folds is not None:
        return any(n != folds for n in Counter(rounds).values())
    return len(rounds) < min(runs_n, MIN_SEEDS)


def round_of(seed: int, fold: int | None, folds: int | None) -> tuple[int, int]:
    """Seed and repeat: the trials of a point that have both in common measure each image once, fold by fold."""
    return seed, 0 if fold is None or folds is None else (fold - 1) // folds


def state_for(layout: Layout, trial_id: str, plans: Sequence[PlanRecord]) -> TrialState:
    """The trial's state from its files, as these plans take it: what their own searches stopped has ended, whatever another
    sweep does with it; planned where its result is of another search, which stopped it early. No plans: as the files
    have it."""
    state = read_state(layout.trial(trial_id), trial_id)
    if not plans or (state.result is not None and any(plan.ends(state.result) for plan in plans)):
        return state
    for plan in plans:
        if (result := until_stopped(layout, trial_id, plan)) is not None:
            return TrialState(trial_id, Status.STOPPED, result.reason, result.curves, result=result)
    if state.result is None:
        return state
    reason = f"stopped after epoch {state.epochs_done} by another search: begins again"
    return TrialState(trial_id, Status.PLANNED, reason)


def until_stopped(layout: Layout, trial_id: str, plan: PlanRecord) -> TrialResult | None:
    """What the plan's own search measured of a trial that it stopped, where another sweep has trained that again since."""
    if plan.search is None and plan.halving is None:
        return None
    with contextlib.suppress(OSError, RecordError):
        result, _ = read_valid(layout.trial(trial_id).until_stopped(plan.sweep), trial_id)
        return result if plan.ends(result) else None
    return None
