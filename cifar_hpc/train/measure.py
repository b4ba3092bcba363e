"""Logits and losses as a trial's records hold them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_hpc.data.dataset import Split
from cifar_hpc.records.schema import SplitMetrics


def metrics(loss: float | None, acc: float | None, n: int) -> SplitMetrics | None:
    return None if acc is None else SplitMetrics(loss=loss, acc=acc, n=n)


def measure(logits_NK: torch.Tensor, split: Split) -> SplitMetrics:
    loss = torch.nn.functional.cross_entropy(logits_NK, split.labels_N).item()
    acc = (logits_NK.argmax(1) == split.labels_N).double().mean().item()
    return SplitMetrics(loss=loss if np.isfinite(loss) else None, acc=acc, n=len(logits_NK))


def split_arrays(name: str, logits_NK: torch.Tensor | None, split: Split) -> dict[str, NDArray[np.generic]]:
    if logits_NK is None:
        return {}
    largest = float(np.finfo(np.float16).max)
    return {
        f"{name}_logits": logits_NK.clamp(-largest, largest).cpu().numpy().astype(np.float16),
        f"{name}_labels": split.labels_N.numpy().astype(np.int32),
        f"{name}_index": split.index_N.numpy().astype(np.int32),
    }
