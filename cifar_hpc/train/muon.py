"""Muon (Jordan 2024): momentum, orthogonalised by Newton-Schulz iterations, for hidden matrices; AdamW for all else.

As in the airbench record, a convolution's weight is the matrix of its filters, flattened. The step is torch.optim.Muon's, its
size matched to AdamW's (Liu et al. 2025, arXiv:2502.16982, equation 4), so that one learning rate serves both. Airbench's
normalisation of the weights and its three learning rates are left out. Owns: which weights are hidden matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

IMAGE_CHANNELS = 3


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether a parameter outside the classifier is a hidden matrix: a weight with several rows and with more inputs than an
    image has channels, so neither the input layer nor depthwise filters, biases, norms or positions."""
    return name.endswith("weight") and parameter.ndim >= 2 and len(parameter) > 1 and parameter.shape[1] > IMAGE_CHANNELS


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon on matrices that are views of the weights, and torch.optim.AdamW on all else, as one optimiser."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], hidden: AbstractSet[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        """groups: parameter groups with their height; hidden: those of their parameters that are hidden matrices."""
        super().__init__(groups, {"lr": lr})
        rest, matrices = [], []
        self.sources: list[tuple[Tensor, nn.Parameter]] = []
        for group in groups:
            views = [(p, nn.Parameter(_as_matrix(p.detach(), p))) for p in group["params"] if p in hidden]
            self.sources += views
            matrices.append({**group, "params": [view for _, view in views]})
            rest.append({**group, "params": [p for p in group["params"] if p not in hidden]})
        self.muon = torch.optim.Muon(
            matrices, lr, weight_decay, momentum, nesterov=momentum > 0, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(rest, lr, weight_decay=weight_decay)
        self._join_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both from the weights' gradients; a weight without one stays."""
        for source, view in self.sources:
            view.grad = None if source.grad is None else _as_matrix(source.grad, source)
        self.muon.step()  # type: ignore[no-untyped-call]
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)
        for source, _ in self.sources:
            source.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._join_groups()

    def _join_groups(self) -> None:
        """The classifier's first, as build_optimizer orders them: what sets the groups' rates reaches both optimisers."""
        self.param_groups = [*self.adamw.param_groups, *self.muon.param_groups]


def _as_matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor with all but its first dimension flattened in the order in which `like` lies in memory. Of `like` itself it
    is a view; orthogonalisation does not feel the order of columns."""
    if like.ndim == 4 and not like.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)
