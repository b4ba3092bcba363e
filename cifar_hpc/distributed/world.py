"""The processes that train one cohort together: what each takes of a batch, and how they come to one sum and one mind.

Every process holds all weights and takes its share of each batch and of each split; gradients, sums and logits are added up,
so that all processes hold the same numbers and take the same decisions. A world of one does nothing of this.

Owns: World, BatchNorm and dropout over a whole global batch, or equal parts of it. Knows nothing of how the processes were
started, of members or of files.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

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
        _all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])

    def average(self, gradients: Sequence[Tensor], images_n: int) -> None:
        """Gradients of a loss summed over images_n images here -> those of the mean over the images of all processes."""
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
        _all_reduce(whole)  # what the others do not hold is zero with them
        return whole

    def broadcast(self, value: T) -> T:
        """Rank 0's value, whatever the others pass."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.leads else None]
        with _peers():
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
        with _peers():
            work = dist.all_reduce(raised, async_op=True)
            assert work is not None
            self._asked = work, raised
            if before is None:
                return (False,) * len(flags)
            before[0].wait()
        return tuple(bool(flag) for flag in before[1].tolist())


@contextmanager
def join_world(rank: int, size: int, store: Path, timeout_s: float) -> Iterator[World]:
    """A World while inside. store: a file that all processes see, which is how they find each other: no name is resolved and
    no port agreed on. timeout_s: the longest wait for another process in a common operation, seconds.

    NCCL carries what lies on GPUs, gloo the rest. Raises PeerLostError.
    """
    with _peers():
        meeting = FileStore(str(store), size)
        meeting.set(f"here-{rank}", "")
        meeting.wait([f"here-{peer}" for peer in range(size)], datetime.timedelta(seconds=max(MEET_S, timeout_s)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=meeting,
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=timeout_s),
        )
    world = World(rank, size)
    yield world
    if world._asked is not None:
        world._asked[0].wait()
    dist.destroy_process_group()


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose statistics in training are those of the global batch, as they are in one process.

    Its state_dict is the plain layer's. (torch's SyncBatchNorm is this on GPUs alone.) Sums are of differences to the running
    mean, which keeps them exact where a channel's mean is large beside its spread.
    """

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = plain.affine, plain.track_running_stats
        self.weight, self.bias = plain.weight, plain.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(plain, name))
        self.training = plain.training

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any number of dimensions: the plain layer saw to it

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and dtype."""
        if not self.training:
            return _BatchNorm.forward(self, input)
        x = input.float()
        shape = (1, -1, *[1] * (x.ndim - 2))
        if self.running_mean is not None:
            x = x - self.running_mean.view(shape)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        here_n = x.numel() // x.shape[1]
        sums: Tensor = _Sum.apply(torch.cat([x.sum(axes), x.square().sum(axes), x.new_full((1,), here_n)]))
        n = sums[-1].detach()
        mean_C, square_C = (sums[:-1] / n).chunk(2)
        var_C = (square_C - mean_C.square()).clamp_min(0)
        self._track(mean_C.detach(), var_C.detach(), n)
        gain_C = torch.rsqrt(var_C + self.eps)
        if self.weight is not None:
            gain_C = gain_C * self.weight
        offset_C = -mean_C * gain_C if self.bias is None else self.bias - mean_C * gain_C
        return torch.addcmul(offset_C.view(shape), x, gain_C.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, var_C: Tensor, n: Tensor) -> None:
        """As the plain layer: the variance without bias; momentum None: the mean over all batches."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean += momentum * mean_C  # mean_C counts from the running mean
        self.running_var += momentum * (var_C * n / (n - 1).clamp_min(1) - self.running_var)


class GhostBatchNorm(GlobalBatchNorm):
    """BatchNorm whose statistics in training are those of equal parts of the global batch, each for itself (Hoffer et al. 2017,
    arXiv:1705.08741); the running ones are the parts' means. local_parts: how many of them this process holds whole."""

    def __init__(self, plain: _BatchNorm, local_parts: int) -> None:
        super().__init__(plain)
        self._parts = local_parts

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and dtype."""
        if not self.training:
            return _BatchNorm.forward(self, input)
        n, parts = len(input), [input[part :: self._parts] for part in range(self._parts)]
        self._track_parts(parts)
        outputs = [functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps) for x in parts]
        place_N = torch.cat([torch.arange(part, n, self._parts, device=input.device) for part in range(self._parts)])
        return torch.empty_like(input, dtype=outputs[0].dtype).index_copy(0, place_N, torch.cat(outputs))

    @torch.no_grad()
    def _track_parts(self, parts: Sequence[Tensor]) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        axes = [axis for axis in range(parts[0].ndim) if axis != 1]
        var_PC, mean_PC = zip(*(torch.var_mean(x.float(), axes) for x in parts), strict=True)
        self.running_mean.lerp_(torch.stack(mean_PC).mean(0), momentum)
        self.running_var.lerp_(torch.stack(var_PC).mean(0), momentum)


class GlobalDropout(nn.Module):
    """Dropout, or stochastic depth by rows, whose draws in training are those of the global batch, as they are in one process:
    each process draws for all images, from one seed, and takes the rows of its own."""

    def __init__(self, plain: nn.Module, world: World) -> None:
        super().__init__()
        self.plain = plain
        self._world = world
        self._shape_matters = isinstance(plain, _DropoutNd)  # else one draw for each row

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> the same shape and dtype."""
        if not self.training:
            return x
        rank, size, n = self._world.rank, self._world.size, self._world.batch_n
        if len(range(rank, n, size)) != len(x):  # a part of this process's share, for want of memory
            n = len(x) * size
        shape = x.shape[1:] if self._shape_matters else (1,) * (x.ndim - 1)
        whole = x.new_ones((n, *shape))
        if x.ndim == 4 and x.stride(1) < x.stride(3):  # what is drawn follows the order in memory
            whole = whole.contiguous(memory_format=torch.channels_last)
        factors: Tensor = self.plain(whole)
        return x * factors[rank::size]


def see_global_batch(module: nn.Module, world: World, ghost_batches: int | None) -> None:
    """Makes all below the module that depends on the whole batch depend on the global one: dropout, and BatchNorm, or on
    ghost_batches equal parts of it. In a world of one and without parts leaves all as it is.

    Raises CifarHpcError where the processes cannot hold whole parts.
    """
    if world.size == 1 and ghost_batches is None:
        return
    if ghost_batches is not None and ghost_batches % world.size:
        raise CifarHpcError(f"ghost_batches {ghost_batches} cannot be dealt to {world.size} processes: a multiple is needed")
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            parts = ghost_batches and ghost_batches // world.size
            setattr(module, name, GhostBatchNorm(child, parts) if parts else GlobalBatchNorm(child))
        elif _draws(child) and world.size > 1:
            setattr(module, name, GlobalDropout(child, world))
        else:
            see_global_batch(child, world, ghost_batches)


def _draws(module: nn.Module) -> bool:
    """Dropout of any shape, torchvision's StochasticDepth, timm's DropPath."""
    known = (isinstance(module, _DropoutNd) and not isinstance(module, _SHIFTING)) or isinstance(module, StochasticDepth)
    p = module.p if known else getattr(module, "drop_prob", 0.0) if type(module).__name__ == "DropPath" else 0.0
    return bool(p)


_SHIFTING = (nn.AlphaDropout, nn.FeatureAlphaDropout)  # what they drop is not multiplied by 0


class _Sum(torch.autograd.Function):
    """The sum over all processes; the gradient of a loss that is itself a sum over them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        _all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        _all_reduce(total)
        return total


def _all_reduce(tensor: Tensor) -> None:
    with _peers():
        dist.all_reduce(tensor)


@contextmanager
def _peers() -> Iterator[None]:
    """What torch raises where a peer is gone, as PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"another process of this trial died or did not answer in time ({error})") from error
