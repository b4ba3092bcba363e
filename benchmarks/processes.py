"""A training step of a trial in two processes beside a plain DistributedDataParallel script of the same network: gloo, CPU.

    python -m benchmarks.processes [--seconds 40] [--batch 32] [--rows resnet18 ...]

Both take the same share of the same batch in the same processes, step by step in turn, and what counts is the median of the
ratios of the pairs: 1.00 means that a trial's step costs what the plain script's does. ResNet-18 at 64 pixels, all of it
trained, each process with the batch statistics of its own images (`ghost_batches: 2`; a row for those of the global batch,
which plain DDP does not have, is beside it), and the three linear layers of VGG-11-BN on features that are already there.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
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
from cifar_hpc.train.features import Trunk
from cifar_hpc.train.member import Member

SIDE = 64
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
    member = Member(config, start, Trunk(start, torch.float32), 10_000)
    member.join(world)
    member.begin_epoch()
    world.share(torch.empty(len(x) * world.size))
    member.set_numbers(member.numbers_of([0])[0])
    return lambda: member.train_step(x, y)


def named(arch: str, freeze: str, ghost: int | None) -> str:
    statistics_of = f", ghost_batches {ghost}" if ghost else ", statistics of the global batch" if freeze == "none" else ""
    return f"{arch}, {'all of it' if freeze == 'none' else 'its three linear layers'}{statistics_of}"


def steps_of(arch: str, freeze: str, ghost: int | None, world: World, images_n: int) -> tuple[Callable[[], None], ...]:
    """The plain script's step and the trial's, on this process's images."""
    config = normalise(
        TrialConfig(dataset=DatasetConfig(name="cifar10"), arch=arch, image_size=SIDE, ghost_batches=ghost, lr=0.01)
    )
    whole, y = torchvision.models.get_model(arch, num_classes=10), torch.randint(10, (images_n,))
    if freeze == "none":
        x = torch.randn(len(y), 3, SIDE, SIDE).to(memory_format=torch.channels_last)
        plain = plain_step(whole.to(memory_format=torch.channels_last), x, y)
    else:
        x = torch.randn(len(y), 512 * 7 * 7)
        plain = plain_step(whole.classifier, x, y)
        config = normalise(dataclasses.replace(config, freeze=len(build_model(config, 10, 3).names) - 3))
    return plain, trial_step(config, world, x, y)


def measure(world: World, link: Link, arguments: Any) -> None:
    seconds, batch, words = arguments
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for row in ROWS:
        if words and not any(word in named(*row) for word in words):
            continue
        steps = steps_of(*row, world, batch // world.size)
        for step in (*steps, *steps):
            step()
        times: list[list[float]] = []
        ends = time.monotonic() + seconds
        for turn in itertools.count():
            if world.broadcast(len(times) >= 3 and time.monotonic() > ends):
                break
            taken = [0.0, 0.0]
            for which in (0, 1) if turn % 2 else (1, 0):  # what was first finds other caches
                began = time.perf_counter()
                steps[which]()
                taken[which] = time.perf_counter() - began
            times.append(taken)
        if world.leads:
            ratios = [ours / plain for plain, ours in times]
            low, middle, high = statistics.quantiles(ratios, n=4)
            plain_ms, ours_ms = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            cells = (named(*row), f"{plain_ms:.0f}", f"{ours_ms:.0f}", f"{middle:.3f} ({low:.2f} to {high:.2f})", len(times))
            print("|", " | ".join(map(str, cells)), "|", flush=True)


def main() -> None:
    from benchmarks import processes  # the processes find `measure` by this name

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="of a row, at least three pairs of steps")
    parser.add_argument("--batch", type=int, default=32, help="images of the global batch")
    parser.add_argument("--rows", nargs="+", default=[], metavar="WORD", help="only rows whose names have one of the words")
    options = parser.parse_args()
    print(f"2 processes, 1 thread each, batch {options.batch}, {SIDE} pixels, torch {torch.__version__}\n")
    print(
        "| trained | plain DDP, ms a step | a trial, ms a step | ratio (middle half) | pairs |\n| --- | --- | --- | --- | --- |"
    )
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        work = (options.seconds, options.batch, options.rows)
        run_ranks(processes.measure, work, Rendezvous(Path(folder), Team(2)), timeout_s=600, interrupted=lambda: False)


if __name__ == "__main__":
    main()
