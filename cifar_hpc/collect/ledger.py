"""Where the device-hours went: by outcome, and by the values of each axis. Hours of a CPU and of a GPU are never added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import value_text
from cifar_hpc.records.schema import Outcome, Status

K = TypeVar("K")

_OUTCOMES = {
    Outcome.FINISHED: "finished",
    Outcome.EARLY_STOPPED: "stopped early by patience",
    Outcome.OUT_OF_TIME: "out of its own time",
    Outcome.DIVERGED: "diverged",
    Outcome.PRUNED: "stopped by the search",
}
UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Entry:
    """Trials of one kind and their hours (training time times devices; of one that jobs share, their part)."""

    trials: int
    hours: float

    def __add__(self, other: Entry) -> Entry:
        return Entry(self.trials + other.trials, self.hours + other.hours)


@dataclass(frozen=True, slots=True)
class Ledger:
    """by_outcome: (device, outcome) -> entry; by_axis: axis -> value in words -> entry.

    reused: what the pool saved this sweep, trials that another sweep trained; counted in by_outcome too. saved: by device,
    batches that cohorts drew and passed through the trunk once for all; lost: by device, training since the last checkpoint
    of an attempt that was killed. Both only of trials that measured some; neither is in by_outcome.
    """

    by_outcome: Mapping[tuple[str, str], Entry]
    by_axis: Mapping[str, Mapping[str, Entry]]
    reused: Entry
    saved: Mapping[str, Entry]
    lost: Mapping[str, Entry]

    def hours(self, device: str) -> float:
        """All that the device spent, what was lost included."""
        lost = self.lost.get(device, Entry(0, 0.0)).hours
        return lost + sum(entry.hours for (where, _), entry in self.by_outcome.items() if where == device)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(device for device, _ in self.by_outcome))


def make_ledger(pool: Pool, board: Leaderboard) -> Ledger:
    """Adds up what the pool's trials took. Time of epochs that an unfinished trial left behind counts under its status."""
    outcomes: dict[tuple[str, str], Entry] = {}
    axes: dict[str, dict[str, Entry]] = {axis: {} for axis in board.axes}
    reused = Entry(0, 0.0)
    saved: dict[str, Entry] = {}
    lost: dict[str, Entry] = {}
    for trial in pool.trials:
        entry = Entry(1, trial.device_hours)
        _add(outcomes, (trial.device, _OUTCOMES[trial.outcome]), entry)
        for axis, values in axes.items():
            _add(values, value_text(trial.config.get(axis), axis), entry)
        if len(pool.sweeps) == 1 and not trial.job.startswith(f"{pool.sweeps[0]}/"):
            reused += entry
        for entries, seconds in ((saved, trial.saved_s), (lost, trial.lost_s)):
            if seconds:
                _add(entries, trial.device, Entry(1, trial.hours_of(seconds)))
    for trial in pool.contradicted:
        _add(outcomes, (trial.device, "left out: contradicted by its own predictions"), Entry(1, trial.device_hours))
    elsewhere = next(iter(outcomes), ("device", ""))[0]  # older records do not say where one was tried that has no result
    for waiting in pool.unfinished:
        left = waiting.status in (Status.FAILED, Status.LOST)
        if waiting.spent_s or left:
            status = waiting.status.value if left else UNFINISHED
            _add(outcomes, (waiting.device or elsewhere, status), Entry(1, waiting.device_hours))
    return Ledger(outcomes, axes, reused, saved, lost)


def _add(entries: dict[K, Entry], key: K, entry: Entry) -> None:
    entries[key] = entries.get(key, Entry(0, 0.0)) + entry
