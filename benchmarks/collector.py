"""The collector and the report on a large pool: python benchmarks/collector.py [--trials 10000] [--folder KEEP].

Prints the time to collect cold (no index) and warm, to analyse and to write the page, the page's size and the peak memory.
Goals at 10,000 finished trials of 30 epochs: cold under 10 s, warm under 1 s, page under 10 MB.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.bundle import write_report
from cifar_hpc.report.findings import find

T = TypeVar("T")


def timed(name: str, work: Callable[[], T]) -> T:
    """The work's result; its wall and processor seconds are printed."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    print(f"{name:26} {time.perf_counter() - wall:7.2f} s wall {time.process_time() - cpu:7.2f} s processor", flush=True)
    return found


def write_pool(layout: Layout, count: int, epochs: int) -> None:
    images = Images.draw(1000, 1000)
    trials = list(configs(count, max(10, -(-count // 1000)), epochs))  # the grid has 1,000 points
    for config in trials:
        write_trial(layout, config, images)
    write_plan(layout, trials)


def measure(layout: Layout, page: bool) -> None:
    layout.index.unlink(missing_ok=True)
    timed("collect cold", lambda: make_leaderboard(scan(layout)))
    pool = timed("collect warm", lambda: scan(layout))
    board = timed("leaderboard", lambda: make_leaderboard(pool))
    print(f"{len(pool.trials):,} trials, {len(board.rows):,} points, index {layout.index.stat().st_size / 1e6:.1f} MB")
    if page:
        found = timed("analyse, with ensembles", lambda: find(pool, board, layout))
        index = timed("figures, tables and page", lambda: write_report(found, layout))
        print(f"page {index.stat().st_size / 1e6:.1f} MB")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where the pool is written, or already lies; else a temporary folder")
    parser.add_argument("--no-page", action="store_true", help="collect only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        layout = Layout(args.folder or Path(temporary))
        if not layout.pool.exists():
            timed("(writing the pool)", lambda: write_pool(layout, args.trials, args.epochs))
        measure(layout, page=not args.no_page)


if __name__ == "__main__":
    main()
