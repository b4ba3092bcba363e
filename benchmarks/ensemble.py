"""Time of choosing ensembles among many members: python benchmarks/ensemble.py [--members 1000] [--images 10000]."""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.pool import Images, draw_logits
from cifar_hpc.collect.ensemble import choose_ensembles, make_library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000)
    args = parser.parse_args()
    images = Images.draw(args.images, 0)
    rng = np.random.default_rng(1)
    archs = [f"arch{m % 10}" for m in range(args.members)]
    logits = [draw_logits(0.85 + 0.1 * rng.random(), images, "x" * (m % 10), rng) for m in range(args.members)]
    start = time.perf_counter()
    library = make_library(logits, images.labels, archs)
    print(f"temperatures and probabilities: {time.perf_counter() - start:.1f} s")
    chosen = choose_ensembles(library)
    print(f"{time.perf_counter() - start:.1f} s in all")
    for found in chosen:
        print(f"{found.combination.method}: {found.right.mean():.4f} by {len(found.combination.weights)} members")
    print(f"best member {library.right().mean(1).max():.4f}")


if __name__ == "__main__":
    main()
