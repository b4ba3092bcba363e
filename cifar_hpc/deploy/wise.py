"""The way from the weights that a network started from to the tuned ones, and the best point on it (WiSE-FT, Wortsman et al.
2022, arXiv:2109.01903). No training: it costs a pass over the validation images for each point.

A classifier that the start does not hold, as where it was made for other classes, is the tuned one all along. The point is
chosen on validation, test is measured once, there. Owns: the interpolation, the choice. Knows nothing of sweeps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.metrics import right_of
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.deploy.soup import Soup, State, logits_of, nested_accuracy, soup_at
from cifar_hpc.deploy.trained import TrainedTrial, load_trained
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.deltas import whole_weights
from cifar_hpc.models.loading import common_prefix, named_without
from cifar_hpc.models.weights import weights_path
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.ties import own_weights, read_valid

ALPHAS = tuple(i / 10 for i in range(11))  # 0: the start, 1: the tuned network


@dataclass(frozen=True)
class Curve:
    """val_accs: at ALPHAS; alpha: the chosen one; soup: the network there, with an accuracy of images that did not choose it;
    whole: whether the start has a classifier of its own, which moves too."""

    val_accs: tuple[float, ...]
    alpha: float
    soup: Soup
    whole: bool


def find_curve(files: TrialFiles) -> Curve:
    """Of a finished trial with kept weights. Raises CifarHpcError where it started from random ones, or has no validation."""
    trained = load_trained(files)
    tuned = {key: value.clone() for key, value in trained.model.state_dict().items()}
    begun, whole = start_state(files, trained)
    data = load_dataset_of(trained.config, data_root())
    if not len(data.val.labels_N):
        raise CifarHpcError(f"trial {files.folder.name} has no validation images, on which a point would be chosen")
    logits = [logits_of(trained, between(begun, tuned, alpha), data.val) for alpha in ALPHAS]
    right_AN = np.stack([right_of(one.numpy(), data.val.labels_N.numpy()) for one in logits])
    chosen = choose(right_AN)
    accuracy = nested_accuracy(lambda seen_N: right_AN[choose(right_AN[:, seen_N])], len(data.val.labels_N))
    state = between(begun, tuned, ALPHAS[chosen])
    soup = soup_at(trained, state, data, "wise", (files.folder.name,), accuracy, logits[chosen])
    return Curve(tuple(float(one_N.mean()) for one_N in right_AN), ALPHAS[chosen], soup, whole)


def start_state(files: TrialFiles, trained: TrainedTrial) -> tuple[State, bool]:
    """The state that the trial began with, and whether its start holds the classifier; else that is the tuned one.

    Raises CifarHpcError where it began at random values, or at a trial's network that is kept no more.
    """
    _, config = read_valid(files, files.folder.name)
    if config.weights is None:
        raise CifarHpcError(f"trial {files.folder.name} started from random weights: there is no way back to them")
    if config.weights.startswith(PARENT_PREFIX):
        parent_id = config.weights.removeprefix(PARENT_PREFIX)
        parent = Layout(files.folder.parent.parent).trial(parent_id)
        try:
            weights = own_weights(parent, read_valid(parent, parent_id)[0])
        except FileNotFoundError as error:
            raise CifarHpcError(
                f"trial {files.folder.name} started from trial {parent_id}, of which no network is kept"
            ) from error
        config = dataclasses.replace(config, weights=str(weights))
    assert config.weights is not None
    model = build_model(config, len(trained.classes), trained.channels)
    begun, tuned = dict(model.state_dict()), trained.model.state_dict()
    head = list(model.blocks[-1].state_dict())
    file = whole_weights(weights_path(config.arch, config.weights)).state
    known = named_without(common_prefix(begun, file), file)
    whole = all(key in known and known[key].shape == begun[key].shape for key in head)
    return begun if whole else begun | {key: tuned[key].clone() for key in head}, whole


def between(begun: State, tuned: State, alpha: float) -> State:
    """(1 - alpha) of the one and alpha of the other, in float64; counters are the tuned one's."""
    mixed = {}
    for key, value in tuned.items():
        if not value.is_floating_point() or alpha == 1:
            mixed[key] = value
        else:
            mixed[key] = ((1 - alpha) * begun[key].double() + alpha * value.double()).to(value.dtype)
    return mixed


def choose(right_AN: NDArray[np.bool_]) -> int:
    """The best of the points, of equal ones that nearest to the tuned network, which is the last."""
    accs_A = right_AN.mean(1)
    return int(np.flatnonzero(accs_A == accs_A.max())[-1])
