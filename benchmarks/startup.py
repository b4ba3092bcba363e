"""What the tool costs before and between trials, in one run on one machine. Prints Markdown.

    python benchmarks/startup.py

Cold commands in fresh processes (median of 5), a plan of 10,000 points, and a sweep of 100 one-step trials on Ray beside bare
Ray Tune: 100 trials of an empty function, once with fresh actors (Ray's default) and once with reused ones.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 5
BARE = """
import sys, os
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
import ray
from ray import tune
ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
def run(config):
    tune.report({"x": config["i"]})
tune.Tuner(
    run,
    param_space={"i": tune.grid_search(list(range(100)))},
    tune_config=tune.TuneConfig(reuse_actors=sys.argv[1] == "reuse"),
    run_config=tune.RunConfig(verbose=0),
).fit()
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        small, large = write_spec(folder, "small", 100), write_spec(folder, "large", 10_000)
        python = cold([sys.executable, "-c", "pass"])
        print("| what | seconds | |\n| --- | --- | --- |")
        for label, arguments in (
            ("`--help`", ["--help"]),
            ("`sweep --dry-run`, 100 points", ["sweep", str(small), "--dry-run"]),
            ("`sweep --dry-run`, 10,000 points", ["sweep", str(large), "--dry-run"]),
            ("`status`", ["status"]),
        ):
            seconds = cold([sys.executable, "-m", "cifar_hpc", *arguments], folder)
            print(f"| {label} | {seconds:.2f} | {seconds / python:.0f} x an empty Python |", flush=True)
        print(f"| load and plan 10,000 points | {plan_s(large):.2f} | |", flush=True)
        ours = timed([sys.executable, "-m", "cifar_hpc", "sweep", str(small), "--on", "ray"], folder)
        done = len(list(folder.glob("results/trials/*/result.json")))
        assert done == 100, f"{done} of 100 trials finished"
        for label, mode in (("Ray's default", "fresh"), ("actors reused", "reuse")):
            bare = timed([sys.executable, "-c", BARE, mode], folder)
            print(f"| bare Ray Tune, 100 empty trials, {label} | {bare:.1f} | ours: {ours / bare:.2f} x |", flush=True)
        print(f"| `sweep --on ray`, 100 one-step trials that train and record | {ours:.1f} | |")


def write_spec(folder: Path, name: str, points: int) -> Path:
    """One-step trials on scikit-learn's digits that freeze nothing, so that none share a cohort."""
    path = folder / f"{name}.yaml"
    spec = {
        "name": name,
        "dataset": {"name": "digits", "train_size": 120, "val_frac": 0.5},
        "base": {"arch": "simple_cnn", "epochs": 1, "batch_size": 64},
        "grid": {"lr": [round(0.0001 * (i + 1), 6) for i in range(points)]},
    }
    path.write_text(json.dumps(spec))  # JSON is YAML
    return path


def plan_s(path: Path) -> float:
    from cifar_hpc.planning.plan import make_plan
    from cifar_hpc.spec.load import load_spec

    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        assert len(make_plan(load_spec(path)).trials) == 10_000
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cold(command: list[str], folder: Path | None = None) -> float:
    return statistics.median(timed(command, folder) for _ in range(REPEATS))


def timed(command: list[str], folder: Path | None = None) -> float:
    environment = {**os.environ, **({"CIFAR_HPC_RESULTS": str(folder / "results")} if folder else {})}
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
