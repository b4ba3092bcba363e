"""What an augmentation name or list stands for, and how its operations become one pass over a batch.

Owns: resolving names, the leading flip-and-crop window, grouping neighbouring geometric operations into one resampling. The
pixel work is in pixels.py, the choice policies in policies.py, mixup and cutmix in mixing.py. Every draw is made on the CPU
from the generator passed in, in the order of the operations, and never from the global one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cifar_hpc.config import catalog
from cifar_hpc.config.registry import AugmentInfo, load
from cifar_hpc.config.trial import AugmentOp
from cifar_hpc.data import mixing, pixels, policies
from cifar_hpc.data.pixels import Draws
from cifar_hpc.errors import CifarHpcError, did_you_mean, nearest


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with all its arguments."""

    name: str
    args: dict[str, float]
    own: AugmentInfo | None = None  # of one that the catalogue does not have


@dataclass(frozen=True, slots=True)
class PixelOp:
    """draw: images, side, CPU generator -> draws; change: x_NCHW in 0..1, draws, the mean pixel -> x_NCHW."""

    draw: Callable[[int, int, torch.Generator], Draws]
    change: Callable[[Tensor, Draws, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Window:
    """The flip and crop that a list of operations begins with, as one window into the padded image.

    flip_p: share mirrored, None: no flip; pad: zero border, pixels; operations_n: how many operations it stands for.
    """

    flip_p: float | None
    pad: int
    operations_n: int

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Row and column of each image's window in its padded image, and which images are flipped; empty where none can be.

        Draws, in this order: flip (rand < p), then row and column (randint 0..2*pad).
        Flip comes first, then padding and crop. Cropping the mirrored image at column c is mirroring the crop of the
        original at column 2*pad - c: the window is taken there, and then mirrored.
        """
        if self.flip_p is None and not self.pad:
            return ()
        flip_B = torch.zeros(count, dtype=torch.bool)
        if self.flip_p is not None:
            flip_B = torch.rand(count, generator=generator) < self.flip_p
        corner_B2 = torch.zeros(count, 2, dtype=torch.int64)
        if self.pad:
            corner_B2 = torch.randint(0, 2 * self.pad + 1, (count, 2), generator=generator)
        left_B = torch.where(flip_B, 2 * self.pad - corner_B2[:, 1], corner_B2[:, 1])
        return corner_B2[:, 0].contiguous(), left_B, flip_B


def resolve(augment: str | Sequence[AugmentOp], own: Mapping[str, AugmentInfo] | None = None) -> tuple[Operation, ...]:
    """The operations that a name of catalog.AUGMENTATIONS stands for, or those listed, with defaults filled in. own: those
    beyond the catalogue.

    Raises CifarHpcError on a name or argument that the catalogue does not have, and on a mixing operation before the end.
    """
    if isinstance(augment, str):
        _known("augment", augment, catalog.AUGMENTATIONS)
        augment = [AugmentOp(name=name) for name in catalog.AUGMENTATIONS[augment]]
    known = {**catalog.AUGMENT_OPS, **{name: info.args for name, info in (own or {}).items()}}
    operations = []
    for op in augment:
        _known("augment operation", op.name, known)
        for key, _ in op.args:
            _known(f"argument of {op.name}", key, known[op.name])
        defaults = {key: arg.default for key, arg in known[op.name].items()}
        operations.append(Operation(op.name, defaults | dict(op.args), (own or {}).get(op.name)))
    if any(op.name in catalog.BATCH_OPS for op in operations[:-1]):
        raise CifarHpcError(f"augment: {' and '.join(catalog.BATCH_OPS)} mix images: only one of them, as the last operation")
    return tuple(operations)


def leading_window(operations: Sequence[Operation], side: int) -> Window:
    """The flip and crop that a list begins with; a window that does nothing where it begins otherwise."""
    flip_p: float | None = None
    used = 0
    if operations and operations[0].name == "flip":
        flip_p, used = operations[0].args["p"], 1
    if len(operations) > used and operations[used].name == "crop":
        return Window(flip_p, pixels.pad_pixels(operations[used].args, side), used + 1)
    return Window(flip_p, 0, used)


def pixel_operations(operations: Sequence[Operation]) -> tuple[PixelOp, ...]:
    """The operations on single images as functions. Neighbouring geometric ones become one bilinear resampling, as in
    torchvision's RandomAffine: three of them do not blur three times."""
    found: list[PixelOp] = []
    single = [op for op in operations if op.name not in catalog.BATCH_OPS]
    for geometric, group in itertools.groupby(single, lambda op: op.name in pixels.GEOMETRIC):
        if geometric:
            parts = [(op.name, op.args) for op in group]
            found.append(PixelOp(partial(pixels.draw_resampling, parts), partial(pixels.resample, parts)))
            continue
        for op in group:
            operation = _operation(op)
            found.append(PixelOp(partial(operation.draw, op.args), partial(operation.change, op.args)))
    return tuple(found)


def _operation(op: Operation) -> pixels.Operation:
    if op.own is not None:
        return pixels.Operation(load(op.own.draw), load(op.own.change))
    return policies.OPERATIONS.get(op.name) or pixels.OPERATIONS[op.name]


def mix_operation(operations: Sequence[Operation]) -> tuple[mixing.MixOp, float] | None:
    """The operation that mixes the images of a batch and their targets, and its alpha; None where there is none."""
    if not operations or operations[-1].name not in catalog.BATCH_OPS:
        return None
    return mixing.OPERATIONS[operations[-1].name], operations[-1].args["alpha"]


def _known(what: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        near = nearest(name, names)
        raise CifarHpcError(f"{what}: {name!r}; allowed are {', '.join(names) or 'none'}.{did_you_mean(near)}")
