"""What a sweep's pretrained networks promise, measured where it trains: see train/transferability.py."""

from __future__ import annotations

from collections.abc import Iterable

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.planning.plan import network_of
from cifar_hpc.train.transferability import promise_of


def promises_of(configs: Iterable[TrialConfig]) -> dict[str, float]:
    """By network: the accuracy of a ridge classifier of its features, in cross-validation. Raises CifarHpcError."""
    return {network_of(config): promise_of(config).acc for config in configs}
