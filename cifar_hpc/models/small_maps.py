"""Convolutions of maps so small that a part of the kernel never meets anything but padding: that part is left out.

A padded 3x3 convolution of a 1x1 map is a matrix product with its central tap. Networks made for 224 pixels meet such maps
at 32: the last stage of a ResNet has nine times the arithmetic that it needs. What is left out has gradient zero either way,
so that training is the same but for rounding. Tensors, their names and shapes stay.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Window:
    """Along one side: the taps start..stop-1 meet the map; before, after: padding that these taps see; out: output length."""

    start: int
    stop: int
    before: int
    after: int
    out: int


@functools.cache
def window(length: int, taps: int, padding: int, stride: int, dilation: int) -> Window:
    """Of a map and a kernel that give at least one output."""
    out = (length + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    met = [t for t in range(taps) if any(0 <= o * stride - padding + t * dilation < length for o in range(out))]
    start, stop = (met[0], met[-1] + 1) if met else (0, taps)
    before = padding - start * dilation
    return Window(start, stop, before, (out - 1) * stride + dilation * (stop - start - 1) + 1 - length - before, out)


class SmallMapConv2d(nn.Conv2d):
    """As nn.Conv2d with zero padding of whole numbers, computed with the taps that meet the map."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        shape = x_NCHW.shape[2:]
        assert not isinstance(self.padding, str)
        geometry = zip(shape, self.kernel_size, self.padding, self.stride, self.dilation, strict=True)
        rows, columns = (window(*side) for side in geometry)
        if (rows.stop - rows.start, columns.stop - columns.start) == self.kernel_size:
            return super().forward(x_NCHW)
        weight = _Taps.apply(self.weight, rows.start, rows.stop, columns.start, columns.stop)
        if (rows.out, columns.out) == (1, 1) and self.groups == 1 and shape == weight.shape[2:]:
            return functional.linear(x_NCHW.flatten(1), weight.flatten(1), self.bias)[:, :, None, None]
        margins = (columns.before, columns.after, rows.before, rows.after)  # below zero: what is cut off
        padded = functional.pad(x_NCHW, margins) if any(margins) else x_NCHW
        return functional.conv2d(padded, weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _Taps(torch.autograd.Function):
    """A window of the taps, whose gradient is zero elsewhere: in one pass, in the memory format of the weight. On a GPU it is
    read where it lies."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.window = (top, bottom, left, right)
        taps = weight[:, :, top:bottom, left:right]
        return taps if weight.is_cuda else taps.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        top, bottom, left, right = ctx.window
        whole = torch.zeros_like(weight)
        whole[:, :, top:bottom, left:right] = grad
        return whole, None, None, None, None


def trim_convolutions(model: nn.Module) -> None:
    """Makes every convolution that may be so a SmallMapConv2d, in place; after tracing, which takes nn.Conv2d as one piece."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = SmallMapConv2d
