"""Trials that start from another trial's weights: `weights: trial/<id>`. Owns: where the parent's weights lie in the pool."""

from __future__ import annotations

import dataclasses

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.trial import PARENT_PREFIX, TrialConfig


def parent_of(config: TrialConfig) -> str | None:
    """The id of the trial whose weights it starts from, if any."""
    weights = config.weights or ""
    return weights.removeprefix(PARENT_PREFIX) if weights.startswith(PARENT_PREFIX) else None


def parent_lacking(config: TrialConfig, layout: Layout) -> str | None:
    """Why the parent's weights are not there and what to do, or None where nothing is missing."""
    parent = parent_of(config)
    if parent is None or layout.trial(parent).weights.exists():
        return None
    state = read_state(layout.trial(parent), parent)
    if state.status is Status.FAILED:
        return f"weights: trial {parent}, from which this one starts, failed: {state.reason}"
    if state.result is None:
        return f"weights: trial {parent}, from which this one starts, is not finished in {layout.pool}"
    return (
        f"weights: trial {parent}, from which this one starts, kept no weights; "
        f"`cifar-hpc reproduce {parent}` brings them back, `keep: weights` in its spec keeps them"
    )


def with_parents_file(config: TrialConfig, layout: Layout) -> TrialConfig:
    """The config with its parent's weights file in place of the parent's id, as networks are built from; else as it is.

    Raises CifarHpcError where the file is not there.
    """
    parent = parent_of(config)
    if parent is None:
        return config
    lacking = parent_lacking(config, layout)
    if lacking is not None:
        raise CifarHpcError(lacking)
    return dataclasses.replace(config, weights=str(layout.trial(parent).weights))
