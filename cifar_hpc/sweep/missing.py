"""Which trials of a sweep are still to start, as they stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import Status

States = Mapping[str, TrialState]
_MISSING = (Status.PLANNED, Status.QUEUED, Status.LOST, Status.CANCELLED)


def to_start(states: States, again: Collection[str] = (), *, on_slurm: bool = False) -> set[str]:
    """The trials that nobody trains, and those of the failed ones that are tried again. on_slurm: without what already stands
    in its queue."""
    return {
        trial_id
        for trial_id, state in states.items()
        if (state.status in _MISSING and not (on_slurm and state.status is Status.QUEUED))
        or (state.status is Status.FAILED and trial_id in again)
    }
