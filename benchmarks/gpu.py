"""How fast one GPU trains: images a second beside the fastest plain loop, cohorts beside their trials one by one, full size.

    python -m benchmarks.gpu                    # all tables, some five minutes
    python -m benchmarks.gpu --only speed probes --seconds 120

Needs CIFAR-10 ($CIFAR_HPC_DATA) and a CUDA device. The limit is the same network in bfloat16, channels_last, on one batch that
lies on the device, its whole step a CUDA graph: no loop that loads, augments and measures can be faster. Prints Markdown; a
table's row whose time is up says so.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks import peer_ray_tune
from benchmarks.freeze_depth import export_images
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import AugmentOp, TrialConfig
from cifar_hpc.models.zoo import build_model
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.worker.job import run_job

NETWORKS = [  # architecture, pixels, batch
    *(("simple_cnn", 32, 128), ("resnet9", 32, 512), ("resnet18", 32, 128), ("resnet18", 64, 256)),
    *(("densenet121", 64, 256), ("efficientnet_b0", 64, 256)),
]
DEPTHS = [("all", "layer4", "none"), ("all", "layer4", "flip_crop"), ("layer3", "layer3", "none")]
DEPTHS += [("layer3", "layer3", "flip_crop"), ("none", "none", "flip_crop")]  # ours, the script's name of it, augmentation
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1)


class Clock:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()


def config(train_n: int | None, **changes: Any) -> TrialConfig:
    dataset = DatasetConfig(name="cifar10", train_size=train_n, val_frac=changes.pop("val_frac", 0.1))
    base = {"arch": "resnet18", "image_size": 64, "batch_size": 256, "augment": "flip_crop", "lr": 0.02, "epochs": 4}
    return normalise(TrialConfig(dataset=dataset, **{**base, **changes}))


def train(configs: Sequence[TrialConfig], *, apart: bool = False) -> tuple[list[TrialResult], float]:
    """Their results, and the seconds from the first trial's beginning to the last one's end."""
    cohorts = tuple(Cohort(trials=(one,)) for one in configs) if apart else (Cohort(trials=tuple(configs)),)
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        began = time.perf_counter()
        run_job(
            Job(sweep="gpu", job_id="job-0001", cohorts=cohorts, resources=Resources(cpus_per_gpu=8)), layout, executor="inline"
        )
        wall_s = time.perf_counter() - began
        failed = [files.error.read_text() for one in configs if (files := layout.trial(one.trial_id)).error.exists()]
        if failed:
            raise RuntimeError(failed[0][:2000])
        results = [read_record(layout.trial(one.trial_id).result, TrialResult) for one in configs]
    gc.collect()
    torch.cuda.empty_cache()
    return results, wall_s


def limit(arch: str, size: int, batch: int, *, graph: bool) -> float:
    """Images a second of the plain loop on one batch."""
    device = torch.device("cuda")
    model = (
        build_model(config(None, arch=arch, image_size=size), 10, 3).to(device).to(memory_format=torch.channels_last).train()
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    x_NCHW = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    y_N = torch.randint(10, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            logits_NK = model(x_NCHW)
        functional.cross_entropy(logits_NK.float(), y_N).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(side)
    run: Callable[[], None] = step
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            step()
        run = captured.replay
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(60):
        run()
    torch.cuda.synchronize()
    return 60 * batch / (time.perf_counter() - began)


def speed(clock: Clock) -> None:
    print(
        "\n| network | pixels, batch | cifar-hpc, images/s | eager limit | CUDA graph limit | of the limit | s a trial | GB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for arch, size, batch in NETWORKS:
        if clock.left_s < 20:
            print(f"| {arch} | {size}, {batch} | no time left |")
            continue
        (result,), wall_s = train([config(30_000, arch=arch, image_size=size, batch_size=batch)])
        ours = result.train_n / min(epoch.train_s or 1e9 for epoch in result.curves)
        eager, graph = (limit(arch, size, batch, graph=graph) for graph in (False, True))
        row = [arch, f"{size}, {batch}", f"{ours:,.0f}", f"{eager:,.0f}", f"{graph:,.0f}", f"{ours / graph:.0%}"]
        print("|", " | ".join([*row, f"{wall_s:.1f}", f"{result.hardware.peak_memory_gb}"]), "|", flush=True)


def depths(clock: Clock) -> None:
    """Eight rates beside the plain script of peer_ray_tune.py with four workers, of whose trials, all alike, one is run."""
    print("\n| 8 rates, resnet18, 64 px, 45,000 images, 4 epochs | augment | cifar-hpc, s | script, s (8 times one) | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        export_images(Path(folder), 50_000, 0.1)
        for freeze, script_freeze, augment in DEPTHS:
            if clock.left_s < 45:
                print(f"| {freeze} | {augment} | no time left |")
                continue
            members = [config(50_000, freeze=freeze, augment=augment, lr=lr) for lr in RATES]
            _, ours_s = train(members, apart=freeze == "none")
            reports: list[dict[str, float]] = []
            trial = {"freeze": script_freeze, "lr": 0.02, "seed": 0, "augment": augment, "images": folder, "weights": None}
            work = {"arch": "resnet18", "image_size": 64, "epochs": 4, "batch_size": 256, "threads": 8, "workers": 4}
            peer_ray_tune.train({**trial, **work}, reports.append)
            script_s = len(RATES) * (reports[-1]["ended"] - reports[-1]["began"])
            row = f"| {freeze} | {augment} | {ours_s:.1f} | {script_s:.0f} | {script_s / ours_s:.1f} |"
            print(row, flush=True)


def probes(clock: Clock, count: int = 1000) -> None:
    print(f"\n| {count} linear probes x 20 epochs, resnet18 at 64 px, 45,000 images | training, s | whole, s |")
    print("|---|---|---|")
    members = [config(50_000, freeze="all", augment="none", lr=1e-4 * 1.007**i, epochs=20) for i in range(count)]
    results, wall_s = train(members)
    print(f"| side by side | {sum(result.train_s for result in results):.1f} | {wall_s:.1f} |", flush=True)


def resnet9(clock: Clock) -> None:
    """The recipe of Page (2018), and with Muon: flips, crops, 8 pixels cut out, five epochs of warm-up, then a fall to 0."""
    print("\n| resnet9, 49,000 images | epochs | test | training, s | whole, s |\n|---|---|---|---|---|")
    operations = (AugmentOp(name="flip"), AugmentOp(name="crop"), AugmentOp(name="cutout", args=(("size_frac", 0.25),)))
    base: dict[str, Any] = {"arch": "resnet9", "image_size": 32, "batch_size": 512, "augment": operations, "val_frac": 0.02}
    base |= {"warmup_epochs": 5.0, "ema": 0.99, "schedule": "linear"}
    sgd = {"lr": 0.4, "weight_decay": 5e-4, "momentum": 0.9}
    muon = {"optimizer": "muon", "lr": 5e-3, "weight_decay": 0.05, "momentum": 0.95, "label_smoothing": 0.1}
    smooth = {"label_smoothing": 0.1}
    recipes = [("sgd", 24, sgd), ("sgd, smoothed, ghosts", 24, {**sgd, **smooth, "ghost_batches": 16})]
    recipes += [("muon", 24, muon), ("muon, ghosts", 24, {**muon, "ghost_batches": 8}), ("muon", 32, muon)]
    for name, epochs, changes in recipes:
        if clock.left_s < 25:
            print(f"| {name} | {epochs} | no time left |")
            continue
        (result,), wall_s = train([config(None, epochs=epochs, **{**base, **changes})])
        test = f"{result.test.acc:.4f}" if result.test else ""
        print(f"| {name} | {epochs} | {test} | {result.train_s:.1f} | {wall_s:.1f} |", flush=True)


TABLES = {"speed": speed, "depths": depths, "probes": probes, "resnet9": resnet9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seconds", type=float, default=600.0, help="rows that would begin later are left out")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: there is no CUDA device here")
    clock = Clock(asked.seconds)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in asked.only:
        TABLES[name](clock)


if __name__ == "__main__":
    main()
