"""What a sweep's pretrained networks promise, measured where it trains: see train/transferability.py."""

from __future__ import annotations

from collections.abc import Iterable

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import load_dataset_of, whole_of
from cifar_hpc.data.files import data_root
from cifar_hpc.planning.plan import network_of
from cifar_hpc.train.device import choose_device
from cifar_hpc.train.transferability import measure_promise


def promises_of(configs: Iterable[TrialConfig]) -> dict[str, float]:
    """By network: the accuracy of a ridge classifier of its features, in cross-validation. Raises CifarHpcError."""
    device = choose_device(None)
    return {
        network_of(config): measure_promise(config, load_dataset_of(whole_of(config), data_root()), device).acc
        for config in configs
    }
