"""Which images of the official training split a trial trains and validates on: positions only, no images, no torch.

Every choice is a stratified draw whose order depends on (split_seed, position) alone: the same on any machine and version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import listed
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.words import plural
from cifar_hpc.errors import UnusableError

Ints = NDArray[np.int64]


def check_split(
    config: DatasetConfig,
    names: Sequence[str],
    train: Sequence[int],
    val: Sequence[int] | None,
    groups: Sequence[str] | None = None,
    repeat: int = 0,
) -> None:
    """Raises UnusableError where a trial could not split images of these labels, among all names, as the config says.

    val: of the set's own validation images; groups: of each image, those of val after those of train.
    """
    train_N, val_N = np.array(train, np.int64), None if val is None else np.array(val, np.int64)
    classes = tuple(name for name in names if config.classes is None or name in config.classes)
    at_N, labels_N = of_classes(train_N, names, classes)
    refuse_absent(config, classes, labels_N)
    stay, _ = divide(labels_N, config.without_folds, own_val=val_N is not None)
    if config.folds is None:
        return
    at_N, labels_N = at_N[stay], labels_N[stay]
    if val_N is not None:
        val_at_N, val_labels_N = of_classes(val_N, names, classes)
        at_N, labels_N = np.concatenate([at_N, len(train_N) + val_at_N]), np.concatenate([labels_N, val_labels_N])
    groups_N = None if groups is None else np.unique(groups, return_inverse=True)[1][at_N]
    deal(labels_N, config.folds, config.split_seed, repeat, groups_N, classes)


def of_classes(labels_N: Ints, names: Sequence[str], classes: Sequence[str]) -> tuple[Ints, Ints]:
    """Positions of the images of the kept classes, and their labels among these. labels_N: among all names."""
    renumbered = np.array([classes.index(name) if name in classes else -1 for name in names], dtype=np.int64)
    kept_N = renumbered[labels_N]
    positions = np.flatnonzero(kept_N >= 0)
    return positions, kept_N[positions]


def refuse_absent(config: DatasetConfig, classes: Sequence[str], labels_N: Ints) -> None:
    """Raises UnusableError where a class has no image. labels_N: among the classes."""
    there = set(np.unique(labels_N).tolist())
    absent = [name for label, name in enumerate(classes) if label not in there]
    if absent:
        what, mend = config.name, ""
        if config.name in catalog.DATASETS and config.name != "folder":
            what, mend = f"the files of {config.name}", f", or bring the whole set with `cifar-hpc fetch {config.name}`"
        raise UnusableError(
            "dataset.classes", f"no training image of {listed(absent)} in {what}", f"choose classes that are there{mend}"
        )


def divide(labels_N: Ints, config: DatasetConfig, *, own_val: bool) -> tuple[Ints, Ints]:
    """Positions, sorted, of the labelled images that a trial trains on and of those that it holds out. own_val: whether the
    set has validation images beside these. Raises UnusableError."""
    kept: Ints = np.arange(len(labels_N))
    if config.train_size is not None:
        kept = subsample(labels_N, config.train_size, config.split_seed)
    if own_val or config.val_frac == 0:
        return kept, kept[:0]
    stay, held = split_val(labels_N[kept], config.val_frac, config.split_seed)
    return kept[stay], kept[held]


def subsample(labels_N: Ints, size: int, seed: int) -> Ints:
    """Positions, sorted, of `size` images with the classes in the proportions of `labels_N`, every class present.

    Raises UnusableError where there are fewer images than `size`, or `size` is below the number of classes.
    """
    if size > len(labels_N):
        there = f"there are {len(labels_N)} labelled training images of these classes"
        raise UnusableError("dataset.train_size", str(size), there)
    counts_K = np.bincount(labels_N)
    if size < np.count_nonzero(counts_K):
        least = f"at least one image of each of the {np.count_nonzero(counts_K)} classes"
        raise UnusableError("dataset.train_size", str(size), least)
    return _draw(labels_N, allot(size, counts_K), stream_seed(seed, "subsample"))


def split_val(labels_N: Ints, val_frac: float, seed: int) -> tuple[Ints, Ints]:
    """Positions, sorted, of the images that stay for training and of those held out: round(val_frac * N), or the nearest number
    with every class on both sides. Raises UnusableError where a class has only one image."""
    counts_K = np.bincount(labels_N)
    present = int(np.count_nonzero(counts_K))
    if counts_K[counts_K > 0].min() < 2:
        needed = "each class needs an image for training and one for validation"
        raise UnusableError("dataset.val_frac", f"{val_frac:g} where a class has one image", needed)
    val_n = min(max(round(val_frac * len(labels_N)), present), len(labels_N) - present)
    takes_K = np.minimum(allot(val_n, counts_K), counts_K - 1)
    val = _draw(labels_N, takes_K, stream_seed(seed, "val"))
    return np.setdiff1d(np.arange(len(labels_N)), val), val


def deal(labels_N: Ints, n: int, seed: int, repeat: int, groups_N: Ints | None = None, names: Sequence[str] = ()) -> Ints:
    """The part, 0..n-1, of each image: the classes in all parts in the proportions of all, as nearly as whole images allow, and
    the parts of sizes that differ by one at most. Images of one group are in one part; then both as nearly as groups allow.

    repeat: another number deals them otherwise. Raises UnusableError where a part would be empty, or a class missing from the
    images that a fold trains on, with what can be dealt.
    """
    keys_N = _keys(len(labels_N), stream_seed(seed, "fold", repeat))
    part_N = _deal(labels_N, n, keys_N, groups_N)
    if _whole(part_N, labels_N, n):
        return part_N
    what = "image" if groups_N is None else "group"
    units_N = np.arange(len(labels_N)) if groups_N is None else groups_N
    for label in np.unique(labels_N):
        if len(np.unique(units_N[labels_N == label])) == 1:
            name = names[label] if names else f"number {label}"
            some = f"class {name} has one {what}"
            raise UnusableError("folds", some, f"each class needs two {what}s: one is trained on while the other is held out")
    found = f"{n} of {plural(len(np.unique(units_N)), what)}: a fold would be empty, or hold all images of a class"
    most = most_parts(labels_N, n - 1, seed, repeat, groups_N)
    raise UnusableError("folds", found, f"{most} can be dealt" if most else "no fewer can be dealt either")


def most_parts(
    labels: Ints | Sequence[int], n: int, seed: int = 0, repeat: int = 0, groups_N: Ints | None = None
) -> int | None:
    """The most parts, n at most, that `deal` deals; None where it deals none."""
    labels_N = np.asarray(labels, np.int64)
    keys_N = _keys(len(labels_N), stream_seed(seed, "fold", repeat))
    return next((m for m in range(n, 1, -1) if _whole(_deal(labels_N, m, keys_N, groups_N), labels_N, m)), None)


def _deal(labels_N: Ints, n: int, keys_N: NDArray[np.uint64], groups_N: Ints | None) -> Ints:
    if groups_N is not None:
        return _deal_groups(labels_N, n, keys_N, groups_N)
    part_N = np.empty(len(labels_N), np.int64)
    order = np.lexsort((keys_N, labels_N))  # class by class, each shuffled, dealt on where the one before ended
    part_N[order] = np.arange(len(order)) % n
    return part_N


def _whole(part_N: Ints, labels_N: Ints, n: int) -> bool:
    """Whether no part is empty, and none has a class alone."""
    counts_PK = np.zeros((n, int(labels_N.max()) + 1), np.int64)
    np.add.at(counts_PK, (part_N, labels_N), 1)
    present_K = counts_PK.sum(0) > 0
    return bool((counts_PK.sum(1) > 0).all() and (counts_PK.max(0) < counts_PK.sum(0))[present_K].all())


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
