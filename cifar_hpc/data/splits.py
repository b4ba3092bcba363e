"""Which images of the official training split a trial trains and validates on: positions only, no images, no torch.

Every choice is a stratified draw whose order depends on (split_seed, position) alone: the same on any machine and version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.errors import DataError

Ints = NDArray[np.int64]


def divide(labels_N: Ints, config: DatasetConfig, *, own_val: bool) -> tuple[Ints, Ints]:
    """Positions, sorted, of the labelled images that a trial trains on and of those that it holds out. own_val: whether the
    set has validation images beside these. Raises DataError."""
    kept: Ints = np.arange(len(labels_N))
    if config.train_size is not None:
        kept = subsample(labels_N, config.train_size, config.split_seed)
    if own_val or config.val_frac == 0:
        return kept, kept[:0]
    stay, held = split_val(labels_N[kept], config.val_frac, config.split_seed)
    return kept[stay], kept[held]


def subsample(labels_N: Ints, size: int, seed: int) -> Ints:
    """Positions, sorted, of `size` images with the classes in the proportions of `labels_N`, every class present.

    Raises DataError where there are fewer images than `size`, or `size` is below the number of classes.
    """
    if size > len(labels_N):
        raise DataError(f"dataset.train_size: {size}; there are {len(labels_N)} labelled training images of these classes")
    counts_K = np.bincount(labels_N)
    if size < np.count_nonzero(counts_K):
        raise DataError(f"dataset.train_size: {size}; at least one image of each of the {np.count_nonzero(counts_K)} classes")
    return _draw(labels_N, allot(size, counts_K), stream_seed(seed, "subsample"))


def split_val(labels_N: Ints, val_frac: float, seed: int) -> tuple[Ints, Ints]:
    """Positions, sorted, of the images that stay for training and of those held out: round(val_frac * N), or the nearest number
    with every class on both sides. Raises DataError where a class has only one image."""
    counts_K = np.bincount(labels_N)
    present = int(np.count_nonzero(counts_K))
    if counts_K[counts_K > 0].min() < 2:
        raise DataError(f"dataset.val_frac: {val_frac}; each class needs an image for training and one for validation")
    val_n = min(max(round(val_frac * len(labels_N)), present), len(labels_N) - present)
    takes_K = np.minimum(allot(val_n, counts_K), counts_K - 1)
    val = _draw(labels_N, takes_K, stream_seed(seed, "val"))
    return np.setdiff1d(np.arange(len(labels_N)), val), val


def deal(labels_N: Ints, n: int, seed: int, repeat: int, groups_N: Ints | None = None, names: Sequence[str] = ()) -> Ints:
    """The part, 0..n-1, of each image: the classes in all parts in the proportions of all, as nearly as whole images allow, and
    the parts of sizes that differ by one at most. Images of one group are in one part; then both as nearly as groups allow.

    repeat: another number deals them otherwise. Raises DataError where a class would be missing from the images that a fold
    trains on.
    """
    keys_N = _keys(len(labels_N), stream_seed(seed, "fold", repeat))
    part_N = np.empty(len(labels_N), np.int64)
    if groups_N is None:
        order = np.lexsort((keys_N, labels_N))  # class by class, each shuffled, dealt on where the one before ended
        part_N[order] = np.arange(len(order)) % n
    else:
        part_N = _deal_groups(labels_N, n, keys_N, groups_N)
    counts_PK = np.zeros((n, int(labels_N.max()) + 1), np.int64)
    np.add.at(counts_PK, (part_N, labels_N), 1)
    what = "images" if groups_N is None else "groups"
    alone = np.flatnonzero((counts_PK.sum(0) > 0) & (counts_PK.max(0) == counts_PK.sum(0)))
    if len(alone):
        name = names[alone[0]] if names else f"number {alone[0]}"
        raise DataError(f"folds: class {name} has all its {what} in one fold; each class needs {what} in two or more")
    empty = int((counts_PK.sum(1) == 0).sum())
    if empty:
        raise DataError(
            f"folds: {n} for {len(labels_N) if groups_N is None else len(np.unique(groups_N))} {what}; {empty} are empty"
        )
    return part_N


def _deal_groups(labels_N: Ints, n: int, keys_N: NDArray[np.uint64], groups_N: Ints) -> Ints:
    """Groups one by one, the largest first, each to the part where the classes stay most even."""
    groups, group_N = np.unique(groups_N, return_inverse=True)
    counts_GK = np.zeros((len(groups), int(labels_N.max()) + 1), np.int64)
    np.add.at(counts_GK, (group_N, labels_N), 1)
    key_G = np.full(len(groups), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(key_G, group_N, keys_N)
    total_K = np.maximum(counts_GK.sum(0), 1)
    parts_PK = np.zeros((n, counts_GK.shape[1]))
    part_G = np.empty(len(groups), np.int64)
    for group in np.lexsort((key_G, -counts_GK.sum(1))):
        share_K = counts_GK[group] / total_K
        after_P = [float(np.square(parts_PK + np.eye(n)[part][:, None] * share_K).sum()) for part in range(n)]
        part_G[group] = int(np.argmin(np.round(after_P, 12)))
        parts_PK[part_G[group]] += share_K
    return part_G[group_N]


def allot(total: int, counts_K: Ints) -> Ints:
    """`total` shared out in proportion to the counts by largest remainder (ties: the lower class), then one image lifted to
    each present class that got none, from the class that got most."""
    quotas_K = total * counts_K / counts_K.sum()
    takes_K: Ints = np.floor(quotas_K).astype(np.int64)
    by_remainder = np.argsort(takes_K - quotas_K, kind="stable")
    takes_K[by_remainder[: total - takes_K.sum()]] += 1
    for label in np.flatnonzero((takes_K == 0) & (counts_K > 0)):
        takes_K[np.argmax(takes_K)] -= 1
        takes_K[label] = 1
    return takes_K


def _draw(labels_N: Ints, takes_K: Ints, seed: int) -> Ints:
    order = np.argsort(_keys(len(labels_N), seed), kind="stable")
    chosen = [order[labels_N[order] == label][:take] for label, take in enumerate(takes_K)]
    return np.sort(np.concatenate(chosen))


def _keys(count: int, seed: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood 2014) of seed + position: a random order that no library version changes."""
    z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return keys
