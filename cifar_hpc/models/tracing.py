"""What torch.fx traces of a network, and whether one trace holds all that its forward does. Owns: units, trace.

A *unit* is a module with code of its own that is no mere stack of like modules: a residual block, an inception or dense block,
an encoder layer. Units are opaque: their code is called each time. The code around them runs once, when it is traced, and what
it decides itself would be decided for good. So a dropout by functional.dropout becomes a module, and a network is refused that
does anything else in training alone, or draws random numbers.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from cifar_hpc.errors import CifarHpcError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
    functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_DIFFERS = "its forward does not do the same each time, such as in training and in evaluation"
_OPAQUE = "put that part into a module of its own with the layers that it works on, whose code is called each time"


def trace(
    model: nn.Module, closed: tuple[type[nn.Module], ...] = (), functions: tuple[Callable[..., Any], ...] = ()
) -> fx.Graph:
    """Its graph around its units, the same in training and in evaluation. closed, functions: modules and functions that are
    not traced into. Dropouts that it has as functions become modules of the model. Raises CifarHpcError."""
    modes = [(module, module.training) for module in model.modules()]
    drawn = _drawn()
    try:
        model.eval()
        evaluation, its_constants = _graph(_Tracer(model, closed, functions), model)
        for name in its_constants:
            delattr(model, name)
        model.train()
        training, constants = _graph(_Tracer(model, closed, functions), model)
    except Exception as error:  # a tracer meets any code that a model's author wrote
        raise _refusal(model, f"torch.fx cannot trace it ({error})") from error
    finally:
        for module, mode in modes:
            module.training = mode
    if _drawn() != drawn:
        raise _refusal(model, f"its forward draws random numbers, which tracing it would draw once for all: {_OPAQUE}")
    if constants.keys() != its_constants.keys() or not all(_same(constants[name], its_constants[name]) for name in constants):
        raise _refusal(model, f"{_DIFFERS}: {_OPAQUE}")
    _follow_the_mode(model, training, evaluation)
    return training


def _graph(tracer: fx.Tracer, model: nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph, and the constants that the trace left as attributes of the model."""
    before = set(vars(model))
    graph = tracer.trace(model)
    return graph, {name: value for name, value in vars(model).items() if name not in before}


def _refusal(model: nn.Module, reason: str) -> CifarHpcError:
    return CifarHpcError(f"{type(model).__name__} cannot be cut into blocks: {reason}")


def _drawn() -> tuple[object, ...]:
    """Changes where a global generator is drawn from."""
    _, keys, *position = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), *position, torch.get_rng_state().numpy().tobytes()


def _follow_the_mode(model: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> None:
    """Makes of each dropout whose `training` is that of the network a module. Raises CifarHpcError on any other difference."""
    nodes, others = list(training.nodes), list(evaluation.nodes)
    if len(nodes) != len(others):
        raise _refusal(model, f"{_DIFFERS}: {_OPAQUE}")
    dropouts = {}
    for node, other in zip(nodes, others, strict=True):
        if _written(node) == _written(other):
            continue
        arguments = _dropout_arguments(node)
        if arguments is None or _dropout_arguments(other) != {**arguments, "training": False}:
            raise _refusal(model, f"{_DIFFERS} (at {node.name}): {_OPAQUE}")
        dropouts[node] = _DROPOUTS[node.target](arguments["p"])
    for node, dropout in dropouts.items():
        name = next(free for i in range(len(nodes)) if not hasattr(model, free := f"{node.name}_{i}"))
        model.add_module(name, dropout)
        with training.inserting_before(node):
            module = training.call_module(name, (node.all_input_nodes[0],))
        node.replace_all_uses_with(module)
        training.erase_node(node)


def _same(one: Any, other: Any) -> bool:
    """NaN is equal to NaN; of what is no tensor, or has no values, it is taken for granted."""
    if not isinstance(one, Tensor) or one.is_meta:
        return True
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _written(node: fx.Node) -> tuple[str, ...]:
    """What it does, with names of the nodes that it takes."""
    return node.op, str(node.target), str(node.args), str(node.kwargs)


def _dropout_arguments(node: fx.Node) -> dict[str, str] | None:
    """Of a dropout on one value with p a number; None: anything else."""
    if node.target not in _DROPOUTS or not callable(node.target) or len(node.all_input_nodes) != 1:
        return None
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return {**bound.arguments, "input": str(node.all_input_nodes[0])}


class _Tracer(fx.Tracer):
    """Symbolic tracing that leaves torch's and torchvision's operators, layers and all units closed."""

    def __init__(
        self, model: nn.Module, closed: tuple[type[nn.Module], ...], functions: tuple[Callable[..., Any], ...]
    ) -> None:
        super().__init__(autowrap_functions=functions)
        self._units = set(_units(model, set(_around_classifier(model))))
        self._closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        operator = m.__module__.startswith("torchvision.ops") and not is_stack(m)
        closed = operator or _is_layer(m) or isinstance(m, self._closed)
        return m in self._units or closed or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The image is the only input: what else forward takes has its default."""
        forward, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        for i, parameter in enumerate(inspect.signature(root_fn).parameters.values()):
            if i > 1 and i < len(arguments) and parameter.default is not inspect.Parameter.empty:
                self.graph.erase_node(arguments[i].node)
                arguments[i] = parameter.default
        return forward, arguments


def is_stack(module: nn.Module) -> bool:
    """Whether the module only holds others: it has no code of its own between them."""
    return type(module).forward is nn.Sequential.forward or type(module) in (nn.ModuleList, nn.ModuleDict)


def _is_composite(module: nn.Module) -> bool:
    """A module with its own code around weighted children."""
    return not is_stack(module) and any(True for _ in module.children()) and any(True for _ in module.parameters())


def _is_layer(module: nn.Module) -> bool:
    """Whether all its parameters are its own, such as a linear layer that casts them first."""
    own = sum(1 for _ in module.parameters(recurse=False))
    return own > 0 and own == sum(1 for _ in module.parameters()) and not any(True for _ in module.children())


def _around_classifier(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that hold the last weighted layer and others (pooling, a norm): it is to be a block of its own."""
    parts = classifier_name(model).split(".")
    for n in range(1, len(parts)):
        yield model.get_submodule(".".join(parts[:n]))


def classifier_name(model: nn.Module) -> str:
    """The path of the last weighted layer that is no normalisation; empty where there is none."""
    weighted = [
        path
        for path, module in model.named_modules()
        if not isinstance(module, NORMS) and any(True for _ in module.parameters(recurse=False))
    ]
    return weighted[-1] if weighted else ""


def _units(module: nn.Module, opened: Collection[nn.Module]) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.MultiheadAttention):
            continue
        if _is_composite(child) and not _is_stage(child) and child not in opened:
            yield child
        else:
            yield from _units(child, opened)


def _is_stage(module: nn.Module) -> bool:
    """A composite that runs a stack of several composites of one class, such as a transformer's encoder."""
    for stack in filter(is_stack, module.children()):
        classes = [type(child) for child in stack.children() if _is_composite(child)]
        if len(classes) > len(set(classes)):
            return True
    return False
