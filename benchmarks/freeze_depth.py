"""The same freeze-depth sweep by cifar-hpc and by a plain Ray Tune script: trials per minute, the ratio, the accuracies.

    python benchmarks/freeze_depth.py                       # all levels, ResNet-18 at 32 pixels
    python benchmarks/freeze_depth.py --levels head --epochs 20

Both train the same trials on the same CIFAR-10 images in processes of their own, start-up included; the script runs one trial
after another or two at a time, whichever was faster in a short try. Needs CIFAR-10 ($CIFAR_HPC_DATA). Prints Markdown.
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
from pathlib import Path

LEVELS = {  # name -> (freeze, augment); 'layer4' is all but the classifier
    "head": ("layer4", "none"),
    "head, augmented": ("layer4", "flip_crop"),
    "last stage": ("layer3", "none"),
    "last two stages": ("layer2", "none"),
    "unfrozen": ("none", "none"),
}
LRS = [0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="*", default=list(LEVELS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-size", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--lrs", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="freeze-depth-") as folder:
        export_images(Path(folder), options.train_size)
        rows, total = [], [0.0, 0.0]
        for level in options.levels:
            freeze, augment = LEVELS[level]
            lrs = LRS[: options.lrs]
            ours_s, ours = run_ours(Path(folder), freeze, augment, lrs, options)
            peer_s, peer = min(
                (run_peer(Path(folder), freeze, augment, lrs, options, n) for n in (1, 2)), key=lambda run: run[0]
            )
            total[0], total[1] = total[0] + ours_s, total[1] + peer_s
            rows.append((level, len(lrs), ours_s, peer_s, ours, peer))
            print(row(*rows[-1]), flush=True)
    trials = sum(entry[1] for entry in rows)
    print("\n| level | cifar-hpc, trials/min | Ray Tune script, trials/min | ratio | test accuracy, difference of means |")
    print("| --- | --- | --- | --- | --- |")
    for entry in rows:
        print(row(*entry))
    print(f"| whole | {60 * trials / total[0]:.2f} | {60 * trials / total[1]:.2f} | **{total[1] / total[0]:.1f}** | |")


def row(level: str, n: int, ours_s: float, peer_s: float, ours: list[float], peer: list[float]) -> str:
    gap = 100 * (statistics.mean(ours) - statistics.mean(peer))
    return (
        f"| {level} | {60 * n / ours_s:.2f} | {60 * n / peer_s:.2f} | **{peer_s / ours_s:.1f}** | {gap:+.2f} points (n = {n}) |"
    )


def export_images(folder: Path, train_size: int) -> None:
    """The very splits that cifar-hpc trains on, for the other side."""
    import numpy as np

    from cifar_hpc.data.dataset import load_dataset
    from cifar_hpc.data.files import data_root
    from cifar_hpc.trial import DatasetConfig

    data = load_dataset(DatasetConfig(name="cifar10", train_size=train_size, val_frac=0.2), 32, data_root())
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        np.save(folder / f"{name}_images.npy", split.images_NCHW.numpy())
        np.save(folder / f"{name}_labels.npy", split.labels_N.numpy())


def run_ours(
    folder: Path, freeze: str, augment: str, lrs: list[float], options: argparse.Namespace
) -> tuple[float, list[float]]:
    spec = {
        "name": "bench",
        "dataset": {"name": "cifar10", "train_size": options.train_size, "val_frac": 0.2},
        "base": {
            **{"arch": "resnet18", "freeze": freeze, "augment": augment, "epochs": options.epochs},
            **{"batch_size": 128, "image_size": options.image_size},
        },
        "grid": {"lr": lrs},
        "resources": {"cpus_per_gpu": os.cpu_count() if freeze != "none" else 1},
    }
    results = Path(tempfile.mkdtemp(dir=folder))
    (results / "bench.yaml").write_text(json.dumps(spec))  # JSON is YAML
    executor = "inline" if freeze != "none" else "ray"
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cifar_hpc", "sweep", str(results / "bench.yaml"), "--on", executor],
        env={**os.environ, "CIFAR_HPC_RESULTS": str(results)},
        check=True,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    records = [json.loads(path.read_text()) for path in results.glob("trials/*/result.json")]
    assert len(records) == len(lrs)
    return seconds, [record["test"]["acc"] for record in records]


def run_peer(
    folder: Path, freeze: str, augment: str, lrs: list[float], options: argparse.Namespace, concurrent: int
) -> tuple[float, list[float]]:
    settings = {
        **{"arch": "resnet18", "image_size": options.image_size, "epochs": options.epochs, "batch_size": 128},
        **{"augment": augment, "images": str(folder), "concurrent": concurrent},
        "trials": [{"freeze": freeze, "lr": lr, "seed": 0} for lr in lrs],
    }
    path = folder / "peer.json"
    path.write_text(json.dumps(settings))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("peer_ray_tune.py")), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - started
    accs = [json.loads(line)["test_acc"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(accs) == len(lrs), done.stdout + done.stderr
    return seconds, accs


if __name__ == "__main__":
    main()
