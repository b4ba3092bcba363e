"""BatchNorm and dropout over a whole global batch, or equal parts of it, in each of several processes.

Owns: GlobalBatchNorm, GhostBatchNorm, GlobalDropout, see_global_batch. Knows a World and no members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from cifar_hpc.distributed.world import World, all_reduce
from cifar_hpc.errors import CifarHpcError


class PartedBatchNorm(_BatchNorm):
    """A BatchNorm whose statistics in training are of other images than the batch at hand. It has the very parameters and
    statistics of a plain layer, and so its state_dict."""

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, affine=False, track_running_stats=False)
        _take_over(self, plain)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any number of dimensions: the plain layer saw to it

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and dtype."""
        return self.normalised(input) if self.training else _BatchNorm.forward(self, input)

    def normalised(self, input: Tensor) -> Tensor:
        """In training."""
        raise NotImplementedError

    @torch.no_grad()
    def track(self, statistics: Callable[[], Sequence[Tensor]]) -> None:
        """Moves the running statistics, where there are any, to the given mean and variance (without bias) of the channels, as
        the plain layer does; momentum None: to the mean over all batches."""
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:  # else whoever calls this counts for all layers at once
            self.num_batches_tracked.add_(1)
        momentum = 1 / self._count if self.momentum is None else self.momentum
        for running_C, found_C in zip((self.running_mean, self.running_var), statistics(), strict=True):
            running_C.lerp_(found_C, momentum)

    @property
    def _count(self) -> Tensor:
        assert self.num_batches_tracked is not None
        return self.num_batches_tracked


class GlobalBatchNorm(PartedBatchNorm):
    """BatchNorm whose statistics in training are those of the global batch, as they are in one process. For CPUs: there torch's
    SyncBatchNorm does not run.

    Each process gives the mean and the variance of its own images, which are put together by Chan, Golub and LeVeque's formula
    (1979): exact where a channel's mean is large beside its spread.
    """

    def __init__(self, plain: _BatchNorm, world: World) -> None:
        super().__init__(plain)
        self._world = world

    def normalised(self, input: Tensor) -> Tensor:
        x = input if input.dtype is torch.float64 else input.float()
        shape = (1, -1, *[1] * (x.ndim - 2))
        var_C, mean_C = torch.var_mean(x, _all_but_channels(x), correction=0)
        own = torch.cat([mean_C, var_C, x.new_full((1,), x.numel() // x.shape[1])])
        all_R: Tensor = _Gather.apply(own, self._world)
        n_R = all_R[:, -1:].detach()
        share_R = n_R / n_R.sum()
        mean_RC, var_RC = all_R[:, :-1].chunk(2, 1)
        mean_C = (share_R * mean_RC).sum(0)
        var_C = (share_R * (var_RC + (mean_RC - mean_C).square())).sum(0)
        n = n_R.sum()
        self.track(lambda: (mean_C.detach(), var_C.detach() * n / (n - 1).clamp_min(1)))
        gain_C = torch.rsqrt(var_C + self.eps)
        if self.weight is not None:
            gain_C = gain_C * self.weight
        y = (x - mean_C.view(shape)) * gain_C.view(shape)
        return (y if self.bias is None else y + self.bias.view(shape)).to(input.dtype)


class GhostBatchNorm(PartedBatchNorm):
    """BatchNorm whose statistics in training are those of equal parts of the global batch, each for itself (Hoffer et al. 2017,
    arXiv:1705.08741); the running ones are the parts' means. local_parts: how many of them this process holds whole."""

    def __init__(self, plain: _BatchNorm, local_parts: int) -> None:
        super().__init__(plain)
        self._parts = local_parts
        self._found_2J: Tensor | None = None  # where the parts' means and variances are put, at one place for captured steps

    def normalised(self, input: Tensor) -> Tensor:
        return self.together(input) if input.is_cuda and len(input) >= self._parts else self.one_by_one(input)

    def one_by_one(self, input: Tensor) -> Tensor:
        """A part is every P-th image."""
        n, parts = len(input), [input[part :: self._parts] for part in range(self._parts)]
        self.track(lambda: _mean_statistics(parts))
        outputs = [functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps) for x in parts]
        place_N = torch.cat([torch.arange(part, n, self._parts, device=input.device) for part in range(self._parts)])
        return torch.empty_like(input, dtype=outputs[0].dtype).index_copy(0, place_N, torch.cat(outputs))

    def together(self, input: Tensor) -> Tensor:
        """The same within rounding, by a few kernels however many parts there are: as channels of their own, first of the
        parts that have an image more than the others, then of those."""
        found_2J = self._found_2J
        if found_2J is None or found_2J.device != input.device:
            found_2J = self._found_2J = torch.zeros(2, self._parts * input.shape[1], device=input.device)
        outputs, first = [], 0
        for x_NJ in _Deal.apply(input, self._parts):
            mean_J, var_J = found_2J[:, first : first + x_NJ.shape[1]]
            first += len(mean_J)
            parts = len(mean_J) // input.shape[1]
            weight_J, bias_J = (None if own_C is None else own_C.repeat(parts) for own_C in (self.weight, self.bias))
            outputs.append(functional.batch_norm(x_NJ, mean_J, var_J, weight_J, bias_J, True, 1.0, self.eps))
        self.track(lambda: found_2J.view(2, self._parts, -1).mean(1).unbind())
        y: Tensor = _Collect.apply(self._parts, *outputs)
        return y


class _Deal(torch.autograd.Function):
    """N C ... -> M PC ..., laid out as before: the parts, every P-th image each, become channels; the parts of each size on
    their own. No view, so that layers after it may work in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        ctx.parts = parts
        return _deal(x, parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _collect(grads, ctx.parts), None


class _Collect(torch.autograd.Function):
    """The inverse."""

    @staticmethod
    def forward(ctx: Any, parts: int, *dealt: Tensor) -> Tensor:
        ctx.parts = parts
        return _collect(dealt, parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_deal(grad, ctx.parts)


def _deal(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    layout, (count, longer) = _layout(x), divmod(len(x), parts)
    shapes = [(count + 1, longer), (count, parts - longer)]
    dealt = tuple(_made(x, layout, images, group * x.shape[1], *x.shape[2:]) for images, group in shapes if group)
    for whole, part in _places(x.contiguous(memory_format=layout), dealt, parts, layout):
        part.copy_(whole)
    return dealt


def _collect(dealt: Sequence[Tensor], parts: int) -> Tensor:
    layout, channels = _layout(dealt[0]), sum(y.shape[1] for y in dealt) // parts
    images = sum(len(y) * y.shape[1] for y in dealt) // channels
    x = _made(dealt[0], layout, images, channels, *dealt[0].shape[2:])
    for whole, part in _places(x, [y.contiguous(memory_format=layout) for y in dealt], parts, layout):
        whole.copy_(part)
    return x


def _places(x: Tensor, dealt: Sequence[Tensor], parts: int, layout: torch.memory_format) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the same numbers in a batch and in its dealt parts."""
    x_NSK, first = _pixels(x, layout), 0
    body_MPSK = x_NSK[: len(x) // parts * parts].view(-1, parts, *x_NSK.shape[1:])
    for y in dealt:
        group = y.shape[1] // x.shape[1]
        y_MSPK = _pixels(y, layout).view(len(y), -1, group, x_NSK.shape[2])
        yield body_MPSK[:, first : first + group].transpose(1, 2), y_MSPK[: len(body_MPSK)]
        if len(y) > len(body_MPSK):
            yield x_NSK[-group:].transpose(0, 1), y_MSPK[-1]
        first += group


def _pixels(x: Tensor, layout: torch.memory_format) -> Tensor:
    """N images of S pixels of K channels, or of one with all numbers of the image: as they lie in memory."""
    if layout is torch.channels_last:
        return x.permute(0, 2, 3, 1).view(len(x), -1, x.shape[1])
    return x.view(len(x), 1, -1)


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _made(like: Tensor, layout: torch.memory_format, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _mean_statistics(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    var_PC, mean_PC = zip(*(torch.var_mean(x.float(), _all_but_channels(x)) for x in parts), strict=True)
    return torch.stack(mean_PC).mean(0), torch.stack(var_PC).mean(0)


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


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
    ghost_batches equal parts of it. In a world of one and without parts leaves all as it is; and BatchNorm where a process's
    images are one part.

    Raises CifarHpcError where the processes cannot hold whole parts.
    """
    if world.size == 1 and ghost_batches is None:
        return
    if ghost_batches is not None and ghost_batches % world.size:
        raise CifarHpcError(f"ghost_batches {ghost_batches} cannot be dealt to {world.size} processes: a multiple is needed")
    parts = ghost_batches and ghost_batches // world.size
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            if parts != 1:
                setattr(module, name, GhostBatchNorm(child, parts) if parts else _global(child, world))
        elif _draws(child) and world.size > 1:
            setattr(module, name, GlobalDropout(child, world))
        else:
            see_global_batch(child, world, ghost_batches)


def _global(plain: _BatchNorm, world: World) -> _BatchNorm:
    """On a GPU torch's own layer, whose kernels are fused; on a CPU ours."""
    if not any(tensor.is_cuda for tensor in plain.state_dict().values()):
        return GlobalBatchNorm(plain, world)
    layer = nn.SyncBatchNorm(plain.num_features, plain.eps, plain.momentum, affine=False, track_running_stats=False)
    _take_over(layer, plain)
    return layer


def _take_over(layer: _BatchNorm, plain: _BatchNorm) -> None:
    """Gives a layer the very parameters and statistics of another."""
    layer.affine, layer.track_running_stats = plain.affine, plain.track_running_stats
    layer.weight, layer.bias = plain.weight, plain.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(layer, name, getattr(plain, name))
    layer.training = plain.training


def _draws(module: nn.Module) -> bool:
    """Dropout of any shape, torchvision's StochasticDepth, timm's DropPath."""
    known = (isinstance(module, _DropoutNd) and not isinstance(module, _SHIFTING)) or isinstance(module, StochasticDepth)
    p = module.p if known else getattr(module, "drop_prob", 0.0) if type(module).__name__ == "DropPath" else 0.0
    return bool(p)


_SHIFTING = (nn.AlphaDropout, nn.FeatureAlphaDropout)  # what they drop is not multiplied by 0


class _Gather(torch.autograd.Function):
    """Each process's row, R x n, of a vector of n; the gradient of a loss that is a sum over the processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, world: World) -> Tensor:
        ctx.rank = world.rank
        rows = own.new_zeros((world.size, len(own)))
        rows[world.rank] = own
        all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        all_reduce(total)
        return total[ctx.rank], None
