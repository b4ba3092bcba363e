"""Muon (Jordan 2024): momentum, orthogonalised by Newton-Schulz iterations, for hidden matrices; AdamW for all else.

As in the airbench record, a convolution's weight is the matrix of its filters, flattened. The step is that of torch.optim.Muon,
which goes matrix by matrix (ten times the launches, most of a step's time on a GPU), for all matrices of one shape at once, its
size matched to AdamW's (Liu et al. 2025, arXiv:2502.16982, equation 4), so that one learning rate serves both. Airbench's
normalisation of the weights and its three learning rates are left out. Owns: which weights are hidden matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

IMAGE_CHANNELS = 3
COEFFICIENTS, ITERATIONS, EPS = (3.4445, -4.775, 2.0315), 5, 1e-7  # torch.optim.Muon's defaults
MATCH_ADAMW = 0.2


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether a parameter outside the classifier is a hidden matrix: a weight with several rows and with more inputs than an
    image has channels, so neither the input layer nor depthwise filters, biases, norms or positions."""
    return name.endswith("weight") and parameter.ndim >= 2 and len(parameter) > 1 and parameter.shape[1] > IMAGE_CHANNELS


class Muon(torch.optim.Optimizer):
    """Muon on matrices that are views of the weights, all of one shape in one batch, and torch.optim.AdamW on all else."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], hidden: AbstractSet[Tensor], momentum: float, weight_decay: float
    ) -> None:
        """groups: parameter groups with their height; hidden: those of their parameters that are hidden matrices."""
        super().__init__(groups, {"lr": 0.0})
        self.momentum, self.weight_decay = momentum, weight_decay
        rest = [{**group, "params": [p for p in group["params"] if p not in hidden]} for group in groups]
        on_gpu = any(p.is_cuda for group in groups for p in group["params"])
        self.adamw = torch.optim.AdamW(rest, weight_decay=weight_decay, fused=True, capturable=on_gpu)
        self.batches: list[_Batch] = []
        for i, group in enumerate(groups):
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
            for weight in (p for p in group["params"] if p in hidden):
                rows, columns = _as_matrix(weight.detach(), weight).shape
                by_shape.setdefault((min(rows, columns), max(rows, columns)), []).append(weight)
            self.batches += [_Batch(i, weights, shape[1]) for shape, weights in by_shape.items()]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both from the weights' gradients; a weight without one stays."""
        for group, own in zip(self.adamw.param_groups, self.param_groups, strict=True):
            group["lr"] = own["lr"]
        for batch in self.batches:
            group = self.param_groups[batch.group]
            batch.step(group["lr"], self.momentum, group.get("weight_decay", self.weight_decay))
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": [batch.buffers for batch in self.batches], "adamw": self.adamw.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state_dict["adamw"])
        for batch, buffers in zip(self.batches, state_dict["muon"], strict=True):
            for own, saved in zip(batch.buffers, buffers, strict=True):
                own.copy_(saved)


class _Batch:
    """Weights of one group whose matrices have one shape, up to transposing."""

    def __init__(self, group: int, weights: Sequence[nn.Parameter], long_side: int) -> None:
        self.group = group
        self.weights = list(weights)
        self.buffers = [torch.zeros_like(_as_matrix(weight.detach(), weight)) for weight in weights]
        self.ratio = MATCH_ADAMW * math.sqrt(long_side)

    def step(self, lr: float | Tensor, momentum: float, weight_decay: float) -> None:
        present = [i for i, weight in enumerate(self.weights) if weight.grad is not None]
        if not present:
            return
        weights, buffers = [self.weights[i] for i in present], [self.buffers[i] for i in present]
        matrices = [_as_matrix(weight.detach(), weight) for weight in weights]
        gradients = [_as_matrix(weight.grad, weight) for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, buffers, momentum) if momentum > 0 else buffers
        tall = [len(update) > update.shape[1] for update in updates]
        flat_BRC = torch.stack([update.T if up else update for update, up in zip(updates, tall, strict=True)])
        steps = (orthogonal(flat_BRC).float() * (lr * self.ratio)).unbind()
        torch._foreach_mul_(matrices, 1 - lr * weight_decay)
        torch._foreach_sub_(matrices, [step.T if up else step for step, up in zip(steps, tall, strict=True)])


def orthogonal(x_BRC: Tensor) -> Tensor:
    """The nearest orthogonal matrices, in bfloat16: Jordan's quintic Newton-Schulz iteration, for rows no more than columns."""
    a, b, c = COEFFICIENTS
    x_BRC = x_BRC.bfloat16()
    x_BRC = x_BRC / x_BRC.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram_BRR = x_BRC @ x_BRC.mT
        x_BRC = torch.baddbmm(x_BRC, torch.baddbmm(gram_BRR, gram_BRR, gram_BRR, beta=b, alpha=c), x_BRC, beta=a)
    return x_BRC


def _as_matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor with all but its first dimension flattened in the order in which `like` lies in memory. Of `like` itself it
    is a view; orthogonalisation does not feel the order of columns."""
    if like.ndim == 4 and not like.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)
