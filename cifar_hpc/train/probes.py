"""Linear classifiers of several members on one common input, stepped as one batched computation.

A sweep of learning rates over frozen features spends its time in the overhead of many tiny steps; here 64 of them cost about
as much as one. Every product is a batched one over the members, whose slices do not depend on how many there are (a batch of
one is padded to two, as libraries treat it otherwise), so that a member's numbers are the same alone and in any company.

Owns: which members it can step, the closed-form gradient, the update rules in batched form. The members' weights, optimiser
states and sums become views of the batch, so that all else treats them as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cifar_hpc.config.registry import OPTIMIZERS
from cifar_hpc.models.blocks import Block
from cifar_hpc.train.member import Member

RULES = {  # the update rules, each with the running averages that its optimiser keeps
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8  # torch.optim's defaults, which the other members have


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


class Heads:
    """Some members, all of which `can_step`, of one optimiser kind, at one step."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        rule = OPTIMIZERS[members[0].config.optimizer].probe_rule
        if rule not in RULES:
            raise ValueError(f"optimizer {members[0].config.optimizer}: no rule {rule!r} for linear probes")
        self.kind = rule
        padded = [*members, members[-1]] if len(members) == 1 else list(members)
        layers = [_linear_of(member.model.blocks[-1]) for member in padded]
        weights = [layer.weight for layer in layers if layer is not None]
        biases = [layer.bias for layer in layers if layer is not None]
        device = weights[0].device
        with torch.no_grad():
            self.weight_MKD = self._bind([weight.data for weight in weights], [(weight, "data") for weight in weights])
            self.bias_MK = self._bind([bias.data for bias in biases], [(bias, "data") for bias in biases])
            self.state = [self._bind_state(list(zip(padded, parameters, strict=True))) for parameters in (weights, biases)]
            self.steps_M = torch.stack([_step_count(m, p) for m, p in zip(padded, weights, strict=True)])
            if self.kind != "sgd":
                for parameters in (weights, biases):
                    for i, (member, parameter) in enumerate(zip(self.members, parameters, strict=False)):
                        member.optimizer.state[parameter]["step"] = self.steps_M[i]
            self.loss_sum_M = self._bind([m.loss_sum for m in padded], [(m, "loss_sum") for m in self.members])
            self.correct_M = self._bind([m.correct for m in padded], [(m, "correct") for m in self.members])
        configs = [member.config for member in padded]
        self.smoothing_M11 = _column([config.label_smoothing for config in configs], device)
        self.decay_M11 = _column([config.weight_decay for config in configs], device)
        self.momentum_M11 = _column([config.momentum or 0.0 for config in configs], device)

    @torch.no_grad()
    def step(self, tap: Tensor, target: Tensor) -> None:
        """One optimiser step of every member. tap: the common input, N first; target: N classes, or NK shares."""
        x_ND = tap.flatten(1)
        n, m = len(x_ND), len(self.weight_MKD)
        x_MND = x_ND.expand(m, -1, -1)
        logits_MNK = torch.bmm(x_MND, self.weight_MKD.to(x_ND.dtype).transpose(1, 2)).float() + self.bias_MK[:, None]
        k = logits_MNK.shape[-1]
        share_NK = functional.one_hot(target, k).float() if target.ndim == 1 else target
        smooth_MNK = share_NK * (1 - self.smoothing_M11) + self.smoothing_M11 / k
        log_p_MNK = logits_MNK.log_softmax(-1)
        grad_MNK = (log_p_MNK.exp() - smooth_MNK) / n
        ones_M1N = torch.ones(m, 1, n, device=x_ND.device)
        grad_bias_MK = torch.bmm(ones_M1N, grad_MNK)[:, 0]
        grad_weight_MKD = torch.bmm(grad_MNK.to(x_ND.dtype).transpose(1, 2), x_MND).float()
        world = self.members[0].world
        if world.size > 1:
            grad_bias_MK *= n
            grad_weight_MKD *= n
            world.average([grad_bias_MK, grad_weight_MKD], n)
        loss_MN = -(log_p_MNK * smooth_MNK).sum(-1)
        self.loss_sum_M += torch.bmm(ones_M1N, loss_MN[..., None])[:, 0, 0].double()
        self.correct_M += (logits_MNK.argmax(-1) == share_NK.argmax(-1)).sum(-1)
        lr_M11 = self._learning_rates(x_ND.device)
        self.steps_M += 1
        self._update(self.weight_MKD, grad_weight_MKD, self.state[0], lr_M11)
        self._update(self.bias_MK, grad_bias_MK, self.state[1], lr_M11)
        for member in self.members:
            member.seen += n
            member.progress.step += 1

    def _learning_rates(self, device: torch.device) -> Tensor:
        rates = []
        for member in self.members:
            rates.append(member.rate(0))
            member.optimizer.param_groups[0]["lr"] = rates[-1]
        return _column(rates + rates[-1:] * (len(self.weight_MKD) - len(rates)), device)

    def _update(self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], lr_M11: Tensor) -> None:
        """torch.optim's SGD (Nesterov), Adam and AdamW, member by member along the first dimension."""
        lr, decay = _like(lr_M11, parameter), _like(self.decay_M11, parameter)
        if self.kind == "adamw":
            parameter *= 1 - lr * decay
        else:
            grad = grad + decay * parameter
        if self.kind == "sgd":
            momentum = _like(self.momentum_M11, parameter)
            buffer = state["momentum_buffer"].mul_(momentum).add_(grad)
            parameter -= lr * (grad + momentum * buffer)
            return
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, 1 - ADAM_BETAS[0])
        second.mul_(ADAM_BETAS[1]).add_(grad * grad, alpha=1 - ADAM_BETAS[1])
        steps = _like(self.steps_M.view(-1, 1, 1).to(parameter.device), parameter)
        scale = lr / (1 - ADAM_BETAS[0] ** steps)
        parameter -= scale * first / ((second / (1 - ADAM_BETAS[1] ** steps)).sqrt() + ADAM_EPS)

    def _bind(self, values: Sequence[Tensor], places: Sequence[tuple[object, str]]) -> Tensor:
        """Stacks the values and lets each place hold its slice of the stack."""
        stacked = torch.stack(list(values))
        for i, (place, name) in enumerate(places[: len(self.members)]):
            setattr(place, name, stacked[i])
        return stacked

    def _bind_state(self, owners: Sequence[tuple[Member, Tensor]]) -> dict[str, Tensor]:
        """The optimisers' running averages of one parameter, stacked; zeros where a member has not stepped yet."""
        bound = {}
        for name in RULES[self.kind]:
            values = [member.optimizer.state[p].get(name) for member, p in owners]
            filled = [torch.zeros_like(p) if v is None else v for v, (_, p) in zip(values, owners, strict=True)]
            bound[name] = torch.stack(filled)
            for i, (member, parameter) in enumerate(owners[: len(self.members)]):
                member.optimizer.state[parameter][name] = bound[name][i]
        return bound


def _step_count(member: Member, parameter: Tensor) -> Tensor:
    count = member.optimizer.state[parameter].get("step")
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


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).to(device)


def _like(column_M11: Tensor, parameter: Tensor) -> Tensor:
    """The column in the number of dimensions of the parameter."""
    return column_M11.view(-1, *[1] * (parameter.ndim - 1))
