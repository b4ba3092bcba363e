"""What a sweep's pretrained networks promise, measured where it trains: see train/transferability.py."""

from __future__ import annotations

from collections.abc import Iterable

from cifar_hpc.config.features import features_id
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.train.transferability import promise_of


def promises_of(configs: Iterable[TrialConfig]) -> dict[str, float]:
    """By features_id: the accuracy of a ridge classifier of its features, in cross-validation. Raises CifarHpcError."""
    return {features_id(config): promise_of(config).acc for config in configs}
