"""mixup and cutmix: images of a batch mixed with others of it, and soft targets. One share per batch, as in both papers' code.

Owns: the mixing share, partners, boxes and targets. Draws come from the given CPU generator alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from cifar_hpc.data.pixels import Draws


@dataclass(frozen=True, slots=True)
class MixOp:
    """draw: alpha, images, side, CPU generator -> draws; mix: x_NCHW, y_N, draws, classes -> x_NCHW, y_NK."""

    draw: Callable[[float, int, int, torch.Generator], Draws]
    mix: Callable[[Tensor, Tensor, Draws, int], tuple[Tensor, Tensor]]


def _draw_mixup(alpha: float, count: int, side: int, generator: torch.Generator) -> Draws:
    """The share (one uniform number), the partners (randperm)."""
    share = torch.tensor(draw_share(alpha, generator), dtype=torch.float32)
    return share, torch.randperm(count, generator=generator)


def _mixup(x_NCHW: Tensor, y_N: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
    """Zhang et al. 2017: share * x + (1 - share) * x[partner], and the targets likewise; share ~ Beta(alpha, alpha)."""
    share, partner = draws
    return torch.lerp(x_NCHW[partner], x_NCHW, share), _targets(y_N, partner, share, num_classes)


def _draw_cutmix(alpha: float, count: int, side: int, generator: torch.Generator) -> Draws:
    """The share (one uniform number), the partners (randperm), the centre (two integers); and what follows from them: the box
    and the share of the image's own pixels."""
    share = draw_share(alpha, generator)
    partner = torch.randperm(count, generator=generator)
    half = round(side * (1 - share) ** 0.5) // 2
    row, column = torch.randint(0, side, (2,), generator=generator).tolist()
    (top, bottom), (left, right) = ((max(0, at - half), min(side, at + half)) for at in (row, column))
    own = torch.tensor(1 - (bottom - top) * (right - left) / side**2, dtype=torch.float32)
    return own, partner, torch.tensor([top, bottom, left, right])


def _cutmix(x_NCHW: Tensor, y_N: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
    """Yun et al. 2019: a box of area share 1 - Beta(alpha, alpha) taken from the partner, its centre anywhere, cut off at the
    border; the targets are weighted by the area that the box really has."""
    own, partner, (top, bottom, left, right) = draws
    at = torch.arange(x_NCHW.shape[-1], device=x_NCHW.device)
    inside_HW = ((at >= top) & (at < bottom))[:, None] & ((at >= left) & (at < right))
    return torch.where(inside_HW, x_NCHW[partner], x_NCHW), _targets(y_N, partner, own, num_classes)


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """Beta(alpha, alpha) by inversion, since torch's own sampler draws from the global generator only."""
    return float(betaincinv(alpha, alpha, torch.rand((), generator=generator, dtype=torch.float64).item()))


def _targets(y_N: Tensor, partner: Tensor, share: Tensor, num_classes: int) -> Tensor:
    one_hot_NK = functional.one_hot(y_N, num_classes).float()
    return torch.lerp(one_hot_NK[partner], one_hot_NK, share)


OPERATIONS = {"mixup": MixOp(_draw_mixup, _mixup), "cutmix": MixOp(_draw_cutmix, _cutmix)}
