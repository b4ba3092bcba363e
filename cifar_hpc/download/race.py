"""The race between the sources of the same files: who is asked when, who is overtaken, who wins, what a person sees meanwhile.

A source that has not answered after a second, or that gives less than 1 MB/s after five, gets the next one beside it. Nothing
is cut off for being slow: whoever first has every file whole, with the right sum, wins, and then the others stop.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cifar_hpc.download.files import Say
from cifar_hpc.errors import DataError

ANSWER_S = 1.0  # without an answer by then, the next source is asked, too
UNREACHABLE_S = 4.5  # when no source has answered by then, there is no network, and it is said
SLOW_AFTER_S = 5.0
SLOW_BYTES_PER_S = 1e6
NEARLY_DONE_S = 5.0  # a slow source that needs no longer than that is left in peace
TELL_S = (2.0, 5.0, 30.0)  # the first line of progress, then one each 5 s, after a minute each 30 s


class OvertakenError(Exception):
    """Another source was first: what this one still does is of no use."""


@dataclass
class Progress:
    """What one source has brought so far; its thread writes it, the race reads it."""

    total_bytes: int | None = None
    done_bytes: int = 0
    answered: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)

    def still_wanted(self) -> None:
        """Raises OvertakenError once the race is over."""
        if self.stopped.is_set():
            raise OvertakenError


class Source(Protocol):
    """One place that has the files."""

    @property
    def title(self) -> str: ...

    @property
    def patient(self) -> bool:
        """A client that is asked and not hurried, since it keeps its own time limits."""
        ...

    def bring(self, folder: Path, progress: Progress) -> tuple[Path, ...]:
        """The whole files, checked, in `folder`, which is this source's own. Raises any exception where it cannot."""
        ...


class _Runner:
    """A source at work in its own thread."""

    def __init__(self, source: Source, folder: Path, ended: threading.Event) -> None:
        self.source, self.progress, self.started_s = source, Progress(), time.monotonic()
        self.files: tuple[Path, ...] | None = None
        self.error: BaseException | None = None
        self._folder, self._ended = folder, ended
        self._samples: deque[tuple[float, int]] = deque([(self.started_s, 0)])
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"fetch from {source.title}")
        self.thread.start()

    def _run(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.files = self.source.bring(self._folder, self.progress)
        except BaseException as error:  # handed to the race
            self.error = error
        finally:
            self._ended.set()

    def sample(self, now_s: float) -> None:
        self._samples.append((now_s, self.progress.done_bytes))
        while now_s - self._samples[0][0] > SLOW_AFTER_S and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def bytes_per_s(self) -> float:
        (before_s, before), (now_s, now) = self._samples[0], self._samples[-1]
        return (now - before) / max(now_s - before_s, 1e-3)

    @property
    def left_s(self) -> float | None:
        total, rate = self.progress.total_bytes, self.bytes_per_s
        return None if total is None or rate <= 0 else max(total - self.progress.done_bytes, 0) / rate

    def wants_company(self, now_s: float) -> bool:
        age_s = now_s - self.started_s
        if not self.progress.answered:
            return age_s > ANSWER_S
        if age_s < SLOW_AFTER_S or self.bytes_per_s >= SLOW_BYTES_PER_S:
            return False
        return self.left_s is None or self.left_s > NEARLY_DONE_S

    def __str__(self) -> str:
        progress = self.progress
        if not progress.answered:
            return f"{self.source.title}: no answer yet"
        if progress.total_bytes and progress.done_bytes >= progress.total_bytes:
            return f"{progress.done_bytes / 1e6:.1f} MB are here and being checked ({self.source.title})"
        done = (
            f"{progress.done_bytes / 1e6:.1f}"
            + (f" of {progress.total_bytes / 1e6:.1f}" if progress.total_bytes else "")
            + " MB"
        )
        left = f", {duration(self.left_s)} left" if self.left_s is not None else ""
        return f"{done}, {self.bytes_per_s / 1e6:.2g} MB/s{left} ({self.source.title})"


def race(sources: Sequence[Source], work: Path, what: str, say: Say, by_hand: str) -> tuple[Source, tuple[Path, ...]]:
    """The source that was first, and its files. Each works in its own folder under `work`.

    what: what is brought, for the lines of progress. by_hand: what to put where instead, told when nothing answers. Raises
    DataError that tells every source and why it failed; OSError where the disk is full.
    """
    ended = threading.Event()
    waiting = deque(sources)
    running: list[_Runner] = []
    started_s = time.monotonic()
    tell_s, warned, reasons = TELL_S[0], False, []
    try:
        while True:
            now_s = time.monotonic() - started_s
            for runner in tuple(running):
                runner.sample(time.monotonic())
                if runner.files is not None:
                    say(f"{what}: {runner.source.title}: whole and right, after {duration(now_s)}")
                    return runner.source, runner.files
                if runner.error is not None:
                    running.remove(runner)
                    reasons.append(f"{runner.source.title}: {_reason(runner.error, what)}")
                    say(f"{what}: {reasons[-1]}")
            heard = any(runner.progress.answered or runner.source.patient for runner in running)
            if (not running and not waiting) or (now_s > UNREACHABLE_S and not waiting and not heard):
                silent = [f"{runner.source.title}: no answer within {now_s:.0f} s" for runner in running]
                raise DataError("".join(f"  - {line}\n" for line in [*reasons, *silent]))
            if waiting and all(runner.wants_company(time.monotonic()) for runner in running):
                if running and running[-1].progress.answered:
                    say(f"{what}: {running[-1]}: slow; asking {waiting[0].title} beside it")
                running.append(_Runner(waiting.popleft(), work / f"source-{len(sources) - len(waiting)}", ended))
            elif now_s >= UNREACHABLE_S and not warned and not any(runner.progress.answered for runner in running):
                say(f"{what}: nothing has answered yet; is there a network? Without one: {by_hand}")
                warned = True
            elif now_s >= tell_s and running and any(runner.progress.answered for runner in running):
                say(f"{what}: " + "; ".join(map(str, sorted(running, key=lambda runner: -runner.bytes_per_s))))
                tell_s = now_s + TELL_S[1 if now_s < 60 else 2]
            ended.wait(0.05)
            ended.clear()
    finally:
        for runner in running:
            runner.progress.stopped.set()
        for runner in running:  # the client of a registry ends its process; a socket that hangs may keep its thread
            runner.thread.join(2 if runner.source.patient else 0.2)


def _reason(error: BaseException, what: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise error
    if isinstance(error, OvertakenError | DataError | OSError | EOFError):
        return str(getattr(error, "reason", None) or error)
    return f"{type(error).__name__}: {error}"


def duration(seconds: float | None) -> str:
    """As a person says it: 17 s, 40 min, 2.5 h."""
    if seconds is None:
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
