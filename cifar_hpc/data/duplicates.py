"""Near-duplicates between the splits of a data set, or its folds: images that a network has as good as seen when it is measured
on them.

By a perceptual hash (differences of neighbouring cells of a shrunken gray image, along rows and columns: 128 bits), checked on
the shrunken images themselves. Owns: Pair, near_duplicates. Knows no folders and no networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from cifar_hpc.data.dataset import Split

BITS_APART = 10  # of 128, at most
DIFFERENCE = 0.04  # root mean square of the shrunken gray images, 0..1, at most
_FLAT = 0.02  # an image that varies less looks like any other
_SIDE = 8
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Pair:
    """one: a measured image, other: one of an earlier split (train before val before test) or of another fold; rows in these
    splits."""

    split: str
    row: int
    other_split: str
    other_row: int
    difference: float


@dataclass(frozen=True, slots=True)
class _Looks:
    """sign_NB: +1 or -1 for each bit; gray_NP: the shrunken images; plain_N: those that are as good as flat."""

    sign_NB: NDArray[np.float32]
    gray_NP: NDArray[np.float32]
    plain_N: NDArray[np.bool_]


def near_duplicates(splits: Mapping[str, Split], deals: Sequence[NDArray[np.int64]] = ()) -> list[Pair]:
    """Of each image of a split the nearest one of the splits that stand before it, where it is a near-duplicate. deals: of each
    the folds of the images of `val`; those that any deal parts are near-duplicates, too."""
    looks = {name: _looks(split) for name, split in splits.items() if len(split.labels_N)}
    names = list(looks)
    best: dict[tuple[str, int], Pair] = {}
    for place, name in enumerate(names):
        own = [name] if name == "val" and deals else []
        for earlier in names[:place] + own:
            for row, other, difference in _near(looks[name], looks[earlier]):
                if earlier == name and all(fold_N[row] == fold_N[other] for fold_N in deals):
                    continue
                known = best.get((name, row))
                if known is None or difference < known.difference:
                    best[name, row] = Pair(name, row, earlier, other, difference)
    return list(best.values())


def _near(one: _Looks, other: _Looks) -> Iterator[tuple[int, int, float]]:
    bits = one.sign_NB.shape[1]
    for start in range(0, len(one.sign_NB), _CHUNK):
        alike_BM = one.sign_NB[start : start + _CHUNK] @ other.sign_NB.T
        for at, place in np.argwhere(alike_BM >= bits - 2 * BITS_APART):
            row = start + int(at)
            if not one.plain_N[row] and not other.plain_N[place]:
                difference = float(np.sqrt(np.mean((one.gray_NP[row] - other.gray_NP[place]) ** 2)))
                if difference <= DIFFERENCE:
                    yield row, int(place), difference


def _looks(split: Split) -> _Looks:
    signs, grays = [], []
    for chunk_NCHW in split.chunks():
        gray_N1HW = chunk_NCHW.float().mean(1, keepdim=True) / 255
        small_NHW = functional.interpolate(gray_N1HW, (_SIDE + 1, _SIDE + 1), mode="area")[:, 0]
        along = (small_NHW[:, :-1, 1:] > small_NHW[:, :-1, :-1]).flatten(1)
        down = (small_NHW[:, 1:, :-1] > small_NHW[:, :-1, :-1]).flatten(1)
        signs.append(torch.cat([along, down], 1).float() * 2 - 1)
        grays.append(functional.interpolate(gray_N1HW, (2 * _SIDE, 2 * _SIDE), mode="area").flatten(1))
    gray_NP = torch.cat(grays)
    return _Looks(torch.cat(signs).numpy(), gray_NP.numpy(), (gray_NP.std(1) < _FLAT).numpy())
