"""Any model as an ordered list of blocks. Owns: where a network may be cut, what the pieces are called, BlockModel.

The cut. Units (models/tracing.py) are opaque. torch.fx traces the network around them, and a cut is allowed where exactly one
value is alive (constants and parameters not counted). The pieces are then joined: a piece without weighted layer
(activation, pooling, flatten) or with a normalisation alone belongs to the weighted layer before it; a dropout, with what
follows it, belongs to the weighted layer after it, which is the one it regularises. So no random layer ever stands at the
end of a frozen trunk, and the last block is the last weighted layer alone: the classifier.

Must not know: configs, weights files, which architectures exist.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _IncompatibleKeys

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.tracing import NORMS, trace


class Block(nn.Module):
    """One freezable piece of a model: a traced sub-network whose parameters keep their original qualified names.

    frozen: train() leaves this block in eval mode; still: it leaves its BatchNorm there, whose running statistics then stay.
    Deep-copyable and picklable.
    """

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        self.body = body
        self.frozen = self.still = False
        self._spare_input()

    def __deepcopy__(self, memo: dict[int, Any]) -> Block:
        """Modules and numbers of its own, and the original's code, which took longer to compile than all else takes to copy."""
        block, body = Block.__new__(Block), object.__new__(type(self.body))
        memo[id(self)], memo[id(self.body)] = block, body
        for own, of in ((body, self.body), (block, self)):
            vars(own).update(copy.deepcopy({name: value for name, value in vars(of).items() if name != "_graph"}, memo))
        vars(body)["_graph"] = self.body.graph
        return block

    def _spare_input(self) -> None:
        """Lets the operations before the first weighted layer leave the block's input as it is: others may read it too."""
        for node in self.body.graph.nodes:
            if node.op == "call_module":
                module = self.body.get_submodule(str(node.target))
                if any(True for _ in module.parameters()):
                    break
                if getattr(module, "inplace", False):
                    module.inplace = False  # type: ignore[assignment]
            elif node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
        self.body.recompile()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y

    def train(self, mode: bool = True) -> Block:
        super().train(mode and not self.frozen)
        if self.still:
            for module in self.modules():
                if isinstance(module, _NormBase):
                    module.eval()
        return self

    def prepend_dropout(self, p: float) -> None:
        """Put a dropout before the first layer of the block, and of none of its copies: these keep the code that they share."""
        graph = copy.deepcopy(self.body.graph)
        source = next(node for node in graph.nodes if node.op == "placeholder")
        self.body.add_submodule("dropout", nn.Dropout(p))
        with graph.inserting_after(source):
            dropped = graph.call_module("dropout", (source,))
        source.replace_all_uses_with(dropped, delete_user_cb=lambda user: user is not dropped)
        self.body = fx.GraphModule(self.body, graph)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        state: dict[str, Any] = self.body.state_dict(*args, **kwargs)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        found: _IncompatibleKeys = self.body.load_state_dict(state_dict, strict, assign)
        return found


class BlockModel(nn.Module):
    """A network as a chain of blocks. The last block is the classifier.

    names: of the blocks, in forward order; warnings: what the user should know of how the model was built; drawn_classifier:
    whether weights were given that hold none for these classes.
    state_dict has the keys of the network that was cut, so its checkpoints load here and ours load there.
    """

    def __init__(self, names: Sequence[str], blocks: Sequence[nn.Module], warnings: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = tuple(names)
        self.blocks = nn.ModuleList(blocks)
        self.warnings = tuple(warnings)
        self.drawn_classifier = False

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images to logits, (N, C, H, W) -> (N, K)."""
        return self.forward_blocks(x_NCHW, 0, len(self.blocks))

    def forward_blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The output of block stop - 1, given the input of block start. start == stop gives x back."""
        for i in range(start, stop):
            x = self.blocks[i](x)
        return x

    def state_dict(  # type: ignore[override]
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        state: dict[str, Any] = {} if destination is None else destination
        for block in self.blocks:
            block.state_dict(destination=state, prefix=prefix, keep_vars=keep_vars)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        """As torch's: raises RuntimeError on missing or unexpected keys where strict, and on shapes that differ."""
        keys = [list(block.state_dict()) for block in self.blocks]
        known = {key for block_keys in keys for key in block_keys}
        missing = [key for block_keys in keys for key in block_keys if key not in state_dict]
        unexpected = [key for key in state_dict if key not in known]
        if strict and (missing or unexpected):
            raise RuntimeError(f"state_dict does not fit: missing {missing[:10]}, unexpected {unexpected[:10]}")
        for block, block_keys in zip(self.blocks, keys, strict=True):
            block.load_state_dict({key: state_dict[key] for key in block_keys if key in state_dict}, False, assign)
        return _IncompatibleKeys(missing, unexpected)


def cut(
    model: nn.Module,
    warnings: Sequence[str] = (),
    closed: tuple[type[nn.Module], ...] = (),
    functions: tuple[Callable[..., Any], ...] = (),
) -> BlockModel:
    """The model as a BlockModel that shares its modules. closed, functions: modules and functions that are not traced into.
    Raises CifarHpcError where it cannot be traced, or does what one trace does not hold."""
    graph = trace(model, closed, functions)
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    source = next(node for node in graph.nodes if node.op == "placeholder")
    owners = _weighted_owners(model)
    names: list[str] = []
    blocks: list[Block] = []
    for piece in _join(model, _pieces(source, nodes), owners):
        sink = _sink(piece, nodes)
        names.append(_name(piece, owners))
        blocks.append(Block(fx.GraphModule(model, _subgraph(source, piece, sink))))
        source = sink
    if len(set(names)) != len(names):
        raise CifarHpcError(f"{type(model).__name__} cannot be cut into blocks: two would bear one name ({', '.join(names)})")
    return BlockModel(names, blocks, warnings)


def _weighted_owners(model: nn.Module) -> dict[str, frozenset[str]]:
    """For every module path: the paths at or below it that own parameters and are no normalisation."""
    own = {
        path
        for path, module in model.named_modules()
        if path and not isinstance(module, NORMS) and any(True for _ in module.parameters(recurse=False))
    }
    return {
        path: frozenset(owner for owner in own if owner == path or owner.startswith(f"{path}."))
        for path, _ in model.named_modules()
        if path
    }


def _pieces(source: fx.Node, nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """The nodes, cut wherever exactly one value is alive."""
    position = {node: i for i, node in enumerate(nodes)}
    last_use = {node: max((position.get(user, len(nodes)) for user in node.users), default=-1) for node in [source, *nodes]}
    pieces: list[list[fx.Node]] = [[]]
    alive = {source}
    for i, node in enumerate(nodes):
        pieces[-1].append(node)
        alive = {value for value in (*alive, node) if last_use[value] > i}
        if alive == {node}:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _join(model: nn.Module, pieces: Sequence[list[fx.Node]], owners: Mapping[str, frozenset[str]]) -> list[list[fx.Node]]:
    """Pieces joined so that each has a weighted layer."""
    blocks: list[list[fx.Node]] = []
    tail: list[list[fx.Node]] = []
    for piece in pieces:
        if not any(_owners_of(node, owners) for node in piece):
            tail.append(piece)
            continue
        random = [i for i, part in enumerate(tail) if any(_is_dropout(model, node) for node in part)]
        split = random[0] if random else len(tail) if blocks else 0
        if blocks:
            blocks[-1] += chain.from_iterable(tail[:split])
            tail = tail[split:]
        blocks.append([*chain.from_iterable(tail), *piece])
        tail = []
    if not blocks:
        raise CifarHpcError(f"{type(model).__name__} cannot be cut into blocks: it has no weighted layer")
    blocks[-1] += chain.from_iterable(tail)
    return blocks


def _owners_of(node: fx.Node, owners: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return owners.get(str(node.target), frozenset()) if node.op == "call_module" else frozenset()


def _is_dropout(model: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), _DropoutNd)


def _sink(piece: Sequence[fx.Node], nodes: Sequence[fx.Node]) -> fx.Node:
    """The one value that leaves the piece."""
    inside = set(piece)
    return next(node for node in reversed(piece) if any(user not in inside for user in node.users))


def _name(piece: Sequence[fx.Node], owners: Mapping[str, frozenset[str]]) -> str:
    """The path of the largest module all of whose weighted layers are in the piece."""
    held = frozenset[str]().union(*(_owners_of(node, owners) for node in piece))
    parts = [owner.split(".") for owner in sorted(held)]
    shared = 0
    while all(len(part) > shared for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    path = parts[0][:shared] or parts[0]
    while len(path) > 1 and owners[".".join(path[:-1])] <= held:
        path = path[:-1]
    return ".".join(path)


def _subgraph(source: fx.Node, piece: Sequence[fx.Node], sink: fx.Node) -> fx.Graph:
    graph = fx.Graph()
    copies = {source: graph.placeholder("x")}

    def copied(value: fx.Node) -> fx.Node:
        if value not in copies and value.op == "get_attr":
            copies[value] = graph.node_copy(value)
        return copies[value]

    for node in piece:
        for value in node.all_input_nodes:
            copied(value)
        copies[node] = graph.node_copy(node, copied)
    graph.output(copies[sink])
    return graph


def linear_layer(model: BlockModel) -> str | None:
    """The path, within a model of the last block alone, of its only weighted layer, where that is linear with a bias: what a
    solved classifier is put into. None where there is no such layer."""
    last = BlockModel(model.names[-1:], list(model.blocks)[-1:])
    weighted = [(path, one) for path, one in last.named_modules() if any(True for _ in one.parameters(recurse=False))]
    if len(weighted) != 1 or not isinstance(weighted[0][1], nn.Linear) or weighted[0][1].bias is None:
        return None
    return str(weighted[0][0])


@torch.no_grad()
def is_layer_alone(last: BlockModel, path: str, x: Tensor) -> bool:
    """Whether a model of the last block alone, in eval mode, is its layer at path of x, the block's input, flattened."""
    seen: list[Tensor] = []
    hook = last.get_submodule(path).register_forward_hook(lambda _, given, out: seen.extend((*given, out)))
    logits = last(x)
    hook.remove()
    return len(seen) == 2 and torch.equal(seen[0], x.flatten(1)) and torch.equal(seen[1], logits)
