"""The same freeze-depth sweep by cifar-hpc and by a plain Ray Tune script: trials per minute, the ratio, the accuracies.

    python benchmarks/freeze_depth.py                                          # all levels, ResNet-18 at 32 pixels
    python benchmarks/freeze_depth.py --levels head --epochs 20 --train-size 12500

Both train on the same CIFAR-10 images, in processes of their own. The script runs one trial after another or two at a time,
whichever was faster in a short try. Its trials cost the same each, as do ours that share nothing, so that only --timed of
them are run and the rest reckoned from these: at least as many as run at once, since fewer leave cores idle and would be
reckoned at that price; cohorts of ours are run whole. Beside the head level stands a second, more careful script, which
computes the frozen network's features once and fits all heads on them. 'With start-up' counts from the command to its end,
'without' from the first trial's beginning, once everything is imported, to the last one's end. Needs CIFAR-10
($CIFAR_HPC_DATA). Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

LEVELS = {  # name -> (freeze, augment); 'layer4' is all but the classifier
    "head": ("layer4", "none"),
    "head, augmented": ("layer4", "flip_crop"),
    "last stage": ("layer3", "none"),
    "last two stages": ("layer2", "none"),
    "unfrozen": ("none", "none"),
}
CAREFUL_LEVEL = "head"
LRS = (0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1)


@dataclass(frozen=True)
class Work:
    """What both sides train: one trial for each learning rate. folder: the images for the script."""

    folder: Path
    freeze: str
    augment: str
    epochs: int
    train_size: int
    image_size: int
    weights: str | None
    lrs: Sequence[float]


@dataclass(frozen=True)
class Cost:
    """Of all learning rates, in seconds, and the test accuracies of those that ran."""

    start_s: float
    train_s: float
    accs: Sequence[float]

    @property
    def whole_s(self) -> float:
        return self.start_s + self.train_s

    def times(self, factor: float) -> Cost:
        """Of so many times the trials, one after another."""
        return replace(self, train_s=self.train_s * factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="*", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--weights", help="a file of ImageNet weights for ResNet-18; else both start from scratch")
    parser.add_argument("--timed", type=int, default=2, help="trials of a level that are run where all cost alike")
    options = parser.parse_args()
    rows, extra = [], []
    with tempfile.TemporaryDirectory(prefix="freeze-depth-") as folder:
        export_images(Path(folder), options.train_size)
        concurrent = choose_concurrency(work_of(Path(folder), "last stage", options))
        if not concurrent <= options.timed <= len(LRS):
            parser.error(
                f"--timed {options.timed}: the script runs {concurrent} trials at a time; allowed: {concurrent} to {len(LRS)}"
            )
        print(
            f"The script runs {concurrent} at a time. n = {len(LRS)} learning rates a level, {options.epochs} epochs, ", end=""
        )
        print(
            f"{options.train_size} images, {options.image_size} px; timed: {options.timed} of the script's trials\n", flush=True
        )
        for level in options.levels:
            work = work_of(Path(folder), level, options)
            few = replace(work, lrs=LRS[:: len(LRS) // options.timed][: options.timed])
            factor = len(LRS) / options.timed
            ours = run_ours(work) if work.freeze != "none" else run_ours(few).times(factor)
            peer = run_peer(few, concurrent).times(factor)
            same = ours.accs if work.freeze == "none" else [ours.accs[LRS.index(lr)] for lr in few.lrs]
            gaps = [100 * (one - other) for one, other in zip(same, peer.accs, strict=True)]
            rows.append((level, ours, peer, gaps))
            if level == CAREFUL_LEVEL:
                careful = run_peer(work, 1, "peer_features.py")
                careful_gaps = [100 * (one - other) for one, other in zip(ours.accs, careful.accs, strict=True)]
                extra.append((f"{level}, beside features once", ours, careful, careful_gaps))
            print(f"{level}: ours {ours}, script {peer}", file=sys.stderr, flush=True)
    print("| level | cifar-hpc, trials/min | script, trials/min | ratio with start-up | without | test accuracy, difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for level, ours, peer, gaps in [*rows, *extra]:
        print(row(level, ours, peer), f"{statistics.mean(gaps):+.1f} points (n = {len(gaps)}) |")
    if len(rows) > 1:
        print(row("whole", *(whole([entry[side] for entry in rows]) for side in (1, 2)), trials_n=len(LRS) * len(rows)), "|")


def row(level: str, ours: Cost, peer: Cost, trials_n: int = len(LRS)) -> str:
    rates = " | ".join(f"{60 * trials_n / cost.whole_s:.2f}" for cost in (ours, peer))
    return f"| {level} | {rates} | **{peer.whole_s / ours.whole_s:.1f}** | {peer.train_s / ours.train_s:.1f} |"


def whole(costs: Sequence[Cost]) -> Cost:
    """One sweep of all levels: it starts once."""
    return Cost(statistics.mean(cost.start_s for cost in costs), sum(cost.train_s for cost in costs), ())


def work_of(folder: Path, level: str, options: argparse.Namespace) -> Work:
    return Work(folder, *LEVELS[level], options.epochs, options.train_size, options.image_size, options.weights, LRS)


def export_images(folder: Path, train_size: int, val_frac: float = 0.2) -> None:
    """The very splits that cifar-hpc trains on, for the other side."""
    import numpy as np

    from cifar_hpc.config.dataset import DatasetConfig
    from cifar_hpc.data.dataset import load_dataset
    from cifar_hpc.data.files import data_root

    data = load_dataset(DatasetConfig(name="cifar10", train_size=train_size, val_frac=val_frac), 32, data_root())
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        np.save(folder / f"{name}_images.npy", split.images_NCHW.numpy())
        np.save(folder / f"{name}_labels.npy", split.labels_N.numpy())


def run_ours(work: Work) -> Cost:
    shared = work.freeze != "none"
    spec = {
        "name": "bench",
        "dataset": {"name": "cifar10", "train_size": work.train_size, "val_frac": 0.2},
        "base": {
            **{"arch": "resnet18", "freeze": work.freeze, "augment": work.augment, "epochs": work.epochs},
            **{"batch_size": 128, "image_size": work.image_size, "weights": work.weights},
        },
        "grid": {"lr": list(work.lrs)},
        "resources": {"cpus_per_gpu": os.cpu_count() if shared else 1},
    }
    results = Path(tempfile.mkdtemp(dir=work.folder))
    (results / "bench.yaml").write_text(json.dumps(spec))  # JSON is YAML
    command = [sys.executable, "-m", "cifar_hpc", "sweep", str(results / "bench.yaml"), "--on", "inline" if shared else "ray"]
    started = time.perf_counter()
    subprocess.run(command, env={**os.environ, "CIFAR_HPC_RESULTS": str(results)}, check=True, stderr=subprocess.DEVNULL)
    whole_s = time.perf_counter() - started
    records = [json.loads(path.read_text()) for path in results.glob("trials/*/result.json")]
    records.sort(key=lambda record: record["config"]["lr"])
    assert len(records) == len(work.lrs)
    began = min(datetime.fromisoformat(record["started_at"]).timestamp() for record in records)
    ended = max(datetime.fromisoformat(record["finished_at"]).timestamp() for record in records)
    return Cost(whole_s - (ended - began), ended - began, [record["test"]["acc"] for record in records])


def choose_concurrency(work: Work) -> int:
    brief = replace(work, epochs=2, lrs=LRS[:2])
    return min((1, 2), key=lambda n: run_peer(brief, n).train_s)


def run_peer(work: Work, concurrent: int, script: str = "peer_ray_tune.py") -> Cost:
    settings = {
        **{"arch": "resnet18", "image_size": work.image_size, "epochs": work.epochs, "batch_size": 128},
        **{"augment": work.augment, "images": str(work.folder), "weights": work.weights, "concurrent": concurrent},
        "trials": [{"freeze": work.freeze, "lr": lr, "seed": 0} for lr in work.lrs],
    }
    path = work.folder / "peer.json"
    path.write_text(json.dumps(settings))
    command = [sys.executable, str(Path(__file__).with_name(script)), str(path)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    whole_s = time.perf_counter() - started
    trials = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(trials) == len(work.lrs), done.stdout + done.stderr
    trials.sort(key=lambda trial: trial["lr"])
    train_s = max(trial["ended"] for trial in trials) - min(trial["began"] for trial in trials)
    return Cost(whole_s - train_s, train_s, [trial["test_acc"] for trial in trials])


if __name__ == "__main__":
    main()
