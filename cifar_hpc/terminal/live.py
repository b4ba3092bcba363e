"""What a person sees while trials train: a live picture on a terminal, lines elsewhere.

Reads the disk only, so it shows any executor's work; writes to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cifar_hpc.config.words import plural
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlannedTrial, PlanRecord, Status, epochs_in
from cifar_hpc.status.advice import first_line
from cifar_hpc.status.names import names_of, short_ids
from cifar_hpc.status.progress import Counts, Pace, best_point, epochs_text, images_per_s, is_open
from cifar_hpc.status.words import about_text, duration_text, percent_text, score_text

SHOWN_RUNNING = 8
BAR_WIDTH = 20
EPOCH_BAR = 8
GAP = 2
LEAST_NAME = 10
MOST_LINES = 4  # of one look, on what is no terminal
FIRST_SILENCE_S, LONGEST_SILENCE_S = 15.0, 300.0  # between two lines there; it doubles


class View(Protocol):
    """What shows a sweep's progress."""

    def begin(self, where: str) -> None:
        """where: the executor that is about to start: inline, ray or slurm."""

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None: ...

    def end(self) -> None: ...


def make_view(console: Console) -> View:
    """A live picture on a terminal, and in a notebook that has widgets; lines elsewhere."""
    renews = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return _LiveView(console) if renews else _LineView(console)


class _Start:
    """The time before the first trial begins: loading libraries, and of Ray its processes, takes up to a minute."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._what = "starting"
        self._before: int | None = None
        self.is_over = False

    def begin(self, where: str) -> None:
        self._began_s = time.monotonic()
        self._what = {"ray": "starting Ray", "slurm": "waiting for Slurm"}.get(where, "starting: images and network are loaded")

    @property
    def elapsed_s(self) -> float:
        return max(1.0, time.monotonic() - self._began_s)

    def look(self, states: Mapping[str, TrialState]) -> None:
        done_n = sum(state.epochs_done for state in states.values())
        self._before = done_n if self._before is None else self._before
        if done_n > self._before or any(state.status is Status.RUNNING for state in states.values()):
            self.is_over = True

    def __str__(self) -> str:
        return f"{self._what}: {self.elapsed_s:.0f} s"


class _LineView:
    """A line with the time for each trial that ends, one for all where many end at once, and one now and then between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] | None = None
        self._pace = Pace()
        self._silence_s = FIRST_SILENCE_S
        self._spoke_s = time.monotonic()
        self._start = _Start()

    def begin(self, where: str) -> None:
        self._start.begin(where)

    def end(self) -> None: ...

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        ended = {trial_id for trial_id, state in states.items() if not is_open(state)}
        now_s = time.monotonic()
        left_s = self._pace.left_s(plan, states, now_s)
        self._start.look(states)
        news = [trial for trial in plan.trials if trial.trial_id in ended - (ended if self._told is None else self._told)]
        self._told = ended
        names = names_of(plan.trials) if news else {}
        lines = [f"{names[trial.trial_id]}  {_outcome(states[trial.trial_id])}" for trial in news]
        if len(news) > MOST_LINES:
            failed = [line for trial, line in zip(news, lines, strict=True) if states[trial.trial_id].status is Status.FAILED]
            lines = [f"{len(news)} trials ended", *failed[:MOST_LINES]]
        elif not news and now_s - self._spoke_s >= self._silence_s:
            running = len(_running(plan, states))
            lines = [f"{running} running"] if running else [] if self._start.is_over else [str(self._start)]
            self._silence_s = min(2 * self._silence_s, LONGEST_SILENCE_S)
        left = f"  {about_text(left_s)} left" if left_s else ""
        for line in lines:
            text = f"{time.strftime('%H:%M:%S')}  {Counts.of(plan, states)}  {line}{left}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if lines:
            self._spoke_s = now_s


class _LiveView:
    """A picture that renews itself in place. Numbers have columns of their own; words give way to them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._pace = Pace()
        self._start = _Start()
        self._spinner = Spinner("line", style="dim")

    def begin(self, where: str) -> None:
        self._start.begin(where)

    def end(self) -> None:
        self._live.stop()

    def show(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        self._start.look(states)
        running = _running(plan, states)
        counts = Counts.of(plan, states)
        best = best_point(plan, states)
        lines: list[Any] = [self._head(plan, counts, self._pace.left_s(plan, states, time.monotonic()))]
        lines += [_one_line(f"{counts.failed} failed: cifar-hpc logs {plan.sweep}", "red")] if counts.failed else []
        lines += [_one_line(f"best so far: {best.score}  {best.name}", "green")] if best else []
        waiting = sum(is_open(state) for state in states.values()) - len(running)
        if running:
            lines.append(_running_table(running, states, self._console.width))
            lines += [_one_line(f"  {waiting} wait", "dim")] if waiting else []
        elif self._start.is_over:
            lines.append(_one_line(f"  {waiting} wait to start" if waiting else "  all have ended: closing", "dim"))
        else:
            self._spinner.update(text=_one_line(str(self._start), "dim"))
            lines.append(self._spinner)
        self._live.update(Group(*lines))
        if not self._live.is_started:
            self._live.start()

    def _head(self, plan: PlanRecord, counts: Counts, left_s: float | None) -> Table:
        """The name gives way, then the bar; what is counted and the time stay."""
        time_text = _clock(self._start.elapsed_s) + (f", {about_text(left_s)} left" if left_s else "")
        numbers = [*filter(None, (counts.of_trials, counts.of_epochs)), time_text]
        rest = self._console.width - sum(len(text) + GAP for text in numbers)
        bar = min(BAR_WIDTH, max(EPOCH_BAR, rest - len(plan.sweep) - GAP))
        bar = bar if rest >= bar + GAP + LEAST_NAME else 0
        head = Table.grid(padding=(0, GAP, 0, 0))
        head.add_column(no_wrap=True, overflow="ellipsis", width=max(1, min(len(plan.sweep), rest - (bar + GAP if bar else 0))))
        cells: list[Any] = [Text(plan.sweep, style="bold")]
        if bar:
            head.add_column(width=bar)
            cells.append(ProgressBar(total=max(1, counts.epochs), completed=counts.epochs_done, width=bar))
        for _ in numbers:
            head.add_column(no_wrap=True)
        head.add_row(*cells, *(Text(text) for text in numbers))
        return head


def _clock(seconds: float) -> str:
    """'48 s', '12:05', '3:02:41'."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    clock = f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"
    return clock if hours or minutes else f"{int(seconds)} s"


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _running_table(running: Sequence[PlannedTrial], states: Mapping[str, TrialState], width: int) -> Table:
    """id, what differs among those that run, how far each is, its accuracy, its images a second."""
    shown = running[:SHOWN_RUNNING]
    ids, labels = short_ids([trial.trial_id for trial in running]), names_of(shown)
    rows = [_numbers(trial, states[trial.trial_id], states.values()) for trial in shown]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    fixed = 2 + max(map(len, ids.values())) + EPOCH_BAR + sum(widths) + GAP * (2 + sum(map(bool, widths)))
    room = max(LEAST_NAME, width - fixed)
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", width=min(room, max(len(labels[trial.trial_id]) for trial in shown)))
    table.add_column(width=EPOCH_BAR)
    for column in filter(None, widths):
        table.add_column(no_wrap=True, justify="right", width=column)
    for trial, row in zip(shown, rows, strict=True):
        table.add_row(
            Text(f"  {ids[trial.trial_id]}", style="dim"),
            Text(_shortened(labels[trial.trial_id], room)),
            ProgressBar(total=max(1, trial.epochs), completed=states[trial.trial_id].epochs_done, width=EPOCH_BAR),
            *(Text(cell) for cell, column in zip(row, widths, strict=True) if column),
        )
    if len(running) > SHOWN_RUNNING:
        table.add_row("", Text(f"and {len(running) - SHOWN_RUNNING} more", style="dim"))
    return table


def _numbers(trial: PlannedTrial, state: TrialState, others: Iterable[TrialState]) -> tuple[str, str, str]:
    acc = state.epochs[-1].val_acc if state.epochs else None
    pace = images_per_s(trial, state, others)
    return (
        epochs_text(trial, state),
        f"val {percent_text(acc)} %" if acc is not None else "",
        f"{pace:,.0f} images/s" if pace is not None else "",
    )


def _shortened(label: str, room: int) -> str:
    """'arch=resnet18 lr=0.001' as 'resnet18 0.001' where there is no room for the keys."""
    return label if len(label) <= room else " ".join(part.partition("=")[2] or part for part in label.split(" "))


def _running(plan: PlanRecord, states: Mapping[str, TrialState]) -> list[PlannedTrial]:
    """Those that train now: not what a process has beside those, for later."""
    states_of = ((trial, states[trial.trial_id]) for trial in plan.trials)
    return [trial for trial, state in states_of if state.status is Status.RUNNING and not state.waits]


def _outcome(state: TrialState) -> str:
    result = state.result
    if result is None:
        return f"failed: {first_line(state.reason)}"
    measured = [
        f"{split} acc {score_text(found.acc, found.n)} %" for split in ("val", "test") if (found := getattr(result, split))
    ]
    acc = measured[0] if measured else result.outcome.value
    epochs = f"{plural(len(result.curves), 'epoch')}, " if epochs_in(result.config) else ""
    return f"{acc}  ({epochs}{duration_text(result.train_s)})"
