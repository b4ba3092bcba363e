"""Trials that start from another trial's weights: `weights: trial/<id>`. The one file that knows parents.

Owns: levels, who can start and who fails with its parent, where the parent's weights lie in the pool, and what a trial without
them is: one that waits, or one that has failed with its parent.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence

from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.claims import TrialState, is_pruned, read_state
from cifar_hpc.records.layout import Layout, TrialFiles, attempt_of
from cifar_hpc.records.schema import ErrorRecord, Status
from cifar_hpc.records.store import utc_now, write_record
from cifar_hpc.records.ties import own_weights, read_valid


def parent_of(config: TrialConfig) -> str | None:
    """The id of the trial whose weights it starts from, if any."""
    weights = config.weights or ""
    return weights.removeprefix(PARENT_PREFIX) if weights.startswith(PARENT_PREFIX) else None


def levels_of(trials: Sequence[TrialConfig]) -> tuple[tuple[str, ...], ...]:
    """Trial ids, those without a parent among the trials first, then their children, and so on.

    An id is the hash of a config that holds the parent's id, so that no trial is its own ancestor.
    """
    parents = {trial.trial_id: parent_of(trial) for trial in trials}
    depths: dict[str, int] = {}

    def depth(trial_id: str) -> int:
        if trial_id not in depths:
            parent = parents[trial_id]
            depths[trial_id] = 0 if parent not in parents else 1 + depth(parent)
        return depths[trial_id]

    levels: list[list[str]] = []
    for trial_id in parents:
        while len(levels) <= depth(trial_id):
            levels.append([])
        levels[depth(trial_id)].append(trial_id)
    return tuple(map(tuple, levels))


class ParentFailedError(CifarHpcError):
    """The trial from whose weights this one starts has failed, or ended without weights."""


def parent_missing(config: TrialConfig, layout: Layout) -> str | None:
    """Why the parent's weights are not there and what to do, or None where nothing is missing."""
    parent = parent_of(config)
    if parent is None or _has_weights(layout.trial(parent)):
        return None
    failure = parent_failure(parent, layout)
    return failure or f"weights: trial {parent}, from which this one starts, is not finished in {layout.pool}"


def _has_weights(files: TrialFiles) -> bool:
    """Those of a trial that a search stopped do not count: it is trained again wherever its config is wanted whole."""
    return files.weights.exists() and not is_pruned(files)


def parent_failure(parent: str, layout: Layout) -> str | None:
    """Why that trial will give no weights as things stand; None where it has some or is still to come."""
    if _has_weights(layout.trial(parent)):
        return None
    state = read_state(layout.trial(parent), parent)
    start = f"weights: trial {parent}, from which this one starts,"
    if state.status is Status.FAILED:
        return f"{start} failed: {state.reason}"
    if state.result is None or state.status is Status.STOPPED:
        return None
    if state.result.best_epoch is None:
        return f"{start} has no weights: {state.result.reason}"
    classifier = str(state.result.config.get("classifier", "linear"))
    if not CLASSIFIERS[classifier].keeps_weights:
        return f"{start} has no weights: its classifier, {classifier}, keeps none"
    return f"{start} kept no weights; `cifar-hpc reproduce {parent}` brings them back, `keep: weights` in its spec keeps them"


def awaits_parent(config: TrialConfig, layout: Layout) -> bool:
    """Whether the parent is still to come: the trial cannot begin now, and has not failed."""
    parent = parent_of(config)
    return parent is not None and parent_missing(config, layout) is not None and parent_failure(parent, layout) is None


def fail_with_parent(config: TrialConfig, layout: Layout) -> bool:
    """Writes error.json with the parent's failure for a trial that nobody trains; False where the parent has not failed."""
    parent = parent_of(config)
    reason = parent_failure(parent, layout) if parent is not None else None
    if reason is None:
        return False
    files = layout.trial(config.trial_id)
    claims = files.claims()
    record = ErrorRecord(
        trial_id=config.trial_id,
        attempt=attempt_of(claims[-1]) if claims else 0,
        kind=ParentFailedError.__name__,
        message=reason,
        traceback="",
        host=socket.gethostname(),
        job="",
        failed_at=utc_now(),
    )
    write_record(files.error, record)
    return True


def with_parents_file(config: TrialConfig, layout: Layout) -> TrialConfig:
    """The config with its parent's weights file in place of the parent's id, as networks are built from; else as it is.

    Raises ParentFailedError where the file is not there; RecordError where it is not the parent's own, which no other process
    will mend: the trial has failed, and does not wait.
    """
    parent = parent_of(config)
    if parent is None:
        return config
    missing = parent_missing(config, layout)
    if missing is not None:
        raise ParentFailedError(missing)
    files = layout.trial(parent)
    return dataclasses.replace(config, weights=str(own_weights(files, read_valid(files, parent)[0])))


class Lineage:
    """Which trials of a sweep start from which others of it."""

    def __init__(self, trials: Iterable[TrialConfig]) -> None:
        self._children = {trial.trial_id: trial for trial in trials}
        parents = {trial_id: parent_of(trial) for trial_id, trial in self._children.items()}
        self._parents = {child: parent for child, parent in parents.items() if parent in self._children}
        self._children = {child: self._children[child] for child in self._parents}

    def ready(self, trial_ids: Collection[str], states: Mapping[str, TrialState]) -> set[str]:
        """Those that need not wait for another process: their parents in the sweep have ended, or start with them."""

        def is_ready(trial_id: str) -> bool:
            parent = self._parents.get(trial_id)
            return parent is None or states[parent].result is not None or (parent in trial_ids and is_ready(parent))

        return {trial_id for trial_id in trial_ids if is_ready(trial_id)}

    def await_parents(self, trial_id: str, states: Mapping[str, TrialState]) -> bool:
        """Whether the trial's weights are still to come from a trial of the sweep, or will never come."""
        parent = self._parents.get(trial_id)
        if parent is None:
            return False
        result = states[parent].result
        return result is None or result.best_epoch is None

    def fail_orphans(self, layout: Layout, states: Mapping[str, TrialState], todo: Collection[str]) -> bool:
        """Writes the failure of trials whose parent has failed and is not tried again in todo; whether there were any."""
        open_ = {t for t, state in states.items() if state.status not in (Status.FAILED, Status.RUNNING) and not state.result}
        orphans = [
            config
            for child, config in self._children.items()
            if child in open_ and states[self._parents[child]].status is Status.FAILED and self._parents[child] not in todo
        ]
        return sum(fail_with_parent(config, layout) for config in orphans) > 0

    def without_orphans(self, trial_ids: Collection[str], states: Mapping[str, TrialState]) -> set[str]:
        """Those of the trials of whose ancestors in the sweep none has failed that they would wait for."""

        def may_begin(trial_id: str) -> bool:
            parent = self._parents.get(trial_id)
            if parent is None or states[parent].result is not None:
                return True
            return states[parent].status is not Status.FAILED and may_begin(parent)

        return set(filter(may_begin, trial_ids))

    def with_open_parents(self, trial_ids: Iterable[str], states: Mapping[str, TrialState]) -> set[str]:
        """The trials and those of their ancestors that have no result: without them they cannot begin."""
        found: set[str] = set()
        for trial_id in trial_ids:
            found.add(trial_id)
            while (parent := self._parents.get(trial_id)) is not None and states[parent].result is None:
                found.add(parent)
                trial_id = parent
        return found
