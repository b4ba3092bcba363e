"""How fast this machine trains, measured in some seconds: a program of its own, so that who asks for it imports no torch.

    python -m cifar_hpc.worker.calibration auto 4

Prints one JSON line: seconds, FLOPs and steps of a network whose arithmetic counts and of one whose steps count. The FLOPs are
counted as planning.cohorts counts them. Reads no data and writes nothing.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from torch.nn.functional import cross_entropy

from cifar_hpc.config import catalog
from cifar_hpc.models.zoo import make_network
from cifar_hpc.train.clock import wait_for
from cifar_hpc.train.device import choose_device

NETWORKS = (("resnet18", 64, 32), ("simple_cnn", 8, 8))  # architecture, pixels, images a step
MEASURE_S = 2.0  # each
LEAST_STEPS = 3


def main(gpus: str, threads: int) -> None:
    torch.set_num_threads(threads)
    device = choose_device(0 if gpus == "0" else None)
    print(json.dumps({"device": device.type, "points": [measure(*network, device) for network in NETWORKS]}))


def measure(arch: str, side: int, batch: int, device: torch.device) -> tuple[float, float, int]:
    """Seconds, FLOPs and steps; the first steps, in which kernels are chosen, do not count."""
    network = make_network(arch, 10, 3, side, "imagenet").to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    x_NCHW = torch.randn(batch, 3, side, side, device=device)
    target_N = torch.arange(batch, device=device) % 10
    steps, began = -LEAST_STEPS, time.perf_counter()
    while steps < LEAST_STEPS or time.perf_counter() - began < MEASURE_S:
        if steps == 0:
            wait_for(device)
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(x_NCHW), target_N).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
    wait_for(device)
    seconds = time.perf_counter() - began
    info = catalog.architecture(arch)
    assert info is not None
    return seconds, 3 * info.flops * (side / 224) ** 2 * batch * steps, steps


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
