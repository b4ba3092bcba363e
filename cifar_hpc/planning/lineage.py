"""Trials that start from another trial's weights: `weights: trial/<id>`. Owns: where the parent's weights lie in the pool, and
what a trial without them is: one that waits, or one that has failed with its parent.
"""

from __future__ import annotations

import dataclasses
import socket

from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.claims import is_pruned, read_state
from cifar_hpc.records.layout import Layout, TrialFiles, attempt_of
from cifar_hpc.records.schema import ErrorRecord, Status
from cifar_hpc.records.store import utc_now, write_record


def parent_of(config: TrialConfig) -> str | None:
    """The id of the trial whose weights it starts from, if any."""
    weights = config.weights or ""
    return weights.removeprefix(PARENT_PREFIX) if weights.startswith(PARENT_PREFIX) else None


class ParentFailedError(CifarHpcError):
    """The trial from whose weights this one starts has failed, or ended without weights."""


def parent_lacking(config: TrialConfig, layout: Layout) -> str | None:
    """Why the parent's weights are not there and what to do, or None where nothing is missing."""
    parent = parent_of(config)
    if parent is None or _has_weights(layout.trial(parent)):
        return None
    failure = parent_failure(parent, layout)
    return failure or f"weights: trial {parent}, from which this one starts, is not finished in {layout.pool}"


def _has_weights(files: TrialFiles) -> bool:
    """Those of a trial that a search stopped do not count: it is trained anew wherever its config is wanted whole."""
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
    return f"{start} kept no weights; `cifar-hpc reproduce {parent}` brings them back, `keep: weights` in its spec keeps them"


def awaits_parent(config: TrialConfig, layout: Layout) -> bool:
    """Whether the parent is still to come: the trial cannot begin now, and has not failed."""
    parent = parent_of(config)
    return parent is not None and parent_lacking(config, layout) is not None and parent_failure(parent, layout) is None


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

    Raises ParentFailedError where the file is not there.
    """
    parent = parent_of(config)
    if parent is None:
        return config
    lacking = parent_lacking(config, layout)
    if lacking is not None:
        raise ParentFailedError(lacking)
    return dataclasses.replace(config, weights=str(layout.trial(parent).weights))
