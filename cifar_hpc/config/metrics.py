"""What may choose between trials beside accuracy and loss: the arithmetic of each metric, and what each image counts for it.

Arrays only, for the half that writes and the half that reads alike. logits: N x K; labels: N whole numbers. A class without
images has no part in a mean over classes. Equal to scikit-learn's functions of the same names. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]
_TIE = 1e-6  # of log-odds, and as a share of large ones: what single precision leaves of them
_DOUBLE = (-745.0, 36.0)  # log-odds of the least and the largest probability that are not 0 and 1
BLOCKS = 200  # of images that are left out in turn, where a metric does not say what an image counts


def taken_of(scores_NK: Floats) -> NDArray[np.int64]:
    """The class that each image is taken for, N: that of its largest logit or probability, of equal ones the first; -1 where
    one is NaN, which says nothing. train/stack.hits_of has the same rule for tensors."""
    taken_N: NDArray[np.int64] = scores_NK.argmax(1)
    if np.isnan(scores_NK.min(initial=0.0)):
        taken_N[np.isnan(scores_NK).any(1)] = -1
    return taken_N


def right_of(scores_NK: Floats, labels_N: Labels) -> NDArray[np.bool_]:
    """Whether each image was classified rightly, N: never with a NaN."""
    found: NDArray[np.bool_] = taken_of(scores_NK) == labels_N
    return found


def balanced_acc(logits_NK: Floats, labels_N: Labels) -> float | None:
    """The mean over the classes of the share of their images that is right (Brodersen et al. 2010)."""
    if not len(labels_N):
        return None
    images_K = np.bincount(labels_N, minlength=logits_NK.shape[1])
    right_K = np.bincount(labels_N[right_of(logits_NK, labels_N)], minlength=logits_NK.shape[1])
    return _mean_share(right_K[images_K > 0], images_K[images_K > 0])


def balanced_counts(logits_NK: Floats, labels_N: Labels) -> NDArray[np.float64]:
    """1 or 0, weighted by how rare the image's class is."""
    images_K = np.bincount(labels_N, minlength=logits_NK.shape[1])
    weight_N = len(labels_N) / (np.count_nonzero(images_K) * images_K[labels_N])
    return np.asarray(right_of(logits_NK, labels_N) * weight_N, np.float64)


def macro_f1(logits_NK: Floats, labels_N: Labels) -> float | None:
    """The mean of F1, the harmonic mean of precision and recall, over the classes that have images or are taken for one."""
    if not len(labels_N):
        return None
    right_K, sizes_K = _f1_parts(logits_NK, labels_N)
    there = sizes_K > 0
    return _mean_share(2 * right_K[there], sizes_K[there])


def f1_counts(logits_NK: Floats, labels_N: Labels) -> NDArray[np.float64]:
    """macro_f1 and how an image moves it: its derivative by the image's share of the set (the infinitesimal jackknife; Efron
    1982), which is 0 on average."""
    n, taken_N = len(labels_N), taken_of(logits_NK)
    right_K, sizes_K = (part / n for part in _f1_parts(logits_NK, labels_N))
    there = sizes_K > 0
    f1_K = np.divide(2 * right_K, sizes_K, out=np.zeros_like(sizes_K), where=there)
    per_K = np.divide(1.0, sizes_K, out=np.zeros_like(sizes_K), where=there)
    moved_N = 2 * per_K[labels_N] * (taken_N == labels_N) - (f1_K * per_K)[labels_N]
    moved_N -= np.where(taken_N >= 0, (f1_K * per_K)[taken_N], 0.0)
    return np.asarray((f1_K[there].sum() + moved_N) / there.sum(), np.float64)


def macro_auroc(logits_NK: Floats, labels_N: Labels) -> float | None:
    """The mean over the classes of the area under the ROC curve of their probability against all other classes. None where the
    images are all of one class."""
    odds_NK = _log_odds(logits_NK)
    told = _classes_apart(odds_NK, labels_N)
    if not len(told):
        return None
    return _mean_share(*zip(*(_area(_with_ties(odds_NK[:, label]), labels_N == label) for label in told), strict=True))


def auroc_between(logits_NK: Floats, labels_N: Labels, error_N: Floats) -> tuple[float, float] | None:
    """The least and the largest macro_auroc of logits that differ from these by error_N at most; None where it has none."""
    odds_NK = _log_odds(logits_NK)
    told = _classes_apart(odds_NK, labels_N)
    if not len(told):
        return None
    moved_N = 2 * error_N + _TIE  # of a logit, and of what it stands against
    ends = []
    for sign in (-1, 1):
        areas = []
        for label in told:
            of_it = labels_N == label
            areas.append(_area(odds_NK[:, label] + np.where(of_it, sign, -sign) * moved_N, of_it))
        ends.append(_mean_share(*zip(*areas, strict=True)))
    return ends[0], ends[1]


def auroc_counts(logits_NK: Floats, labels_N: Labels) -> NDArray[np.float64]:
    """An image's share of images of the other side that it stands on the right side of, weighted so that the mean is the area
    (the structural components of DeLong et al. 1988). NaN where the images are all of one class."""
    odds_NK, n = _log_odds(logits_NK), len(labels_N)
    told = _classes_apart(odds_NK, labels_N)
    found = [_areas(_with_ties(odds_NK[:, label]), labels_N == label) for label in told]
    return np.asarray(np.mean(found, axis=0) if found else np.full(n, np.nan), np.float64)


def jackknife_counts(
    measure: Callable[[Floats, Labels], float | None], logits_NK: Floats, labels_N: Labels
) -> NDArray[np.float64]:
    """What each image counts for any metric: the pseudo-value of its block, of which each is left out in turn (Tukey 1958),
    shifted so that their mean is the metric. NaN where it is not defined without one of them."""
    block_N = np.random.default_rng(0).permutation(len(labels_N)) % BLOCKS
    blocks = np.unique(block_N)
    whole = measure(logits_NK, labels_N)
    without = [measure(logits_NK[block_N != block], labels_N[block_N != block]) for block in blocks]
    if whole is None or any(value is None for value in without):
        return np.full(len(labels_N), np.nan)
    moved = (len(blocks) - 1) * (whole - np.asarray(without, np.float64))
    counts_N = moved[block_N]
    return np.asarray(whole + counts_N - counts_N.mean(), np.float64)


def _mean_share(parts: Iterable[int], wholes: Iterable[int]) -> float:
    """The mean of part / whole, rounded once: means that are equal are so to the last bit, of whichever shares. No epoch and no
    trial is better by the order in which shares were added."""
    parts, wholes = [int(part) for part in parts], [int(whole) for whole in wholes]
    common = math.lcm(*wholes)
    return sum(part * (common // whole) for part, whole in zip(parts, wholes, strict=True)) / (common * len(wholes))


def _f1_parts(logits_NK: Floats, labels_N: Labels) -> tuple[Labels, Labels]:
    """By class: images that are right; images of it and taken for it."""
    k, taken_N = logits_NK.shape[1], taken_of(logits_NK)
    right_K = np.bincount(labels_N[taken_N == labels_N], minlength=k)
    sizes_K = np.bincount(labels_N, minlength=k) + np.bincount(taken_N[taken_N >= 0], minlength=k)
    return right_K, sizes_K


def _log_odds(logits_NK: Floats) -> NDArray[np.float64]:
    """Of each class's probability, with which they rise: they tell apart what is nearly certain, as far as a probability in
    double precision does."""
    logits, rows = logits_NK.astype(np.float64), np.arange(len(logits_NK))
    with np.errstate(invalid="ignore"):  # of infinite ones nothing is known
        logits -= logits.max(1, keepdims=True)
    parts_NK, top_N = np.exp(logits), logits.argmax(1)
    others_NK = parts_NK.sum(1, keepdims=True) - parts_NK
    parts_NK[rows, top_N] = 0.0
    others_NK[rows, top_N] = parts_NK.sum(1)  # without a difference of numbers near 1
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(logits - np.log(others_NK), *_DOUBLE), np.float64)


def _classes_apart(odds_NK: NDArray[np.float64], labels_N: Labels) -> NDArray[np.int64]:
    """The classes that have images and leave some to the others; none where a logit is not a number."""
    sizes_K = np.bincount(labels_N, minlength=odds_NK.shape[1])
    apart = (sizes_K > 0) & (sizes_K < len(labels_N))
    return np.flatnonzero(apart & ~np.isnan(odds_NK).any())


def _with_ties(score_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Their order, in which scores that only rounding tells apart are equal: those of neighbours' votes have few values, each
    computed along several ways."""
    order = np.argsort(score_N, kind="stable")
    ordered = score_N[order]
    place_N = np.zeros(len(score_N))
    place_N[order[1:]] = np.cumsum(np.diff(ordered) > _TIE * (1 + np.abs(ordered[1:])))
    return place_N


def _area(score_N: NDArray[np.float64], of_it: NDArray[np.bool_]) -> tuple[int, int]:
    """The mean of `_areas`, as part and whole, by the ranks of those of the class among all (Mann and Whitney 1947)."""
    n, inside = len(score_N), np.sort(score_N[of_it])
    ordered = np.sort(score_N)
    ranks = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return int(ranks.sum()) - len(inside) ** 2, 2 * len(inside) * (n - len(inside))


def _areas(score_N: NDArray[np.float64], of_it: NDArray[np.bool_]) -> NDArray[np.float64]:
    inside, outside = np.sort(score_N[of_it]), np.sort(score_N[~of_it])
    n, above = len(score_N), np.empty(len(score_N))
    above[of_it] = _below(score_N[of_it], outside)
    above[~of_it] = 1 - _below(score_N[~of_it], inside)
    area = above[of_it].mean()
    return np.asarray(area + (above - area) * n / np.where(of_it, len(inside), len(outside)), np.float64)


def _below(score_N: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the others, sorted, that each is above; of equal ones half."""
    sides = np.searchsorted(others, score_N, "left") + np.searchsorted(others, score_N, "right")
    return np.asarray(sides / (2 * len(others)), np.float64)
