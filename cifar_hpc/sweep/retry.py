"""Runs failed trials again, as they were planned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlanRecord, Status
from cifar_hpc.records.ties import read_valid
from cifar_hpc.status.advice import sweep_command
from cifar_hpc.status.names import select_trials
from cifar_hpc.sweep.driver import rerun
from cifar_hpc.sweep.listener import Listener, SweepOutcome
from cifar_hpc.sweep.where import Where, reader_of


def retry_failed(
    layout: Layout, name: str, words: Sequence[str] | None, where: Where, listener: Listener
) -> SweepOutcome | None:
    """The failed trials of the sweep, all or those of a filter, each from its last checkpoint; None where there is none."""
    plan = read_plan(layout, name)
    states = reader_of(layout, plan).read()
    meant, why = select_trials(plan, states, words)
    chosen = [trial.trial_id for trial in meant if states[trial.trial_id].status is Status.FAILED]
    if not chosen:
        listener.note(why or f"{name}: no failed trial to run again")
        return None
    _refuse_changed_spec(layout, plan)
    for trial_id in chosen:
        _remove_corrupt_result(layout, trial_id, listener)
    return rerun(layout, plan, where, listener, chosen)


def _refuse_changed_spec(layout: Layout, plan: PlanRecord) -> None:
    """A spec that was mended since is what its writer wants to run, not the plan of before."""
    try:
        changed = Path(plan.spec_path).read_bytes() != layout.sweep(plan.sweep).spec.read_bytes()
    except OSError:  # moved, or typed from another folder: the plan is all there is
        return
    if changed:
        raise CifarHpcError(
            f"retry: {plan.spec_path} has changed since {plan.sweep} was planned, and retry runs what was planned; "
            f"type {sweep_command(plan)} first: it runs what the change makes new, and retry then what still fails"
        )


def _remove_corrupt_result(layout: Layout, trial_id: str, listener: Listener) -> None:
    """A result that cannot be read keeps its trial from running; one of a newer program is left alone."""
    path = layout.trial(trial_id).result
    try:
        read_valid(layout.trial(trial_id), trial_id)
    except FileNotFoundError:
        return
    except RecordError as corrupt:
        if "newer than this program" in str(corrupt):
            raise
        listener.note(f"removed what is no result of this trial: {corrupt}")
        path.unlink()
