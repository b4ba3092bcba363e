"""Linear classifiers side by side in one memory, and one optimiser step of all of them: arithmetic on plain tensors.

On a CPU a classifier's numbers shall be those that it has alone, to the last bit. By construction they are so: its part of each
tensor begins on a boundary of 64 bytes (kernels choose by alignment); what is done element by element is one operation after
another, each of which IEEE 754 rounds in one way only (no fused multiply-add, power or exponential, whose vectors and
remainders may differ); sums run along a classifier's own rows; products are made one by one. A library's product of many at
once may choose its kernel by their number: whether it has the same bits is tried out first (`way_for`), on this machine, and so
is all the rest. On a GPU all are stepped at once, untried: there numbers are equal within rounding.

Owns: Stack, Rates, the closed-form gradient, the update rules in stacked form. Knows nothing of members, epochs or schedules.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8  # torch.optim's defaults, which all other members have
RULES = {  # the update rules, each with the running averages that its optimiser keeps
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
LINE = 16  # float32 numbers in 64 bytes
TRIED_STEPS = 2
TRIED_MEMBERS = 12


class Way(Enum):
    """How much of a step is done for all classifiers at once: everything, all but the products, nothing."""

    TOGETHER = "together"
    PRODUCTS_APART = "products apart"
    APART = "apart"


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step of each classifier is scaled by, M1: lr; and of Adam lr over the first moment's bias correction, the second
    moment's, of AdamW 1 - lr * decay."""

    lr_M1: Tensor
    scale_M1: Tensor
    correction_M1: Tensor
    shrink_M1: Tensor


class Stack:
    """M classifiers from D numbers to K classes, of one kind of optimiser. rows: "parameter" and the optimiser's averages, each
    MP, a row being a classifier's weights KD and its biases K, both padded with zeros to whole lines."""

    def __init__(self, kind: str, m: int, k: int, d: int, device: torch.device) -> None:
        self.kind, self.m, self.k, self.d = kind, m, k, d
        self.bias_at = _whole_lines(k * d)
        width = self.bias_at + _whole_lines(k)
        self.rows = {name: torch.zeros(m, width, device=device) for name in ("parameter", *RULES[kind])}
        self.smoothing_M11, self.decay_M1, self.momentum_M1 = (
            torch.zeros(m, *ones, device=device) for ones in ((1, 1), (1,), (1,))
        )
        self._grad_MP = torch.zeros(m, width, device=device)
        self._logits: dict[int, Tensor] = {}  # for each number of images

    def weights(self, name: str) -> Tensor:
        return self._weight(self.rows[name])

    def biases(self, name: str) -> Tensor:
        return self._bias(self.rows[name])

    @torch.no_grad()
    def gradients(self, x_ND: Tensor, share_NK: Tensor, way: Way) -> tuple[Tensor, Tensor, Tensor]:
        """Of the mean loss over the images, MP; and the summed loss of each classifier (float64) and its hits, M."""
        n = len(x_ND)
        logits_MNK = self._logits_of(x_ND, way)  # of more rows than images, see there
        logits_MNK += self.biases("parameter")[:, None]
        share_NK = functional.pad(share_NK, (0, 0, 0, logits_MNK.shape[1] - n))
        smooth_MNK = share_NK * (1 - self.smoothing_M11) + self.smoothing_M11 / self.k
        log_p_MNK = logits_MNK.log_softmax(-1)
        grad_MNK = (logits_MNK.softmax(-1) - smooth_MNK) / n
        self._bias(self._grad_MP).copy_(grad_MNK[:, :n].sum(1))
        self._weight_gradients(grad_MNK[:, :n], x_ND, way)
        loss_M = -(log_p_MNK * smooth_MNK).sum(-1)[:, :n].double().sum(-1)
        hits_M = (logits_MNK.argmax(-1) == share_NK.argmax(-1))[:, :n].sum(-1)
        return self._grad_MP, loss_M, hits_M

    @torch.no_grad()
    def update(self, grad_MP: Tensor, rates: Rates) -> None:
        """torch.optim's SGD (Nesterov), Adam and AdamW."""
        parameter = self.rows["parameter"]
        if self.kind == "adamw":
            parameter *= rates.shrink_M1
        else:
            grad_MP = grad_MP + self.decay_M1 * parameter
        if self.kind == "sgd":
            buffer = self.rows["momentum_buffer"].mul_(self.momentum_M1).add_(grad_MP)
            parameter -= (self.momentum_M1 * buffer).add_(grad_MP).mul_(rates.lr_M1)
            return
        (first, second), (beta_1, beta_2) = (self.rows[name] for name in RULES[self.kind]), ADAM_BETAS
        first.mul_(beta_1).add_(grad_MP * (1 - beta_1))
        second.mul_(beta_2).add_((grad_MP * grad_MP).mul_(1 - beta_2))
        deviation = (second / rates.correction_M1).sqrt_().add_(ADAM_EPS)
        parameter -= (first * rates.scale_M1).div_(deviation)

    def _weight(self, rows_MP: Tensor) -> Tensor:
        return rows_MP.as_strided((self.m, self.k, self.d), (rows_MP.stride(0), self.d, 1))

    def _bias(self, rows_MP: Tensor) -> Tensor:
        return rows_MP[:, self.bias_at : self.bias_at + self.k]

    def _logits_of(self, x_ND: Tensor, way: Way) -> Tensor:
        """Without the bias, float32. Followed by rows of no image, which make a classifier's part whole lines."""
        n = len(x_ND)
        if n not in self._logits:
            self._logits[n] = torch.zeros(self.m, _whole_lines(n), self.k, device=x_ND.device)
        whole_MNK = self._logits[n]
        products_MNK, weight_MKD = whole_MNK[:, :n], self.weights("parameter")
        if x_ND.dtype is not torch.float32:  # autocast's
            products_MNK.copy_(torch.bmm(x_ND.expand(self.m, -1, -1), weight_MKD.to(x_ND.dtype).transpose(1, 2)))
        elif way is Way.TOGETHER:
            torch.bmm(x_ND.expand(self.m, -1, -1), weight_MKD.transpose(1, 2), out=products_MNK)
        else:
            for weight_KD, out_NK in zip(weight_MKD, products_MNK, strict=True):
                torch.mm(x_ND, weight_KD.t(), out=out_NK)
        return whole_MNK

    def _weight_gradients(self, grad_MNK: Tensor, x_ND: Tensor, way: Way) -> None:
        out_MKD = self._weight(self._grad_MP)
        if x_ND.dtype is not torch.float32:
            out_MKD.copy_(torch.bmm(grad_MNK.to(x_ND.dtype).transpose(1, 2), x_ND.expand(self.m, -1, -1)))
        elif way is Way.TOGETHER:
            torch.bmm(grad_MNK.transpose(1, 2), x_ND.expand(self.m, -1, -1), out=out_MKD)
        else:
            for grad_NK, out_KD in zip(grad_MNK, out_MKD, strict=True):
                torch.mm(grad_NK.t(), x_ND, out=out_KD)


@functools.cache
def way_for(kind: str, m: int, n: int, k: int, d: int, threads: int) -> Way:
    """The most common way in which steps of m classifiers on n images have, on this CPU, the bits of each alone: tried out on
    numbers drawn for it, some milliseconds once a process and shape. threads: torch's, which the kernels depend on."""
    if m == 1:
        return Way.PRODUCTS_APART
    for way in (Way.TOGETHER, Way.PRODUCTS_APART):
        if _equals_each_alone(way, kind, m, n, k, d):
            return way
    print(f"linear probes are trained one by one: side by side {m} of them differ on this CPU from each alone", file=sys.stderr)
    return Way.APART


def _equals_each_alone(way: Way, kind: str, m: int, n: int, k: int, d: int) -> bool:
    draws = torch.Generator().manual_seed(0)
    x_ND, share_NK = torch.randn(n, d, generator=draws), torch.rand(n, k, generator=draws)
    share_NK /= share_NK.sum(1, keepdim=True)
    together = _drawn(kind, m, k, d, draws)
    tried = sorted({*range(0, m, -(-m // TRIED_MEMBERS)), m - 1})
    alone = [_part(together, i) for i in tried]
    lr_M1 = torch.rand(m, 1, generator=draws) * 0.1
    rates = Rates(lr_M1, lr_M1 * 1.5, lr_M1 + 0.5, 1 - lr_M1)
    for _ in range(TRIED_STEPS):
        grad_MP, *sums = together.gradients(x_ND, share_NK, way)
        together.update(grad_MP, rates)
        for i, one in zip(tried, alone, strict=True):
            grad_1P, *own_sums = one.gradients(x_ND, share_NK, Way.PRODUCTS_APART)
            one.update(grad_1P, Rates(*(getattr(rates, name)[i : i + 1] for name in Rates.__slots__)))
            if not all(torch.equal(a[i : i + 1], b) for a, b in zip(sums, own_sums, strict=True)):
                return False
            if not all(torch.equal(rows[i], one.rows[name][0]) for name, rows in together.rows.items()):
                return False
    return True


def _drawn(kind: str, m: int, k: int, d: int, draws: torch.Generator) -> Stack:
    stack = Stack(kind, m, k, d, torch.device("cpu"))
    for name in stack.rows:
        stack.weights(name).copy_(torch.rand(m, k, d, generator=draws) * 0.1)
        stack.biases(name).copy_(torch.rand(m, k, generator=draws) * 0.1)
    for column in (stack.smoothing_M11, stack.decay_M1, stack.momentum_M1):
        column.copy_(torch.rand(column.shape, generator=draws))
    return stack


def _part(stack: Stack, i: int) -> Stack:
    """One of its classifiers, in memory of its own."""
    one = Stack(stack.kind, 1, stack.k, stack.d, torch.device("cpu"))
    for name, rows in one.rows.items():
        rows.copy_(stack.rows[name][i : i + 1])
    for name in ("smoothing_M11", "decay_M1", "momentum_M1"):
        getattr(one, name).copy_(getattr(stack, name)[i : i + 1])
    return one


def columns(values: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers of each step and classifier as SM1, moved to the device in one piece."""
    return torch.tensor(values, dtype=torch.float32)[..., None].to(device)


def _whole_lines(n: int) -> int:
    return -(-n // LINE) * LINE
