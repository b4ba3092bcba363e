"""Augmentation operations on the pixels of single images, batched: x_NCHW float32 in 0..1 in, the same out.

Owns: the draws and the pixel work of every single-image operation of catalog.AUGMENT_OPS, apart from each other: draws are
made on the CPU from the given generator, for many batches ahead if need be, and the pixel work reads them where the images
lie. kornia (colour, blur) is imported by the operations that need it. Nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Args = dict[str, float]
Draws = tuple[Tensor, ...]  # all that is random in one operation on one batch; their shapes follow from the batch's size


@dataclass(frozen=True, slots=True)
class Operation:
    """draw: args, images, side of the images, CPU generator -> draws; change: args, x_NCHW, draws, the mean pixel -> x_NCHW."""

    draw: Callable[[Args, int, int, torch.Generator], Draws]
    change: Callable[[Args, Tensor, Draws, Tensor], Tensor]


def move(small: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for the work queued there."""
    return small.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else small.to(device)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def pad_pixels(args: Args, side: int) -> int:
    """The zero border of `crop`, pixels: 4 at a side of 32."""
    return round(args["pad_frac"] * side)


# --- geometric: matrices that compose, then one resampling -----------------------------------------------------------


def identity_maps(count: int) -> Tensor:
    return torch.eye(3).repeat(count, 1, 1)


def rotation_maps(degrees_B: Tensor) -> Tensor:
    """Maps from an output position to the input position it shows, in -1..1 from the centre (as functional.affine_grid)."""
    cos_B, sin_B = torch.cos(torch.deg2rad(degrees_B)), torch.sin(torch.deg2rad(degrees_B))
    maps_B33 = identity_maps(len(degrees_B))
    maps_B33[:, 0, 0], maps_B33[:, 0, 1] = cos_B, -sin_B
    maps_B33[:, 1, 0], maps_B33[:, 1, 1] = sin_B, cos_B
    return maps_B33


def translation_maps(right_B: Tensor, down_B: Tensor) -> Tensor:
    """Shifts as shares of a side."""
    maps_B33 = identity_maps(len(right_B))
    maps_B33[:, 0, 2], maps_B33[:, 1, 2] = -2 * right_B, -2 * down_B
    return maps_B33


def scale_maps(wide_B: Tensor, high_B: Tensor) -> Tensor:
    maps_B33 = identity_maps(len(wide_B))
    maps_B33[:, 0, 0], maps_B33[:, 1, 1] = 1 / wide_B, 1 / high_B
    return maps_B33


def shear_maps(slope_x_B: Tensor, slope_y_B: Tensor) -> Tensor:
    maps_B33 = identity_maps(len(slope_x_B))
    maps_B33[:, 0, 1], maps_B33[:, 1, 0] = slope_x_B, slope_y_B
    return maps_B33


def warp(x_NCHW: Tensor, maps_B23: Tensor) -> Tensor:
    """Bilinear resampling of square images through the maps; what comes from outside is black."""
    grid = functional.affine_grid(maps_B23, list(x_NCHW.shape), align_corners=False)
    return functional.grid_sample(x_NCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _rotate(args: Args, count: int, generator: torch.Generator) -> Tensor:
    return rotation_maps(uniform(count, -args["degrees"], args["degrees"], generator))


def _translate(args: Args, count: int, generator: torch.Generator) -> Tensor:
    right_B, down_B = (uniform(count, -args["frac"], args["frac"], generator) for _ in range(2))
    return translation_maps(right_B, down_B)


def _scale(args: Args, count: int, generator: torch.Generator) -> Tensor:
    factor_B = uniform(count, 1 - args["frac"], 1 + args["frac"], generator)
    return scale_maps(factor_B, factor_B)


def _shear(args: Args, count: int, generator: torch.Generator) -> Tensor:
    slopes = (torch.tan(torch.deg2rad(uniform(count, -args["degrees"], args["degrees"], generator))) for _ in range(2))
    return shear_maps(*slopes)


def _resized_crop(args: Args, count: int, generator: torch.Generator) -> Tensor:
    """Szegedy et al. 2014: area uniform, aspect log-uniform 3/4..4/3, a side longer than the image's cut to it."""
    area_B = uniform(count, args["min_area_frac"], 1.0, generator)
    root_B = torch.exp(uniform(count, math.log(3 / 4), math.log(4 / 3), generator) / 2)
    wide_B, high_B = (area_B.sqrt() * root_B).clamp(max=1), (area_B.sqrt() / root_B).clamp(max=1)
    maps_B33 = scale_maps(1 / wide_B, 1 / high_B)
    maps_B33[:, 0, 2] = (1 - wide_B) * uniform(count, -1, 1, generator)
    maps_B33[:, 1, 2] = (1 - high_B) * uniform(count, -1, 1, generator)
    return maps_B33


GEOMETRIC: dict[str, Callable[[Args, int, torch.Generator], Tensor]] = {
    "resized_crop": _resized_crop,
    "rotate": _rotate,
    "translate": _translate,
    "scale": _scale,
    "shear": _shear,
}


def draw_resampling(group: Sequence[tuple[str, Args]], count: int, side: int, generator: torch.Generator) -> Draws:
    """The composed maps of geometric operations, drawn in their order."""
    maps_B33 = identity_maps(count)
    for name, args in group:
        maps_B33 = maps_B33 @ GEOMETRIC[name](args, count, generator)
    return (maps_B33[:, :2].contiguous(),)


def resample(group: Sequence[tuple[str, Args]], x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    """Geometric operations as one resampling."""
    return warp(x_NCHW, draws[0])


# --- flips and crops away from the head of the list ------------------------------------------------------------------


def _draw_hits(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    return (torch.rand(count, generator=generator) < args["p"],)


def _flip(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    return on_some(draws[0], x_NCHW, lambda some: some.flip(-1))


def _vflip(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    return on_some(draws[0], x_NCHW, lambda some: some.flip(-2))


def _draw_crop(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    return (torch.randint(0, 2 * pad_pixels(args, side) + 1, (count, 2), generator=generator),)


def _crop(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    side = x_NCHW.shape[-1]
    windows = functional.pad(x_NCHW, (pad_pixels(args, side),) * 4).unfold(2, side, 1).unfold(3, side, 1)
    return windows[torch.arange(len(x_NCHW), device=x_NCHW.device), :, draws[0][:, 0], draws[0][:, 1]]


# --- colour ----------------------------------------------------------------------------------------------------------


def _draw_factors(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    return (uniform(count, 1 - args["strength"], 1 + args["strength"], generator),)


def _brightness(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    return adjust_brightness(x_NCHW, draws[0])


def _contrast(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    return adjust_contrast(x_NCHW, draws[0])


def _saturation(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    return adjust_saturation(x_NCHW, draws[0])


def _draw_hue(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    return (2 * math.pi * uniform(count, -args["frac"], args["frac"], generator),)


def _hue(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    from kornia.enhance import adjust_hue

    if x_NCHW.shape[1] == 1:  # a gray image has no hue
        return x_NCHW
    shifted: Tensor = adjust_hue(x_NCHW, draws[0]).clamp(0, 1)
    return shifted


def _gray(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    return on_some(draws[0], x_NCHW, lambda some: adjust_saturation(some, some.new_zeros(len(some))))


def _blur(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    from kornia.filters import gaussian_blur2d

    sigma = args["sigma_frac"] * x_NCHW.shape[-1]
    kernel = 2 * min(math.ceil(3 * sigma), x_NCHW.shape[-1] - 1) + 1  # reflection reaches no farther than the image
    return on_some(draws[0], x_NCHW, lambda some: gaussian_blur2d(some, (kernel, kernel), (sigma, sigma)))


def adjust_brightness(x_NCHW: Tensor, factor_B: Tensor) -> Tensor:
    """x * factor, held in 0..1."""
    return (x_NCHW * per_image(factor_B)).clamp_(0, 1)


def adjust_contrast(x_NCHW: Tensor, factor_B: Tensor) -> Tensor:
    """The distance from the image's mean gray times factor, held in 0..1."""
    from kornia.enhance import adjust_contrast_with_mean_subtraction

    adjusted: Tensor = adjust_contrast_with_mean_subtraction(x_NCHW, factor_B)
    return adjusted


def adjust_saturation(x_NCHW: Tensor, factor_B: Tensor) -> Tensor:
    """The distance from the pixel's gray times factor, held in 0..1; gray images stay as they are."""
    from kornia.enhance import adjust_saturation_with_gray_subtraction

    adjusted: Tensor = adjust_saturation_with_gray_subtraction(x_NCHW, factor_B)
    return adjusted


# --- blanking --------------------------------------------------------------------------------------------------------


def _draw_cutout(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    """DeVries & Taylor 2017: a square around a centre anywhere in the image, cut off at the border, becomes the mean pixel."""
    size = round(args["size_frac"] * side)
    start_B2 = torch.randint(0, side, (count, 2), generator=generator) - size // 2
    return start_B2, start_B2 + size


def _draw_erase(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    """Zhong et al. 2017: a rectangle wholly inside the image, area uniform, aspect log-uniform, becomes the mean pixel."""
    hit_B = torch.rand(count, generator=generator) < args["p"]
    area_B = uniform(count, args["min_area_frac"], args["max_area_frac"], generator)
    root_B = torch.exp(uniform(count, math.log(0.3), math.log(1 / 0.3), generator) / 2)
    size_B2 = torch.stack((area_B.sqrt() * root_B, area_B.sqrt() / root_B), 1).mul(side).round().clamp(max=side)
    start_B2 = torch.floor(torch.rand(count, 2, generator=generator) * (side - size_B2 + 1))
    return start_B2, start_B2 + size_B2 * hit_B[:, None]


def _blank(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    start_B2, stop_B2 = draws
    at = torch.arange(x_NCHW.shape[-1], device=x_NCHW.device)
    inside_B2S = (at >= start_B2[:, :, None]) & (at < stop_B2[:, :, None])
    return torch.where((inside_B2S[:, 0, :, None] & inside_B2S[:, 1, None, :])[:, None], mean_pixel, x_NCHW)


def on_some(hit_B: Tensor, x_NCHW: Tensor, change: Callable[..., Tensor], *values_B: Tensor) -> Tensor:
    """`change` on the images that were hit, with their values. On a GPU on all images, of which the hit are taken: what was hit
    would have to be asked for there, and the shapes of a captured step are fixed. On a CPU works in place."""
    if x_NCHW.is_cuda:
        return torch.where(per_image(hit_B), change(x_NCHW, *values_B), x_NCHW)
    at = hit_B.nonzero()[:, 0]
    if len(at):
        x_NCHW[at] = change(x_NCHW[at], *(values_B_[at] for values_B_ in values_B))
    return x_NCHW


def per_image(values_B: Tensor) -> Tensor:
    return values_B.view(-1, 1, 1, 1)


OPERATIONS: dict[str, Operation] = {
    "flip": Operation(_draw_hits, _flip),
    "vflip": Operation(_draw_hits, _vflip),
    "crop": Operation(_draw_crop, _crop),
    "brightness": Operation(_draw_factors, _brightness),
    "contrast": Operation(_draw_factors, _contrast),
    "saturation": Operation(_draw_factors, _saturation),
    "hue": Operation(_draw_hue, _hue),
    "gray": Operation(_draw_hits, _gray),
    "blur": Operation(_draw_hits, _blur),
    "cutout": Operation(_draw_cutout, _blank),
    "erase": Operation(_draw_erase, _blank),
}
