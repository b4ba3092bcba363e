"""Writes a pool of realistic finished trials, for measuring the collector and the report: python benchmarks/pool.py FOLDER.

The numbers are simulated from a simple model (an image's difficulty is shared by all trials, an architecture's errors by its
trials); nothing here is a measurement of a network. The records are written through the program's own schema.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_hpc.config.catalog import DATASETS
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import (
    EpochRecord,
    Hardware,
    Outcome,
    PlannedTrial,
    PlanRecord,
    Provenance,
    SplitMetrics,
    TrialRecord,
    TrialResult,
)

ARCHS = {
    "resnet18": (0.935, 11_689_512),
    "vgg11_bn": (0.915, 132_868_840),
    "densenet121": (0.945, 7_978_856),
    "linear": (0.39, 30_730),
}  # accuracy at its best, parameters
FREEZES: tuple[str | float, ...] = ("none", 0.25, 0.5, 0.75, "all")
AUGMENTS = ("none", "flip", "flip_crop", "color", "cutout")
LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 5e-4, 5e-3)
NOW = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Images:
    """The images that all trials share: labels and how hard each is. val first, then test."""

    labels: np.ndarray
    hardness: np.ndarray
    val_n: int

    @classmethod
    def draw(cls, val_n: int, test_n: int) -> Images:
        rng = np.random.default_rng(0)
        n = val_n + test_n
        return cls(rng.integers(0, 10, n), rng.gamma(2.0, 0.5, n), val_n)


def configs(count: int, seeds: int, epochs: int, archs: Sequence[str] = tuple(ARCHS)) -> Iterator[TrialConfig]:
    """The first `count` trials of the grid, all seeds of a point together."""
    grid = itertools.product(LRS, AUGMENTS, FREEZES, archs, range(seeds))
    for lr, augment, freeze, arch, seed in itertools.islice(grid, count):
        dataset = DatasetConfig(name="cifar10")
        weights = None if arch == "linear" else "imagenet"
        yield TrialConfig(
            dataset=dataset, arch=arch, weights=weights, freeze=freeze, augment=augment, lr=lr, epochs=epochs, seed=seed
        )


def _frozen_share(config: TrialConfig) -> float:
    """Of the ten blocks before the classifier that every generated network has."""
    assert not isinstance(config.freeze, str) or config.freeze in ("none", "all")
    if isinstance(config.freeze, str):
        return {"none": 0.0, "all": 1.0}[config.freeze]
    return config.freeze / 10 if isinstance(config.freeze, int) else config.freeze


def accuracy_of(config: TrialConfig, rng: np.random.Generator) -> float:
    """A plausible expected accuracy: a peak over the learning rate, a loss by freezing, a gain by augmentation."""
    top = ARCHS[config.arch][0] if config.arch in ARCHS else 0.9
    frozen = _frozen_share(config)
    off_peak = math.log10(config.lr) + 2.3 - 0.4 * frozen
    gain = 0.01 * (AUGMENTS.index(str(config.augment)) if config.augment in AUGMENTS else 0) * (1 - frozen)
    return float(np.clip(top - 0.035 * off_peak**2 - 0.12 * frozen**2 + gain + rng.normal(0, 0.004), 0.1, 0.985))


def draw_logits(accuracy: float, images: Images, arch: str, rng: np.random.Generator) -> np.ndarray:
    """Logits N x K (float16) that are right on about `accuracy` of the images, more often on the easy ones."""
    n = len(images.labels)
    all_NK, arch_NK = (np.random.default_rng(seed).standard_normal((n, 10), dtype=np.float32) for seed in (0, 1 + len(arch)))
    noise_NK = 0.5 * rng.standard_normal((n, 10), dtype=np.float32) + 0.5 * arch_NK + 0.9 * all_NK
    noise_NK *= (0.4 + images.hardness)[:, None].astype(np.float32)
    rest_NK = noise_NK.copy()
    rest_NK[np.arange(n), images.labels] = -np.inf
    margin_N = rest_NK.max(1) - noise_NK[np.arange(n), images.labels]
    noise_NK[np.arange(n), images.labels] += np.quantile(margin_N, accuracy)
    return (1.5 * noise_NK).astype(np.float16)


def measure(logits_NK: np.ndarray, labels: np.ndarray) -> SplitMetrics:
    """Cross-entropy (nats) and accuracy of one split."""
    logits = logits_NK.astype(np.float64)
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    loss = float(np.mean(log_sum - logits[np.arange(len(logits)), labels]))
    return SplitMetrics(loss=loss, acc=float(np.mean(logits_NK.argmax(1) == labels)), n=len(labels))


def draw_curves(config: TrialConfig, val: SplitMetrics, rng: np.random.Generator) -> tuple[tuple[EpochRecord, ...], int]:
    """Learning curves whose best validation epoch has exactly the final metrics; the best epoch, from 1."""
    assert val.loss is not None
    tau = 2.0 + 1.5 / max(config.lr * 100, 0.3)
    rise_E = 1 - np.exp(-np.arange(1, config.epochs + 1) / tau)
    acc_E = val.acc * rise_E / rise_E[-1] + rng.normal(0, 0.006, config.epochs)
    best = int(acc_E.argmax())
    acc_E = np.clip(np.minimum(acc_E, val.acc), 0, 1)
    loss_E = val.loss + 2.0 * (rise_E[-1] - rise_E) + np.abs(rng.normal(0, 0.01, config.epochs))
    acc_E[best], loss_E[best] = val.acc, val.loss
    lr_E = config.lr * (1 + np.cos(np.pi * np.arange(1, config.epochs + 1) / config.epochs)) / 2
    curves = tuple(
        EpochRecord(
            epoch=epoch + 1,
            lr=float(lr_E[epoch]),
            train_loss=float(loss_E[epoch] * 0.8),
            train_acc=float(min(acc_E[epoch] + 0.04 * rise_E[epoch], 1.0)),
            val_loss=float(loss_E[epoch]),
            val_acc=float(acc_E[epoch]),
            train_s=9.0,
            val_s=1.0,
        )
        for epoch in range(config.epochs)
    )
    return curves, best + 1


def write_trial(
    layout: Layout, config: TrialConfig, images: Images, accuracy: float | None = None, sweep: str = "pool"
) -> TrialResult:
    """One finished trial with its three files. accuracy: expected, 0..1; None: by the model above."""
    rng = np.random.default_rng(int.from_bytes(config.trial_id.encode(), "big"))
    logits_NK = draw_logits(accuracy_of(config, rng) if accuracy is None else accuracy, images, config.arch, rng)
    v = images.val_n
    val, test = measure(logits_NK[:v], images.labels[:v]), None
    if v < len(images.labels):
        test = measure(logits_NK[v:], images.labels[v:])
    curves, best_epoch = draw_curves(config, val, rng)
    at_best = curves[best_epoch - 1]
    assert at_best.train_acc is not None
    params = ARCHS[config.arch][1] if config.arch in ARCHS else 1_000_000
    frozen = _frozen_share(config)
    result = TrialResult(
        trial_id=config.trial_id,
        point_id=config.point_id,
        config=config.to_json(),
        outcome=Outcome.FINISHED,
        reason=f"all {config.epochs} epochs",
        curves=curves,
        best_epoch=best_epoch,
        train=SplitMetrics(loss=at_best.train_loss, acc=at_best.train_acc, n=45_000),
        val=val,
        test=test,
        classes=DATASETS[config.dataset.name].classes or tuple(f"class {k}" for k in range(10)),
        train_n=45_000,
        params_total=params,
        params_trained=int(params * (1 - 0.95 * frozen)),
        frozen_blocks=round(10 * frozen),
        total_blocks=11,
        flops=2 * params,
        attempts=1,
        train_s=sum(e.train_s + e.val_s for e in curves) * (1 - 0.6 * frozen),
        trunk_shared_by=1,
        started_at=NOW,
        finished_at=NOW,
        executor="inline",
        job=f"{sweep}/job-0001",
        hardware=Hardware(
            device="cuda", name="simulated", host="simulated", world_size=1, threads=1, precision="bf16", peak_memory_gb=1.5
        ),
        provenance=Provenance(
            cifar_hpc="0.1.0",
            python="3.11",
            torch="-",
            torchvision="-",
            commit=None,
            diff_sha256=None,
            data_sha256=None,
            weights_sha256=None,
        ),
    )
    files = layout.trial(config.trial_id)
    files.folder.mkdir(parents=True, exist_ok=True)
    record = TrialRecord(trial_id=config.trial_id, config=config.to_json(), created_at=NOW)
    files.trial.write_text(json.dumps(record.to_json()))
    splits = {"val_logits": logits_NK[:v], "val_labels": images.labels[:v], "val_index": np.arange(v)}
    if test is not None:
        splits |= {"test_logits": logits_NK[v:], "test_labels": images.labels[v:]}
    np.savez(files.predictions, **splits)
    files.result.write_bytes(result.encode() + b"\n")
    return result


def write_plan(layout: Layout, trials: Sequence[TrialConfig], sweep: str = "pool") -> None:
    """plan.json of a sweep over the trials; its axes are the grid's."""
    planned = tuple(
        PlannedTrial(
            trial_id=config.trial_id,
            point_id=config.point_id,
            axes={key: getattr(config, key) for key in ("arch", "freeze", "augment", "lr", "seed")},
            config=config.to_json(),
        )
        for config in trials
    )
    plan = PlanRecord(
        sweep=sweep,
        created_at=NOW,
        spec_path=f"sweeps/{sweep}.yaml",
        objective="val_acc",
        trials=planned,
        cohorts=tuple((config.trial_id,) for config in trials),
    )
    files = layout.sweep(sweep)
    files.folder.mkdir(parents=True, exist_ok=True)
    files.plan.write_bytes(plan.encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="becomes a results folder")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--val", type=int, default=1000, help="validation images")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    args = parser.parse_args()
    layout = Layout(args.folder)
    images = Images.draw(args.val, args.test)
    trials = list(configs(args.trials, args.seeds, args.epochs))
    for config in trials:
        write_trial(layout, config, images)
    write_plan(layout, trials)
    print(f"{len(trials)} trials in {args.folder}")


if __name__ == "__main__":
    main()
