"""Logits and losses as a trial's records hold them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_hpc.config.registry import OBJECTIVES, load, measured_objectives
from cifar_hpc.data.dataset import Split
from cifar_hpc.records.schema import SplitMetrics


def metrics(loss: float | None, acc: float | None, logits_NK: torch.Tensor | None, split: Split) -> SplitMetrics | None:
    """What an epoch measured of a split, with the other objectives from its logits, where they were kept."""
    if acc is None:
        return None
    n = len(split.labels_N)
    return SplitMetrics(loss=loss, acc=acc, n=n, more={} if logits_NK is None else others(logits_NK, split.labels_N))


def measure(logits_NK: torch.Tensor, split: Split) -> SplitMetrics:
    loss = torch.nn.functional.cross_entropy(logits_NK, split.labels_N).item()
    acc = (logits_NK.argmax(1) == split.labels_N).double().mean().item()
    more = others(logits_NK, split.labels_N)
    return SplitMetrics(loss=loss if np.isfinite(loss) else None, acc=acc, n=len(logits_NK), more=more)


def others(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> dict[str, float]:
    """The objectives beside accuracy and loss, by name, as far as they are defined on these images."""
    found = {name: objective_value(name, logits_NK, labels_N) for name in measured_objectives()}
    return {name: value for name, value in found.items() if value is not None}


def objective_value(name: str, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> float | None:
    """One of those. None where it is not defined, or not finite."""
    logits, labels = logits_NK.detach().float().cpu().numpy(), labels_N.cpu().numpy()
    if not np.isfinite(logits).all():
        return None
    target = OBJECTIVES[name].measure
    assert target is not None
    value = load(target)(logits, labels)
    return None if value is None or not np.isfinite(value) else float(value)


def split_arrays(name: str, logits_NK: torch.Tensor | None, split: Split) -> dict[str, NDArray[np.generic]]:
    if logits_NK is None:
        return {}
    largest = float(np.finfo(np.float16).max)
    return {
        f"{name}_logits": logits_NK.clamp(-largest, largest).cpu().numpy().astype(np.float16),
        f"{name}_labels": split.labels_N.numpy().astype(np.int32),
        f"{name}_index": split.index_N.numpy().astype(np.int32),
    }
