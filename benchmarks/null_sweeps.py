"""Sweeps of equal configurations, as records on disk, and what their leaderboards claim of them.

    python benchmarks/null_sweeps.py [--sweeps 100]

Every configuration is right on 90 % of images, its seeds around that by 1 pp; images are hard or easy for all alike. The
records are read as `report` reads them. Prints, for each size of sweep: how often some configuration is called worse than the
best, how often all are ("is best"), and by how much the winner's number flatters it, as told and in truth.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmarks import pool
from cifar_hpc.collect.comparison import compare_with_best
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.records.layout import Layout

SIZES = ((8, 5, 500), (20, 3, 500), (20, 5, 500))  # configurations, seeds, validation images
TRUTH, SD = 0.9, 0.01


def draw_logits(accuracy: float, images: pool.Images, arch: str, rng: np.random.Generator) -> np.ndarray:
    """Of a network that is right on an image by chance, more often where it is easy: on `accuracy` of all images there are."""
    n = len(images.labels)
    ease_N = np.random.default_rng(int(images.hardness.sum() * 1e6)).standard_normal(n)
    right_N = rng.standard_normal(n) < np.sqrt(2) * ndtri(accuracy) + ease_N
    logits_NK = 0.1 * rng.standard_normal((n, 10))
    logits_NK[np.arange(n), np.where(right_N, images.labels, (images.labels + 1) % 10)] += 3
    return logits_NK.astype(np.float16)


def null_sweep(number: int, configurations: int, seeds: int, images_n: int) -> tuple[bool, bool, float, float]:
    """Whether any is called worse, whether all are, the optimism as told and in truth."""
    rng = np.random.default_rng([number, configurations, seeds])
    drawn = pool.Images.draw(images_n, 10)
    images = dataclasses.replace(drawn, hardness=drawn.hardness + rng.random())
    with tempfile.TemporaryDirectory(prefix="null-") as place:
        layout = Layout(Path(place))
        for config in list(pool.configs(configurations * seeds, seeds, 2)):
            config = dataclasses.replace(config, seed=config.seed + 1000 * number)
            pool.write_trial(layout, config, images, accuracy=float(np.clip(TRUTH + SD * rng.standard_normal(), 0.5, 0.99)))
        board = make_sections(scan(layout), layout)[0].board
        found = compare_with_best(board, layout)
    assert found is not None and found.optimism is not None and board.measured[0].score is not None
    decisions = [found.decision(row.point_id) for row in board.measured[1:]]
    assert len(decisions) == configurations - 1
    worse = [decision == "worse" for decision in decisions]
    return any(worse), all(worse), found.optimism, board.measured[0].score.mean - TRUTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sweeps", type=int, default=100, help="of each size")
    count = parser.parse_args().sweeps
    pool.draw_logits = draw_logits
    for size in SIZES:
        rows = np.array([null_sweep(number, *size) for number in range(count)], float)
        worse, best, told, true = rows.mean(0)
        print(
            f"{size[0]} x {size[1]} seeds, {size[2]} images, {count} sweeps: some worse {worse:.1%}, one is best {best:.1%}, "
            f"optimism told {100 * told:.2f} pp, true {100 * true:.2f} pp",
            flush=True,
        )


if __name__ == "__main__":
    main()
