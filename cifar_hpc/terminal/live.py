"""What a person sees while trials train: a live picture on a terminal, lines elsewhere.

Reads the disk only, so it shows any executor's work; writes to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlannedTrial, PlanRecord, Status
from cifar_hpc.status.advice import first_line
from cifar_hpc.status.names import names_of, short_ids
from cifar_hpc.status.progress import Counts, Pace, best_point, is_open
from cifar_hpc.status.words import duration_text, plural, score_text

SHOWN_RUNNING = 8
BAR_WIDTH = 20
MOST_LINES = 4  # of one look, on what is no terminal
FIRST_SILENCE_S, LONGEST_SILENCE_S = 15.0, 300.0  # between two lines there; it doubles


class View(Protocol):
    """What shows a sweep's progress."""

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None: ...

    def end(self) -> None: ...


def make_view(console: Console) -> View:
    """A live picture on a terminal or in a notebook, lines elsewhere."""
    return _LiveView(console) if console.is_terminal or console.is_jupyter else _LineView(console)


class _LineView:
    """A line with the time for each trial that ends, one for all where many end at once, and one now and then between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] | None = None
        self._pace = Pace()
        self._silence_s = FIRST_SILENCE_S
        self._spoke_s = time.monotonic()

    def end(self) -> None: ...

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        ended = {trial_id for trial_id, state in states.items() if not is_open(state)}
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

    def end(self) -> None:
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
        waiting = sum(is_open(state) for state in states.values()) - len(running)
        lines += [_running_table(plan, running, states)] if running else [_one_line(f"  {waiting} wait to start", "dim")]
        self._live.update(Group(*lines))
        if not self._live.is_started:
            self._live.start()


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
    measured = [
        f"{split} acc {score_text(found.acc, found.n)} %" for split in ("val", "test") if (found := getattr(result, split))
    ]
    acc = measured[0] if measured else result.outcome.value
    return f"{acc}  ({plural(len(result.curves), 'epoch')}, {duration_text(result.train_s)})"
