"""The processes that train one cohort together: what each takes of a batch, and how they come to one sum and one mind.

Every process holds all weights and takes its share of each batch and of each split; gradients, sums and logits are added up,
so that all processes hold the same numbers and take the same decisions. A world of one does nothing of this.

Owns: World and what it says of a lost peer. Knows nothing of how the processes were started, of networks, members or files.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cifar_hpc.distributed.store import StoreAddress
from cifar_hpc.errors import CifarHpcError

T = TypeVar("T")
MEET_S = 300.0  # for all processes to have started: Python and torch from a cold network file system


class PeerLostError(Exception):
    """Another process of the world died, or did not come to a common operation in time."""


class World:
    """One process's place among those that train a cohort. rank: 0..size-1; rank 0 leads: it alone writes files."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.batch_n = 0  # images of the global batch that was shared last
        self._asked: tuple[dist.Work, Tensor] | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a global batch, of any kind that is drawn alike by all: each size-th row."""
        self.batch_n = len(batch)
        return batch if self.size == 1 else batch[self.rank :: self.size]

    def span(self, n: int, rank: int | None = None) -> range:
        """A process's part, this one's where no rank is given, of a split of n images; the parts of all are the split, each
        image once."""
        rank = self.rank if rank is None else rank
        return range(n * rank // self.size, n * (rank + 1) // self.size)

    def require(self, images_n: int) -> None:
        """Raises CifarHpcError where a batch or split of so many images leaves a process without any."""
        if images_n < self.size:
            raise CifarHpcError(f"{self.size} processes share a batch or split of {images_n} images; each needs one at least")

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one dtype and device by their sums over all processes, in one operation.

        Raises PeerLostError.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])

    def average(self, gradients: Sequence[Tensor], images_n: int) -> None:
        """Gradients of a loss summed over images_n images here -> those of the mean over the images of all processes. For
        gradients that no autograd makes; the others are gradients.py's."""
        if self.size == 1 or not gradients:
            return
        seen = gradients[0].new_full((), images_n)
        self.add_up([*gradients, seen])
        torch._foreach_div_(list(gradients), seen)

    def join_rows(self, rows: Tensor, n: int) -> Tensor:
        """All n rows, in order, of a tensor of which this process holds those of its span."""
        if self.size == 1:
            return rows
        span = self.span(n)
        whole = rows.new_zeros((n, *rows.shape[1:]))
        whole[span.start : span.stop] = rows
        all_reduce(whole)  # what the others do not hold is zero with them
        return whole

    def broadcast(self, value: T) -> T:
        """Rank 0's value, whatever the others pass."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.leads else None]
        with peers():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        received: T = box[0]
        return received

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Whether any process raised each flag: the same answer for all, at the same call.

        In a world of several the answer is to the call before this one, so that nobody waits, no GPU least of all.
        """
        if self.size == 1:
            return flags
        before, raised = self._asked, torch.tensor(flags, dtype=torch.int32)
        with peers():
            work = dist.all_reduce(raised, async_op=True)
            assert work is not None
            self._asked = work, raised
            if before is None:
                return (False,) * len(flags)
            before[0].wait()
        return tuple(bool(flag) for flag in before[1].tolist())


@contextmanager
def join_world(rank: int, size: int, store: StoreAddress, timeout_s: float, gpu: int | None = None) -> Iterator[World]:
    """A World while inside. store: where all processes find each other. timeout_s: the longest wait for another process in a
    common operation, seconds. gpu: the index of this process's own, None: it computes on the CPU.

    NCCL carries what lies on GPUs, gloo the rest. Raises PeerLostError.
    """
    with peers():
        rendezvous = store.open(size, max(MEET_S, timeout_s))
        rendezvous.set(f"here-{rank}", "")
        rendezvous.wait([f"here-{peer}" for peer in range(size)], datetime.timedelta(seconds=max(MEET_S, timeout_s)))
        dist.init_process_group(
            "gloo" if gpu is None else "cpu:gloo,cuda:nccl",
            device_id=None if gpu is None else torch.device("cuda", gpu),
            store=rendezvous,
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=timeout_s),
        )
    world = World(rank, size)
    yield world
    if world._asked is not None:
        world._asked[0].wait()
    dist.destroy_process_group()


def all_reduce(tensor: Tensor) -> None:
    """Replaces the tensor by its sum over all processes. Raises PeerLostError."""
    with peers():
        dist.all_reduce(tensor)


@contextmanager
def peers(alone: bool = False) -> Iterator[None]:
    """What torch raises where a peer is gone, as PeerLostError. alone: what is done inside may fail by itself, too."""
    try:
        yield
    except RuntimeError as error:
        if alone and not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise PeerLostError(f"another process of this trial died or did not answer in time ({error})") from error
