"""Sweeps of equal configurations, drawn in bulk, and what the report's statistics claim of them.

    python -m benchmarks.null_sweeps [--sweeps 1000]

Every configuration is right on 90 % of all images there are, its seeds around that by 0.3 or 1 pp; images are hard or easy for
all alike. The tests and the optimism are the program's own (collect/ranking), fed with what they need of right and wrong.
Prints a table for Markdown: for each size of sweep how often some configuration is called worse than the best, how often all
are ("is best"), by how much the winner's number flatters it, as told and in truth, and their ratio; ± is the standard error.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from cifar_hpc.collect.ranking import FOLDS, compare_means, spread_of, step_down, winners_optimism

TRUTH = 0.9
EASE = ndtri((np.arange(1024) + 0.5) / 1024)  # how easy an image is, in as many classes
_LEVELS = np.linspace(-3, 8, 2001)
_ACCURACIES = np.array([ndtr(level + EASE).mean() for level in _LEVELS])
CELLS = tuple(itertools.product((2, 8, 20), (1, 3, 5), (500, 5000), (0.003, 0.01)))  # configurations, seeds, images, sd


@dataclass(frozen=True)
class Sweep:
    """right: P x S x N, 1 or 0; accuracies: P x S, of these networks on all images there are."""

    right: NDArray[np.float32]
    accuracies: NDArray[np.float64]


@dataclass(frozen=True)
class Claims:
    """worse: whether some configuration is called worse than the best; best: whether all are. told, true: by how much the
    winner's number flatters it, true without what happens to all alike."""

    worse: bool
    best: bool
    told: float
    true: float


def draw_sweep(rng: np.random.Generator, truth_P: NDArray[np.float64], seeds: int, images: int, sd: float) -> Sweep:
    accuracy_PS = np.clip(truth_P[:, None] + sd * rng.standard_normal((len(truth_P), seeds)), 0.02, 0.998)
    level_PS = np.interp(accuracy_PS, _ACCURACIES, _LEVELS)
    chance_PSE = np.rint(65535 * ndtr(level_PS[..., None] + EASE)).astype(np.uint16)
    ease_N = rng.integers(0, len(EASE), images)
    drawn_PSN = rng.integers(0, 65535, (*accuracy_PS.shape, images), dtype=np.uint16)
    return Sweep((drawn_PSN < chance_PSE.take(ease_N, 2)).astype(np.float32), accuracy_PS)


def claims_of(sweep: Sweep) -> Claims:
    """As the report makes them, by the program's functions; only what these need of the images is computed for all pairs at
    once (that it is the same is tested)."""
    configurations, seeds, images = sweep.right.shape
    right_TN = sweep.right.reshape(-1, images)
    mean_PS = right_TN.mean(1, dtype=np.float64).reshape(configurations, seeds)
    order = np.argsort(-mean_PS.mean(1), kind="stable")
    best = int(order[0])
    fold_N = np.random.default_rng(0).permutation(images) % FOLDS
    inside_NK = np.eye(FOLDS, dtype=np.float32)[fold_N]
    means_PSK = (right_TN @ (inside_NK / inside_NK.sum(0))).reshape(configurations, seeds, FOLDS).astype(np.float64)
    told = winners_optimism(list(means_PSK), [range(seeds)] * configurations)
    assert told is not None
    truth_PS = sweep.accuracies if seeds == 1 else np.full_like(mean_PS, TRUTH)  # of one seed each: of these networks
    luck_P = (mean_PS - truth_PS).mean(1)
    true = float(luck_P[best] - luck_P.mean())  # the mean is 0 in the long run: the images' luck, which all share
    if seeds == 1:
        return Claims(False, False, told, true)
    values = mean_PS[order].tolist()
    of_images_P = _image_variances(sweep.right, best)
    found = {
        str(other): compare_means(
            float(mean_PS[best].mean() - mean_PS[other].mean()),
            float(of_images_P[other]),
            spread_of(values, place),
            configurations,
            images,
            1 / images,
        )
        for place, other in enumerate(order)
        if place
    }
    worse = [one.better for one in step_down(found, configurations, intervals=False).values()]
    return Claims(any(worse), all(worse), told, true)


def _image_variances(right_PSN: NDArray[np.float32], best: int) -> NDArray[np.float64]:
    """Of each configuration against the best what statistics.image_variance gives, from the counts of images that two networks
    have right in common."""
    configurations, seeds, images = right_PSN.shape
    right_TN = right_PSN.reshape(-1, images)
    count_T = right_TN.sum(1, dtype=np.float64)
    covariance_TT = ((right_TN @ right_TN.T).astype(np.float64) - np.outer(count_T, count_T) / images) / (images - 1)
    own_P = np.diag(covariance_TT).reshape(configurations, seeds).sum(1)
    total_PP = covariance_TT.reshape(configurations, seeds, configurations, seeds).sum((1, 3))
    lasting_P = (np.diag(total_PP) - own_P) / (seeds * (seeds - 1))
    return np.maximum(lasting_P[best] + lasting_P - 2 * total_PP[best] / seeds**2, 0.0) / images


def measure(cell: tuple[int, int, int, float], sweeps: int) -> NDArray[np.float64]:
    """Claims of so many sweeps, one a row: worse, best, told, true."""
    configurations, seeds, images, sd = cell
    rng = np.random.default_rng([configurations, seeds, images, int(1000 * sd)])
    drawn = (draw_sweep(rng, np.full(configurations, TRUTH), seeds, images, sd) for _ in range(sweeps))
    return np.array([[one.worse, one.best, one.told, one.true] for one in map(claims_of, drawn)], float)


def _row(cell: tuple[int, int, int, float], rows: NDArray[np.float64]) -> str:
    worse, best, told, true = rows.mean(0)
    n = len(rows)
    ratio_error = (rows[:, 2] - told / true * rows[:, 3]).std(ddof=1) / math.sqrt(n) / true
    tested = [f"{100 * rate:.1f} ± {100 * math.sqrt(rate * (1 - rate) / n):.1f} %" for rate in (worse, best)]
    names = [str(cell[0]), str(cell[1]), str(cell[2]), f"{100 * cell[3]:g} pp", f"{n:,}"]
    optimism = [f"{100 * told:.2f} pp", f"{100 * true:.2f} pp", f"{told / true:.2f} ± {ratio_error:.2f}"]
    return "| " + " | ".join([*names, *(tested if cell[1] > 1 else ["-", "-"]), *optimism]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sweeps", type=int, default=1000, help="of 20 configurations; of fewer, and of one seed, more")
    count = parser.parse_args().sweeps
    heads = (
        "configurations",
        "seeds",
        "images",
        "sd of seeds",
        "sweeps",
        "some is worse",
        "one is best",
        "told",
        "true",
        "ratio",
    )
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        counts = [10 * count if seeds == 1 else count * 20 // configurations for configurations, seeds, _, _ in CELLS]
        for cell, rows in zip(CELLS, workers.map(measure, CELLS, counts), strict=True):
            print(_row(cell, rows), flush=True)


if __name__ == "__main__":
    main()
