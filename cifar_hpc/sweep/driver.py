"""Runs a sweep: starts what is missing, stays until all of it has ended. One loop for grids and searches, here and on Slurm.

What was interrupted or lost goes on; what failed stays, with its reason, until `retry`: a sweep that reruns a failure
silently would spend the night on it. Prints nothing: a listener is told, and the outcome is returned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError, OtherVersionError
from cifar_hpc.executors.slurm.usage import set_budget
from cifar_hpc.planning.changes import changed_code
from cifar_hpc.planning.plan import Plan, make_plan, plan_record, recorded_plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.repeated import repeated
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.store import read_record
from cifar_hpc.search.run import journal_of
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.status.advice import dropped_line
from cifar_hpc.status.state import SweepReader
from cifar_hpc.sweep.cancel import cancel_trials
from cifar_hpc.sweep.listener import Begun, Listener, SweepOutcome
from cifar_hpc.sweep.missing import States
from cifar_hpc.sweep.names import dropped_trials, going_on_without
from cifar_hpc.sweep.preflight import seen_before
from cifar_hpc.sweep.preview import preview_lines, unjudged_text
from cifar_hpc.sweep.rank import with_promise
from cifar_hpc.sweep.reproduce import lacking_text
from cifar_hpc.sweep.rounds import GridRounds
from cifar_hpc.sweep.search_rounds import SearchRounds
from cifar_hpc.sweep.where import Where, reader_of

POLL_EVERY_S = 1.0
COST_FRAC = 0.05  # share of one core that looking may take: a large sweep is looked at less often


class Rounds(Protocol):
    """What differs between a grid, a search and a queue: what can start now, how it starts, what is waited for.

    reader: of the states; leaves: whether nobody waits here for what was started; pause_s: between two looks; trained_by: by
    whom the trials are trained that are waited for, as a sentence ends.
    """

    reader: SweepReader
    leaves: bool
    pause_s: float
    trained_by: str

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes from doing the same where that must not be."""

    def prepare(self, listener: Listener) -> States:
        """Checks that it can run here, and writes down what is asked for. Raises CifarHpcError before anything starts."""

    def begun(self, states: States) -> Begun | None:
        """What is about to train; None where nothing is to be started."""

    def ready(self, states: States) -> Collection[str]:
        """What can start now, in words of its own; empty: nothing."""

    def start(self, ready: Collection[str], listener: Listener) -> None:
        """Starts it; of what runs under this process, returns once it has ended."""

    def settle(self) -> States:
        """Where the trials stand now; what can never start is given up."""

    def elsewhere(self, states: States) -> Collection[str]:
        """Trials that other processes have."""


def run_spec(
    layout: Layout, spec: SweepSpec, where: Where, listener: Listener, *, share: bool = True, prune: bool = False
) -> SweepOutcome:
    """Trains the trials of the spec that are not finished yet. prune: end those that the spec dropped and that go on."""
    if where.budget is not None and (spec.search is not None or where.slurm() is None):
        raise CifarHpcError("--budget: it bounds the workers of a grid on Slurm; nothing else is started here in its time")
    spec = dataclasses.replace(spec, where=where.words)
    made = make_plan(spec, share=share)
    left = _greet(layout, made, listener, prune=prune)
    if where.budget is not None:
        set_budget(layout.sweep(spec.name), where.budget)
    if spec.search is not None:
        return drive(SearchRounds(layout, spec, where), listener)
    plan = with_promise(layout, made, where, listener)
    if lacking := lacking_text(layout, plan_record(plan)):
        listener.note(lacking)
    if unjudged := unjudged_text(plan):
        listener.note(f"halving: {unjudged}")
    if prune and left:
        done = cancel_trials(layout, spec.name, left)
        for note in (*done.notes, f"pruned: {plural(len({*done.trials} & {*left}), 'trial')} asked to stop"):
            listener.note(note)
    return run_plan(layout, plan, plan_record(plan), where, listener)


def look_at(layout: Layout, spec: SweepSpec, where: Where, listener: Listener, *, share: bool = True) -> list[str]:
    """As look_at_plan."""
    return look_at_plan(layout, make_plan(spec, share=share), where, listener)


def look_at_plan(layout: Layout, plan: Plan, where: Where, listener: Listener, *, verbose: bool = False) -> list[str]:
    """What `run_spec` would start, in lines; starts nothing. Raises CifarHpcError where the sweep's name is taken."""
    _greet(layout, plan, listener, where.words)
    return preview_lines(layout, plan, where, listener, verbose=verbose)


def _greet(layout: Layout, plan: Plan, listener: Listener, where: Sequence[str] = (), *, prune: bool = False) -> list[str]:
    """Tells what a person should know of the spec; the trials that it has dropped and that go on. prune: they are not to."""
    spec = plan.spec
    for warning in (*spec.warnings, *seen_before(layout, spec)):
        listener.note(f"warning: {warning}")
    record = journal_of(spec, None, 1) if spec.search is not None else plan_record(plan)
    dropped = dropped_trials(layout, record)
    if dropped and spec.search is None:
        some = ", ".join(dropped[:4]) + ", ..." * (len(dropped) > 4)
        listener.note(f"no longer in the spec: {plural(len(dropped), 'trial')} ({some}); their results stay")
        for sentence in changed_code(read_record(layout.sweep(spec.name).plan, PlanRecord), record):
            listener.note(sentence)
    left = going_on_without(layout, record)
    if left and not prune:
        listener.note(
            dropped_line(dataclasses.replace(record, share=plan.share, where=tuple(where or record.where)), len(left))
        )
    return left


def run_plan(layout: Layout, plan: Plan, record: PlanRecord, where: Where, listener: Listener) -> SweepOutcome:
    """Starts what is missing of a plan. record: what plan.json is to say."""
    return drive(GridRounds(layout, plan, reader_of(layout, record), where), listener)


def rounds_again(layout: Layout, record: PlanRecord, where: Where, again: Collection[str]) -> Rounds:
    """The rounds of the failed trials in `again`, as they were planned, with which a search goes on. Raises SpecError where a
    search's spec is gone, CifarHpcError where the plan is not one of this version."""
    if record.search is not None:
        spec = load_spec(Path(record.spec_path), record.overrides)
        return SearchRounds(layout, dataclasses.replace(spec, where=record.where), where, again)
    try:
        plan = recorded_plan(record)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise OtherVersionError(f"{layout.sweep(record.sweep).plan}: is not a plan of this version: {error}") from error
    return GridRounds(layout, plan, reader_of(layout, record), where, again)


def drive(rounds: Rounds, listener: Listener) -> SweepOutcome:
    """Rounds until all have ended: start what nobody has, then wait for what another process has, and take over what dies.

    Raises CifarHpcError before anything starts where data or weights are not here.
    """
    with rounds.held():
        states = rounds.prepare(listener)
        begun = rounds.begun(states)
        if begun is None and not rounds.elsewhere(states):
            return SweepOutcome(plan=rounds.reader.plan, states=states, started=False)
        if begun is not None:
            listener.begun(begun)
        if rounds.leaves:
            rounds.start(rounds.ready(states), listener)
            return SweepOutcome(plan=rounds.reader.plan, states=rounds.settle(), submitted=True)
        interrupted = False
        with _interruptible():
            try:
                with _watched(rounds.reader, listener):
                    _until_ended(rounds, states, listener)
            except KeyboardInterrupt:
                interrupted = True
        states = rounds.reader.read()
        left = tuple(rounds.elsewhere(states)) if interrupted else ()
        return SweepOutcome(plan=rounds.reader.plan, states=states, interrupted=interrupted, elsewhere=left)


def _until_ended(rounds: Rounds, states: States, listener: Listener) -> None:
    told = False
    while True:
        if ready := rounds.ready(states):
            rounds.start(ready, listener)
        elif elsewhere := rounds.elsewhere(states):
            if not told:
                listener.note(f"waiting for {plural(len(elsewhere), 'trial')} that {rounds.trained_by}")
                told = True
            time.sleep(rounds.pause_s)
        else:
            return
        states = rounds.settle()


@contextlib.contextmanager
def _watched(reader: SweepReader, listener: Listener) -> Iterator[None]:
    """Tells the listener of the sweep's progress while the block runs, from a thread of its own."""

    def look() -> float:
        began = time.perf_counter()
        listener.progress(reader.plan, reader.read())
        return max(POLL_EVERY_S, (time.perf_counter() - began) / COST_FRAC)

    listener.progress(reader.plan, reader.read())  # what was there before
    try:
        with repeated(look, POLL_EVERY_S, "progress"):
            yield
    finally:
        listener.progress(reader.plan, reader.read())
        listener.ended()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) interrupt as Ctrl-C does, also while no executor is at work; `nohup` holds."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
