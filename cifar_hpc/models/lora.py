"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): a weight stays as it is, and the product of two small matrices, which
train, is added to it.

By torch's own parametrisations, so that any module that reads its weight has it: a linear layer, one whose weight a function
is given, the stacked projections of multi-head attention. Owns: LowRank, which weights have one, the network's plain weights.
Must not know: specs, files, training.

Of a stacked weight of queries, keys and values the first factor is common to the three. The product is not scaled: the
published alpha / rank is 1, since a learning rate is swept in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cifar_hpc.config.trained import no_layer_for
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel

FACTORS = ("lora_down", "lora_up")  # R x in and out x R, as a file names them after the weight


class LowRank(nn.Module):
    """weight + up @ down. down begins as a linear layer's weight does, up at 0: at first nothing changes."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out_n, in_n = weight.shape
        bound = 1 / math.sqrt(in_n)  # kaiming_uniform_ with a = sqrt(5)
        down = torch.empty(rank, in_n).uniform_(-bound, bound, generator=generator)
        self.lora_down = nn.Parameter(down.to(weight.device))
        self.lora_up = nn.Parameter(torch.zeros(out_n, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return merged(weight, self.lora_down, self.lora_up)


def merged(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The weight that a layer computes with, in the weight's own type whatever else is rounded."""
    with torch.autocast(weight.device.type, enabled=False):
        return weight + up @ down


def add_low_rank(model: BlockModel, trained: Sequence[bool], rank: int, seed: int) -> None:
    """Gives the linear layers of the trained blocks but the last, the classifier, matrices of that rank. seed: of their first
    values. Raises CifarHpcError where there is no such layer."""
    generator, found = torch.Generator().manual_seed(seed), 0
    for block, trains in list(zip(model.blocks, trained, strict=True))[:-1]:
        for module in list(block.modules()) if trains else ():
            for name in _weights_of(module):
                weight = getattr(module, name)
                if rank > _most(weight):
                    continue
                parametrize.register_parametrization(module, name, LowRank(weight, rank, generator))
                found += 1
    if not found:
        raise CifarHpcError(f"lora: {no_layer_for(rank)}; allowed: a transformer, such as vit_b_16, a smaller rank or freeze")


def largest_rank(block: nn.Module) -> int:
    """What `add_low_rank` may give some layer of it; 0 where there is no such layer."""
    return max((_most(getattr(module, name)) for module in block.modules() for name in _weights_of(module)), default=0)


def plain_state(model: BlockModel) -> dict[str, Tensor]:
    """The state of the network as if it had no matrices of low rank: they are merged into their weights."""
    factors, plain = factors_of(model), {}
    for key, value in model.state_dict().items():
        owner, _, inner = key.rpartition(".parametrizations.")
        if not owner:
            plain[key] = value
        elif inner.endswith(".original"):
            name = f"{owner}.{inner.removesuffix('.original')}"
            plain[name] = merged(value, *factors[name])
    return plain


def factors_of(model: BlockModel) -> dict[str, tuple[Tensor, Tensor]]:
    """By the name of the weight that they change: down and up."""
    state, found = model.state_dict(), {}
    for key, down in state.items():
        if key.endswith(f".0.{FACTORS[0]}"):
            owner, _, name = key.removesuffix(f".0.{FACTORS[0]}").rpartition(".parametrizations.")
            found[f"{owner}.{name}"] = (down, state[key.removesuffix(FACTORS[0]) + FACTORS[1]])
    return found


def _most(weight: Tensor) -> int:
    """The largest rank whose matrices are smaller than the weight's own shorter side."""
    return min(weight.shape) - 1


def _weights_of(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.Linear):
        return ("weight",)
    return ("in_proj_weight",) if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None else ()
