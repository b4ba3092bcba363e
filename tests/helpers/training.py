"""Small real trials for tests: scikit-learn's digits, networks that train in a second."""

from __future__ import annotations

import dataclasses
from typing import Any

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import StopConfig, TrialConfig
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.schema import TrialResult


def digits_config(**changes: Any) -> TrialConfig:
    """A trial of two epochs on 400 digits."""
    dataset = DatasetConfig(name="digits", train_size=400, val_frac=0.2)
    config = TrialConfig(dataset=dataset, arch="simple_cnn", image_size=8, epochs=2, batch_size=64, lr=0.05)
    if "patience" in changes:
        changes["stop"] = StopConfig(patience=changes.pop("patience"))
    return normalise(dataclasses.replace(config, **changes))


def job_of(*configs: TrialConfig, together: bool = False, number: int = 1) -> Job:
    """A job whose trials are one cohort each, or all one cohort."""
    cohorts = (Cohort(trials=configs),) if together else tuple(Cohort(trials=(config,)) for config in configs)
    return Job(sweep="test", job_id=f"job-{number:04d}", cohorts=cohorts, resources=Resources())


def numbers(result: TrialResult) -> dict[str, Any]:
    """What must not depend on where, when and beside whom a trial ran."""
    curves = [(c.epoch, c.lr, c.train_loss, c.train_acc, c.val_loss, c.val_acc) for c in result.curves]
    return {
        "curves": curves,
        "best": result.best_epoch,
        "test": result.test,
        "outcome": result.outcome,
        "reason": result.reason,
    }
