"""mixup and cutmix: images of a batch mixed with others of it, and soft targets. One share per batch, as in both papers' code.

Owns: the mixing share, partners, boxes and targets. Draws come from the given CPU generator alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from cifar_hpc.data.pixels import move

MixOp = Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor]]  # x_NCHW, y_N, classes -> x_NCHW, y_NK


def mixup(alpha: float, x_NCHW: Tensor, y_N: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Zhang et al. 2017: share * x + (1 - share) * x[partner], and the targets likewise; share ~ Beta(alpha, alpha).

    Draws: the share (one uniform number), the partners (randperm)."""
    share = _share(alpha, generator)
    partner = move(torch.randperm(len(x_NCHW), generator=generator), x_NCHW.device)
    return torch.lerp(x_NCHW[partner], x_NCHW, share), _targets(y_N, partner, share, num_classes)


def cutmix(alpha: float, x_NCHW: Tensor, y_N: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Yun et al. 2019: a box of area share 1 - Beta(alpha, alpha) taken from the partner, its centre anywhere, cut off at the
    border; the targets are weighted by the area that the box really has.

    Draws: the share (one uniform number), the partners (randperm), the centre (two integers)."""
    share = _share(alpha, generator)
    partner = move(torch.randperm(len(x_NCHW), generator=generator), x_NCHW.device)
    side = x_NCHW.shape[-1]
    half = round(side * (1 - share) ** 0.5) // 2
    row, column = torch.randint(0, side, (2,), generator=generator).tolist()
    rows, columns = (slice(max(0, at - half), min(side, at + half)) for at in (row, column))
    mixed_NCHW = x_NCHW.clone()
    mixed_NCHW[..., rows, columns] = x_NCHW[partner][..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed_NCHW, _targets(y_N, partner, 1 - area / side**2, num_classes)


def _share(alpha: float, generator: torch.Generator) -> float:
    """Beta(alpha, alpha) by inversion, since torch's own sampler draws from the global generator only."""
    return float(betaincinv(alpha, alpha, torch.rand((), generator=generator, dtype=torch.float64).item()))


def _targets(y_N: Tensor, partner: Tensor, share: float, num_classes: int) -> Tensor:
    one_hot_NK = functional.one_hot(y_N, num_classes).float()
    return torch.lerp(one_hot_NK[partner], one_hot_NK, share)


OPERATIONS = {"mixup": mixup, "cutmix": cutmix}
