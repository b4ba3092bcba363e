"""What a sweep on a cluster may cost, by what earlier trials there measured. Reads the newest finished trials; guesses nothing.

Epochs are compared with trials that ran on the same kind of backend only: this machine's seconds say nothing of a cluster's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record

NEWEST = 300  # finished trials that are read: enough for a mean, and cheap on a network file system
_CLOSE = ("arch", "dataset", "image_size", "freeze", "augment", "batch_size", "precision")
_WIDE = ("arch", "dataset", "image_size")


@dataclass(frozen=True, slots=True)
class Experience:
    """What trials took. epoch_s: seconds of an epoch by what decides on it; trial_bytes: on disk, by what is kept."""

    epoch_s: Mapping[tuple[str, ...], float]
    trial_bytes: Mapping[str, float]

    def of_epoch(self, config: Mapping[str, Any]) -> float | None:
        """Seconds of an epoch of a trial like this, or at least of its network on its data; None where none was measured."""
        return self.epoch_s.get(_key(config, _CLOSE), self.epoch_s.get(_key(config, _WIDE)))

    def of_disk(self, configs: Sequence[Mapping[str, Any]]) -> float | None:
        """Bytes that the finished trials will take; None where no such trial is there."""
        sizes = [self.trial_bytes.get(str(config.get("keep"))) for config in configs]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


def read_experience(layout: Layout, executor: str) -> Experience:
    """Of the newest finished trials of the pool, the seconds of those that this executor ran."""
    epochs: dict[tuple[str, ...], list[float]] = defaultdict(list)
    sizes: dict[str, list[int]] = defaultdict(list)
    for trial_id in _newest(layout):
        with contextlib.suppress(OSError, RecordError):
            result = read_record(layout.trial(trial_id).result, TrialResult)
            with os.scandir(layout.trial(trial_id).folder) as entries:
                sizes[str(result.config.get("keep"))].append(sum(entry.stat().st_size for entry in entries))
            if result.executor == executor and result.curves:
                seconds = fmean(epoch.train_s + epoch.val_s for epoch in result.curves)
                for keys in (_CLOSE, _WIDE):
                    epochs[_key(result.config, keys)].append(seconds)
    return Experience(
        {key: fmean(values) for key, values in epochs.items()}, {keep: fmean(values) for keep, values in sizes.items()}
    )


def size_text(size_bytes: float) -> str:
    """'740 kB', '12 MB', '3.1 GB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.{1 if size_bytes < 10 * factor else 0}f} {unit}"
    return f"{size_bytes / 1e3:.0f} kB"


def _newest(layout: Layout) -> list[str]:
    times: list[tuple[float, str]] = []
    for trial_id in layout.trial_ids():
        with contextlib.suppress(OSError):
            times.append((layout.trial(trial_id).result.stat().st_mtime, trial_id))
    return [trial_id for _, trial_id in sorted(times, reverse=True)[:NEWEST]]


def _key(config: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(json.dumps(config.get(key), sort_keys=True) for key in keys)
