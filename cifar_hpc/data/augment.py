"""The augmentation operations of catalog.AUGMENT_OPS, each on a batch with a draw of its own for every image.

Owns: what a name stands for, the draws and their order, the pixel work. Every draw is made on the CPU from the generator
passed in, in the order of the operations, and never from the global one. kornia is imported by the operations that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_hpc import catalog
from cifar_hpc.trial import AugmentOp

PixelOp = Callable[[Tensor, torch.Generator, Tensor], Tensor]  # x_NCHW in 0..1, generator, the mean pixel -> x_NCHW
MixOp = Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor]]  # x_NCHW, y_N, classes -> x_NCHW, y_NK


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with all its arguments."""

    name: str
    args: dict[str, float]


def resolve(augment: str | Sequence[AugmentOp]) -> tuple[Operation, ...]:
    """The operations that a name of catalog.AUGMENTATIONS stands for, or those listed, with defaults filled in."""
    listed = [AugmentOp(name=name) for name in catalog.AUGMENTATIONS[augment]] if isinstance(augment, str) else augment
    return tuple(
        Operation(op.name, {key: arg.default for key, arg in catalog.AUGMENT_OPS[op.name].items()} | dict(op.args))
        for op in listed
    )


@dataclass(frozen=True, slots=True)
class WindowDraws:
    """top_B, left_B: corner of each image's window in its padded image; flipped: positions in the batch, None: no flip."""

    top_B: Tensor
    left_B: Tensor
    flipped: Tensor | None


@dataclass(frozen=True, slots=True)
class Window:
    """The leading flip and crop of a list of operations, as one window into the padded image.

    flip_p: share mirrored, None: no flip; pad: zero border, pixels; operations_n: how many operations it stands for.
    """

    flip_p: float | None
    pad: int
    operations_n: int

    def draw(self, count: int, generator: torch.Generator) -> WindowDraws:
        """Draws, in this order: flip (rand < p), then row and column (randint 0..2*pad).

        Flip comes first, then padding and crop. Cropping the mirrored image at column c is mirroring the crop of the
        original at column 2*pad - c: the window is taken there, and then mirrored.
        """
        flip_B = torch.zeros(count, dtype=torch.bool)
        if self.flip_p is not None:
            flip_B = torch.rand(count, generator=generator) < self.flip_p
        corner_B2 = torch.zeros(count, 2, dtype=torch.int64)
        if self.pad:
            corner_B2 = torch.randint(0, 2 * self.pad + 1, (count, 2), generator=generator)
        left_B = torch.where(flip_B, 2 * self.pad - corner_B2[:, 1], corner_B2[:, 1])
        return WindowDraws(corner_B2[:, 0], left_B, None if self.flip_p is None else flip_B.nonzero()[:, 0])


def leading_window(operations: Sequence[Operation], side: int) -> Window:
    """The flip and crop that a list begins with; a window that does nothing where it begins otherwise."""
    flip_p: float | None = None
    used = 0
    if operations and operations[0].name == "flip":
        flip_p, used = operations[0].args["p"], 1
    if len(operations) > used and operations[used].name == "crop":
        return Window(flip_p, round(operations[used].args["pad_frac"] * side), used + 1)
    return Window(flip_p, 0, used)


def split_operations(operations: Sequence[Operation]) -> tuple[tuple[PixelOp, ...], MixOp | None]:
    """The operations after the window as functions: those on single images, and the one that mixes a batch."""
    if operations:
        raise NotImplementedError(operations[0].name)
    return (), None
