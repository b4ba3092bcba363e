"""RandAugment, TrivialAugment and AutoAugment: each image of a batch gets operations of its own choice and strength.

Owns: the published operations, strengths and policies, and one implementation for the three: draw a choice for every image,
then work through the operations, each on the images that chose it. Resampling is bilinear around the centre, outside is black.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from cifar_hpc.data import pixels
from cifar_hpc.data.pixels import Args, Draws, Operation, on_some, per_image

# Operation -> (largest strength, whether it goes both ways); the bins between are evenly spaced from 0, but for posterize
# (8 bits less a rounded strength) and solarize (threshold from 1 down to 0). A translation is a share of the side, or pixels.
Space = dict[str, tuple[float, bool]]

_UNSCALED: Space = {"AutoContrast": (0.0, False), "Equalize": (0.0, False), "Solarize": (1.0, False)}
# Cubuk et al. 2019 (RandAugment) and 2018 (AutoAugment).
_RANDAUGMENT: Space = {
    "Identity": (0.0, False),
    "ShearX": (0.3, True),
    "ShearY": (0.3, True),
    "TranslateX": (150 / 331, True),
    "TranslateY": (150 / 331, True),
    "Rotate": (30.0, True),
    "Brightness": (0.9, True),
    "Color": (0.9, True),
    "Contrast": (0.9, True),
    "Sharpness": (0.9, True),
    "Posterize": (4.0, False),
    **_UNSCALED,
}
_AUTOAUGMENT: Space = {**_RANDAUGMENT, "Invert": (0.0, False)}
# Mueller & Hutter 2021, the wide space: translations up to 32 pixels at any size.
_TRIVIALAUGMENT: Space = {
    "Identity": (0.0, False),
    "ShearX": (0.99, True),
    "ShearY": (0.99, True),
    "TranslateX": (32.0, True),
    "TranslateY": (32.0, True),
    "Rotate": (135.0, True),
    "Brightness": (0.99, True),
    "Color": (0.99, True),
    "Contrast": (0.99, True),
    "Sharpness": (0.99, True),
    "Posterize": (6.0, False),
    **_UNSCALED,
}
_BINS = 31
_AUTOAUGMENT_BINS = 10
_NAMES = tuple(_AUTOAUGMENT)  # the number of an operation in a choice


def _draw_randaugment(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    """num_ops operations one after another, each drawn again, all at the bin `magnitude` of 31."""
    strengths = strength_table(_RANDAUGMENT, _BINS, 1.0)[:, int(args["magnitude"])]
    draws: Draws = ()
    for _ in range(int(args["num_ops"])):
        choice_B = torch.randint(0, len(_RANDAUGMENT), (count,), generator=generator)
        draws += _stage(choice_B, _signed(_RANDAUGMENT, choice_B, strengths[choice_B], generator))
    return draws


def _draw_trivialaugment(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    """One operation of the wide space, at one of its 31 bins."""
    strengths = strength_table(_TRIVIALAUGMENT, _BINS, side)
    choice_B = torch.randint(0, len(_TRIVIALAUGMENT), (count,), generator=generator)
    bin_B = torch.randint(0, _BINS, (count,), generator=generator)
    return _stage(choice_B, _signed(_TRIVIALAUGMENT, choice_B, strengths[choice_B, bin_B], generator))


def _draw_autoaugment(args: Args, count: int, side: int, generator: torch.Generator) -> Draws:
    """One of the 25 pairs of the CIFAR-10 policy; each operation of the pair acts with its own probability."""
    strengths = strength_table(_AUTOAUGMENT, _AUTOAUGMENT_BINS, 1.0)
    numbers_P2, probabilities_P2, bins_P2 = _cifar10_policy()
    pair_B = torch.randint(0, len(numbers_P2), (count,), generator=generator)
    draws: Draws = ()
    for step in range(2):
        acts_B = torch.rand(count, generator=generator) < probabilities_P2[pair_B, step]
        choice_B = torch.where(acts_B, numbers_P2[pair_B, step], _NAMES.index("Identity"))
        strength_B = strengths[choice_B, bins_P2[pair_B, step]]
        draws += _stage(choice_B, _signed(_AUTOAUGMENT, choice_B, strength_B, generator))
    return draws


def strength_table(space: Space, bins: int, side: float) -> Tensor:
    """Strengths, operations x bins. side: what a translation's largest strength is a share of (1: it is a share already)."""
    rows = []
    for name, (largest, _) in space.items():
        if name == "Solarize":
            row = torch.linspace(1, 0, bins)
        elif name == "Posterize":
            row = 8 - torch.round(torch.arange(bins) / ((bins - 1) / largest))
        else:
            row = torch.linspace(0, largest / side if name.startswith("Translate") else largest, bins)
        rows.append(row)
    return torch.stack(rows)


@cache
def _cifar10_policy() -> tuple[Tensor, Tensor, Tensor]:
    """Operation number, probability and bin of both steps of the 25 pairs, from torchvision's table."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    pairs = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    numbers = torch.tensor([[_NAMES.index(name) for name, _, _ in pair] for pair in pairs])
    probabilities = torch.tensor([[probability for _, probability, _ in pair] for pair in pairs])
    bins = torch.tensor([[0 if strength is None else strength for _, _, strength in pair] for pair in pairs])
    return numbers, probabilities, bins


def _signed(space: Space, choice_B: Tensor, strength_B: Tensor, generator: torch.Generator) -> Tensor:
    both_ways = torch.tensor([both for _, both in space.values()])
    negative_B = torch.rand(len(choice_B), generator=generator) < 0.5
    return torch.where(both_ways[choice_B] & negative_B, -strength_B, strength_B)


def _stage(choice_B: Tensor, strength_B: Tensor) -> Draws:
    """One operation for every image: its number, its strength, and the map of those that move pixels."""
    maps_B33 = pixels.identity_maps(len(choice_B))
    for name, build in _GEOMETRIC.items():
        chosen_B = choice_B == _NAMES.index(name)
        maps_B33[chosen_B] = build(strength_B[chosen_B])
    return choice_B, strength_B, maps_B33[:, :2].contiguous()


def _apply(args: Args, x_NCHW: Tensor, draws: Draws, mean_pixel: Tensor) -> Tensor:
    """Each operation on the images that chose it; the geometric ones of all images in one resampling."""
    first, last = _NAMES.index("ShearX"), _NAMES.index("Rotate")
    for choice_B, strength_B, maps_B23 in zip(draws[::3], draws[1::3], draws[2::3], strict=True):
        hit_OB = choice_B == torch.arange(len(_NAMES), device=choice_B.device)[:, None]
        x_NCHW = on_some(hit_OB[first : last + 1].any(0), x_NCHW, pixels.warp, maps_B23)
        for name, change in _COLOUR.items():
            x_NCHW = on_some(hit_OB[_NAMES.index(name)], x_NCHW, change, strength_B)
    return x_NCHW


def _posterize(x_NCHW: Tensor, bits_B: Tensor) -> Tensor:
    step = per_image(2.0 ** (8 - bits_B))
    return torch.floor(torch.round(x_NCHW * 255) / step) * step / 255


def _solarize(x_NCHW: Tensor, threshold_B: Tensor) -> Tensor:
    return torch.where(x_NCHW < per_image(threshold_B), x_NCHW, 1 - x_NCHW)


def _sharpness(x_NCHW: Tensor, strength_B: Tensor) -> Tensor:
    from kornia.enhance import sharpness

    sharpened: Tensor = sharpness(x_NCHW, 1 + strength_B)
    return sharpened


def _equalize(x_NCHW: Tensor, strength_B: Tensor) -> Tensor:
    from kornia.enhance import equalize

    equalized: Tensor = equalize(x_NCHW)
    return equalized


def _autocontrast(x_NCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Each channel stretched to 0..1; one of a single value stays as it is."""
    low, high = x_NCHW.amin((2, 3), keepdim=True), x_NCHW.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x_NCHW - low) / (high - low).clamp(min=1e-6), x_NCHW).clamp(0, 1)


_GEOMETRIC: dict[str, Callable[[Tensor], Tensor]] = {
    "ShearX": lambda strength: pixels.shear_maps(strength, torch.zeros_like(strength)),
    "ShearY": lambda strength: pixels.shear_maps(torch.zeros_like(strength), strength),
    "TranslateX": lambda strength: pixels.translation_maps(strength, torch.zeros_like(strength)),
    "TranslateY": lambda strength: pixels.translation_maps(torch.zeros_like(strength), strength),
    "Rotate": pixels.rotation_maps,
}
_COLOUR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": lambda x, strength: pixels.adjust_brightness(x, 1 + strength),
    "Color": lambda x, strength: pixels.adjust_saturation(x, 1 + strength),
    "Contrast": lambda x, strength: pixels.adjust_contrast(x, 1 + strength),
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": lambda x, strength: 1 - x,
}
OPERATIONS: dict[str, Operation] = {
    "randaugment": Operation(_draw_randaugment, _apply),
    "trivialaugment": Operation(_draw_trivialaugment, _apply),
    "autoaugment": Operation(_draw_autoaugment, _apply),
}
