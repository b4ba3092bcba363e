"""Removes from the pool what no sweep asks for any more. Owns: which trials those are.

Kept are the trials that some sweep's plan names, those from whose weights such a trial starts, and whatever runs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.config.identity import ID_LENGTH
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.errors import RecordError
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.claims import claim_trial
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.plans import read_plan, state_for
from cifar_hpc.records.schema import Status, TrialRecord
from cifar_hpc.records.store import read_record
from cifar_hpc.status.state import GOING_ON, read_states

_ID = re.compile(rf"[a-z2-7]{{{ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A trial that no sweep asks for. size_bytes: of its files."""

    trial_id: str
    status: Status
    size_bytes: int


def find_unnamed(layout: Layout) -> list[Unnamed]:
    """Trials of the pool that nothing needs, by id. Raises RecordError where a plan cannot be read: who knows what it names."""
    for folder in layout.without_plan():
        raise RecordError(
            f"{folder}: its plan.json is missing, so that nobody knows which trials it needs; bring it back, sweep the spec "
            "again, or remove the folder"
        )
    links = {trial_id for trial_id in layout.trial_ids() if layout.trial(trial_id).folder.is_symlink()}  # to other pools
    ids = [trial_id for trial_id in layout.trial_ids() if _ID.fullmatch(trial_id) and trial_id not in links]
    states = {trial_id: state.status for trial_id, state in read_states(layout, ids, (), SlurmQueue(layout.queue)).items()}
    planned = [trial for sweep in layout.sweeps() for trial in read_plan(layout, sweep.name).trials]  # read after the pool
    named = {trial.trial_id for trial in planned}
    parents = {_parent(trial.config) for trial in planned}
    parents |= {_parent(_config(layout, trial_id)) for trial_id, status in states.items() if status in GOING_ON}
    needed = named | _with_ancestors(layout, {parent for parent in parents if parent})
    return [Unnamed(i, states[i], _size_bytes(layout.trial(i).folder)) for i in ids if i not in needed]


def remove_trial(layout: Layout, trial: Unnamed) -> bool:
    """False where it has begun since it was looked at. It leaves the pool in one step, so that nobody finds half of it."""
    files = layout.trial(trial.trial_id)
    if files.result.exists():  # nobody claims it
        if state_for(layout, trial.trial_id, ()).status is Status.RUNNING:
            return False
    elif claim_trial(files, trial.trial_id, "prune") is None:
        return False
    layout.leaving.mkdir(exist_ok=True)
    files.folder.rename(layout.leaving / f"{trial.trial_id}-{os.getpid()}")
    return True


def _with_ancestors(layout: Layout, trial_ids: Collection[str]) -> set[str]:
    found: set[str] = set()
    todo = list(trial_ids)
    while todo:
        trial_id = todo.pop()
        if trial_id not in found:
            found.add(trial_id)
            parent = _parent(_config(layout, trial_id))
            todo += [parent] if parent else []
    return found


def _parent(config: dict[str, Any]) -> str | None:
    """The trial whose weights the config starts from, named by its id or by the path of the file."""
    weights = str(config.get("weights") or "")
    if weights.startswith(PARENT_PREFIX):
        return weights.removeprefix(PARENT_PREFIX)
    path = Path(weights).expanduser().absolute().resolve()
    return path.parent.name if path == TrialFiles(path.parent).weights else None


def _config(layout: Layout, trial_id: str) -> dict[str, Any]:
    try:
        return read_record(layout.trial(trial_id).trial, TrialRecord).config
    except (FileNotFoundError, RecordError):
        return {}


def _size_bytes(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        total = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return total
