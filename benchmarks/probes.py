"""Linear probes by the thousand: python -m benchmarks.probes [--probes 1000] [--beside 8] [--no-ray].

One grid of learning rate x weight decay x label smoothing over the frozen features of a ResNet-18 with random weights, 5,000
images of CIFAR-10 (4,000 to train on; $CIFAR_HPC_DATA), 20 epochs, from the claims to the records and the leaderboard, in one
process with two threads. Printed: seconds on the clock and of the processor for one probe and for the grid, with the trunk's
pass over the images, and of the grid, in a row of its own, without the time that this very run spent in that pass: what it
takes with the features already there. Then, on the same features, scikit-learn's LogisticRegression along a path of C,
warm-started, and Ray Tune with one trial for each probe. What is printed was timed; nothing is multiplied up.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.models.zoo import build_model
from cifar_hpc.planning.cohorts import group_cohorts
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.train.features import Feed, Trunk
from cifar_hpc.worker.job import run_job

THREADS, EPOCHS, CHUNK = 2, 20, 500
BASE = TrialConfig(
    dataset=DatasetConfig(name="cifar10", train_size=5000, val_frac=0.2),
    arch="resnet18",
    image_size=32,
    freeze="all",
    epochs=EPOCHS,
    batch_size=128,
)


class Timer:
    """Seconds, wall and processor, of work, and of the part of it in which features were computed."""

    def __init__(self) -> None:
        self._filling = np.zeros(2)
        fill = Feed.fill

        def timed_fill(feed: Feed) -> None:
            began = _now()
            try:
                fill(feed)
            finally:
                self._filling += _now() - began

        Feed.fill = timed_fill  # type: ignore[method-assign]

    def print(self, name: str, work: Callable[[], object], apart: str | None = None) -> None:
        """apart: the name of a row for what is left without computing features."""
        filling, began = self._filling.copy(), _now()
        work()
        spent = _now() - began
        rows = [(name, spent)] if apart is None else [(name, spent), (apart, spent - (self._filling - filling))]
        for row, (wall_s, processor_s) in rows:
            print(f"{row:58} {wall_s:8.2f} s wall {processor_s:8.2f} s processor", flush=True)


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), _processor_s()])


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def grid(n: int) -> list[TrialConfig]:
    decays, smoothings = (0.0, 1e-5, 1e-4, 1e-3, 1e-2), (0.0, 0.05, 0.1, 0.2)
    rates = np.geomspace(1e-3, 1.0, -(-n // 20))
    axes = itertools.islice(itertools.product(rates, decays, smoothings), n)
    return [
        normalise(dataclasses.replace(BASE, lr=float(f"{lr:.4g}"), weight_decay=decay, label_smoothing=smoothing))
        for lr, decay, smoothing in axes
    ]


def train(layout: Layout, configs: Sequence[TrialConfig]) -> None:
    cohorts = group_cohorts(configs, None)
    job = Job(sweep="probes", job_id="job-0001", cohorts=cohorts, resources=Resources(cpus_per_gpu=THREADS))
    run_job(job, layout, executor="inline")


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Of the training images, N x D, and their labels."""
    data = load_dataset(BASE.dataset, 32, data_root())
    trunk = Trunk(build_model(BASE, len(data.classes), 3).to(memory_format=torch.channels_last), torch.float32)
    split, depth = data.train, len(trunk.model.blocks) - 1
    batches = Batches(
        split,
        image_size=32,
        in_channels=3,
        mean=data.mean,
        std=data.std,
        num_classes=len(data.classes),
        device=torch.device("cpu"),
    )
    chunks = torch.arange(len(split.labels_N)).split(CHUNK)
    features = [trunk.features(batches.eval_batch(index_B)[0], [depth])[depth].flatten(1) for index_B in chunks]
    return torch.cat(features), split.labels_N


def scikit_learn_path(x_ND: torch.Tensor, y_N: torch.Tensor, n: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaled_ND = StandardScaler().fit_transform(x_ND.numpy())
    solver = LogisticRegression(warm_start=True, max_iter=500)
    for c in np.geomspace(1e-4, 1.0, n):
        solver.set_params(C=c).fit(scaled_ND, y_N.numpy())


def ray_tune(x_ND: torch.Tensor, y_N: torch.Tensor, configs: Sequence[TrialConfig]) -> None:
    """One trial each: a plain loop of PyTorch over the features, which all share through Ray's object store."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import ray
    from ray import tune

    ray.init(num_cpus=THREADS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def probe(config: dict[str, float], x: np.ndarray, y: np.ndarray) -> None:
        torch.set_num_threads(1)
        x_ND, y_N = torch.tensor(x), torch.tensor(y)
        layer = torch.nn.Linear(x_ND.shape[1], 10)
        optimizer = torch.optim.SGD(
            layer.parameters(), config["lr"], momentum=0.9, weight_decay=config["weight_decay"], nesterov=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(y_N) // BASE.batch_size))
        for _ in range(EPOCHS):
            for index_B in torch.randperm(len(y_N)).split(BASE.batch_size):
                optimizer.zero_grad()
                functional.cross_entropy(layer(x_ND[index_B]), y_N[index_B], label_smoothing=config["smoothing"]).backward()
                optimizer.step()
                schedule.step()
        tune.report({"acc": (layer(x_ND).argmax(1) == y_N).double().mean().item()})

    trials = [{"lr": c.lr, "weight_decay": c.weight_decay, "smoothing": c.label_smoothing} for c in configs]
    shared = {"x": ray.put(x_ND.numpy()), "y": ray.put(y_N.numpy())}

    def one(config: dict[str, dict[str, float]]) -> None:
        probe(config["trial"], ray.get(shared["x"]), ray.get(shared["y"]))

    tune.Tuner(
        tune.with_resources(one, {"cpu": 1}),
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(verbose=0),
    ).fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--beside", type=int, default=8, help="fits of scikit-learn and trials of Ray Tune, timed each")
    parser.add_argument("--no-ray", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    timer = Timer()
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "results")
        configs = grid(asked.probes)
        passed, there = "with the trunk's pass over the images", "the same, with the features already there"
        timer.print("imports and data, a probe of one epoch", lambda: train(layout, [dataclasses.replace(BASE, epochs=1)]))
        timer.print(f"one probe, {passed}", lambda: train(layout, [dataclasses.replace(BASE, lr=0.05)]))
        timer.print(f"{len(configs)} probes, {passed}", lambda: train(layout, configs), there)
        timer.print("their leaderboard", lambda: make_leaderboard(scan(layout)))
        results = sum(layout.trial(config.trial_id).result.exists() for config in configs)
        print(f"{results} of {len(configs)} have results")
    x_ND, y_N = features()
    timer.print(f"scikit-learn, {asked.beside} fits along a path of C", lambda: scikit_learn_path(x_ND, y_N, asked.beside))
    if not asked.no_ray:
        few = configs[:: max(1, len(configs) // asked.beside)][: asked.beside]
        timer.print(f"Ray Tune, {len(few)} probes, its start included", lambda: ray_tune(x_ND, y_N, few))


if __name__ == "__main__":
    main()
