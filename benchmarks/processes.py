"""A training step of a trial in two processes beside a plain DistributedDataParallel script of the same network: gloo, CPU.

    python -m benchmarks.processes [--steps 10] [--batch 32]

Both take the same share of the same batch in the same processes, a block of steps in turn, and what counts is the median of the
ratios of the blocks: 1.00 means that a trial's step costs what the plain script's does. ResNet-18 at 64 pixels, all of it
trained, each process with the batch statistics of its own images (`ghost_batches: 2`; a row for those of the global batch,
which plain DDP does not have, is beside it), and the three linear layers of VGG-11-BN on features that are already there.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.distributed.launch import Link, run_ranks
from cifar_hpc.distributed.rendezvous import Rendezvous, Team
from cifar_hpc.distributed.world import World
from cifar_hpc.models.zoo import build_model
from cifar_hpc.train.member import Member

SIDE, BLOCKS = 64, 6
ROWS = [("resnet18", "none", 2), ("resnet18", "none", None), ("vgg11_bn", "classifier", None)]


def plain_step(module: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    model = DistributedDataParallel(module.train(), gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def trial_step(config: TrialConfig, world: World, x: Tensor, y: Tensor) -> Callable[[], None]:
    start = build_model(config, 10, 3).to(memory_format=torch.channels_last)
    member = Member(config, start, start, 10_000, torch.float32)
    member.join(world)
    member.begin_epoch()
    world.share(torch.empty(len(x) * world.size))
    member.set_numbers(member.numbers_of([0])[0])
    return lambda: member.train_step(x, y)


def measure(world: World, link: Link, arguments: Any) -> None:
    steps_n, batch, out = arguments
    torch.set_num_threads(1)
    torch.manual_seed(0)
    y = torch.randint(10, (batch // world.size,))
    lines = []
    for arch, freeze, ghost in ROWS:
        data = DatasetConfig(name="cifar10")
        config = normalise(TrialConfig(dataset=data, arch=arch, image_size=SIDE, ghost_batches=ghost, lr=0.01))
        whole = torchvision.models.get_model(arch, num_classes=10)
        if freeze == "none":
            x = torch.randn(len(y), 3, SIDE, SIDE).to(memory_format=torch.channels_last)
            plain = plain_step(whole.to(memory_format=torch.channels_last), x, y)
        else:
            x = torch.randn(len(y), 512 * 7 * 7)
            plain = plain_step(whole.classifier, x, y)
            blocks_n = len(build_model(config, 10, 3).names)
            config = normalise(dataclasses.replace(config, freeze=blocks_n - 3))
        ours = trial_step(config, world, x, y)
        for step in (plain, ours, plain, ours):
            step()
        ratios, times = [], []
        for _ in range(BLOCKS):
            taken = []
            for step in (plain, ours):
                began = time.perf_counter()
                for _ in range(steps_n):
                    step()
                taken.append((time.perf_counter() - began) / steps_n)
            ratios.append(taken[1] / taken[0])
            times.append(taken)
        label = f"{arch}, {'all of it' if freeze == 'none' else 'its three linear layers'}" + (
            f", ghost_batches {ghost}" if ghost else ", statistics of the global batch" if freeze == "none" else ""
        )
        medians = [1000 * statistics.median(column) for column in zip(*times, strict=True)]
        lines.append(
            f"| {label} | {medians[0]:.0f} | {medians[1]:.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    if world.leads:
        out.write_text("\n".join(lines))


def main() -> None:
    from benchmarks import processes  # the processes find `measure` by this name

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10, help=f"a block; the median of {BLOCKS} blocks counts")
    parser.add_argument("--batch", type=int, default=32, help="images of the global batch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table"
        rendezvous = Rendezvous(Path(folder), Team(2))
        work = (arguments.steps, arguments.batch, out)
        run_ranks(processes.measure, work, rendezvous, timeout_s=600, interrupted=lambda: False)
        print(f"2 processes, 1 thread each, batch {arguments.batch}, {SIDE} pixels, torch {torch.__version__}\n")
        print("| trained | plain DDP, ms a step | a trial, ms a step | ratio (least to most) |\n| --- | --- | --- | --- |")
        print(out.read_text())


if __name__ == "__main__":
    main()
