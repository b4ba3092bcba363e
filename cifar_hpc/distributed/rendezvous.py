"""The launchers of one world, one a node: how many ranks each starts, and what they say to each other.

They speak through small files in a folder that all of them see; the ranks find each other through a store that the first one
serves. The first one leads: it alone judges failures and says whether the ranks start again.

Owns: Team, Rendezvous, Failure and the errors of ranks. Knows nothing of processes, cohorts or records.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch._C._distributed_c10d import TCPStore

from cifar_hpc.distributed.store import StoreAddress, own_addresses, reachable, serve_store
from cifar_hpc.distributed.world import MEET_S, PeerLostError
from cifar_hpc.errors import CifarHpcError, Interrupted
from cifar_hpc.records.node import Node
from cifar_hpc.records.store import write_text

POLL_S = 0.2
LEAVE_S = 10.0  # for the launchers of other nodes to hear of the end
DIED = "ProcessDied"


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of a trial. here_n: ranks of each launcher; place: of this launcher, 0..launchers_n-1; 0 leads; on_gpus:
    whether each has a GPU of its own."""

    here_n: int = 1
    place: int = 0
    launchers_n: int = 1
    on_gpus: bool = False

    @property
    def size(self) -> int:
        return self.here_n * self.launchers_n

    @classmethod
    def here(cls, processes: int | None, gpus: float | None, nodes: int, node: Node) -> Team:
        """What a trial's resources mean on this node; gpus 0: all of it on CPUs. Raises CifarHpcError where that cannot be
        had."""
        gpus_n = 0 if gpus == 0 else torch.cuda.device_count()
        here_n = processes or (round(gpus) if gpus_n and gpus and gpus > 1 else 1)
        if gpus_n and here_n > gpus_n:
            raise CifarHpcError(f"a trial asks for {here_n} processes, each with a GPU of its own; this node has {gpus_n}")
        if nodes == 1:
            return cls(here_n, on_gpus=gpus_n > 0)
        if node.tasks != nodes:
            raise CifarHpcError(
                f"resources.nodes: a trial asks for {nodes}; only Slurm starts one on several nodes, one task on each"
            )
        return cls(here_n, node.task, nodes, gpus_n > 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a world ended. trial_id: the one trial that it concerns, None: the whole cohort; rank: None before one is known."""

    kind: str
    message: str
    traceback: str
    trial_id: str | None = None
    rank: int | None = None

    @classmethod
    def of(cls, error: BaseException, rank: int | None = None) -> Failure:
        trial_id = error.trial_id if isinstance(error, MemberFailedError) else None
        if isinstance(error, MemberFailedError) and error.__cause__ is not None:
            error = error.__cause__
        text = "" if isinstance(error, CifarHpcError) else "".join(traceback.format_exception(error))
        alone = None if isinstance(error, PeerLostError) else trial_id  # a lost peer is no fault of the trial at hand
        return cls(type(error).__name__, str(error) or type(error).__name__, text, alone, rank)

    @property
    def weight(self) -> int:
        """A process that died without a word explains the others' errors, and an error explains that its peers wait."""
        return {DIED: 2, PeerLostError.__name__: 0}.get(self.kind, 1)


class MemberFailedError(Exception):
    """One trial of the cohort failed in this process, for the reason that is its __cause__."""

    def __init__(self, trial_id: str) -> None:
        super().__init__(trial_id)
        self.trial_id = trial_id


class RanksFailedError(Exception):
    """The world ended by a failure; no process of this launcher lives any more."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"rank {failure.rank}: {failure.kind}: {failure.message}")
        self.failure = failure


class NodeLostError(Interrupted):
    """A further node is gone, or what launched the ranks there: no trial's fault, and each goes on from its last checkpoint."""


@dataclass(slots=True)
class Rendezvous:
    """A folder that the launchers of one world see: where the ranks find each other and launchers hear of failures and ends.

    A round is one start of all ranks; after a failure that is one trial's alone the others go on in the next round.
    """

    folder: Path
    team: Team
    round: int = 0
    begun: bool = False
    _store: StoreAddress | None = None
    _served: TCPStore | None = None

    def find_store(self, interrupted: Callable[[], bool] = lambda: False) -> StoreAddress:
        """Where the ranks of this round find each other: over TCP where the first node can be reached from all others, which
        say so, else a file. Raises Interrupted, PeerLostError where a launcher says nothing."""
        if self._store is None:
            self._store = self._agree_on_store(interrupted)
        return self._store.of_round(self.round)

    def _agree_on_store(self, interrupted: Callable[[], bool]) -> StoreAddress:
        file = StoreAddress(file=(self.folder / "store").absolute())
        if self.team.place:
            served = json.loads(self._hear("served", interrupted))
            host = reachable(served["hosts"], served["port"]) if served["hosts"] else None
            self._write(f"reached-{self.team.place}", host or "")
            return file if self._hear("store", interrupted) == "file" else StoreAddress(None, str(host), served["port"])
        self._served = serve_store(to_other_nodes=self.team.launchers_n > 1)
        port = 0 if self._served is None else self._served.port
        reached = [str(port or "")]
        if self.team.launchers_n > 1:
            self._write("served", json.dumps({"hosts": own_addresses() if port else [], "port": port}))
            reached += [self._hear(f"reached-{place}", interrupted) for place in range(1, self.team.launchers_n)]
            self._write("store", "tcp" if all(reached) else "file")
        return StoreAddress(None, "127.0.0.1", port) if all(reached) else file

    def _hear(self, name: str, interrupted: Callable[[], bool]) -> str:
        """What another launcher writes there. Raises Interrupted, PeerLostError."""
        until = time.monotonic() + MEET_S
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                return (self.folder / name).read_text()
            if interrupted() or (self.team.place and self.ended()):
                raise Interrupted
            time.sleep(POLL_S)
        raise PeerLostError(f"another node of this trial has been silent for {MEET_S:g} s")

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """The folder while inside. At the end rank 0 says so to the others, and clears up once they have heard it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.team.place:
            self._write(f"here-{self.team.place}", "")
        word = "interrupted"
        try:
            yield
            word = "over"
        except Exception as error:
            word = "interrupted" if isinstance(error, Interrupted) else "over"
            raise
        finally:
            if self.team.place:
                self._write(f"left-{self.team.place}", "")
            else:
                self._write("ended", word)
                late = word == "over" and not self._all_said("here")  # a slow start: whoever comes must find the end
                until = time.monotonic() + (MEET_S if late else LEAVE_S)
                while not self._all_said("left") and time.monotonic() < until:
                    time.sleep(POLL_S)
                shutil.rmtree(self.folder, ignore_errors=True)
                self._served = None

    def tell_failure(self, failure: Failure) -> None:
        self._write(f"failed-{self.round}-{self.team.place}", json.dumps(asdict(failure)))

    def failures_elsewhere(self) -> list[Failure]:
        if self.team.launchers_n == 1:
            return []
        own = f"failed-{self.round}-{self.team.place}"
        paths = [path for path in self.folder.glob(f"failed-{self.round}-*") if path.name != own]
        return [Failure(**json.loads(path.read_text())) for path in paths]

    def require_all(self) -> None:
        """After a failed round: raises NodeLostError where a launcher does not say how that ended for it."""
        until = time.monotonic() + LEAVE_S
        while not self._all_said(f"failed-{self.round}"):
            if time.monotonic() > until:
                raise NodeLostError("another node of this trial is gone")
            time.sleep(POLL_S)

    def begin_round(self) -> None:
        """Rank 0's: all ranks start, or start again. Launchers come to the first round unasked."""
        if self.begun:
            self.round += 1
            self._write(f"round-{self.round}", "")
        self.begun = True

    def ended(self) -> bool:
        return (self.folder / "ended").exists()

    def follow_rank_0(self, timeout_s: float) -> bool:
        """The other launchers': waits for rank 0 after a round; whether it calls another.

        Raises Interrupted where the job was, PeerLostError where rank 0 says nothing.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if (self.folder / f"round-{self.round + 1}").exists():
                self.round += 1
                return True
            with contextlib.suppress(FileNotFoundError):
                if (self.folder / "ended").read_text() == "interrupted":
                    raise Interrupted
                return False
            time.sleep(POLL_S)
        raise PeerLostError(f"the first node of this trial has been silent for {timeout_s:g} s")

    def _all_said(self, word: str) -> bool:
        """The other launchers."""
        places = range(1, self.team.launchers_n)
        return all((self.folder / f"{word}-{place}").exists() for place in places)

    def _write(self, name: str, text: str) -> None:
        if self.team.launchers_n > 1:
            write_text(self.folder / name, text)
