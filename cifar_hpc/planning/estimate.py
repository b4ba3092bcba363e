"""How long trials will take and what they will leave on disk: by what was measured, and where nothing was, by FLOPs.

One truth for this machine and for a cluster. Owns: Experience, which answers for a cohort in the order of what is known best:
epochs of trials like these, then FLOPs at the speed of trials of the same network, then of any trial, then of a calibration.
Every answer says which it is. Trials are compared with those of the same kind of place only: this machine's seconds say nothing
of a cluster's. Reads the newest finished trials; starts nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import fmean
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import RecordError
from cifar_hpc.planning.cohorts import Cohort, train_images, work_of
from cifar_hpc.planning.duration import Basis, Duration
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.ties import read_valid

NEWEST = 300  # finished trials that are read: enough for a mean, and cheap on a network file system
FEW_FRAC = 0.5  # by which the longest time of a kind is above its mean at least where one trial was measured; of n, / sqrt(n)
# Times the expected: the longest time where only FLOPs tell. A calibration knows neither what a trial takes beside its epochs
# nor its images: three sweeps of small images took 1.5 to 2.8 times what it had guessed (2026-11-26, two cores under load).
BY_FLOPS, BY_OTHERS = 2.0, 3.0
_CLOSE = (
    "arch",
    "arch_args",
    "dataset",
    "image_size",
    "stem",
    "freeze",
    "augment",
    "batch_size",
    "precision",
    "optimizer",
    "classifier",
)
_CHOOSES_IMAGES = ("fold", "split_seed", "labelled", "own_val")
_WIDE = ("arch", "arch_args", "dataset", "image_size", "stem")
_ANY = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Epochs that were measured: seconds of one, times the processes that shared it. device: None where not known; shared_by:
    trials side by side, itself included; saved_s: of one epoch, as TrialResult has it, None where not known."""

    config: Mapping[str, Any]
    epoch_s: float
    device: str | None = None
    beside_s: float | None = None  # that the trial took beside its epochs; None where it had company
    processes: int = 1
    shared_by: int = 1
    saved_s: float | None = None

    def beside(self, n: int) -> float:
        """Seconds of an epoch of it among n such trials: its part of what fewer share is larger."""
        if n >= self.shared_by:
            return self.epoch_s
        others = self.shared_by - 1
        saved_s = self.epoch_s * others if self.saved_s is None else self.saved_s
        return self.epoch_s + saved_s * (self.shared_by - n) / (n * others)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds = flop_s FLOPs + step_s steps."""

    flop_s: float
    step_s: float

    def seconds(self, flops: float, steps: float) -> float:
        return self.flop_s * flops + self.step_s * steps

    @classmethod
    def fitted(cls, points: Sequence[tuple[float, float, float]]) -> Speed | None:
        """The least relative errors over (seconds, FLOPs, steps); neither part is negative. None without points."""
        rows = [(flops / s, steps / s) for s, flops, steps in points if s > 0 and flops > 0]
        if not rows:
            return None
        x, y = sum(a for a, _ in rows), sum(b for _, b in rows)
        xx, yy, xy = sum(a * a for a, _ in rows), sum(b * b for _, b in rows), sum(a * b for a, b in rows)
        determinant = xx * yy - xy * xy
        if len(rows) > 1 and determinant > 1e-9 * xx * yy:
            flop_s, step_s = (x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant
            if flop_s > 0 and step_s >= 0:
                return cls(flop_s, step_s)
            if flop_s <= 0 < yy:
                return cls(0.0, y / yy)
        return cls(x / xx, 0.0)


@dataclass(frozen=True)
class Experience:
    """What trials took, the newest sample first. calibration: of a machine on which none ran; trial_bytes: on disk, by what is
    kept."""

    samples: Sequence[Sample] = ()
    trial_bytes: Mapping[str, float] = field(default_factory=dict)
    calibration: Speed | None = None
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def of_cohort(self, cohort: Cohort, resources: Resources, epochs_done: Mapping[str, int] | None = None) -> Duration | None:
        """None where nothing like it was measured. epochs_done: of its trials, that need not be trained again."""
        done = epochs_done or {}
        device = self._device(resources)
        processes = resources.nodes * (resources.processes or max(1, round(resources.gpus or 1)))
        left = [max(0, trial.epochs - done.get(trial.trial_id, 0)) for trial in cohort.trials]
        n = len(cohort.trials)
        epochs = [self._like(trial.to_json(), device, n) if self.samples else None for trial in cohort.trials]
        total: Duration | None = None
        if all(epoch is not None for epoch in epochs):
            parts = [(n, epoch) for n, epoch in zip(left, epochs, strict=True) if epoch is not None]
            expected_s, p95_s = sum(n * epoch[0] for n, epoch in parts), sum(n * epoch[1] for n, epoch in parts)
            basis = Basis.EPOCHS if all(processes in epoch[2] for _, epoch in parts) else Basis.SCALED
            total = Duration(expected_s / processes, p95_s / processes, basis)
        elif (found := self._speed(cohort.trials[0].to_json(), device)) is not None:
            speed, by = found
            basis = by if all(trial.trains for trial in cohort.trials) else Basis.UNFITTED
            share = sum(left) / max(1, sum(trial.epochs for trial in cohort.trials))
            steps = sum(n * steps_of(trial) for trial, n in zip(cohort.trials, left, strict=True))
            expected_s = speed.seconds(share * work_of(cohort), steps) / processes
            factor = BY_FLOPS if basis is Basis.FLOPS else BY_OTHERS
            total = Duration(expected_s, factor * expected_s, basis)
        if total is None:
            return None
        beside_s = fmean(known) if (known := [s.beside_s for s in self._of(device) if s.beside_s is not None]) else 0.0
        return total + Duration(beside_s, 2 * beside_s, total.basis)

    def epoch_s(self, config: Mapping[str, Any]) -> float | None:
        """Seconds of one epoch where the samples are from; None without any. A network beyond the catalogue is not built for
        it: one that was not measured takes what the others took."""
        if not self.samples:
            return None
        key = ("epoch", _key(config, _CLOSE))
        if key not in self._known:
            like = self._like(config, None, 1)
            self._known[key] = like[0] if like else self._by_speed(config) or fmean(s.epoch_s for s in self.samples)
        found: float = self._known[key]
        return found

    def _by_speed(self, config: Mapping[str, Any]) -> float | None:
        work = _work(config)
        speed = self._speed(config, None) if work else None
        return speed[0].seconds(*work) if work and speed else None

    def timed(self, job: Job, guess_minutes: float, epochs_done: Mapping[str, int] | None = None) -> Job:
        """The job with what it may take."""
        return replace(job, duration=self.of_job(job, guess_minutes, epochs_done))

    def of_job(self, job: Job, guess_minutes: float, epochs_done: Mapping[str, int] | None = None) -> Duration:
        """The cohorts of a job, one after another. guess_minutes: of a trial, where the spec names none. epochs_done: of its
        trials, that are not expected to be trained again; the longest time is that of all epochs.

        A time of the spec's own is the longest: it stands as it is, and only what is expected comes from elsewhere. Else only
        epochs of trials like these make it shorter than that guess.
        """
        parts = [self._of_cohort(cohort, job.resources, guess_minutes, epochs_done) for cohort in job.cohorts]
        total = parts[0] if parts else Duration(0.0, 0.0, Basis.EPOCHS)
        for part in parts[1:]:
            total += part
        return total

    def _of_cohort(
        self, cohort: Cohort, resources: Resources, guess_minutes: float, epochs_done: Mapping[str, int] | None
    ) -> Duration:
        longest_s = 60 * (resources.minutes or guess_minutes) * len(cohort.trials)
        found = self.of_cohort(cohort, resources)
        if found is None:
            return Duration(longest_s, longest_s, Basis.GUESS)
        if resources.minutes is None:  # what was not measured, other trials' speed does not cut
            longest_s = found.p95_s if found.basis is Basis.EPOCHS else max(found.p95_s, longest_s)
        left = self.of_cohort(cohort, resources, epochs_done) or found
        return Duration(left.expected_s, longest_s, found.basis)

    def of_disk(self, configs: Sequence[Mapping[str, Any]]) -> float | None:
        """Bytes that the finished trials will take; None where no such trial is there."""
        sizes = [self.trial_bytes.get(str(config.get("keep"))) for config in configs]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _device(self, resources: Resources) -> str | None:
        """Where the trials will run, as far as it is known: with a GPU where one was met last."""
        if resources.gpus == 0:
            return "cpu"
        return next((sample.device for sample in self.samples if sample.device), None)

    def _of(self, device: str | None) -> list[Sample]:
        key = ("of", device)
        if key not in self._known:
            self._known[key] = [sample for sample in self.samples if sample.device in (device, None)]
        found: list[Sample] = self._known[key]
        return found

    def _like(self, config: Mapping[str, Any], device: str | None, n: int) -> tuple[float, float, set[int]] | None:
        """Mean and 95th percentile of the seconds of an epoch among n trials side by side, and on how many processes they were
        measured."""
        if ("like", device, n) not in self._known:
            epochs: dict[str, list[float]] = defaultdict(list)
            on: dict[str, set[int]] = defaultdict(set)
            for sample in self._of(device):
                key = _key(sample.config, _CLOSE)
                epochs[key].append(sample.beside(n))
                on[key].add(sample.processes)
            self._known["like", device, n] = {key: (fmean(values), _p95(values), on[key]) for key, values in epochs.items()}
        found: tuple[float, float, set[int]] | None = self._known["like", device, n].get(_key(config, _CLOSE))
        return found

    def _speed(self, config: Mapping[str, Any], device: str | None) -> tuple[Speed, Basis] | None:
        if ("speed", device) not in self._known:
            points: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
            for sample in self._of(device)[:NEWEST]:
                if (work := _work(sample.config)) is not None:
                    for key in (_key(sample.config, _WIDE), _ANY):
                        points[key].append((sample.epoch_s, *work))
            self._known["speed", device] = {key: Speed.fitted(values) for key, values in points.items()}
        speeds = self._known["speed", device]
        own, others = speeds.get(_key(config, _WIDE)), speeds.get(_ANY)
        found = (own, Basis.FLOPS), (others, Basis.OTHERS), (self.calibration, Basis.CALIBRATION)
        return next(((speed, basis) for speed, basis in found if speed is not None), None)


def read_experience(
    layout: Layout, executors: Sequence[str], calibration: Speed | None = None, host: str | None = None
) -> Experience:
    """Of the newest finished trials of the pool, the times of those that these executors ran, and ran on that host if one is
    named."""
    samples: list[Sample] = []
    sizes: dict[str, list[int]] = defaultdict(list)
    for trial_id in _newest(layout):
        with contextlib.suppress(OSError, RecordError):
            result, _ = read_valid(layout.trial(trial_id), trial_id)
            with os.scandir(layout.trial(trial_id).folder) as entries:
                sizes[str(result.config.get("keep"))].append(sum(entry.stat().st_size for entry in entries))
            if result.executor in executors and result.curves and host in (None, result.hardware.host):
                samples.append(_sample(result))
    return Experience(samples, {keep: fmean(values) for keep, values in sizes.items()}, calibration)


def steps_of(trial: TrialConfig) -> int:
    """Estimated steps of an epoch."""
    return math.ceil(train_images(trial) / trial.batch_size)


def size_text(size_bytes: float) -> str:
    """'740 kB', '12 MB', '3.1 GB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.{1 if size_bytes < 10 * factor else 0}f} {unit}"
    return f"{size_bytes / 1e3:.0f} kB"


def _sample(result: TrialResult) -> Sample:
    epochs_n, world_size = len(result.curves), result.hardware.world_size
    seconds = fmean(epoch.train_s + epoch.val_s for epoch in result.curves)
    beside_s = None
    if result.trunk_shared_by == 1 and result.attempts == 1:
        with contextlib.suppress(ValueError):
            beside_s = max(0.0, _seconds_between(result.started_at, result.finished_at) - result.train_s)
    return Sample(
        result.config,
        seconds * world_size,
        result.hardware.device,
        beside_s,
        world_size,
        result.trunk_shared_by,
        None if result.saved_s is None else result.saved_s * world_size / epochs_n,
    )


def _seconds_between(start: str, end: str) -> float:
    """Raises ValueError where one is no time."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _work(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """FLOPs and steps of an epoch; None for a network beyond the catalogue, which would have to be built, and for a classifier
    that is fitted, whose time they do not tell."""
    if catalog.architecture(str(config.get("arch"))) is None:
        return None
    try:
        trial = TrialConfig.from_json(dict(config))
        return (work_of(Cohort(trials=(trial,))) / max(1, trial.epochs), steps_of(trial)) if trial.trains else None
    except (KeyError, TypeError, ValueError):  # of another version of this program
        return None


def _p95(values: Sequence[float]) -> float:
    """The 95th percentile by rank, and above the mean by what so few values may not show."""
    ranked = sorted(values)
    at_least = fmean(values) * (1 + FEW_FRAC / math.sqrt(len(values)))
    return max(ranked[math.ceil(0.95 * len(ranked)) - 1], at_least)


def _newest(layout: Layout) -> list[str]:
    times: list[tuple[float, str]] = []
    for trial_id in layout.trial_ids():
        with contextlib.suppress(OSError):
            times.append((layout.trial(trial_id).result.stat().st_mtime, trial_id))
    return [trial_id for _, trial_id in sorted(times, reverse=True)[:NEWEST]]


def _key(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """What trials that take alike have in common; which images of a set a fold or split holds out costs nothing, and the C that
    is sought as much as many that are given."""
    dataset = {key: value for key, value in config["dataset"].items() if key not in _CHOOSES_IMAGES}
    sought = "auto" in (config.get("svm_c"), config.get("logreg_c"))
    return json.dumps([sought, *(dataset if key == "dataset" else config.get(key) for key in keys)], sort_keys=True)
