"""`cifar-hpc prune`: removes from the pool what no sweep asks for any more. Owns: which trials those are.

Kept are the trials that some sweep's plan names, those from whose weights such a trial starts, and whatever runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cifar_hpc.cli.sweep import say
from cifar_hpc.config.identity import ID_LENGTH
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.errors import RecordError
from cifar_hpc.planning.estimate import size_text
from cifar_hpc.records.claims import claim_trial, read_state
from cifar_hpc.records.layout import Layout, TrialFiles, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import Status, TrialRecord
from cifar_hpc.records.store import read_record
from cifar_hpc.report.forms import TextColumn, plural, print_columns

_ID = re.compile(rf"[a-z2-7]{{{ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A trial that no sweep asks for. size_bytes: of its files."""

    trial_id: str
    status: Status
    size_bytes: int


def prune(yes: Annotated[bool, typer.Option("--yes", help="remove them; without it they are only counted")] = False) -> None:
    """Count, and with --yes remove, the trials of the pool that no sweep's plan names and that do not run.

    Kept too are trials from whose weights one of a sweep starts. Ensembles and soups made of removed trials can no longer
    label images.
    """
    layout = Layout(results_root())
    found = find_unnamed(layout)
    running = [trial for trial in found if trial.status is Status.RUNNING]
    idle = [trial for trial in found if trial.status is not Status.RUNNING]
    if running:
        say(f"{plural(len(running), 'trial')} that no sweep names {'runs' if len(running) == 1 else 'run'}, and stay")
    if not idle:
        say(f"nothing to remove from {layout.pool}")
        return
    _print(idle)
    total = size_text(sum(trial.size_bytes for trial in idle))
    if not yes:
        say(f"{plural(len(idle), 'trial')}, {total}, that no sweep names; cifar-hpc prune --yes removes them for good")
        return
    gone = sum(_remove(layout, trial) for trial in idle)
    shutil.rmtree(layout.leaving, ignore_errors=True)  # with what a killed one left
    say(f"removed {plural(gone, 'trial')} from {layout.pool}")
    if gone < len(idle):
        say(f"{plural(len(idle) - gone, 'trial')} began meanwhile, and stay")


def find_unnamed(layout: Layout) -> list[Unnamed]:
    """Trials of the pool that nothing needs, by id. Raises RecordError where a plan cannot be read: who knows what it names."""
    links = {trial_id for trial_id in layout.trial_ids() if layout.trial(trial_id).folder.is_symlink()}  # to other pools
    ids = [trial_id for trial_id in layout.trial_ids() if _ID.fullmatch(trial_id) and trial_id not in links]
    states = {trial_id: read_state(layout.trial(trial_id), trial_id).status for trial_id in ids}
    planned = [trial for sweep in layout.sweeps() for trial in read_plan(layout, sweep.name).trials]  # read after the pool
    named = {trial.trial_id for trial in planned}
    parents = {_parent(trial.config) for trial in planned}
    parents |= {_parent(_config(layout, trial_id)) for trial_id, status in states.items() if status is Status.RUNNING}
    needed = named | _with_ancestors(layout, {parent for parent in parents if parent})
    return [Unnamed(i, states[i], _size_bytes(layout.trial(i).folder)) for i in ids if i not in needed]


def _print(trials: Collection[Unnamed]) -> None:
    groups: dict[Status, list[int]] = defaultdict(list)
    for trial in trials:
        groups[trial.status].append(trial.size_bytes)
    statuses = [status for status in Status if status in groups]
    columns = [
        TextColumn("status", tuple(status.value for status in statuses)),
        TextColumn("trials", tuple(f"{len(groups[status]):,}" for status in statuses), right=True),
        TextColumn("disk", tuple(size_text(sum(groups[status])) for status in statuses), right=True),
    ]
    print_columns(columns)


def _remove(layout: Layout, trial: Unnamed) -> bool:
    """False where it has begun since it was looked at. It leaves the pool in one step, so that nobody finds half of it."""
    files = layout.trial(trial.trial_id)
    if files.result.exists():  # nobody claims it
        if read_state(files, trial.trial_id).status is Status.RUNNING:
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
