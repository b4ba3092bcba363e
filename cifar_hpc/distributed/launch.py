"""The ranks of one node: started, fed, watched and ended by a launcher.

A launcher trains nothing. It starts one child for each rank of its node, passes on what they say and what they are told, and
when one fails, dies or hangs, ends all of them and knows the first cause. A child whose launcher is gone ends itself.

Owns: run_ranks, the messages between launcher and ranks. Knows nothing of cohorts or records.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import torch

from cifar_hpc.distributed.rendezvous import DIED, POLL_S, Failure, RanksFailedError, Rendezvous, Team
from cifar_hpc.distributed.store import StoreAddress
from cifar_hpc.distributed.world import PeerLostError, World, join_world
from cifar_hpc.errors import Interrupted
from cifar_hpc.records.schema import EpochRecord

GRACE_S = 2.0  # from the first sign of a failure to the end of all: whoever knows more may say it
RANK_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}  # are the launcher's, who tells the ranks


@dataclass(frozen=True, slots=True)
class _Epoch:
    trial_id: str
    record: EpochRecord


@dataclass(frozen=True, slots=True)
class _Ended:
    interrupted: bool


@dataclass(frozen=True, slots=True)
class _Start:
    """All that a rank is told at its beginning. gpu: which of the node's visible ones is its own, None: it has none."""

    work: Callable[[World, Link, Any], None]
    argument: Any
    rank: int
    gpu: int | None
    size: int
    store: StoreAddress
    timeout_s: float


class Link:
    """A rank's line to its launcher. A thread listens; where the line is cut the process ends at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answers: queue.SimpleQueue[bool | str] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="launcher").start()

    def interrupted(self) -> bool:
        return self._stop.is_set()

    def epoch_ended(self, trial_id: str, record: EpochRecord) -> bool | str:
        """Whether the trial may go on; a text says why it may not."""
        self._connection.send(_Epoch(trial_id, record))
        return self._answers.get()

    def tell(self, message: _Ended | Failure) -> None:
        self._connection.send(message)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                word = self._connection.recv()
                if word is None:
                    self._stop.set()
                else:
                    self._answers.put(word)
        os._exit(1)


def run_ranks(
    work: Callable[[World, Link, Any], None],
    argument: Any,
    rendezvous: Rendezvous,
    *,
    timeout_s: float,
    interrupted: Callable[[], bool],
    on_epoch: Callable[[str, EpochRecord], bool | str] | None = None,
) -> None:
    """Runs work(world, link, argument) in every rank of this launcher, and returns when all have returned.

    work and argument travel by pickle. Raises Interrupted where the ranks were, RanksFailedError where one failed here or
    elsewhere, died, or did not answer its peers within timeout_s.
    """
    launch = _Launch(rendezvous, interrupted, on_epoch)
    try:
        launch.start(work, argument, timeout_s)
        launch.watch()
    except PeerLostError as error:
        raise RanksFailedError(Failure.of(error)) from error
    finally:
        launch.kill()


@dataclass
class _Launch:
    """One round of this launcher's ranks."""

    rendezvous: Rendezvous
    interrupted: Callable[[], bool]
    on_epoch: Callable[[str, EpochRecord], bool | str] | None
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    lines: dict[Connection, int] = field(default_factory=dict)
    ended: dict[int, _Ended] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def start(self, work: Callable[[World, Link, Any], None], argument: Any, timeout_s: float) -> None:
        team = self.rendezvous.team
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part or str(Path.cwd()) for part in sys.path)}
        if "GLOO_SOCKET_IFNAME" not in environment and (interface := _interface(team)):
            environment["GLOO_SOCKET_IFNAME"] = interface
        before = signal.pthread_sigmask(signal.SIG_BLOCK, RANK_SIGNALS)  # children keep them blocked
        try:
            for local_rank in range(team.here_n):
                ours, theirs = Pipe()
                rank = team.place * team.here_n + local_rank
                command = [sys.executable, "-c", f"from cifar_hpc.distributed.launch import main; main({theirs.fileno()})"]
                self.processes[rank] = subprocess.Popen(
                    command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
                theirs.close()
                self.lines[ours] = rank
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        store = self.rendezvous.find_store(self.interrupted)
        for line, rank in self.lines.items():
            gpu = rank - team.place * team.here_n if team.on_gpus else None
            start = _Start(work, argument, rank, gpu, team.size, store, timeout_s)
            with contextlib.suppress(BrokenPipeError):  # it is dead already, and `watch` sees it
                line.send_bytes(pickle.dumps(start))

    def watch(self) -> None:
        stopping, until = False, float("inf")
        while self.lines and time.monotonic() < until:
            for line in wait(list(self.lines), POLL_S):
                assert isinstance(line, Connection)
                self._hear(line)
            if not stopping and self.interrupted():
                stopping = True
                for line in self.lines:
                    with contextlib.suppress(OSError):
                        line.send(None)
            elsewhere = self.rendezvous.failures_elsewhere()
            if (self.failures or elsewhere) and until == float("inf"):
                until = time.monotonic() + GRACE_S
            if self.rendezvous.team.place and self.rendezvous.ended():
                return
        self.failures += self.rendezvous.failures_elsewhere()
        if self.failures:
            worst = max(self.failures, key=lambda failure: failure.weight)
            self.rendezvous.tell_failure(worst)
            raise RanksFailedError(worst)
        if any(end.interrupted for end in self.ended.values()):
            raise Interrupted

    def _hear(self, line: Connection) -> None:
        rank = self.lines[line]
        try:
            message = line.recv()
        except (EOFError, OSError):
            code = self.processes[rank].wait()
            if rank not in self.ended and not any(failure.rank == rank for failure in self.failures):
                self.failures.append(death_of(rank, code, self.rendezvous.team.on_gpus))
            del self.lines[line]
            return
        if isinstance(message, _Epoch):
            line.send(self.on_epoch is None or self.on_epoch(message.trial_id, message.record))
        elif isinstance(message, _Ended):
            self.ended[rank] = message
        else:
            self.failures.append(message)

    def kill(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for line in self.lines:
            line.close()


def death_of(rank: int, code: int, on_gpu: bool) -> Failure:
    """Of a process that said nothing. NCCL's watchdog aborts one whose peers do not answer: that is no fault of its own."""
    if on_gpu and code == -signal.SIGABRT:
        message = f"the process of rank {rank} was aborted, as NCCL does where another process does not answer in time"
        return Failure(PeerLostError.__name__, message, "", None, rank)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return Failure(DIED, f"the process of rank {rank} {how} without a word", "", None, rank)


def main(descriptor: int) -> None:
    """A rank's whole life. descriptor: of its line to the launcher."""
    connection = Connection(descriptor)
    link: Link | None = None
    rank: int | None = None
    code = 1
    try:
        start: _Start = pickle.loads(connection.recv_bytes())
        rank = start.rank
        link = Link(connection)
        if start.gpu is not None:
            torch.cuda.set_device(start.gpu)
        interrupted = False
        with join_world(rank, start.size, start.store, start.timeout_s, start.gpu) as world:
            try:
                start.work(world, link, start.argument)
            except Interrupted:
                interrupted = True
        link.tell(_Ended(interrupted))
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send(Failure.of(error, rank))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at once: a communicator whose peer is gone may wait in its destructor


def _interface(team: Team) -> str | None:
    """The network interface for gloo, which would otherwise ask for its host's name: loopback on one node, that of the
    default route on several; None where that cannot be told."""
    if team.launchers_n == 1:
        return "lo" if sys.platform == "linux" else None
    with contextlib.suppress(OSError):
        routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
        return next((route[0] for route in routes if route[1] == "00000000"), None)
    return None
