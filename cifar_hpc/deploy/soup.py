"""Soups: the mean of the weights of networks that started from one pretrained network (Wortsman et al. 2022, arXiv:2203.05482).

Owns: which trials are kin, what goes into a soup, its measurement, its files. Members are chosen on validation, test is
measured once. Knows nothing of sweeps, and reads no file but those of its members.

Running statistics of batch normalisation are averaged as weights are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_hpc.config.metrics import right_of
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import Dataset, Split, load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.deploy.trained import TrainedTrial, load_trained
from cifar_hpc.models.loading import pack_weights
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.schema import EnsembleRecord
from cifar_hpc.records.store import utc_now, write_atomic, write_record
from cifar_hpc.records.ties import CLASSES, member_of, read_valid
from cifar_hpc.train.measure import split_arrays, write_arrays

State = dict[str, Tensor]
Measure = Callable[[tuple[int, ...]], NDArray[np.bool_]]  # members -> which validation images their mean has right


@dataclass(frozen=True)
class Soup:
    """members: trial ids, best first. val_acc: nested for greedy, whose members were chosen on other images.

    weights: a .safetensors; arrays: as in predictions.npz.
    """

    method: str
    members: tuple[str, ...]
    classes: tuple[str, ...]
    val_acc: float
    weights: bytes
    arrays: Mapping[str, NDArray[np.generic]]


def kin_of(config: TrialConfig) -> tuple[object, ...] | None:
    """Equal for trials whose weights may be averaged: one network, one start, one data set. None: there was no common start."""
    if config.weights is None or not config.trains or config.lr == 0:
        return None
    start = config.weights_fingerprint or config.weights  # a file's content, not its path
    own = config.arch_args, tuple(source for source in config.sources or () if source.part == "arch")
    return (config.arch, *own, start, config.dataset, config.image_size, config.resize, config.crop_frac, config.stem)


def families_of(trials: Iterable[TrialFiles], least: int = 2) -> list[list[TrialFiles]]:
    """Finished trials with kept weights that may be averaged, in families of so many or more; in the order that they have."""
    families: dict[object, list[TrialFiles]] = {}
    for files in trials:
        if files.weights.exists():
            kin = kin_of(read_valid(files, files.folder.name)[1])
            if kin is not None:
                families.setdefault(kin, []).append(files)
    return [family for family in families.values() if len(family) >= least]


def make_soups(members: Sequence[TrialFiles]) -> list[Soup]:
    """A uniform and a greedy soup of kin with kept weights, the best on validation first. Raises CifarHpcError, DataError."""
    first = load_trained(members[0])
    states = [dict(load_trained(files).model.state_dict()) for files in members]
    config = first.config
    assert config.image_size is not None
    data = load_dataset_of(config, data_root())
    known: dict[tuple[int, ...], Tensor] = {}

    def val_logits(chosen: tuple[int, ...]) -> Tensor:
        if chosen not in known:
            known[chosen] = logits_of(first, mean_state([states[member] for member in chosen]), data.val)
        return known[chosen]

    def right(chosen: tuple[int, ...]) -> NDArray[np.bool_]:
        return right_of(val_logits(chosen).numpy(), data.val.labels_N.numpy())

    def greedily(seen_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return right(choose_greedily(right, len(members), seen_N))

    everyone = tuple(range(len(members)))
    everything = np.ones(len(data.val.labels_N), bool)
    soups = []
    for method, chosen in (("uniform", everyone), ("greedy", choose_greedily(right, len(members), everything))):
        accuracy = float(right(chosen).mean()) if method == "uniform" else nested_accuracy(greedily, len(everything))
        ids = tuple(members[member].folder.name for member in chosen)
        state = mean_state([states[member] for member in chosen])
        soups.append(soup_at(first, state, data, method, ids, accuracy, val_logits(chosen)))
    return soups


def soup_at(
    trained: TrainedTrial, state: State, data: Dataset, method: str, members: tuple[str, ...], val_acc: float, val_NK: Tensor
) -> Soup:
    """The network with these weights; test is measured here. val_NK: its logits of the validation images."""
    arrays = split_arrays("val", val_NK, data.val)
    if data.test is not None:
        arrays |= split_arrays("test", logits_of(trained, state, data.test), data.test)
    arrays[CLASSES] = np.array(trained.classes)
    trained.model.cpu().load_state_dict(state)
    weights = pack_weights(trained.model, (trained.mean, trained.std))
    return Soup(method, members, trained.classes, val_acc, weights, arrays)


def save_soup(found: Soup, pool: Layout, folder: Path, stem: str) -> EnsembleRecord:
    """Of trials of the pool: <stem>.json, what `predict` takes, and beside it <stem>/ with the weights and predictions, named
    as a trial's are."""
    files = TrialFiles(folder / stem)
    write_atomic(files.weights, lambda stream: stream.write(found.weights))
    write_atomic(files.predictions, lambda stream: write_arrays(stream, found.arrays))
    test_n = len(found.arrays["test_labels"]) if "test_labels" in found.arrays else None
    logits_NK, labels_N = (found.arrays.get(f"test_{name}", np.zeros(0)) for name in ("logits", "labels"))
    right_N = right_of(np.asarray(logits_NK, np.float32), np.asarray(labels_N, np.int64)) if test_n else None
    record = EnsembleRecord(
        method=f"{found.method} soup",
        created_at=utc_now(),
        classes=found.classes,
        members=tuple(member_of(pool.trial(trial_id), 1 / len(found.members)) for trial_id in found.members),
        coefficients=None,
        intercept=None,
        val_acc=found.val_acc,
        val_n=len(found.arrays["val_labels"]),
        test_acc=float(right_N.mean()) if right_N is not None else None,
        test_n=test_n,
        weights=str(files.weights.relative_to(folder)),
        weights_sha256=hashlib.sha256(found.weights).hexdigest(),
    )
    write_record(folder / f"{stem}.json", record)
    return record


def choose_greedily(right: Measure, count: int, seen_N: NDArray[np.bool_]) -> tuple[int, ...]:
    """The paper's recipe 1: each member, the best on the seen images first, joins where the soup's accuracy on them does not
    fall."""
    alone = [float(right((member,))[seen_N].mean()) for member in range(count)]
    first, *others = sorted(range(count), key=lambda member: -alone[member])  # among equals the order that they have
    chosen: tuple[int, ...] = (first,)
    best = alone[first]
    for member in others:
        accuracy = float(right((*chosen, member))[seen_N].mean())
        if accuracy >= best:
            chosen, best = (*chosen, member), accuracy
    return chosen


def nested_accuracy(right_of: Callable[[NDArray[np.bool_]], NDArray[np.bool_]], images: int) -> float:
    """Of what is chosen on the even images and measured on the odd ones, and the other way round. right_of: which images are
    right by what these choose."""
    odd_N = np.arange(images) % 2 == 1
    return float(np.concatenate([right_of(~held_N)[held_N] for held_N in (odd_N, ~odd_N)]).mean())


def mean_state(states: Sequence[State]) -> State:
    """The mean of each tensor, summed in float64; counters (of batches) are the first one's."""
    mean = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            total = sum((state[key].double() for state in states[1:]), first.double())
            mean[key] = (total / len(states)).to(first.dtype)
        else:
            mean[key] = first
    return mean


def logits_of(trained: TrainedTrial, state: State, split: Split) -> Tensor:
    """Of the trial's network with these weights, N x K."""
    trained.model.cpu().load_state_dict(state)
    return torch.from_numpy(trained.logits(split))
