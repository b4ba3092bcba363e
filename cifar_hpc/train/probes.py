"""Linear classifiers of several members on one common input, stepped as one batched computation.

A sweep of learning rates over frozen features spends its time in the overhead of many tiny steps; here 64 of them cost about
as much as one, and each has on a CPU the bits that it has alone (stack.py).

Owns: which members can be stepped so, how their weights, optimiser states and sums become rows of stacks, so that all else
treats them as ever, what a step takes from their schedules, and how members are evaluated side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from cifar_hpc.config.plugins import optimizer_of
from cifar_hpc.data.pixels import move
from cifar_hpc.models.blocks import Block
from cifar_hpc.train.lanes import cut, in_lanes
from cifar_hpc.train.member import Member
from cifar_hpc.train.stack import ADAM_BETAS, RULES, Batch, Rates, Stack, Way, logits, together_as_alone, way_for

NUMBERS = len(Rates.__slots__)  # of each member in a step
MOST_LOGITS = 2**24  # of one product when classifiers are evaluated


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
        self._portions = [_Portion(self.members[part]) for part in _parts([_layer(member) for member in members])]

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
        steps = []
        for portion, way in zip(self._portions, ways, strict=True):
            stop = start + len(portion.members)
            steps.append(partial(portion.step, batch, way, Rates(*numbers_RM[:, start:stop, None])))
            start = stop
        in_order = self.members[0].world.size > 1  # processes meet in each step, in the same one at a time
        for side_by_side in [[step] for step in steps] if in_order else [steps]:
            in_lanes(side_by_side, x_ND.device)

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
        return way_for(stack.kind, stack.m, len(x_ND), stack.k, stack.d)

    @torch.no_grad()
    def step(self, batch: Batch, way: Way, rates: Rates) -> None:
        grad_MP, loss_M, hits_M = self.stack.gradients(batch, way)
        world = self.members[0].world
        if world.size > 1:
            grad_MP *= batch.n
            for row_P in grad_MP:  # one by one: where a number stands in a sum over processes may decide on its last bit
                world.average([row_P], batch.n)
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
    """Evaluates members on the features of batches: linear classifiers at one depth as one, all others one by one. Weights are
    those that the members had when `begin` was called."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self.depths = [member.depth for member in members]
        rows: dict[int, list[int]] = {}
        for i, member in enumerate(members):
            if type(member) is Member and can_step(member):
                rows.setdefault(member.depth, []).append(i)
        self._heads = {depth: _Heads([_layer(members[i]) for i in places]) for depth, places in rows.items()}
        heads = [i for places in rows.values() for i in places]
        apart = set(range(len(members))) - set(heads)
        self._apart = [members[i] for i in sorted(apart)]
        order = [*heads, *sorted(apart)]
        self._place: Tensor | None = None
        if order != sorted(order):
            places = torch.empty(len(order), dtype=torch.int64)
            places[order] = torch.arange(len(order))
            self._place = move(places, members[0].device)

    def begin(self) -> None:
        for heads in self._heads.values():
            heads.take_weights()
        for member in self._apart:
            member.eval_mode()

    @torch.no_grad()
    def put_logits(self, features: Mapping[int, Tensor], logits_MNK: Tensor) -> None:
        """Of each member, in an order of its own: see `in_order`. features: of N images, by depth."""
        start = 0
        for depth, heads in self._heads.items():
            heads.put_logits(features[depth].flatten(1), logits_MNK[start : start + heads.m])
            start += heads.m
        for member, logits_NK in zip(self._apart, logits_MNK[start:], strict=True):
            logits_NK.copy_(member.eval_logits(features[member.depth]))

    def in_order(self, logits_MNK: Tensor) -> Tensor:
        """In the members' order."""
        return logits_MNK if self._place is None else logits_MNK[self._place]


class _Heads:
    """Linear classifiers of one shape and input."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers, self.m = list(layers), len(layers)
        self._weight_MKD = torch.stack([layer.weight.detach() for layer in layers])
        self._bias_MK = torch.stack([layer.bias.detach() for layer in layers])
        self._parts = _parts(layers)

    @torch.no_grad()
    def take_weights(self) -> None:
        torch.stack([layer.weight for layer in self._layers], out=self._weight_MKD)
        torch.stack([layer.bias for layer in self._layers], out=self._bias_MK)

    def put_logits(self, x_ND: Tensor, logits_MNK: Tensor) -> None:
        x_ND = x_ND.contiguous()
        most = max(1, MOST_LOGITS // (len(x_ND) * self._bias_MK.shape[1]))
        parts = [slice(i, min(i + most, part.stop)) for part in self._parts for i in range(part.start, part.stop, most)]
        in_lanes([partial(self._put, x_ND, part, logits_MNK) for part in parts], x_ND.device)

    @torch.no_grad()
    def _put(self, x_ND: Tensor, part: slice, logits_MNK: Tensor) -> None:
        m, (k, d) = part.stop - part.start, self._weight_MKD.shape[1:]
        if x_ND.is_cuda or together_as_alone(m, len(x_ND), k, d):
            parts = [part]
        else:
            parts = [slice(i, i + 1) for i in range(part.start, part.stop)]
        for one in parts:
            logits_MNK[one].copy_(logits(self._weight_MKD[one], self._bias_MK[one], x_ND).transpose(1, 2))


def _parts(layers: Sequence[nn.Linear]) -> list[slice]:
    """Layers of one shape in pieces that are computed at once."""
    return cut(len(layers), sum(p.numel() for p in layers[0].parameters()), layers[0].weight.device)


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
