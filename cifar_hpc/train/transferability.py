"""How promising pretrained networks are for a data set, without training: from one pass of its labelled images through each.

Two figures of the features before the classifier: the accuracy of a ridge classifier in cross-validation, and LogME, the
largest log evidence of a linear model per image (You et al. 2021, arXiv:2102.11005). Test images have no part in either. Owns:
Promise, promise_of, log_evidence. Knows no records and trains nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.batches import batches_for
from cifar_hpc.data.dataset import Dataset, load_dataset_of, trainval_of
from cifar_hpc.data.files import data_root
from cifar_hpc.data.splits import deal, most_parts, subsample
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.summary import flops
from cifar_hpc.models.zoo import build_model, in_channels, normalisation
from cifar_hpc.train.device import allow_tf32, choose_device, choose_precision
from cifar_hpc.train.evaluation import EVAL_BATCH_SIZE
from cifar_hpc.train.features import Feed, Trunk

FOLDS = 5  # fewer where so many cannot be dealt
MOST_IMAGES = 5000  # labelled images that are passed through, stratified: more would cost more than they tell
ALPHAS = tuple(10.0**power for power in range(-2, 6))  # of ridge, chosen anew inside each fold
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Promise:
    """acc: in cross-validation, of images N; right_N: which of them; logme: higher is better; params, macs: of the network with
    a classifier of these classes, for one image of its size; seconds: of pass and fits."""

    acc: float
    images: int
    logme: float
    features: int
    params: int
    macs: int
    seconds: float
    right_N: NDArray[np.bool_]


def promise_of(config: TrialConfig) -> Promise:
    """Of the network and weights of a trial, here, on the data set under the data root. Raises CifarHpcError."""
    return measure_promise(config, load_dataset_of(trainval_of(config), data_root()), choose_device(None))


def measure_promise(config: TrialConfig, whole: Dataset, device: torch.device) -> Promise:
    """Of the network and weights of a trial, on all labelled images. whole: these as its training split. Raises CifarHpcError
    where the network cannot be built."""
    started = time.perf_counter()
    labels_N = whole.train.labels_N.numpy()
    at_N = np.arange(len(labels_N))
    if len(labels_N) > MOST_IMAGES:
        at_N = subsample(labels_N, MOST_IMAGES, config.dataset.split_seed)
    assert config.image_size is not None  # a spec fills it in from the data set
    channels = in_channels(config, whole.channels)
    model = build_model(config, len(whole.classes), channels)
    params, macs = sum(one.numel() for one in model.parameters()), flops(model, config.image_size, channels) // 2
    features_ND, labels_N = _features(config, model, whole, at_N, device), labels_N[at_N]
    right_N = ridge_right(features_ND, labels_N, config.dataset.split_seed)
    logme = log_evidence(features_ND, labels_N)
    seconds = time.perf_counter() - started
    return Promise(float(right_N.mean()), len(labels_N), logme, features_ND.shape[1], params, macs, seconds, right_N)


def ridge_right(features_ND: Floats, labels_N: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which images a ridge classifier of standardised features classifies rightly, each by the one that did not see it."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = most_parts(labels_N, FOLDS, seed) or FOLDS
    part_N = deal(labels_N, parts, seed, 0)
    right_N = np.zeros(len(labels_N), np.bool_)
    for part in range(parts):
        held = part_N == part
        ridge = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS)).fit(features_ND[~held], labels_N[~held])
        right_N[held] = ridge.predict(features_ND[held]) == labels_N[held]
    return right_N


def log_evidence(features_ND: Floats, labels_N: NDArray[np.int64]) -> float:
    """LogME: the mean over the classes of the log evidence per image of y = w x + noise, w normal, y 1 for the class, with the
    precisions of both at their best (MacKay 1992)."""
    u_NR, s_R, _ = np.linalg.svd(features_ND, full_matrices=False)
    values = []
    for label in np.unique(labels_N):
        y_N = (labels_N == label).astype(np.float64)
        values.append(_evidence_of(u_NR.T @ y_N, s_R**2, float(y_N @ y_N), *features_ND.shape))
    return float(np.mean(values))


def _evidence_of(z_R: Floats, sigma_R: Floats, length: float, n: int, d: int) -> float:
    """z: the target in the singular directions; sigma: their eigenvalues; length: the target's squared length."""
    rest = length - float(z_R @ z_R)  # what no direction explains
    alpha, beta = 1.0, 1.0  # precisions of the weights and of the noise
    for _ in range(200):
        known = beta * sigma_R / (alpha + beta * sigma_R)
        gamma = float(known.sum())
        square = float((beta**2 * sigma_R * z_R**2 / (alpha + beta * sigma_R) ** 2).sum())
        error = float((z_R**2 * (1 - known) ** 2).sum()) + rest
        new_alpha, new_beta = gamma / max(square, 1e-12), (n - gamma) / max(error, 1e-12)
        done = abs(new_alpha / new_beta - alpha / beta) <= 1e-9 * alpha / beta
        alpha, beta = new_alpha, new_beta
        if done:
            break
    square = float((beta**2 * sigma_R * z_R**2 / (alpha + beta * sigma_R) ** 2).sum())
    error = float((z_R**2 * (1 - beta * sigma_R / (alpha + beta * sigma_R)) ** 2).sum()) + rest
    curvature = float(np.log(alpha + beta * sigma_R).sum()) + (d - len(sigma_R)) * math.log(alpha)
    evidence = d / 2 * math.log(alpha) + n / 2 * math.log(beta) - n / 2 * math.log(2 * math.pi)
    return (evidence - beta / 2 * error - alpha / 2 * square - curvature / 2) / n


def _features(config: TrialConfig, model: BlockModel, whole: Dataset, at_N: NDArray[np.int64], device: torch.device) -> Floats:
    channels, precision = in_channels(config, whole.channels), choose_precision(config.precision, device)
    allow_tf32(config.precision == "tf32")
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    depth = len(model.blocks) - 1
    split = whole.train.view(torch.from_numpy(at_N))
    batches = batches_for(
        config,
        split,
        classes_n=len(whole.classes),
        channels=channels,
        normalisation=normalisation(config) or (whole.mean, whole.std),
        device=device,
    )
    feed = Feed(Trunk(model, precision), batches, {depth}, EVAL_BATCH_SIZE, keep=False)
    starts: Sequence[int] = range(0, len(split.labels_N), EVAL_BATCH_SIZE)
    taps = [feed.eval_batch(i, min(i + EVAL_BATCH_SIZE, len(split.labels_N)), {depth})[depth] for i in starts]
    return np.concatenate([tap.flatten(1).double().cpu().numpy() for tap in taps])
