"""Linear classifiers of several members on one common input, stepped as one batched computation.

A sweep of learning rates over frozen features spends its time in the overhead of many tiny steps; here 64 of them cost about
as much as one, and each has on a CPU the bits that it has alone (stack.py).

Owns: which members can be stepped so, how their weights, optimiser states and sums become rows of stacks, so that all else
treats them as ever, and their rates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cifar_hpc.config.registry import OPTIMIZERS
from cifar_hpc.models.blocks import Block
from cifar_hpc.train.member import Member
from cifar_hpc.train.stack import ADAM_BETAS, RULES, Rates, Stack, Way, columns, way_for

MOST_NUMBERS = 2**18  # weights of one stack: more do not lie in a core's cache from one operation to the next


def can_step(member: Member) -> bool:
    """Whether all that the member trains is one linear layer, without dropout, average or clipped gradient."""
    config = member.config
    rule = OPTIMIZERS[config.optimizer].probe_rule
    plain = config.ema is None and config.grad_clip is None and config.unfreeze_epoch is None
    return (
        rule is not None
        and plain
        and member.depth == len(member.model.blocks) - 1
        and _linear_of(member.model.blocks[-1]) is not None
    )


class Probes:
    """Some members, all of which `can_step`, of one optimiser kind, at one step of an epoch; to its end."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        numbers = sum(p.numel() for p in _layer(members[0]).parameters())
        most = max(1, MOST_NUMBERS // numbers)
        self._portions = [_Portion(self.members[i : i + most]) for i in range(0, len(members), most)]

    def step(self, tap: Tensor, target: Tensor) -> None:
        """One optimiser step of every member. tap: the common input, N first; target: N classes, or NK shares."""
        x_ND = tap.flatten(1).contiguous()
        classes_n = self._portions[0].stack.k
        share_NK = functional.one_hot(target, classes_n).float() if target.ndim == 1 else target
        ways = [portion.way(x_ND) for portion in self._portions]
        if Way.APART in ways:
            self._portions = [_Portion([member]) for member in self.members]
            ways = [portion.way(x_ND) for portion in self._portions]
        for portion, way in zip(self._portions, ways, strict=True):
            portion.step(x_ND, share_NK, way)


class _Portion:
    """Members whose weights, averages and sums are rows of one stack."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        layer, configs = _layer(members[0]), [member.config for member in members]
        self._device = layer.weight.device
        rule = OPTIMIZERS[configs[0].optimizer].probe_rule
        if rule not in RULES:
            raise ValueError(f"optimizer {configs[0].optimizer}: no rule {rule!r} for linear probes")
        self.stack = Stack(rule, len(members), layer.out_features, layer.in_features, self._device)
        self._steps_M = torch.stack([_step_count(member) for member in members])
        for i, member in enumerate(members):
            self._bind(i, member)
        fixed = [[c.label_smoothing for c in configs], [c.weight_decay for c in configs], [c.momentum or 0.0 for c in configs]]
        smoothing_M1, decay_M1, momentum_M1 = columns(fixed, self._device)
        self.stack.smoothing_M11.copy_(smoothing_M1[..., None])
        self.stack.decay_M1.copy_(decay_M1)
        self.stack.momentum_M1.copy_(momentum_M1)
        self._loss_sum_M = torch.stack([member.loss_sum for member in members])
        self._hits_M = torch.stack([member.correct for member in members])
        for i, member in enumerate(members):
            member.loss_sum, member.correct = self._loss_sum_M[i], self._hits_M[i]
        self._first_step = members[0].progress.step
        self._plan_epoch()

    def way(self, x_ND: Tensor) -> Way:
        stack = self.stack
        if x_ND.is_cuda:
            return Way.TOGETHER
        return way_for(stack.kind, stack.m, len(x_ND), stack.k, stack.d, torch.get_num_threads())

    @torch.no_grad()
    def step(self, x_ND: Tensor, share_NK: Tensor, way: Way) -> None:
        n, at = len(x_ND), self.members[0].progress.step - self._first_step
        grad_MP, loss_M, hits_M = self.stack.gradients(x_ND, share_NK, way)
        world = self.members[0].world
        if world.size > 1:
            grad_MP *= n
            for row_P in grad_MP:  # one by one: where a number stands in a sum over processes may decide on its last bit
                world.average([row_P], n)
        self._loss_sum_M += loss_M
        self._hits_M += hits_M
        self.stack.update(grad_MP, Rates(*(table_SM1[at] for table_SM1 in self._rates)))
        self._steps_M += 1
        for member, lr in zip(self.members, self._lr[at], strict=True):
            member.optimizer.param_groups[0]["lr"] = lr
            member.seen += n
            member.progress.step += 1

    @torch.no_grad()
    def _bind(self, i: int, member: Member) -> None:
        """Puts a member's weights and averages into the i-th rows and lets it hold views of them."""
        layer = _layer(member)
        for parameter, rows in ((layer.weight, self.stack.weights), (layer.bias, self.stack.biases)):
            state = member.optimizer.state[parameter]
            parameter.data = rows("parameter")[i].copy_(parameter.data)
            for name in RULES[self.stack.kind]:
                row = rows(name)[i]
                state[name] = row if state.get(name) is None else row.copy_(state[name])
            if self.stack.kind != "sgd":
                state["step"] = self._steps_M[i]

    def _plan_epoch(self) -> None:
        """The rates of the steps that the epoch still has, made once and moved at once: no step waits for the host."""
        first, (beta_1, beta_2) = self.members[0].progress, ADAM_BETAS
        steps = range(first.step, self.members[0].steps_per_epoch)
        rates = [[m.schedule.rate(m.steps_before + step, 0) for step in steps] for m in self.members]
        self._lr = list(zip(*rates, strict=True))
        counts = [[count + s + 1 for count in self._steps_M.tolist()] for s in range(len(steps))]
        decays = [member.config.weight_decay for member in self.members]
        scale = [[lr / (1 - beta_1**t) for lr, t in zip(*row, strict=True)] for row in zip(self._lr, counts, strict=True)]
        correction = [[1 - beta_2**t for t in row] for row in counts]
        shrink = [[1 - lr * decay for lr, decay in zip(row, decays, strict=True)] for row in self._lr]
        self._rates = [columns(table, self._device) for table in (self._lr, scale, correction, shrink)]


def _layer(member: Member) -> nn.Linear:
    layer = _linear_of(member.model.blocks[-1])
    assert layer is not None
    return layer


def _step_count(member: Member) -> Tensor:
    count = member.optimizer.state[_layer(member).weight].get("step")
    return torch.zeros(()) if count is None else count.detach().cpu().float()


def _linear_of(block: nn.Module) -> nn.Linear | None:
    """The block's linear layer where the block is flatten (if any), that layer and nothing else that acts; else None."""
    assert isinstance(block, Block)
    found: nn.Linear | None = None
    for node in block.body.graph.nodes:
        if node.op in ("placeholder", "output") or _is_flatten(block.body, node):
            continue
        layer = block.body.get_submodule(str(node.target)) if node.op == "call_module" else None
        if (isinstance(layer, nn.Dropout) and layer.p == 0) or isinstance(layer, nn.Identity):
            continue
        if found is not None or type(layer) is not nn.Linear or layer.bias is None:
            return None
        found = layer
    return found


def _is_flatten(body: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(body.get_submodule(str(node.target)), nn.Flatten)
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    return node.target in (torch.flatten, "flatten") and bool(start == 1)
