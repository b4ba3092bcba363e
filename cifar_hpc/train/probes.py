"""Linear classifiers of several members on one common input, stepped as one batched computation.

A sweep of learning rates over frozen features spends its time in the overhead of many tiny steps; here 64 of them cost about
as much as one, and each has on a CPU the bits that it has alone (stack.py).

Owns: which members can be stepped so, how their weights, optimiser states and sums become rows of stacks, so that all else
treats them as ever, what a step takes from their schedules, and how members are evaluated side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from cifar_hpc.config.plugins import optimizer_of
from cifar_hpc.models.blocks import Block
from cifar_hpc.train.member import Member
from cifar_hpc.train.stack import ADAM_BETAS, RULES, Batch, Rates, Stack, Way, logits, together_as_alone, way_for

NUMBERS = len(Rates.__slots__)  # of each member in a step
MOST_LOGITS = 2**23  # of one product when classifiers are evaluated
MOST_NUMBERS = 2**18  # weights of one stack: more do not lie in a core's cache from one operation to the next


def can_step(member: Member) -> bool:
    """Whether all that the member trains is one linear layer, without dropout, average or clipped gradient."""
    config = member.config
    rule = optimizer_of(config).probe_rule
    plain = config.class_weights is None and config.ema is None and config.grad_clip is None and config.anchor is None
    return (
        rule is not None
        and plain
        and len(member.depths) == 1
        and member.depth == len(member.model.blocks) - 1
        and _linear_of(member.model.blocks[-1]) is not None
    )


class Probes:
    """Some members, all of which `can_step`, of one optimiser kind, at one step of an epoch."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        numbers = sum(p.numel() for p in _layer(members[0]).parameters())
        most = max(1, MOST_NUMBERS // numbers)
        self._portions = [_Portion(self.members[i : i + most]) for i in range(0, len(members), most)]

    @property
    def numbers_n(self) -> int:
        return NUMBERS * len(self.members)

    def numbers_of(self, steps: Sequence[int]) -> Tensor:
        """What steps of this epoch take from the schedules, float64: for each step, number by number, those of Rates."""
        first, (beta_1, beta_2) = self.members[0], ADAM_BETAS
        totals = [first.steps_before + step for step in steps]
        shapes: dict[object, list[float]] = {}  # members of one shape have the same shares of their rates
        for member in self.members:
            if _shape(member) not in shapes:
                schedule = replace(member.schedule, peak=1.0)
                shapes[_shape(member)] = [schedule.rate(total, 0) for total in totals]
        share_MS = torch.tensor([shapes[_shape(member)] for member in self.members], dtype=torch.float64)
        peak_M, decay_M = (
            torch.tensor(values, dtype=torch.float64)
            for values in ([m.schedule.peak for m in self.members], [m.config.weight_decay for m in self.members])
        )
        lr_SM = share_MS.t() * peak_M
        bias_1, bias_2 = (
            torch.tensor([[1 - beta ** (total + 1)] for total in totals], dtype=torch.float64) for beta in (beta_1, beta_2)
        )
        rates = [lr_SM, lr_SM / bias_1, bias_2.expand_as(lr_SM), 1 - lr_SM * decay_M]
        return torch.stack(rates, 1).flatten(1)

    def compute(self, tap: Tensor, target: Tensor, numbers: Tensor) -> None:
        """One optimiser step of every member. tap: the common input, N first; target: N classes, or NK shares; numbers: of
        `numbers_of`, on the device."""
        x_ND, classes_n = tap.flatten(1), self._portions[0].stack.k
        batch = Batch.of(x_ND, target, classes_n)
        ways = [portion.way(x_ND) for portion in self._portions]
        if Way.APART in ways:
            self._portions = [_Portion([member]) for member in self.members]
            ways = [portion.way(x_ND) for portion in self._portions]
        numbers_RM, start = numbers.float().view(NUMBERS, -1), 0
        for portion, way in zip(self._portions, ways, strict=True):
            stop = start + len(portion.members)
            portion.step(batch, way, Rates(*numbers_RM[:, start:stop, None]))
            start = stop

    def count(self, images_n: int) -> None:
        """A step was taken, or asked for."""
        for member in self.members:
            member.count(images_n)


class _Portion:
    """Members whose weights, averages and sums are rows of one stack."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        layer, configs = _layer(members[0]), [member.config for member in members]
        device = layer.weight.device
        rule = optimizer_of(configs[0]).probe_rule
        if rule not in RULES:
            raise ValueError(f"optimizer {configs[0].optimizer}: no rule {rule!r} for linear probes")
        self.stack = Stack(rule, len(members), layer.out_features, layer.in_features, device)
        self._steps_M = torch.tensor([float(member.steps_before + member.progress.step) for member in members], device=device)
        for i, member in enumerate(members):
            self._bind(i, member)
        fixed = [[c.label_smoothing for c in configs], [c.weight_decay for c in configs], [c.momentum or 0.0 for c in configs]]
        self.stack.set_constants(*torch.tensor(fixed, dtype=torch.float32).to(device))
        self._loss_sum_M = torch.stack([member.sums.loss for member in members])
        self._hits_M = torch.stack([member.sums.hits for member in members])
        for member, loss, hits in zip(members, self._loss_sum_M, self._hits_M, strict=True):
            member.sums.lie_at(loss, hits)

    def way(self, x_ND: Tensor) -> Way:
        stack = self.stack
        if x_ND.is_cuda:
            return Way.TOGETHER
        return way_for(stack.kind, stack.m, len(x_ND), stack.k, stack.d, torch.get_num_threads())

    @torch.no_grad()
    def step(self, batch: Batch, way: Way, rates: Rates) -> None:
        grad_MP, loss_M, hits_M = self.stack.gradients(batch, way)
        world = self.members[0].world
        if world.size > 1:
            grad_MP *= len(batch.x_NE)
            for row_P in grad_MP:  # one by one: where a number stands in a sum over processes may decide on its last bit
                world.average([row_P], len(batch.x_NE))
        self._loss_sum_M += loss_M
        self._hits_M += hits_M
        self.stack.update(grad_MP, rates)
        if self.stack.kind != "sgd":
            self._steps_M += 1

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


class SideBySide:
    """Evaluates members on the features of one batch: linear classifiers as one product, all others one by one."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._heads: dict[int, list[tuple[Member, nn.Linear]]] = {}
        for member in members:
            if type(member) is Member and can_step(member):
                self._heads.setdefault(member.depth, []).append((member, _layer(member)))

    @torch.no_grad()
    def logits(self, features: Mapping[int, Tensor]) -> list[Tensor]:
        """NK, float32, of each member, which is in evaluation mode. features: by depth."""
        found: dict[Member, Tensor] = {}
        for depth, heads in self._heads.items():
            x_ND = features[depth].flatten(1).contiguous()
            classes_n = heads[0][1].out_features
            most = max(1, MOST_LOGITS // (classes_n * len(x_ND)))
            for start in range(0, len(heads), most):
                part = heads[start : start + most]
                theirs = _logits([layer for _, layer in part], x_ND)
                found |= dict(zip((member for member, _ in part), theirs, strict=True))
        return [found[m] if m in found else m.eval_logits(features[m.depth]) for m in self._members]


def _logits(layers: Sequence[nn.Linear], x_ND: Tensor) -> list[Tensor]:
    weight_MKD, bias_MK = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
    m, k, d = weight_MKD.shape
    if x_ND.is_cuda or together_as_alone(m, len(x_ND), k, d, torch.get_num_threads()):
        return list(logits(weight_MKD, bias_MK, x_ND).transpose(1, 2))
    return [logits(weight_MKD[i : i + 1], bias_MK[i : i + 1], x_ND)[0].t() for i in range(m)]


def _shape(member: Member) -> tuple[object, ...]:
    """What a schedule's shape depends on."""
    config = member.config
    return config.schedule, config.warmup_epochs, config.epochs


def _layer(member: Member) -> nn.Linear:
    layer = _linear_of(member.model.blocks[-1])
    assert layer is not None
    return layer


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
