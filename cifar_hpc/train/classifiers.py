"""Support vectors and nearest neighbours on the frozen features: trials that are fitted once instead of trained.

Features are the input of the classifier block, standardised by the training images' mean and deviation (Razavian et al. 2014,
arXiv:1403.6382, put a linear SVM there). The SVM's solution becomes the network's last layer, so that all that is done with a
trained network is done with it too. Owns: which member a classifier needs, the fit. Knows nothing of records on disk.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_hpc.config.registry import CLASSIFIERS, load
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.records.schema import EpochRecord
from cifar_hpc.train.features import Feed
from cifar_hpc.train.loop import EVAL_BATCH_SIZE, evaluate
from cifar_hpc.train.member import Member

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsClassifier

MAX_ITERATIONS = 5000  # of the SVM's solver; scikit-learn's 1000 do not always suffice for 2048 features


class FittedMember(Member):
    """A trial whose classifier is fitted to the training features in its only epoch; how, its kinds below say."""

    def __init__(
        self, config: TrialConfig, start: BlockModel, trunk: BlockModel, steps_per_epoch: int, precision: torch.dtype
    ) -> None:
        from sklearn.preprocessing import StandardScaler  # here: a second that other trials need not wait

        super().__init__(config, start, trunk, steps_per_epoch, precision)
        self.progress.step = steps_per_epoch  # no step is left to take
        self.scaler = StandardScaler()
        self.num_classes = 0

    def fit(self, train: Feed, val: Feed, num_classes: int, look: Callable[[], None] = lambda: None) -> EpochRecord:
        """The one epoch: fits, measures training and validation images, keeps the outcome as the best. look: as in evaluate.

        Its time is without that of features which others use too: see `charge`.
        """
        started, filled_s = time.perf_counter(), train.filled_s
        self.num_classes = num_classes
        features_ND = np.concatenate([_features(tap) for tap in self._taps(train)])
        labels_N = train.labels_N.cpu().numpy()
        scaled_ND = self.scaler.fit_transform(features_ND)
        look()
        self.fit_classifier(scaled_ND, labels_N)
        logits_NK = evaluate([self], train, look)[0]
        self.loss_sum = nn.functional.cross_entropy(logits_NK, train.labels_N).double() * len(train)
        self.correct = (logits_NK.argmax(1) == train.labels_N).sum()
        self.seen = len(train)
        self.progress.epoch_s = time.perf_counter() - started - (train.filled_s - filled_s)
        started, filled_s = time.perf_counter(), val.filled_s
        val_logits_NK = evaluate([self], val, look)[0]
        return self.end_epoch(val_logits_NK, val.labels_N, time.perf_counter() - started - (val.filled_s - filled_s))

    def charge(self, seconds: float, saved_s: float) -> None:
        """Adds its share of the features to its one epoch. saved_s: what sharing them saved it."""
        progress = self.progress
        progress.seconds += seconds
        progress.saved_s = (progress.saved_s or 0.0) + saved_s
        last = progress.curves[-1]
        progress.curves[-1] = dataclasses.replace(last, train_s=round(last.train_s + seconds, 4))

    @property
    def last_rate(self) -> float:
        return 0.0 if self.config.lr == "auto" else float(self.config.lr)

    def fit_classifier(self, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64]) -> None:
        """Fits it to the standardised features."""
        raise NotImplementedError

    def _taps(self, feed: Feed) -> list[Tensor]:
        starts = range(0, len(feed), EVAL_BATCH_SIZE)
        return [feed.eval_batch(i, min(i + EVAL_BATCH_SIZE, len(feed)), {self.depth})[self.depth] for i in starts]


class SvmMember(FittedMember):
    """Support vectors, whose solution becomes the network's last layer."""

    def __init__(
        self, config: TrialConfig, start: BlockModel, trunk: BlockModel, steps_per_epoch: int, precision: torch.dtype
    ) -> None:
        super().__init__(config, start, trunk, steps_per_epoch, precision)
        self.layer = _linear_layer(start, config)

    def fit_classifier(self, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64]) -> None:
        """One against the rest, squared hinge loss; the standardisation is folded into the layer's weights."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        solver = LinearSVC(C=self.config.svm_c, dual="auto", max_iter=MAX_ITERATIONS, random_state=0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ConvergenceWarning)
            solver.fit(scaled_ND, labels_N)
        if told:
            self.model.warnings = (*self.model.warnings, f"the SVM did not converge within {MAX_ITERATIONS} iterations")
        weight_KD, bias_K = solver.coef_, solver.intercept_
        if len(weight_KD) == 1:  # two classes have one decision value: half of it for each, with its sign
            weight_KD, bias_K = np.vstack([-weight_KD, weight_KD]) / 2, np.hstack([-bias_K, bias_K]) / 2
        folded_KD = weight_KD / self.scaler.scale_
        layer = self.suffix.get_submodule(self.layer)
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(folded_KD))
            layer.bias.copy_(torch.from_numpy(bias_K - folded_KD @ self.scaler.mean_))


class NeighboursMember(FittedMember):
    """Votes of the nearest training images."""

    def __init__(
        self, config: TrialConfig, start: BlockModel, trunk: BlockModel, steps_per_epoch: int, precision: torch.dtype
    ) -> None:
        super().__init__(config, start, trunk, steps_per_epoch, precision)
        self.neighbours: KNeighborsClassifier | None = None

    def fit_classifier(self, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64]) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        assert self.config.knn_k is not None  # normalise fills it in
        self.neighbours = KNeighborsClassifier(min(self.config.knn_k, len(labels_N))).fit(scaled_ND, labels_N)

    def eval_logits(self, tap: Tensor) -> Tensor:
        """The log of each class's share of the votes, with one vote more that is spread over all classes, so that every share
        is above zero."""
        assert self.neighbours is not None
        near_NM = self.neighbours.kneighbors(self.scaler.transform(_features(tap)), return_distance=False)
        k = near_NM.shape[1]
        votes_NMK = np.eye(self.num_classes)[self.neighbours._y[near_NM]]
        share_NK = (votes_NMK.sum(1) + 1 / self.num_classes) / (k + 1)
        return torch.from_numpy(np.log(share_NK)).float().to(tap.device)


def build_member(
    config: TrialConfig, start: BlockModel, trunk: BlockModel, steps_per_epoch: int, precision: torch.dtype
) -> Member:
    """The member that the trial's classifier needs. Raises CifarHpcError where the network cannot have that classifier."""
    member: Member = load(CLASSIFIERS[config.classifier].build)(config, start, trunk, steps_per_epoch, precision)
    return member


def _features(tap: Tensor) -> NDArray[np.float64]:
    return tap.flatten(1).double().cpu().numpy()


def _linear_layer(model: BlockModel, config: TrialConfig) -> str:
    """The path, within a model of the last block alone, of its only weighted layer."""
    weighted = [
        (path, module)
        for path, module in BlockModel(model.names[-1:], list(model.blocks)[-1:]).named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    if len(weighted) != 1 or not isinstance(weighted[0][1], nn.Linear) or weighted[0][1].bias is None:
        raise CifarHpcError(
            f"classifier: svm with arch {config.arch}, whose block {model.names[-1]!r} is no linear layer; allowed: linear, knn"
        )
    return str(weighted[0][0])
