"""Runs failed trials again, as they were planned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.errors import CifarHpcError, OtherVersionError, RecordError
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlanRecord, Status
from cifar_hpc.records.ties import read_valid
from cifar_hpc.status.advice import left_line, sweep_command
from cifar_hpc.status.names import select_trials
from cifar_hpc.sweep.driver import drive, rounds_again
from cifar_hpc.sweep.listener import Listener, SweepOutcome
from cifar_hpc.sweep.where import Where, reader_of


def retry_failed(
    layout: Layout, name: str, words: Sequence[str] | None, where: Where, listener: Listener
) -> SweepOutcome | None:
    """The failed trials of the sweep, all or those of a filter, each from its last checkpoint, if one stands; None where there
    is none."""
    plan = read_plan(layout, name)
    states = reader_of(layout, plan).read()
    meant, why = select_trials(plan, states, words)
    chosen = [trial.trial_id for trial in meant if states[trial.trial_id].status is Status.FAILED]
    if not chosen:
        listener.note(why or f"{name}: no failed trial to run again")
        return None
    _refuse_changed_spec(layout, plan)
    free = _free_to_run(layout, chosen, listener)
    if not free:
        return None
    rounds = rounds_again(layout, plan, where, list(free))  # raises where the plan cannot run: nothing is put aside then
    for trial_id, refused in free.items():
        if refused is not None:
            _put_aside(layout.trial(trial_id), refused, listener)
    return drive(rounds, listener)


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


def _free_to_run(layout: Layout, trial_ids: Sequence[str], listener: Listener) -> dict[str, RecordError | None]:
    """The trials, each with what is wrong with its result, if it has one: that is to be put aside. What another version of
    this program wrote is left alone, and its trial with it."""
    free: dict[str, RecordError | None] = {}
    for trial_id in trial_ids:
        files = layout.trial(trial_id)
        try:
            read_valid(files, trial_id)
        except FileNotFoundError:
            free[trial_id] = None
        except OtherVersionError as foreign:
            listener.note(left_line(foreign))
        except RecordError as refused:
            free[trial_id] = refused
    return free


def _put_aside(files: TrialFiles, refused: RecordError, listener: Listener) -> None:
    """A result that cannot be read keeps its trial from running; it stays beside its place under another name."""
    aside = files.refused_result()
    files.result.rename(aside)
    listener.note(f"put aside as {aside.name}: {refused.found}")
