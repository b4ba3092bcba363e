"""What a person sees while trials train: a live picture on a terminal, a line for each finished trial elsewhere.

Reads the disk only, so it shows any executor's work; writes to stderr.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cifar_hpc.cli.states import ENDED, SweepReader
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EpochRecord, PlannedTrial, PlanRecord, Status
from cifar_hpc.records.store import read_records

LOOK_EVERY_S = 1.0
COST_FRAC = 0.05  # share of one core that looking may take: a large sweep is looked at less often
SHOWN_RUNNING = 8


@dataclass(frozen=True, slots=True)
class Best:
    """The best point so far: the mean of the objective over the seeds that have finished."""

    name: str
    metric: str
    value: float
    seeds: int

    def __str__(self) -> str:
        shown = f"{100 * self.value:.2f} %" if self.metric == "val_acc" else f"{self.value:.4f}"
        return f"{self.name}  {self.metric.replace('_', ' ')} {shown}" + (f" (mean of {self.seeds})" if self.seeds > 1 else "")


def name_of(trial: PlannedTrial, *, seed: bool = True) -> str:
    """The trial as its swept keys tell it: 'arch=linear lr=0.1'; its architecture where nothing was swept."""
    axes = {key: value for key, value in trial.axes.items() if seed or key != "seed"}
    return " ".join(f"{key}={value}" for key, value in axes.items()) or str(trial.config["arch"])


def best_point(plan: PlanRecord, states: Mapping[str, TrialState]) -> Best | None:
    """By the plan's objective on validation; None before anything was measured."""
    values: dict[str, list[float]] = defaultdict(list)
    names: dict[str, str] = {}
    for trial in plan.trials:
        result = states[trial.trial_id].result
        val = result.val if result else None
        value = None if val is None else val.acc if plan.objective == "val_acc" else val.loss
        if value is not None:
            values[trial.point_id].append(value)
            names.setdefault(trial.point_id, name_of(trial, seed=False))
    if not values:
        return None
    choose = max if plan.objective == "val_acc" else min
    point = choose(values, key=lambda point_id: fmean(values[point_id]))
    return Best(names[point], plan.objective, fmean(values[point]), len(values[point]))


def remaining_s(plan: PlanRecord, states: Mapping[str, TrialState], side_by_side: int) -> float | None:
    """Seconds to the end: epochs to do times the measured seconds of an epoch (of the same architecture where one was
    measured), shared among the trials that run side by side; None before any was measured."""
    measured: dict[str, list[float]] = defaultdict(list)
    for trial in plan.trials:
        result = states[trial.trial_id].result
        if result and result.curves:
            measured[trial.config["arch"]].append(fmean(epoch.train_s + epoch.val_s for epoch in result.curves))
    if not measured:
        return None
    anywhere = fmean(value for values in measured.values() for value in values)
    total = 0.0
    for trial in plan.trials:
        state, arch = states[trial.trial_id], trial.config["arch"]
        if state.status not in ENDED and state.status is not Status.FAILED:
            left = max(0, trial.config["epochs"] - state.epochs_done)
            total += left * (fmean(measured[arch]) if arch in measured else anywhere)
    return total / max(1, side_by_side)


def duration_text(seconds: float) -> str:
    """'40 s', '12 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def watched(layout: Layout, reader: SweepReader, console: Console) -> Iterator[None]:
    """Shows the sweep's progress while the block runs, from a thread of its own."""
    stopped = threading.Event()
    view = _LiveView(layout, console) if console.is_terminal else _LineView(console)
    view.show(reader.plan, reader.read())  # what was there before

    def look() -> None:
        pause_s = LOOK_EVERY_S
        while not stopped.wait(pause_s):
            began = time.perf_counter()
            view.show(reader.plan, reader.read())
            pause_s = max(LOOK_EVERY_S, (time.perf_counter() - began) / COST_FRAC)

    thread = threading.Thread(target=look, daemon=True, name="progress")
    with view:
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            view.show(reader.plan, reader.read())


class _LineView:
    """One line with the time for each trial that ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, Status] = {}
        self._first = True

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        news = [
            trial
            for trial in plan.trials
            if states[trial.trial_id].status in {*ENDED, Status.FAILED}
            and self._told.get(trial.trial_id) is not states[trial.trial_id].status
        ]
        self._told |= {trial.trial_id: states[trial.trial_id].status for trial in news}
        if self._first:
            self._first = False
            return
        running = _running(plan, states)
        ended = sum(state.status in ENDED for state in states.values())
        left_s = remaining_s(plan, states, len(running))
        left = f", about {duration_text(left_s)} left" if left_s else ""
        for trial in news:
            counted = f"{time.strftime('%H:%M:%S')}  {ended}/{len(plan.trials)}"
            line = f"{counted}  {name_of(trial)}  {_outcome(states[trial.trial_id])}{left}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _LiveView:
    """A picture that renews itself in place."""

    def __init__(self, layout: Layout, console: Console) -> None:
        self._layout = layout
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        running = _running(plan, states)
        done = sum(state.status in ENDED for state in states.values())
        failed = sum(state.status is Status.FAILED for state in states.values())
        epochs = sum(state.epochs_done for state in states.values())
        left_s = remaining_s(plan, states, len(running))
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(plan.sweep, style="bold"),
            ProgressBar(total=max(1, len(plan.trials)), completed=done, width=24),
            f"{done}/{len(plan.trials)} trials",
            f"{epochs} epochs",
            Text(f"{failed} failed", style="red") if failed else "",
            f"about {duration_text(left_s)} left" if left_s else "",
        )
        best = best_point(plan, states)
        lines: list[Any] = [head, *([Text(f"best so far: {best}", style="green")] if best else [])]
        lines += [self._running_table(running, states)] if running else []
        self._live.update(Group(*lines))

    def _running_table(self, running: Sequence[PlannedTrial], states: Mapping[str, TrialState]) -> Table:
        table = Table.grid(padding=(0, 2))
        for trial in running[:SHOWN_RUNNING]:
            epochs = read_records(self._layout.trial(trial.trial_id).metrics, EpochRecord)
            acc = epochs[-1].val_acc if epochs else None
            table.add_row(
                Text(f"  {trial.trial_id}", style="dim"),
                Text(name_of(trial)),
                f"epoch {states[trial.trial_id].epochs_done}/{trial.config['epochs']}",
                f"val acc {100 * acc:.2f} %" if acc is not None else "",
            )
        if len(running) > SHOWN_RUNNING:
            table.add_row("", Text(f"and {len(running) - SHOWN_RUNNING} more", style="dim"))
        return table


def _running(plan: PlanRecord, states: Mapping[str, TrialState]) -> list[PlannedTrial]:
    return [trial for trial in plan.trials if states[trial.trial_id].status is Status.RUNNING]


def _outcome(state: TrialState) -> str:
    result = state.result
    if result is None:
        return f"failed: {state.reason}"
    acc = f"val acc {100 * result.val.acc:.2f} %" if result.val else "diverged"
    return f"{acc}  ({len(result.curves)} epochs, {duration_text(result.train_s)})"
