"""Linear classifiers side by side in one memory, and one optimiser step of all of them: arithmetic on plain tensors.

On a CPU a classifier's numbers shall be those that it has alone, to the last bit. By construction they are so: all is done on
one thread (lanes.py); its part of each tensor begins on a boundary of 64 bytes and fills whole lines (kernels choose by
alignment, and treat remainders otherwise); what is done element by element meets whole lines only, at the same places in each
row; sums run along a classifier's own rows; products are made one by one. A library's product of many at once may choose its
kernel by their number: whether it has the same bits is tried out first (`way_for`), on this machine, and so is all the rest. On
a GPU all are stepped at once, untried: there numbers are equal within rounding.

Owns: Stack, Rates, the closed-form gradient, the update rules in stacked form. Knows nothing of members, epochs or schedules.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from cifar_hpc.train.lanes import one_thread

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8  # torch.optim's defaults, which all other members have
RULES = {  # the update rules, each with the running averages that its optimiser keeps
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
LINE = 16  # float32 numbers in 64 bytes
TRIED_STEPS = 2  # at least
TRIED_NUMBERS = 20_000  # gradients that are compared, so that one rounded otherwise is among them; of few numbers in MOST_TRIED
MOST_TRIED = 50  # steps
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


@dataclass(frozen=True, slots=True)
class Batch:
    """What all stacks read of a batch of n images, which stand last but in x. x_NE: the features, a 1 for the bias, zeros up to
    whole lines; share_KN: of each class in a target; label_N: the largest one. On a CPU all are padded to whole lines of
    images, which are computed faster: x by zeros, so that no gradient comes of them."""

    n: int
    x_NE: Tensor
    share_KN: Tensor
    label_N: Tensor

    @classmethod
    def of(cls, x_ND: Tensor, target: Tensor, k: int) -> Batch:
        """target: N classes, or NK shares."""
        n, d = x_ND.shape
        wide_n = n if x_ND.is_cuda else _whole_lines(n)
        x_NE = torch.cat([x_ND, _tail(n, _whole_lines(d + 1) - d, x_ND.dtype, x_ND.device)], 1)
        label_N = target if target.ndim == 1 else target.argmax(1)
        if wide_n > n:
            x_NE, label_N = functional.pad(x_NE, (0, 0, 0, wide_n - n)), functional.pad(label_N, (0, wide_n - n))
        share_KN = torch.zeros(k, wide_n, device=x_ND.device)
        if target.ndim == 1:
            share_KN.scatter_(0, label_N[None], 1.0)
        else:
            share_KN[:, :n] = target.t()
        return cls(n, x_NE, share_KN, label_N)


class Stack:
    """M classifiers from D numbers to K classes, of one kind of optimiser. rows: "parameter" and the optimiser's averages, each
    MP, a row being a classifier's K times E numbers: D weights, the bias, zeros up to whole lines."""

    def __init__(self, kind: str, m: int, k: int, d: int, device: torch.device) -> None:
        self.kind, self.m, self.k, self.d, self.e = kind, m, k, d, _whole_lines(d + 1)
        self.rows = {name: torch.zeros(m, k * self.e, device=device) for name in ("parameter", *RULES[kind])}
        self.hard_M11, self.soft_M11 = torch.ones(m, 1, 1, device=device), torch.zeros(m, 1, 1, device=device)
        self.decay_M1, self.momentum_M1 = torch.zeros(m, 1, device=device), torch.zeros(m, 1, device=device)
        self._grad_MP = torch.zeros(m, k * self.e, device=device)
        self._work_MP = torch.zeros_like(self._grad_MP) if kind != "sgd" else None  # which sgd does not need
        self._rooms: dict[int, list[Tensor]] = {}  # for each number of images: fresh memory costs more than what is done in it

    def set_constants(self, smoothing_M: Tensor, decay_M: Tensor, momentum_M: Tensor) -> None:
        """What a classifier has in all its steps: label smoothing, weight decay, momentum."""
        smoothing_M11 = smoothing_M.view(-1, 1, 1)
        self.hard_M11.copy_(1 - smoothing_M11)
        self.soft_M11.copy_(smoothing_M11 / self.k)
        self.decay_M1.copy_(decay_M[:, None])
        self.momentum_M1.copy_(momentum_M[:, None])

    def weights(self, name: str) -> Tensor:
        return self.rows[name].view(self.m, self.k, self.e)[..., : self.d]

    def biases(self, name: str) -> Tensor:
        return self.rows[name].view(self.m, self.k, self.e)[..., self.d]

    @torch.no_grad()
    def gradients(self, batch: Batch, way: Way) -> tuple[Tensor, Tensor, Tensor]:
        """Of the mean loss over the images, MP; and the summed loss of each classifier (float64) and its hits, M."""
        if batch.x_NE.is_cuda:
            return self.gradients_in_few_kernels(batch)
        n, x_NE = batch.n, batch.x_NE
        logits_MKN, smooth_MKN, power_MKN, work_MKN = self._room(len(x_NE))
        self._put_logits(logits_MKN, x_NE, way)
        hits_M = hits_of(logits_MKN, batch.label_N, work_MKN)[:, :n].sum(1)
        logits_MKN -= logits_MKN.amax(1, keepdim=True)
        sum_M1N = torch.exp(logits_MKN, out=power_MKN).sum(1, keepdim=True)
        torch.addcmul(self.soft_M11, self.hard_M11, batch.share_KN, out=smooth_MKN)
        loss_MN = sum_M1N[:, 0].log() - torch.mul(logits_MKN, smooth_MKN, out=work_MKN).sum(1)
        grad_MKN = power_MKN.div_(sum_M1N).sub_(smooth_MKN)
        self._put_weight_gradients(grad_MKN.view(self.m * self.k, -1), x_NE, 1 / n, way)
        return self._grad_MP, loss_MN[:, :n].double().sum(1), hits_M

    @torch.no_grad()
    def gradients_in_few_kernels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same within rounding, for a GPU, where a step takes as long as its kernels take to launch."""
        n, x_NE, weight_JE = batch.n, batch.x_NE[: batch.n], self.rows["parameter"].view(-1, self.e)
        logits_MKN = (weight_JE.to(x_NE.dtype) @ x_NE.t()).view(self.m, self.k, n).float()
        log_p_MKN = logits_MKN.log_softmax(1)
        smooth_MKN = torch.addcmul(self.soft_M11, self.hard_M11, batch.share_KN[:, :n])
        grad_MKN = torch.ops.aten._log_softmax_backward_data(smooth_MKN, log_p_MKN, 1, torch.float32)  # smooth - softmax
        grad_JN, grad_JE = grad_MKN.view(-1, n), self._grad_MP.view(-1, self.e)
        if x_NE.dtype is torch.float32:
            torch.addmm(grad_JE, grad_JN, x_NE, beta=0, alpha=-1 / n, out=grad_JE)
        else:  # autocast's
            grad_JE.copy_(grad_JN.to(x_NE.dtype) @ x_NE).mul_(-1 / n)
        guess_MN = logits_MKN.argmax(1)
        right_MN = torch.eq(guess_MN, batch.label_N[:n], out=torch.empty_like(guess_MN))
        return self._grad_MP, log_p_MKN.mul_(smooth_MKN).sum((1, 2)).neg_(), right_MN.sum(1)

    @torch.no_grad()
    def update(self, grad_MP: Tensor, rates: Rates) -> None:
        """torch.optim's SGD (Nesterov), Adam and AdamW. Takes the gradients' place for its own."""
        parameter = self.rows["parameter"]
        if self.kind == "adamw":
            parameter *= rates.shrink_M1
        else:
            grad_MP.addcmul_(self.decay_M1, parameter)
        if self.kind == "sgd":
            buffer = self.rows["momentum_buffer"]
            torch.addcmul(grad_MP, self.momentum_M1, buffer, out=buffer)
            grad_MP.addcmul_(self.momentum_M1, buffer)
            parameter.addcmul_(grad_MP, rates.lr_M1, value=-1)
            return
        (first, second), (beta_1, beta_2) = (self.rows[name] for name in RULES[self.kind]), ADAM_BETAS
        first.lerp_(grad_MP, 1 - beta_1)
        second.mul_(beta_2).addcmul_(grad_MP, grad_MP, value=1 - beta_2)
        deviation_MP = torch.div(second, rates.correction_M1, out=self._work_MP).sqrt_().add_(ADAM_EPS)
        parameter.addcdiv_(torch.mul(first, rates.scale_M1, out=grad_MP), deviation_MP, value=-1)

    def _room(self, wide_n: int) -> list[Tensor]:
        """Four MKN, which hold anything."""
        if wide_n not in self._rooms:
            self._rooms[wide_n] = [torch.empty(self.m, self.k, wide_n) for _ in range(4)]
        return self._rooms[wide_n]

    def _put_logits(self, logits_MKN: Tensor, x_NE: Tensor, way: Way) -> None:
        weight_JE, logits_JN = self.rows["parameter"].view(-1, self.e), logits_MKN.view(self.m * self.k, -1)
        for rows in self._products(way):
            if x_NE.dtype is torch.float32:
                torch.mm(weight_JE[rows], x_NE.t(), out=logits_JN[rows])
            else:  # autocast's
                logits_JN[rows] = weight_JE[rows].to(x_NE.dtype) @ x_NE.t()

    def _put_weight_gradients(self, grad_JN: Tensor, x_NE: Tensor, share: float, way: Way) -> None:
        """share: of each image in their mean."""
        grad_JE = self._grad_MP.view(-1, self.e)
        for rows in self._products(way):
            if x_NE.dtype is torch.float32:
                torch.addmm(grad_JE[rows], grad_JN[rows], x_NE, beta=0, alpha=share, out=grad_JE[rows])
            else:
                grad_JE[rows] = (grad_JN[rows].to(x_NE.dtype) @ x_NE).float().mul_(share)

    def _products(self, way: Way) -> list[slice]:
        """The rows of the product, K for each classifier, that are computed at once."""
        if way is Way.TOGETHER:
            return [slice(None)]
        return [slice(i * self.k, (i + 1) * self.k) for i in range(self.m)]


def hits_of(logits_MKN: Tensor, label_N: Tensor, work_MKN: Tensor | None = None) -> Tensor:
    """Whether the label has the largest logit, and the first of equal ones; where one is NaN none has. MN."""
    return hits_by_index(logits_MKN, label_N) if logits_MKN.is_cuda else hits_by_value(logits_MKN, label_N, work_MKN)


def guesses_of(logits_NK: Tensor) -> Tensor:
    """Of a training step: the class of each image's largest logit, N; -1 where one is NaN. On a GPU, where a step takes as long
    as its kernels take to launch, that of the NaN: its loss is NaN, too, and ends the trial."""
    guess_N = logits_NK.argmax(1)
    return guess_N if logits_NK.is_cuda else guess_N.masked_fill_(logits_NK.isnan().any(1), -1)


def hits_by_index(logits_MKN: Tensor, label_N: Tensor) -> Tensor:
    """In few kernels. Of NaN, which torch takes for the largest, the largest is not equal to itself."""
    best_MN, guess_MN = logits_MKN.max(1)
    return (guess_MN == label_N) & (best_MN == best_MN)


def hits_by_value(logits_MKN: Tensor, label_N: Tensor, work_MKN: Tensor | None = None) -> Tensor:
    """On a CPU in a fraction of the time that looking for the index takes."""
    m, k, n = logits_MKN.shape
    most_KN = torch.where(
        torch.arange(k)[:, None] < label_N, torch.inf, -torch.inf
    )  # by which all but the earlier are left out
    best_MN = logits_MKN.amax(1)
    work_MKN = torch.empty_like(logits_MKN) if work_MKN is None else work_MKN
    before_MN = torch.minimum(logits_MKN, most_KN, out=work_MKN).amax(1)
    return (logits_MKN.gather(1, label_N.expand(m, 1, n))[:, 0] == best_MN) & ((before_MN < best_MN) | (label_N == 0))


@functools.lru_cache(maxsize=8)
def _tail(n: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What follows the features: a 1 for the bias, then zeros."""
    tail = torch.zeros(n, width, dtype=dtype, device=device)
    tail[:, 0] = 1
    return tail


@functools.cache
def way_for(kind: str, m: int, n: int, k: int, d: int) -> Way:
    """The most common way in which steps of m classifiers on n images have, on this CPU, the bits of each alone: tried out on
    numbers drawn for it, some milliseconds once a process and shape."""
    if m == 1:
        return Way.PRODUCTS_APART
    for way in (Way.TOGETHER, Way.PRODUCTS_APART):
        if _equals_each_alone(way, kind, m, n, k, d):
            return way
    print(f"linear probes are trained one by one: side by side {m} of them differ on this CPU from each alone", file=sys.stderr)
    return Way.APART


@one_thread()
def _equals_each_alone(way: Way, kind: str, m: int, n: int, k: int, d: int) -> bool:
    draws = torch.Generator().manual_seed(0)
    together = drawn_stack(kind, m, k, d, draws)
    tried = sorted({*range(0, m, -(-m // TRIED_MEMBERS)), m - 1})
    alone = [part_of(together, i) for i in tried]
    lr_M1 = torch.rand(m, 1, generator=draws) * 0.1
    rates = Rates(lr_M1, lr_M1 * 1.5, lr_M1 + 0.5, 1 - lr_M1)
    steps = min(max(TRIED_STEPS, TRIED_NUMBERS // (len(tried) * k * (d + 1))), MOST_TRIED)
    for _ in range(steps):
        share_NK = torch.rand(n, k, generator=draws)
        batch = Batch.of(torch.randn(n, d, generator=draws), share_NK / share_NK.sum(1, keepdim=True), k)
        grad_MP, *sums = together.gradients(batch, way)
        theirs = grad_MP[tried]
        together.update(grad_MP, rates)
        for i, own_P, one in zip(tried, theirs, alone, strict=True):
            grad_1P, *own_sums = one.gradients(batch, Way.PRODUCTS_APART)
            if not torch.equal(own_P, grad_1P[0]):
                return False
            one.update(grad_1P, Rates(*(getattr(rates, name)[i : i + 1] for name in Rates.__slots__)))
            if not all(torch.equal(a[i : i + 1], b) for a, b in zip(sums, own_sums, strict=True)):
                return False
            if not all(torch.equal(rows[i], one.rows[name][0]) for name, rows in together.rows.items()):
                return False
    return True


@functools.cache
def together_as_alone(m: int, n: int, k: int, d: int) -> bool:
    """Whether `logits` of m classifiers have on this CPU the bits of each alone, tried out as in `way_for`."""
    draws = torch.Generator().manual_seed(0)
    weight_MKD, bias_MK = torch.randn(m, k, d, generator=draws), torch.randn(m, k, generator=draws)
    x_ND = torch.randn(n, d, generator=draws)
    tried = sorted({*range(0, m, -(-m // TRIED_MEMBERS)), m - 1})
    with one_thread():
        all_MKN = logits(weight_MKD, bias_MK, x_ND)
        return all(torch.equal(all_MKN[i], logits(weight_MKD[i : i + 1], bias_MK[i : i + 1], x_ND)[0]) for i in tried)


def logits(weight_MKD: Tensor, bias_MK: Tensor, x_ND: Tensor) -> Tensor:
    """MKN, float32, of classifiers on one input, by one product."""
    m, k, d = weight_MKD.shape
    product_JN = weight_MKD.reshape(m * k, d).to(x_ND.dtype) @ x_ND.t()
    return product_JN.float().view(m, k, -1) + bias_MK[..., None]


def drawn_stack(kind: str, m: int, k: int, d: int, draws: torch.Generator) -> Stack:
    stack = Stack(kind, m, k, d, torch.device("cpu"))
    for name in stack.rows:
        stack.weights(name).copy_(torch.rand(m, k, d, generator=draws) * 0.1)
        stack.biases(name).copy_(torch.rand(m, k, generator=draws) * 0.1)
    stack.set_constants(*torch.rand(3, m, generator=draws))
    return stack


def part_of(stack: Stack, i: int) -> Stack:
    """One of its classifiers, in memory of its own."""
    one = Stack(stack.kind, 1, stack.k, stack.d, torch.device("cpu"))
    for name, rows in one.rows.items():
        rows.copy_(stack.rows[name][i : i + 1])
    for name in ("hard_M11", "soft_M11", "decay_M1", "momentum_M1"):
        getattr(one, name).copy_(getattr(stack, name)[i : i + 1])
    return one


def _whole_lines(n: int) -> int:
    return -(-n // LINE) * LINE
