"""Linear classifiers stepped side by side: what equality to the last bit costs beside a step that does not care.

    python benchmarks/probe_steps.py

Prints, for some numbers of members, features and classes, the milliseconds of a step: of one that makes no promise, and of the
ways of train/stack.py with their ratios to it, and which of them this machine takes. Best of some runs in turns, one process.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional

from cifar_hpc.train.stack import Batch, Rates, Stack, Way, way_for

STEPS, TURNS = 40, 5


class Careless:
    """The step as one would write it: three batched products, SGD with Nesterov momentum."""

    def __init__(self, m: int, k: int, d: int) -> None:
        self.weight_MKD, self.bias_MK = torch.rand(m, k, d) * 0.01, torch.zeros(m, k)
        self.buffers = [torch.zeros_like(self.weight_MKD), torch.zeros_like(self.bias_MK)]
        self.column_M11 = torch.rand(m, 1, 1) * 0.01
        self.loss_sum_M, self.correct_M = torch.zeros(m, dtype=torch.float64), torch.zeros(m, dtype=torch.int64)

    @torch.no_grad()
    def step(self, x_ND: Tensor, share_NK: Tensor) -> None:
        n, m, k = len(x_ND), len(self.weight_MKD), share_NK.shape[1]
        x_MND = x_ND.expand(m, -1, -1)
        logits_MNK = torch.bmm(x_MND, self.weight_MKD.transpose(1, 2)) + self.bias_MK[:, None]
        smooth_MNK = share_NK * (1 - self.column_M11) + self.column_M11 / k
        log_p_MNK = logits_MNK.log_softmax(-1)
        grad_MNK = (log_p_MNK.exp() - smooth_MNK) / n
        ones_M1N = torch.ones(m, 1, n)
        grad_bias_MK = torch.bmm(ones_M1N, grad_MNK)[:, 0]
        grad_weight_MKD = torch.bmm(grad_MNK.transpose(1, 2), x_MND)
        loss_MN = -(log_p_MNK * smooth_MNK).sum(-1)
        self.loss_sum_M += torch.bmm(ones_M1N, loss_MN[..., None])[:, 0, 0].double()
        self.correct_M += (logits_MNK.argmax(-1) == share_NK.argmax(-1)).sum(-1)
        pairs = ((self.weight_MKD, grad_weight_MKD), (self.bias_MK, grad_bias_MK))
        for (parameter, grad), buffer in zip(pairs, self.buffers, strict=True):
            column = self.column_M11.view(-1, *[1] * (parameter.ndim - 1))
            grad = grad + column * parameter
            buffer.mul_(column).add_(grad)
            parameter -= column * (grad + column * buffer)


class Stacked:
    def __init__(self, m: int, k: int, d: int, way: Way) -> None:
        self.stack, self.way = Stack("sgd", m, k, d, torch.device("cpu")), way
        self.stack.weights("parameter").copy_(torch.rand(m, k, d) * 0.01)
        column_M1 = torch.rand(m, 1) * 0.01
        self.rates = Rates(column_M1, column_M1, column_M1, column_M1)

    def step(self, x_ND: Tensor, share_NK: Tensor) -> None:
        grad_MP, _, _ = self.stack.gradients(Batch.of(x_ND, share_NK, share_NK.shape[1]), self.way)
        self.stack.update(grad_MP, self.rates)


def best_ms(steps: dict[str, object], x_ND: Tensor, share_NK: Tensor) -> dict[str, float]:
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(TURNS):
        for name, one in steps.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                one.step(x_ND, share_NK)  # type: ignore[attr-defined]
            best[name] = min(best[name], (time.perf_counter() - started) / STEPS * 1e3)
    return best


def main() -> None:
    torch.set_num_threads(1)  # on which every stack is stepped
    torch.manual_seed(0)
    print(
        f"{'members':>8}{'images':>8}{'classes':>8}{'features':>9}{'careless':>10}{'together':>16}{'products apart':>16}  taken"
    )
    for k, d in ((10, 64), (10, 512), (100, 512), (10, 2048)):
        for n in (64, 63):
            x_ND, share_NK = torch.randn(n, d), functional.one_hot(torch.randint(k, (n,)), k).float()
            for m in (1, 8, 64):
                steps = {"careless": Careless(m, k, d), **{way.value: Stacked(m, k, d, way) for way in list(Way)[:2]}}
                ms = best_ms(steps, x_ND, share_NK)
                cells = "".join(f"{ms[way]:9.3f} ({ms[way] / ms['careless']:.2f})" for way in list(ms)[1:])
                way = way_for("sgd", m, n, k, d)
                print(f"{m:8}{n:8}{k:8}{d:9}{ms['careless']:10.3f}{cells}  {way.value}", flush=True)


if __name__ == "__main__":
    main()
