"""L2-SP (Li, Grandvalet & Davoine 2018, arXiv:1802.01483): weights are drawn to those that they started from, not to 0.

To the loss is added half of strength times the squared distance from the start, of all that trains but the classifier, which
the start does not hold: it alone has the plain weight decay. Owns: Anchor. Knows no members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Anchor:
    """The pull of some parameters, as they stand now, back to where they stand now."""

    def __init__(self, optimizer: torch.optim.Optimizer, strength: float) -> None:
        """Of the parameters of the optimiser's groups that are 'anchored'."""
        self._parameters: Sequence[nn.Parameter] = [
            parameter for group in optimizer.param_groups if group.get("anchored") for parameter in group["params"]
        ]
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._strength = strength

    @torch.no_grad()
    def pull(self) -> None:
        """Adds its gradient to that of the loss; a parameter without one does not train now."""
        pairs = [(p, start) for p, start in zip(self._parameters, self._start, strict=True) if p.grad is not None]
        if not pairs:
            return
        gradients: list[Tensor] = [parameter.grad for parameter, _ in pairs if parameter.grad is not None]
        away = torch._foreach_sub([parameter.detach() for parameter, _ in pairs], [start for _, start in pairs])
        torch._foreach_add_(gradients, away, alpha=self._strength)
