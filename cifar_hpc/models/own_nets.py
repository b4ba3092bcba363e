"""A network of the user's own: called, cut into blocks, and checked. Owns: make_own, cut_own.

Its class or function is called with num_classes and in_channels, and with arch_args. Its blocks are those of its method
`blocks()`, an ordered mapping of name -> module whose chain is the network, the classifier last; else where torch.fx may cut
it; else, of an nn.Sequential, its children. Must not know: configs, training.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from cifar_hpc.config.own import OwnNetwork, plain_arguments
from cifar_hpc.config.sources import OwnCodeError, Source, load_source, own_line
from cifar_hpc.errors import CifarHpcError, UnusableArchError, nearest
from cifar_hpc.models.blocks import Block, BlockModel, cut

_TOLERANCE = 1e-4  # relative, between the network and the chain of its blocks
_BLOCKS = 'def blocks(self): return {"stem": self.stem, "body": self.body, "classifier": self.classifier}'


def make_own(network: OwnNetwork, num_classes: int, channels: int) -> nn.Module:
    """The uncut network. Raises UnusableArchError where it cannot be called so, or gives no module."""
    source, args = network.source, plain_arguments(network.args) or {}
    try:
        build = load_source(source)
    except OwnCodeError as error:
        raise UnusableArchError(error.found, error.allowed, error.near) from error
    except Exception as error:  # a user's file may raise anything
        raise UnusableArchError(own_line(error, source.path), f"{source.name} is imported before it is called") from error
    _check_arguments(source, build, args)
    try:
        made = build(num_classes=num_classes, in_channels=channels, **args)
    except Exception as error:
        said = ", ".join(
            f"{name}={value!r}" for name, value in {"num_classes": num_classes, "in_channels": channels, **args}.items()
        )
        raise UnusableArchError(own_line(error, source.path), f"{source.object}({said}) gives the network") from error
    if not isinstance(made, nn.Module):
        raise UnusableArchError(f"{source.name} gives a {type(made).__name__}", "a torch.nn.Module is needed")
    return made


def cut_own(network: OwnNetwork, module: nn.Module) -> BlockModel:
    """The network as blocks that share its modules. Raises UnusableArchError that says what to write where it has none."""
    model = _blocks_of(network, module)
    _check_apart(network, model)
    _compare(network, module, model)
    return model


def _blocks_of(network: OwnNetwork, module: nn.Module) -> BlockModel:
    name = network.source.name
    if callable(getattr(module, "blocks", None)):
        return _chained(module, _own_blocks(module, name), name)
    try:
        return cut(module)
    except CifarHpcError as error:
        if type(module).forward is nn.Sequential.forward:
            return _chained(module, dict(module.named_children()), name)
        cause = error.__cause__
        found = f"{own_line(cause, network.source.path)}: torch.fx cannot follow this line" if cause else str(error)
        allowed = f"a network that it can trace, or one that says its blocks itself: {_BLOCKS}"
        raise UnusableArchError(found, allowed) from error


def _check_apart(network: OwnNetwork, model: BlockModel) -> None:
    """Raises UnusableArchError where a parameter is part of two blocks: frozen in one, it would train in the other."""
    held = zip(model.names, (block.named_parameters() for block in model.blocks), strict=True)
    _refuse_shared(network, "the parameter", ((name, key, one) for name, found in held for key, one in found))


def _check_buffers_apart(network: OwnNetwork, before: BlockModel, after: BlockModel) -> None:
    """Raises UnusableArchError where a buffer that training changed, such as a mean of BatchNorm, is part of two blocks; one
    that stays as it is may be."""
    changed = [
        (name, key, buffer)
        for name, block, trained in zip(before.names, before.blocks, after.blocks, strict=True)
        for (key, buffer), old in zip(trained.named_buffers(), block.buffers(), strict=True)
        if not torch.equal(buffer, old)
    ]
    _refuse_shared(network, "the buffer", changed)


def _refuse_shared(network: OwnNetwork, what: str, held: Iterable[tuple[str, str, Tensor]]) -> None:
    """held: block, name in it, tensor."""
    holders: dict[int, tuple[str, str]] = {}
    for block, key, tensor in held:
        other, its = holders.setdefault(id(tensor), (block, key))
        if other != block:
            key, its = (one.removeprefix("body.") for one in (key, its))
            both = f"{its} of {network.source.name}" if key == its else f"{its}, also {key}, of {network.source.name}"
            raise UnusableArchError(
                f"{what} {both} is part of two blocks, {other} and {block}",
                "each block has what training changes to itself: give each one of its own, or put both uses into one module",
            )


def _check_arguments(source: Source, build: Any, args: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):  # a callable that says none
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    names = [name for name in parameters if name not in ("num_classes", "in_channels")]
    for name in args:
        if name not in names:
            takes = f"{source.object} takes {', '.join(names)}" if names else f"{source.object} takes no further ones"
            raise UnusableArchError(f"the argument {name!r} of {source.name}", takes, nearest(name, names))
    for name in ("num_classes", "in_channels"):
        if name not in parameters:
            allowed = f"write {source.object}(num_classes, in_channels, ...): it is called with both"
            raise UnusableArchError(f"{source.name} takes no {name}", allowed, nearest(name, list(parameters)))


def _own_blocks(module: nn.Module, name: str) -> dict[str, nn.Module]:
    blocks = module.blocks()  # type: ignore[operator]
    if not isinstance(blocks, Mapping) or not all(isinstance(block, nn.Module) for block in blocks.values()) or not blocks:
        raise UnusableArchError(
            f"blocks() of {name} gives a {type(blocks).__name__}", f"a mapping of name to module: {_BLOCKS}"
        )
    return dict(blocks)


def _chained(module: nn.Module, children: Mapping[str, nn.Module], name: str) -> BlockModel:
    """Blocks of one module each; those without parameters belong to the one before them, as everywhere."""
    paths = {id(child): path for path, child in module.named_modules()}
    foreign = [label for label, child in children.items() if id(child) not in paths]
    if foreign:
        raise UnusableArchError(
            f"blocks() of {name}: {foreign[0]!r} is no module of the network", "its own modules, in forward order"
        )
    groups: list[tuple[str, list[str]]] = []
    for label, child in children.items():
        if groups and (not any(True for _ in child.parameters()) or not _weighted(module, groups[-1][1])):
            groups[-1][1].append(paths[id(child)])
            if not _weighted(module, groups[-1][1][:-1]):
                groups[-1] = (label, groups[-1][1])
        else:
            groups.append((label, [paths[id(child)]]))
    held = {
        f"{path}.{key}" for _, group in groups for path in group for key, _ in module.get_submodule(path).named_parameters()
    }
    left = [key for key, _ in module.named_parameters() if key not in held]
    if left:
        raise UnusableArchError(
            f"the parameter {left[0]} of {name} is in no block", "every parameter belongs to one of its blocks"
        )
    return BlockModel([label for label, _ in groups], [_block(module, group) for _, group in groups])


def _weighted(module: nn.Module, paths: list[str]) -> bool:
    return any(True for path in paths for _ in module.get_submodule(path).parameters())


def _block(module: nn.Module, paths: list[str]) -> Block:
    """A block that calls the modules one after another, under the names that they have in the network."""
    graph = fx.Graph()
    value = graph.placeholder("x")
    for path in paths:
        value = graph.call_module(path, (value,))
    graph.output(value)
    return Block(fx.GraphModule(module, graph))


def _compare(network: OwnNetwork, module: nn.Module, model: BlockModel) -> None:
    """Raises UnusableArchError where the chain of blocks does something else than the network, in evaluation or in training, or
    where training changes in one block what is in another too."""
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    x_NCHW = torch.randn(2, network.channels, network.side, network.side, generator=torch.Generator().manual_seed(0))
    whole, chained = copy.deepcopy((module, model))  # of which one shares the other's modules, as these do
    for training in (False, True):
        try:
            (expected, its), (found, own) = (_answer(one, x_NCHW, training) for one in (whole, chained))
        except Exception as error:
            raise UnusableArchError(
                own_line(error, network.source.path),
                f"images of {network.channels} x {network.side} x {network.side} go through its blocks in turn",
            ) from error
        same = all(isinstance(one, Tensor) for one in (expected, found)) and expected.shape == found.shape
        if not same or not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise UnusableArchError(
                f"the blocks of {network}, one after another, give other logits than the network{' in training' * training}",
                "its forward is the chain of its blocks: all that it does between them belongs into one of them",
            )
        if its != own:
            raise UnusableArchError(
                f"the blocks of {network}, one after another, train other parameters than the network",
                "its forward lets all its blocks learn; `freeze` says which are to stay as they are",
            )
    _check_buffers_apart(network, model, chained)


def _answer(module: nn.Module, x_NCHW: Tensor, training: bool) -> tuple[Any, set[int]]:
    """Its logits, by random numbers of one seed, and the parameters that learn from them, in training."""
    module.train(training)
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
        torch.manual_seed(0)
        logits_NK = module(x_NCHW)
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad] if training else []
    if not learning or not isinstance(logits_NK, Tensor) or not logits_NK.requires_grad:
        return logits_NK, set()
    gradients = torch.autograd.grad(logits_NK.sum(), learning, allow_unused=True)
    return logits_NK.detach(), {id(one) for one, gradient in zip(learning, gradients, strict=True) if gradient is not None}
