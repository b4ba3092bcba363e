"""Runs trials on the simulated GPU and on the CPU, and prints as JSON what tests ask of them. Started by its test in a
process of its own, since the runtime has to be there before torch.

run.py SCENARIO...: of `SCENARIOS`; each is trained twice: on the simulated GPU with steps replayed by the graphs' twin, and on
the CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import cifar_hpc.worker.job as job
import cifar_hpc.worker.trainer as trainer
from cifar_hpc.config import catalog
from cifar_hpc.config.trial import AugmentOp, TrialConfig
from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import Split
from cifar_hpc.errors import Interrupted
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.train import graphs
from cifar_hpc.train.steps import Stepper
from tests.helpers.simulated_gpu.device import Device, runtime
from tests.helpers.training import digits_config
from tests.helpers.twin import Twin

torch.set_num_threads(1)
torch.backends.cudnn.enabled = False  # there is none


def config(**changes: Any) -> TrialConfig:
    return digits_config(**{"precision": "fp32", "batch_size": 100, **changes})


def few(**changes: Any) -> TrialConfig:
    """Two steps of a network whose every step takes long here."""
    made = config(**{"arch": "resnet18", "image_size": 16, "epochs": 1, "batch_size": 20, **changes})
    return dataclasses.replace(made, dataset=dataclasses.replace(made.dataset, train_size=50))


def probes(optimizer: str) -> list[TrialConfig]:
    return [config(freeze="all", optimizer=optimizer, lr=lr, epochs=2) for lr in (0.001, 0.01)]


SCENARIOS: dict[str, list[TrialConfig]] = {
    "members": [
        config(freeze=1, lr=0.01, ema=0.9, grad_clip=1.0),
        config(freeze=1, lr=0.01, optimizer="adam", label_smoothing=0.1),
        config(freeze=1, lr=0.003, optimizer="adamw", layer_decay=0.5),
        config(freeze=1, lr=0.003, optimizer="muon"),
        config(freeze=1, lr=0.01, unfreeze_epoch=1, epochs=3),
        config(train="bias", lr=0.01, epochs=1),
        config(train=("features.4", "classifier"), lr=0.01),
        config(freeze="none", lr=0.01),
    ],
    "probes sgd": probes("sgd"),
    "probes adamw": probes("adamw"),
    "augmented": [config(augment="flip_crop", lr=0.01)],
    "svm": [config(freeze="all", classifier="svm", epochs=1)],
    "knn": [config(freeze="all", classifier="knn", epochs=1)],
    "lr auto": [config(lr="auto", freeze=1)],
    "weights kept": [config(keep="weights", freeze=1)],
    "ghosts": [config(ghost_batches=7, lr=0.01)],  # some parts have an image more
    "dropout": [config(dropout=0.3, lr=0.01, epochs=3)],
}


def train(configs: list[TrialConfig], gpus: int | None, folder: Path, **kw: Any) -> list[Any]:
    resources = Resources(gpus=gpus) if gpus is not None else Resources()
    one = Job(sweep="test", job_id="job-0001", cohorts=(Cohort(trials=tuple(configs)),), resources=resources)
    job.run_job(one, Layout(folder), executor="inline", **kw)
    told = []
    for one in configs:
        files = Layout(folder).trial(one.trial_id)
        if not files.result.exists():
            raise RuntimeError(files.error.read_text() if files.error.exists() else "no result")
        result = read_record(files.result, TrialResult)
        losses = [(c.train_loss, c.val_loss) for c in result.curves]
        told.append({"device": result.hardware.device, "losses": losses, "test": result.test and result.test.loss})
    return told


@contextlib.contextmanager
def watched(device: Device) -> Iterator[Counter[str]]:
    """Counts what waits within training steps, the first of each kind left out, in which libraries begin."""
    waits: Counter[str] = Counter()
    real = Stepper.step

    def step(self: Stepper, *args: Any) -> None:
        before = Counter(device.waits)
        real(self, *args)
        waits.update(Counter(device.waits) - before)

    Stepper.step = step  # type: ignore[method-assign]
    try:
        yield waits
    finally:
        Stepper.step = real  # type: ignore[method-assign]


def both(configs: list[TrialConfig]) -> dict[str, Any]:
    device = Device()
    with device, watched(device) as waits:
        there = train(configs, None, Path(tempfile.mkdtemp()))
    return {"gpu": there, "cpu": train(configs, 0, Path(tempfile.mkdtemp())), "waits": waits}


def where_little_is_free(*configs: TrialConfig) -> dict[str, Any]:
    real = torch.cuda.mem_get_info
    torch.cuda.mem_get_info = lambda device=None: (1000, 2**33)  # type: ignore[assignment]
    try:
        return both(list(configs))
    finally:
        torch.cuda.mem_get_info = real


def host_kept() -> dict[str, Any]:
    """Features in the host's memory, and images."""
    return where_little_is_free(*probes("sgd"), config(freeze=1, lr=0.01))


def streamed() -> dict[str, Any]:
    return where_little_is_free(config(augment="flip_crop", lr=0.01), config(augment="flip_crop", freeze=1, lr=0.01))


def augmentations() -> dict[str, Any]:
    """For each augmentation the largest difference to the CPU's batch, and what waited while it was made."""
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.randint(0, 256, (24, 3, 16, 16), generator=draws).to(torch.uint8), torch.arange(24) % 10
    split, told = Split(images, labels, torch.arange(24)), {}
    chosen: list[Any] = [*catalog.AUGMENTATIONS, *[(AugmentOp(name=name),) for name in catalog.AUGMENT_OPS]]
    for augment in chosen:
        made, device = [], Device()
        for place in ("cpu", "cuda"):
            with device if place == "cuda" else contextlib.nullcontext():
                batches = Batches(
                    split,
                    image_size=20,
                    in_channels=3,
                    mean=(0.4, 0.5, 0.6),
                    std=(0.2, 0.2, 0.2),
                    augment=augment,
                    num_classes=10,
                    device=torch.device(place, 0) if place == "cuda" else torch.device(place),
                )
                device.reset()
                x_NCHW, _ = batches.train_batch(torch.arange(20), torch.Generator().manual_seed(1))
                waits = dict(device.waits)
                made.append(x_NCHW.cpu())
        name = augment if isinstance(augment, str) else f"operation {augment[0].name}"
        told[name] = float((made[0] - made[1]).abs().max()), waits
    return {"augmentations": told}


def launches() -> dict[str, Any]:
    """Of the last of a trial's steps, each done eagerly."""
    graphs.EAGER_FIRST = 10**9
    kinds = {
        "simple_cnn": [config(epochs=1)],
        "simple_cnn with ghosts": [config(epochs=1, ghost_batches=7)],
        "resnet18": [few(lr=0.01)],
        "resnet18 with an average": [few(lr=0.01, ema=0.9)],
        "resnet18 with muon": [few(lr=0.001, optimizer="muon")],
        "probes": probes("sgd"),
        "probes with adamw": probes("adamw"),
    }
    told = {}
    for name, configs in kinds.items():
        device, counted, real = Device(count_launches=True), [], Stepper.step

        def step(self: Stepper, *args: Any) -> None:
            device.reset()  # noqa: B023 - called before the next one is made
            real(self, *args)  # noqa: B023
            counted.append(device.launches)  # noqa: B023

        Stepper.step = step  # type: ignore[method-assign]
        try:
            with device:
                train(configs, None, Path(tempfile.mkdtemp()))
        finally:
            Stepper.step = real  # type: ignore[method-assign]
        told[name] = counted[-1]
    graphs.EAGER_FIRST = 2
    return {"launches": told}


def resumed() -> dict[str, Any]:
    configs = [config(dropout=0.3, augment="flip_crop", ema=0.9, lr=0.01, epochs=3, optimizer="adamw")]
    folder, left = Path(tempfile.mkdtemp()), itertools.count()
    with Device():
        with contextlib.suppress(Interrupted):
            train(configs, None, folder, interrupted=lambda: next(left) >= 6)
        return {"resumed": train(configs, None, folder), "straight": train(configs, None, Path(tempfile.mkdtemp()))}


def given_back() -> dict[str, Any]:
    """Bytes of the device that are taken when each of three cohorts of one job begins."""
    seen, real = [], job.train_order

    def begin(*order: Any) -> None:
        seen.append(torch.cuda.memory_allocated())
        real(*order)

    job.train_order = begin
    try:
        with Device():
            for lr in (0.01, 0.02, 0.03):
                train([config(freeze=1, lr=lr, epochs=1)], None, Path(tempfile.mkdtemp()))
    finally:
        job.train_order = real
    return {"bytes": seen}


OTHERS = {
    "launches": launches,
    "augmentations": augmentations,
    "host kept": host_kept,
    "streamed": streamed,
    "resumed": resumed,
    "given back": given_back,
}

if __name__ == "__main__":
    trainer.Graphs = Twin  # type: ignore[misc]
    assert runtime() is not None and torch.cuda.is_available()
    for name in sys.argv[1:]:
        try:
            told = OTHERS[name]() if name in OTHERS else both(SCENARIOS[name])
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, **told}), flush=True)
        gc.collect()
