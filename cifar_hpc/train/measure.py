"""Logits and losses as a trial's records hold them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_hpc.config.metrics import jackknife_counts
from cifar_hpc.config.plugins import objective_of
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo, load, measured_objectives
from cifar_hpc.config.sources import OwnCodeError
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import Split
from cifar_hpc.records.schema import SplitMetrics
from cifar_hpc.train.lanes import cut, in_lanes
from cifar_hpc.train.stack import hits_of

_ROUNDING = 1e-6  # by which a share that was summed may lie beyond 0 or 1


def metrics(
    loss: float | None, acc: float | None, logits_NK: torch.Tensor | None, split: Split, config: TrialConfig
) -> SplitMetrics | None:
    """What an epoch measured of a split, with the other objectives from its logits, where they were kept."""
    if acc is None:
        return None
    n = len(split.labels_N)
    return SplitMetrics(loss=loss, acc=acc, n=n, more={} if logits_NK is None else _others(logits_NK, split.labels_N, config))


@torch.no_grad()
def losses_and_accuracies(logits_MNK: torch.Tensor, labels_N: torch.Tensor) -> list[torch.Tensor]:
    """Mean cross entropy and accuracy, M float64 each, on the device; on a CPU a row's bits are those that it has alone."""
    logits_MKN = logits_MNK.transpose(1, 2).contiguous()
    m, k, n = logits_MKN.shape
    loss_M, acc_M = (torch.empty(m, dtype=torch.float64, device=logits_MKN.device) for _ in range(2))

    def put(part: slice) -> None:
        part_mKN = logits_MKN[part]
        log_p_mN = part_mKN.log_softmax(1).gather(1, labels_N.expand(len(part_mKN), 1, n))[:, 0]
        loss_M[part] = -log_p_mN.double().mean(1)
        acc_M[part] = hits_of(part_mKN, labels_N).double().mean(1)

    in_lanes([partial(put, part) for part in cut(m, k * n, logits_MKN.device)], logits_MKN.device)
    return [loss_M, acc_M]


def measure(logits_NK: torch.Tensor, split: Split, config: TrialConfig) -> SplitMetrics:
    loss, acc = (value.item() for value in losses_and_accuracies(logits_NK[None], split.labels_N))
    more = _others(logits_NK, split.labels_N, config)
    return SplitMetrics(loss=loss if np.isfinite(loss) else None, acc=acc, n=len(logits_NK), more=more)


def _others(logits_NK: torch.Tensor, labels_N: torch.Tensor, config: TrialConfig) -> dict[str, float]:
    """The objectives beside accuracy and loss, by name, as far as they are defined on these images: the package's, and the
    trial's own."""
    asked = {name: OBJECTIVES[name] for name in measured_objectives()} | {config.objective: objective_of(config)}
    found = {name: objective_value(info, logits_NK, labels_N) for name, info in asked.items()}
    return {name: value for name, value in found.items() if value is not None}


def objective_value(info: ObjectiveInfo, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> float | None:
    """Of one beside accuracy and loss; else None. None also where it is not defined, or not finite. Raises OwnCodeError
    where it is no share and registered as one."""
    if info.measure is None:
        return None
    logits, labels = logits_NK.detach().float().cpu().numpy(), labels_N.cpu().numpy()
    if not np.isfinite(logits).all():
        return None
    value = load(info.measure)(logits, labels)
    if value is None or not np.isfinite(value):
        return None
    if not info.share:
        return float(value)
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise OwnCodeError(OBJECTIVES.what, f"{info.noun} {value:g}", "0 to 1, as it is registered as a share, or share=False")
    return min(max(float(value), 0.0), 1.0)


def split_arrays(
    name: str, logits_NK: torch.Tensor | None, split: Split, objective: ObjectiveInfo | None = None
) -> dict[str, NDArray[np.generic]]:
    """What predictions.npz has of a split. objective: the trial's; of one of the user's own it has what each image counts, too,
    for who reads results does not execute its code, and of one that float16 would change."""
    if logits_NK is None:
        return {}
    arrays: dict[str, NDArray[np.generic]] = {
        f"{name}_logits": halved(logits_NK),
        f"{name}_labels": split.labels_N.numpy().astype(np.int32),
        f"{name}_index": split.index_N.numpy().astype(np.int32),
    }
    counted = objective is not None and (objective not in OBJECTIVES.values() or objective.between is not None)
    if objective is not None and counted and torch.isfinite(logits_NK).all():
        arrays[f"{name}_counts"] = _counts(objective, logits_NK, split.labels_N)
    return arrays


def halved(logits_NK: torch.Tensor) -> NDArray[np.float16]:
    """The logits in half of the bytes, each image's largest still its largest: where rounding or cutting off made another as
    large, that other is put a step below."""
    largest = np.finfo(np.float16).max
    least = np.nextafter(-largest, np.float16(0))  # so that there is a step below it
    logits_NK = logits_NK.detach().cpu()
    half_NK = logits_NK.clamp(float(least), float(largest)).half()
    there_KN = half_NK.t().float()
    equal_N = torch.nonzero((there_KN == there_KN.amax(0)).sum(0) > 1).flatten()  # images of which two are the largest
    half = np.ascontiguousarray(half_NK.numpy())
    if len(equal_N):
        rows_NK, taken_N1 = half[equal_N.numpy()], logits_NK[equal_N].argmax(1, keepdim=True).numpy()
        most_N1 = np.take_along_axis(rows_NK, taken_N1, 1)
        others_NK = rows_NK >= most_N1
        np.put_along_axis(others_NK, taken_N1, values=False, axis=1)
        half[equal_N.numpy()] = np.where(others_NK, np.nextafter(most_N1, np.float16(-np.inf)), rows_NK)
    return half


def _counts(info: ObjectiveInfo, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> NDArray[np.float32]:
    """What each image counts for an objective, more being better."""
    logits, labels = logits_NK.detach().float().cpu().numpy(), labels_N.cpu().numpy()
    if info.counts is None:
        assert info.measure is not None
        sign = 1 if info.mode == "max" else -1
        return np.asarray(sign * jackknife_counts(load(info.measure), logits, labels), np.float32)
    counts_N = np.asarray(load(info.counts)(logits, labels), np.float32)
    if counts_N.shape != labels.shape:
        raise OwnCodeError(OBJECTIVES.what, f"counts of shape {counts_N.shape}", f"one number an image, {labels.shape}")
    return counts_N


def write_arrays(stream: BinaryIO, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """What numpy.load reads as an .npz. Logits and pictures stand in it as they are: a tenth less would take ten times as long
    as all the rest of a record."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, array, allow_pickle=False)
            how = zipfile.ZIP_DEFLATED if array.dtype.kind == "i" else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getbuffer(), how, compresslevel=1)
