"""What a person sees while trials train: a live picture on a terminal, lines elsewhere.

Reads the disk only, so it shows any executor's work; writes to stderr.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cifar_hpc.config import catalog
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.plans import answering
from cifar_hpc.records.schema import Outcome, PlannedTrial, PlanRecord, Status
from cifar_hpc.report.forms import duration_text, number_text, plural
from cifar_hpc.status.state import ENDED, SweepReader, first_line, short_ids

LOOK_EVERY_S = 1.0
COST_FRAC = 0.05  # share of one core that looking may take: a large sweep is looked at less often
SHOWN_RUNNING = 8
BAR_WIDTH = 20
MOST_LINES = 4  # of one look, on what is no terminal
FIRST_SILENCE_S, LONGEST_SILENCE_S = 15.0, 300.0  # between two lines there; it doubles


@dataclass(frozen=True, slots=True)
class Best:
    """The best point so far: the mean of the objective over the seeds that have finished."""

    name: str
    metric: str
    value: float
    seeds: int

    def __str__(self) -> str:
        shown = f"{100 * self.value:.2f} %" if self.metric == "val_acc" else number_text(self.value, 4)
        return f"{self.name}  {self.metric.replace('_', ' ')} {shown}" + (f" (mean of {self.seeds})" if self.seeds > 1 else "")


def names_of(trials: Collection[PlannedTrial], *, seed: bool = True) -> dict[str, str]:
    """Each trial by the swept keys that differ among them: 'arch=linear lr=0.1'; its architecture where none does."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for trial in trials:
        for key, value in trial.axes.items():
            spelled[key].add(str(value))
    telling = [key for key, values in spelled.items() if len(values) > 1 and (seed or key != "seed")]
    return {
        t.trial_id: " ".join(f"{key}={_as_spec(t.axes[key])}" for key in telling if key in t.axes) or str(t.config["arch"])
        for t in trials
    }


def _as_spec(value: Any) -> str:
    """As a spec writes it."""
    return "null" if value is None else str(value)


def best_point(plan: PlanRecord, states: Mapping[str, TrialState]) -> Best | None:
    """By the plan's objective on validation, of the last stages where there are some; None before anything was measured."""
    values: dict[str, list[float]] = defaultdict(list)
    names: dict[str, str] = {}
    behind: dict[str, tuple[bool, int]] = {}  # what the leaderboard looks at beside the value: cut short, parameters
    told = names_of(plan.trials, seed=False)
    for trial in answering(plan):
        result = states[trial.trial_id].result
        val = result.val if result else None
        value = None if val is None else getattr(val, OBJECTIVES[plan.objective].metric)
        if value is not None:
            values[trial.point_id].append(value)
            assert result is not None
            names.setdefault(trial.point_id, told[trial.trial_id])
            cut, params = behind.get(trial.point_id, (False, result.params_trained))
            behind[trial.point_id] = cut or result.outcome is Outcome.PRUNED, params
    if not values:
        return None
    sign = -1 if OBJECTIVES[plan.objective].mode == "max" else 1
    point = min(values, key=lambda point_id: (behind[point_id][0], sign * fmean(values[point_id]), behind[point_id][1]))
    return Best(names[point], plan.objective, fmean(values[point]), len(values[point]))


def epoch_costs_s(plan: PlanRecord, states: Mapping[str, TrialState]) -> dict[str, float]:
    """Seconds of one epoch of each trial: the mean of its architecture where that was measured, else by the FLOPs of those
    that were; empty before."""
    measured: dict[str, list[float]] = defaultdict(list)
    for trial in plan.trials:
        if epochs := states[trial.trial_id].epochs:
            measured[trial.config["arch"]].append(fmean(epoch.train_s + epoch.val_s for epoch in epochs))
    if not measured:
        return {}
    costs = {arch: fmean(values) for arch, values in measured.items()}
    a_flop_s = fmean(cost / _flops(arch) for arch, cost in costs.items())
    return {t.trial_id: costs.get(t.config["arch"], a_flop_s * _flops(t.config["arch"])) for t in plan.trials}


def _flops(arch: str) -> int:
    info = catalog.architecture(arch)
    return info.flops if info else 10**9


def remaining_s(plan: PlanRecord, states: Mapping[str, TrialState]) -> float | None:
    """Seconds to the end of what has not ended, one trial after another; None before any epoch was measured."""
    costs = epoch_costs_s(plan, states)
    open_ = [trial for trial in plan.trials if _is_open(states[trial.trial_id])]
    if not costs:
        return None
    return sum(_epochs_left(trial, states) * costs[trial.trial_id] for trial in open_) + _to_come(plan) * fmean(costs.values())


class Pace:
    """How fast a sweep gets on while it is looked at: what trains side by side, and what else it costs, is in it."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._gained_s = 0.0  # when an epoch ended last
        self._first: dict[str, int] = {}
        self._done_n = 0

    def left_s(self, plan: PlanRecord, states: Mapping[str, TrialState], now_s: float) -> float | None:
        """Seconds to the end, at now_s of a clock; None before an epoch has ended since the first look, and near the end."""
        epochs = {trial_id: state.epochs_done for trial_id, state in states.items()}
        if self._began_s is None:
            self._began_s, self._first = now_s, epochs
        if sum(epochs.values()) != self._done_n:
            self._gained_s, self._done_n = now_s, sum(epochs.values())
        costs = epoch_costs_s(plan, states)
        gained = sum((n - self._first.get(trial_id, 0)) * costs[trial_id] for trial_id, n in epochs.items()) if costs else 0.0
        left = remaining_s(plan, states)
        if not left or gained <= 0:
            return None
        left_s = left / gained * (self._gained_s - self._began_s) - (now_s - self._gained_s)
        return left_s if left_s >= 1 else None


def _to_come(plan: PlanRecord) -> int:
    """Epochs of trials that a search has still to sample, at most."""
    longest = max((int(trial.config["epochs"]) for trial in plan.trials), default=0)
    return (plan.trials_at_most - len(plan.trials)) * longest


def _is_open(state: TrialState) -> bool:
    return state.status not in ENDED and state.status is not Status.FAILED


def _epochs_left(trial: PlannedTrial, states: Mapping[str, TrialState]) -> int:
    return max(0, int(trial.config["epochs"]) - states[trial.trial_id].epochs_done)


@dataclass(frozen=True, slots=True)
class Counts:
    """Trials and epochs of a sweep, and how many have ended. A trial that has ended counts with the epochs that it trained, one
    that a search will sample with those of the longest so far."""

    trials: int
    done: int
    failed: int
    epochs: int
    epochs_done: int

    @classmethod
    def of(cls, plan: PlanRecord, states: Mapping[str, TrialState]) -> Counts:
        trained = sum(states[trial.trial_id].epochs_done for trial in plan.trials)
        left = sum(_epochs_left(trial, states) for trial in plan.trials if _is_open(states[trial.trial_id]))
        left += _to_come(plan)
        done = sum(state.status in ENDED for state in states.values())
        failed = sum(state.status is Status.FAILED for state in states.values())
        return cls(plan.trials_at_most, done, failed, trained + left, trained)

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.trials} trials{failed}, {self.epochs_done}/{self.epochs} epochs"


@contextlib.contextmanager
def watched(reader: SweepReader, console: Console) -> Iterator[None]:
    """Shows the sweep's progress while the block runs, from a thread of its own."""
    stopped = threading.Event()
    view = _LiveView(console) if console.is_terminal else _LineView(console)
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
    """A line with the time for each trial that ends, one for all where many end at once, and one now and then between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] | None = None
        self._pace = Pace()
        self._silence_s = FIRST_SILENCE_S
        self._spoke_s = time.monotonic()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        ended = {trial_id for trial_id, state in states.items() if not _is_open(state)}
        now_s = time.monotonic()
        left_s = self._pace.left_s(plan, states, now_s)
        news = [trial for trial in plan.trials if trial.trial_id in ended - (ended if self._told is None else self._told)]
        self._told = ended
        names = names_of(plan.trials) if news else {}
        lines = [f"{names[trial.trial_id]}  {_outcome(states[trial.trial_id])}" for trial in news]
        if len(news) > MOST_LINES:
            failed = [line for trial, line in zip(news, lines, strict=True) if states[trial.trial_id].status is Status.FAILED]
            lines = [f"{len(news)} trials ended", *failed[:MOST_LINES]]
        elif not news and now_s - self._spoke_s >= self._silence_s:
            running = len(_running(plan, states))
            lines = [f"{running} running"] if running else []
            self._silence_s = min(2 * self._silence_s, LONGEST_SILENCE_S)
        left = f"  about {duration_text(left_s)} left" if left_s else ""
        for line in lines:
            text = f"{time.strftime('%H:%M:%S')}  {Counts.of(plan, states)}  {line}{left}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if lines:
            self._spoke_s = now_s


class _LiveView:
    """A picture that renews itself in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._pace = Pace()

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        running = _running(plan, states)
        counts = Counts.of(plan, states)
        left_s = self._pace.left_s(plan, states, time.monotonic())
        head = Table.grid(padding=(0, 2))
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_row(
            Text(plan.sweep, style="bold"),
            ProgressBar(total=max(1, counts.epochs), completed=counts.epochs_done, width=BAR_WIDTH),
            Text(f"{counts.done}/{counts.trials} trials"),
            Text(f"{counts.epochs_done}/{counts.epochs} epochs"),
            Text(f"about {duration_text(left_s)} left" if left_s else ""),
        )
        best = best_point(plan, states)
        lines: list[Any] = [head]
        lines += [_one_line(f"{counts.failed} failed: cifar-hpc logs {plan.sweep}", "red")] if counts.failed else []
        lines += [_one_line(f"best so far: {best}", "green")] if best else []
        waiting = sum(_is_open(state) for state in states.values()) - len(running)
        lines += [_running_table(plan, running, states)] if running else [_one_line(f"  {waiting} wait to start", "dim")]
        self._live.update(Group(*lines))


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _running_table(plan: PlanRecord, running: Sequence[PlannedTrial], states: Mapping[str, TrialState]) -> Table:
    ids, names = short_ids([trial.trial_id for trial in plan.trials]), names_of(plan.trials)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for trial in running[:SHOWN_RUNNING]:
        state = states[trial.trial_id]
        acc = state.epochs[-1].val_acc if state.epochs else None
        table.add_row(
            Text(f"  {ids[trial.trial_id]}", style="dim"),
            Text(names[trial.trial_id]),
            Text(f"epoch {state.epochs_done}/{trial.config['epochs']}"),
            Text(f"val acc {100 * acc:.2f} %" if acc is not None else ""),
        )
    if len(running) > SHOWN_RUNNING:
        table.add_row("", Text(f"and {len(running) - SHOWN_RUNNING} more", style="dim"))
    return table


def _running(plan: PlanRecord, states: Mapping[str, TrialState]) -> list[PlannedTrial]:
    return [trial for trial in plan.trials if states[trial.trial_id].status is Status.RUNNING]


def _outcome(state: TrialState) -> str:
    result = state.result
    if result is None:
        return f"failed: {first_line(state.reason)}"
    measured = [f"{split} acc {100 * found.acc:.2f} %" for split in ("val", "test") if (found := getattr(result, split))]
    acc = measured[0] if measured else result.outcome.value
    return f"{acc}  ({plural(len(result.curves), 'epoch')}, {duration_text(result.train_s)})"
