"""Images per second of one trial from scratch: our loop, its arithmetic limit, and a plain DataLoader script. Prints Markdown.

    python benchmarks/single_trial.py                                  # small networks, CIFAR-10 at 32 pixels
    python benchmarks/single_trial.py --archs resnet18 --image-size 64 --train-size 50000

The limit is the same network, batch, precision and optimiser stepped on one batch that lies on the device: no data, no
augmentation, no records. The script is a torchvision network over torchvision's transforms in a DataLoader with workers, in
float32. Medians over epochs after the first. Needs CIFAR-10 ($CIFAR_HPC_DATA); neither Ray nor submitit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.models.zoo import build_model
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.train.device import choose_device, choose_precision
from cifar_hpc.train.optimizers import build_optimizer, put_rates
from cifar_hpc.worker.job import run_job

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="*", default=["simple_cnn", "resnet9", "resnet18"])
    parser.add_argument("--train-size", type=int, default=2500)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    threads, device = os.cpu_count() or 1, choose_device(None)
    torch.set_num_threads(threads)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} CPU cores"
    print(f"{name}, torch {torch.__version__}, {options.image_size} px, batch {options.batch_size}, median of ", end="")
    print(f"{options.epochs - 1} epochs of {options.train_size * 4 // 5} images\n")
    print("| architecture | cifar-hpc, images/s | arithmetic limit | share of it | DataLoader script | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for arch in options.archs:
        config = normalise(
            TrialConfig(
                dataset=DatasetConfig(name="cifar10", train_size=options.train_size, val_frac=0.2),
                **{"arch": arch, "image_size": options.image_size, "augment": "flip_crop", "lr": 0.01},
                **{"epochs": options.epochs, "batch_size": options.batch_size},
            )
        )
        ours, limit, script = (measure(config, threads) for measure in (time_ours, time_limit, time_script))
        print(
            f"| {arch} | {ours:,.0f} | {limit:,.0f} | {ours / limit:.0%} | {script:,.0f} | **{ours / script:.1f}** |",
            flush=True,
        )


def time_ours(config: TrialConfig, threads: int) -> float:
    """Images per second of training in a real trial, records and checkpoints included, evaluation left out."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        job = Job(sweep="b", job_id="job-0001", cohorts=(Cohort(trials=(config,)),), resources=Resources(cpus_per_gpu=threads))
        run_job(job, layout, executor="inline")
        result = read_record(layout.trial(config.trial_id).result, TrialResult)
    return result.train_n / statistics.median(epoch.train_s for epoch in result.curves[1:])


def time_limit(config: TrialConfig, threads: int) -> float:
    device = choose_device(None)
    precision = choose_precision("auto", device)
    model = build_model(config, 10, 3).to(device).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(config, list(model.blocks))
    put_rates(optimizer, [0.01] * len(optimizer.param_groups))
    size = config.image_size
    x_NCHW = torch.randn(config.batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    y_N = torch.randint(10, (config.batch_size,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, precision, enabled=precision is not torch.float32):
            logits_NK = model(x_NCHW)
        functional.cross_entropy(logits_NK.float(), y_N).backward()
        optimizer.step()

    steps = 20 if device.type == "cpu" else 200
    return config.batch_size * steps / median_seconds(lambda: [step() for _ in range(steps)], config.epochs)


def time_script(config: TrialConfig, threads: int) -> float:
    """As a notebook does it. An architecture of ours is taken as it is; torchvision's from torchvision."""
    import torchvision
    from PIL import Image
    from torchvision import transforms

    device = choose_device(None)
    split = load_dataset(config.dataset, 32, data_root()).train
    images, labels = split.images_NCHW.permute(0, 2, 3, 1).numpy(), split.labels_N.tolist()
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    steps += [transforms.Resize(config.image_size)] if config.image_size != 32 else []
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(images[i])), labels[i]

    workers = max(1, threads - 1) if device.type == "cuda" else 1
    loader = torch.utils.data.DataLoader(
        Images(),
        config.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    known = config.arch in torchvision.models.list_models()
    model = torchvision.models.get_model(config.arch, num_classes=10) if known else build_model(config, 10, 3)
    model = model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def epoch() -> None:
        loss_sum, correct = 0.0, 0
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            logits = model(x)
            loss = functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            correct += (logits.argmax(1) == y).sum().item()

    return len(labels) / median_seconds(epoch, config.epochs)


def median_seconds(run: Callable[[], object], n: int) -> float:
    """Of n runs but the first."""
    seconds = []
    for _ in range(n):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
