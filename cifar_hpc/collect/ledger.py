"""Where the device-hours went: by outcome, and by the values of each axis. Hours of a CPU and of a GPU are never added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import Trial, Unfinished, value_text
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
WASTED = ("diverged", "stopped by the search", Status.FAILED.value, Status.LOST.value)  # outcomes of no trial to its end


@dataclass(frozen=True, slots=True)
class Entry:
    """Trials of one kind and their hours (training time times devices; of one that jobs share, their part)."""

    trials: int
    hours: float

    def __add__(self, other: Entry) -> Entry:
        return Entry(self.trials + other.trials, self.hours + other.hours)


@dataclass(frozen=True, slots=True)
class Ledger:
    """by_outcome: (device, outcome) -> entry; by_axis: axis -> (value in words, device) -> entry.

    All but reused is of trials that the sweep's own jobs trained. lost: by device, what attempts that failed or were killed had
    trained since their last checkpoint; saved: by device, batches that cohorts drew and passed through the trunk once for all.
    Both only of trials that measured some. reused: by device, trials that another sweep tried last, and what was spent on them.
    None of the three is in by_outcome.
    """

    by_outcome: Mapping[tuple[str, str], Entry]
    by_axis: Mapping[str, Mapping[tuple[str, str], Entry]]
    reused: Mapping[str, Entry]
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
    axes: dict[str, dict[tuple[str, str], Entry]] = {axis: {} for axis in board.axes}
    reused: dict[str, Entry] = {}
    saved: dict[str, Entry] = {}
    lost: dict[str, Entry] = {}
    for trial in (*pool.trials, *pool.contradicted):
        if not pool.is_own(trial):
            continue
        for axis, values in axes.items():
            _add(values, (value_text(trial.config.get(axis), axis), trial.device), Entry(1, trial.device_hours))
        if trial.saved_s:
            _add(saved, trial.device, Entry(1, trial.hours_of(trial.saved_s)))
    for device, outcome, tried in _tried(pool):
        if not pool.is_own(tried):
            _add(reused, device, Entry(1, tried.spent_hours))
            continue
        _add(outcomes, (device, outcome), Entry(1, tried.device_hours))
        if tried.lost_hours:
            _add(lost, device, Entry(1, tried.lost_hours))
    return Ledger(outcomes, axes, reused, saved, lost)


def _tried(pool: Pool) -> Iterator[tuple[str, str, Trial | Unfinished]]:
    """Device and outcome of each trial on which something was spent, and of those that failed or were lost before."""
    for trial in pool.trials:
        yield trial.device, _OUTCOMES[trial.outcome], trial
    for trial in pool.contradicted:
        yield trial.device, "left out: contradicted by its own predictions", trial
    # older records do not say where one was tried that has no result
    known = next((trial.device for trial in (*pool.trials, *pool.contradicted)), "device")
    for waiting in pool.unfinished:
        left = waiting.status in (Status.FAILED, Status.LOST)
        if waiting.spent_hours or (left and pool.is_own(waiting)):
            yield waiting.device or known, waiting.status.value if left else UNFINISHED, waiting


def _add(entries: dict[K, Entry], key: K, entry: Entry) -> None:
    entries[key] = entries.get(key, Entry(0, 0.0)) + entry
