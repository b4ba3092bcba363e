"""How fast one GPU trains: images a second beside the fastest plain loop, cohorts beside their trials one by one, full size.

    python -m benchmarks.gpu                    # all tables, some ten minutes
    python -m benchmarks.gpu --only speed probes --seconds 120
    python -m benchmarks.gpu --only speed --rows resnet9      # rows whose names have one of the words; so for every table

Needs CIFAR-10 ($CIFAR_HPC_DATA) and a CUDA device. The limit is the same network in bfloat16, channels_last, on one batch that
lies on the device, its whole step a CUDA graph: no loop that loads, augments and measures can be faster. Prints Markdown; a
table's row whose time is up says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks import airbench94, peer_ray_tune
from benchmarks.freeze_depth import export_images
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.sources import find_source
from cifar_hpc.config.trial import AugmentOp, TrialConfig
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.models.zoo import build_model
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.worker.job import run_job

NETWORKS = [("simple_cnn", 32, 128), ("resnet9", 32, 512), ("resnet9", 64, 512)]  # architecture, pixels, batch
NETWORKS += [("resnet18", 32, 128), ("resnet18", 64, 256)]
NETWORKS += [(arch, side, 256) for arch in ("densenet121", "efficientnet_b0") for side in (32, 64)]
DEPTHS = [("all", "layer4", "none"), ("all", "layer4", "flip_crop"), ("layer3", "layer3", "none")]
DEPTHS += [("layer3", "layer3", "flip_crop"), ("none", "none", "flip_crop")]  # ours, the script's name of it, augmentation
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1)


class Asked:
    """Which rows are measured. words: that a row's name has one of; none: all rows."""

    def __init__(self, seconds: float, words: Sequence[str]) -> None:
        self._end = time.monotonic() + seconds
        self._words = words

    def row(self, name: str, seconds: float) -> bool:
        """Whether there is to be a row of that name, and time for it; says where there is none."""
        if self._words and not any(word in name for word in self._words):
            return False
        if self._end - time.monotonic() >= seconds:
            return True
        print(f"| {name} | no time left |", flush=True)
        return False


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


def speed(asked: Asked) -> None:
    print("\n| network, pixels, batch | cifar-hpc, images/s | eager limit | CUDA graph limit | of the limit | s a trial | GB |")
    print("|---|---|---|---|---|---|---|")
    for arch, size, batch in NETWORKS:
        name = f"{arch}, {size}, {batch}"
        if not asked.row(name, 20):
            continue
        (result,), wall_s = train([config(30_000, arch=arch, image_size=size, batch_size=batch)])
        ours = result.train_n / min(epoch.train_s or 1e9 for epoch in result.curves)
        eager, graph = (limit(arch, size, batch, graph=graph) for graph in (False, True))
        row = [name, f"{ours:,.0f}", f"{eager:,.0f}", f"{graph:,.0f}", f"{ours / graph:.0%}"]
        print("|", " | ".join([*row, f"{wall_s:.1f}", f"{result.hardware.peak_memory_gb}"]), "|", flush=True)


def depths(asked: Asked) -> None:
    """Eight rates beside the plain script of peer_ray_tune.py with four workers, of whose trials, all alike, one is run."""
    print("\n| 8 rates, resnet18, 64 px, 45,000 images, 4 epochs | cifar-hpc, s | script, s (8 times one) | ratio |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        export_images(Path(folder), 50_000, 0.1)
        for freeze, script_freeze, augment in DEPTHS:
            name = f"{freeze}, {augment}"
            if not asked.row(name, 45):
                continue
            members = [config(50_000, freeze=freeze, augment=augment, lr=lr) for lr in RATES]
            _, ours_s = train(members, apart=freeze == "none")
            reports: list[dict[str, float]] = []
            trial = {"freeze": script_freeze, "lr": 0.02, "seed": 0, "augment": augment, "images": folder, "weights": None}
            work = {"arch": "resnet18", "image_size": 64, "epochs": 4, "batch_size": 256, "threads": 8, "workers": 4}
            peer_ray_tune.train({**trial, **work}, reports.append)
            script_s = len(RATES) * (reports[-1]["ended"] - reports[-1]["began"])
            print(f"| {name} | {ours_s:.1f} | {script_s:.0f} | {script_s / ours_s:.1f} |", flush=True)


def probes(asked: Asked, count: int = 1000) -> None:
    print(f"\n| {count} linear probes x 20 epochs, resnet18 at 64 px, 45,000 images | training, s | whole, s |")
    print("|---|---|---|")
    if asked.row("side by side", 60):
        members = [config(50_000, freeze="all", augment="none", lr=1e-4 * 1.007**i, epochs=20) for i in range(count)]
        results, wall_s = train(members)
        print(f"| side by side | {sum(result.train_s for result in results):.1f} | {wall_s:.1f} |", flush=True)


def page(epochs: int, **changes: Any) -> TrialConfig:
    """The recipe of Page (2018), How to train your ResNet: flips, crops, 8 pixels cut out, a rise over a fifth of the epochs,
    then a fall to 0; an average of the weights is measured. On all 50,000 images: the last epoch counts."""
    operations = (AugmentOp(name="flip"), AugmentOp(name="crop"), AugmentOp(name="cutout", args=(("size_frac", 0.25),)))
    base = {"arch": "resnet9", "image_size": 32, "batch_size": 512, "augment": operations, "val_frac": 0.0, "epochs": epochs}
    base |= {"lr": 0.4, "weight_decay": 5e-4, "momentum": 0.9, "schedule": "linear", "warmup_epochs": 0.2 * epochs}
    return config(None, **{**base, "ema": 0.99, **changes})


def airbench(images_NCHW: torch.Tensor, epochs: int, **changes: Any) -> TrialConfig:
    """airbench94's network, rates, decay and smoothing in a trial, as a network of one's own. What a trial has no word for:
    images that are mirrored in turn, not at random; fast weights that go back to slow ones, which an average stands for."""
    source = find_source("arch", "airbench94.py:Net", Path(airbench94.__file__).parent)
    filters = tuple(map(tuple, airbench94.whitening(airbench94.normalised(images_NCHW))))
    operations = (AugmentOp(name="flip"), AugmentOp(name="crop", args=(("pad_frac", airbench94.SHIFT / 32),)))
    base = {"arch": source.name, "image_size": 32, "batch_size": airbench94.BATCH, "augment": operations, "val_frac": 0.0}
    base |= {"lr": airbench94.step_rate(), "weight_decay": airbench94.step_decay(), "momentum": airbench94.MOMENTUM}
    base |= {"schedule": "linear", "warmup_epochs": airbench94.RISE_FRAC * epochs, "label_smoothing": airbench94.SMOOTHING}
    own = config(None, **{**base, "ema": 0.95, "epochs": epochs, **changes})
    return dataclasses.replace(own, sources=(source,), arch_args=(("filters", filters),))


def resnet9(asked: Asked) -> None:
    """To 94 %: ResNet-9 as it comes, and the network of airbench94 here and in its own loop."""
    print("\n| CIFAR-10, 50,000 images | epochs | test | training, s | whole, s |\n|---|---|---|---|---|")
    data = load_dataset(DatasetConfig(name="cifar10", val_frac=0.0), 32, data_root())
    images = {name: (split.images_NCHW, split.labels_N) for name, split in (("train", data.train), ("test", data.test))}
    recipes = [
        ("resnet9", page(28, label_smoothing=0.1)),
        ("resnet9, ghosts 16", page(24, label_smoothing=0.1, ghost_batches=16)),
        ("resnet9, ghosts 16, shorter", page(19, label_smoothing=0.2, ghost_batches=16)),
        ("airbench94's network", airbench(images["train"][0][:5000], 12)),
        ("airbench94's network, longer", airbench(images["train"][0][:5000], 16)),
    ]
    if asked.row("airbench94 in its own loop", 25):
        began = time.perf_counter()
        acc, train_s = airbench94.train(images, torch.device("cuda"))
        whole_s = time.perf_counter() - began
        print(f"| airbench94 in its own loop | {airbench94.EPOCHS} | {acc:.4f} | {train_s:.2f} | {whole_s:.1f} |", flush=True)
    for name, recipe in recipes:
        if asked.row(name, 25):
            (result,), wall_s = train([recipe])
            test = f"{result.test.acc:.4f}" if result.test else ""
            print(f"| {name} | {recipe.epochs} | {test} | {result.train_s:.2f} | {wall_s:.1f} |", flush=True)


TABLES = {"speed": speed, "depths": depths, "probes": probes, "resnet9": resnet9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seconds", type=float, default=600.0, help="rows that would begin later are left out")
    parser.add_argument("--rows", nargs="+", default=[], metavar="WORD", help="only rows whose names have one of the words")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: there is no CUDA device here")
    asked = Asked(options.seconds, options.rows)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in options.only:
        TABLES[name](asked)


if __name__ == "__main__":
    main()
