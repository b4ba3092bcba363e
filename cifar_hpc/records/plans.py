"""The plan of a sweep by the sweep's name. Owns: what is said to who names a sweep that is not there."""

from __future__ import annotations

from pathlib import Path

from cifar_hpc.errors import CifarHpcError, nearest
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import PlannedTrial, PlanRecord
from cifar_hpc.records.store import read_record
from cifar_hpc.trial import PARENT_PREFIX


def read_plan(layout: Layout, name: str) -> PlanRecord:
    """Raises CifarHpcError with the nearest name where there is none, RecordError where it cannot be read."""
    try:
        return read_record(layout.sweep(name).plan, PlanRecord)
    except FileNotFoundError:
        names = [sweep.name for sweep in layout.sweeps()]
        near = nearest(name, names) or nearest(Path(name).stem, names)  # who names the spec's file means its sweep
        hint = f" Did you mean {near!r}?" if near else ""
        there = ", ".join(names) or "none yet"
        raise CifarHpcError(f"sweep: {name!r} is not under {layout.root}; there: {there}.{hint}") from None


def answering(plan: PlanRecord) -> tuple[PlannedTrial, ...]:
    """The trials that answer the sweep's question: those of stages from which no other stage starts. Without stages: all."""
    parents = {str(trial.config.get("weights")).removeprefix(PARENT_PREFIX) for trial in plan.trials}
    earlier = {trial.axes["stage"] for trial in plan.trials if trial.trial_id in parents and "stage" in trial.axes}
    return tuple(trial for trial in plan.trials if trial.axes.get("stage") not in earlier)
