"""Logistic regression, support vectors and nearest neighbours on the frozen features: fitted once instead of trained.

Features are the input of the classifier block, standardised by the training images' mean and deviation (Razavian et al. 2014,
arXiv:1403.6382, put a linear SVM there). A linear solution becomes the network's last layer, so that all that is done with
a trained network is done with it too. Owns: which member a classifier needs, the fit. Knows nothing of records on disk.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_hpc.config.registry import CLASSIFIERS, load
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel, is_layer_alone, linear_layer
from cifar_hpc.train.evaluation import EVAL_BATCH_SIZE, evaluate
from cifar_hpc.train.features import Feed, Trunk
from cifar_hpc.train.measure import objective_value
from cifar_hpc.train.member import Member, epoch_sums, keep_best
from cifar_hpc.train.stack import hits_of

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsClassifier

MAX_ITERATIONS = 5000  # of the solvers; scikit-learn's 1000 do not always suffice for 2048 features
C_PATH = tuple(float(f"{10**power:.3g}") for power in np.arange(-5, 2.1, 0.5))
FOLDS = 5  # in which a C is judged without validation images
Look = Callable[[], None]
Solution = tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]


class FittedMember(Member):
    """A trial whose classifier is fitted to the training features in its only epoch; how, its kinds below say."""

    def __init__(self, config: TrialConfig, start: BlockModel, trunk: Trunk, steps_per_epoch: int) -> None:
        from sklearn.preprocessing import StandardScaler  # here: a second that other trials need not wait

        super().__init__(config, start, trunk, steps_per_epoch)
        self.progress.step = steps_per_epoch  # no step is left to take
        self.scaler = StandardScaler()
        self.num_classes = 0

    def fit(self, train: Feed, val: Feed, num_classes: int, look: Callable[[], None] = lambda: None) -> None:
        """The one epoch: fits, measures training and validation images, keeps the outcome as the best. look: as in evaluate.

        Its time is without that of features which others use too: see `charge`.
        """
        started, filled_s = time.perf_counter(), train.filled_s
        self.num_classes = num_classes
        features_ND = np.concatenate([_features(tap) for tap in self._features(train)])
        labels_N = train.labels_N.cpu().numpy()
        scaled_ND = self.scaler.fit_transform(features_ND)
        look()
        self.fit_classifier(scaled_ND, labels_N, val, look)
        logits_NK = evaluate([self], train, look)[0]
        loss = nn.functional.cross_entropy(logits_NK, train.labels_N).double() * len(train)
        self.sums.put(loss, _hits_of(logits_NK, train.labels_N).sum(), len(train))
        self.progress.epoch_s = time.perf_counter() - started - (train.filled_s - filled_s)
        started, filled_s = time.perf_counter(), val.filled_s
        val_logits_1NK = evaluate([self], val, look)
        val_s = time.perf_counter() - started - (val.filled_s - filled_s)
        sums = epoch_sums([self], val_logits_1NK, val.labels_N)[0]
        if self.end_epoch(sums, val_logits_1NK[0], val.labels_N, val_s):
            keep_best([self], [val_logits_1NK[0]])

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

    def fit_classifier(self, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64], val: Feed, look: Look) -> None:
        """Fits it to the standardised features; val: what decides where there is something to choose."""
        raise NotImplementedError

    def _features(self, feed: Feed) -> list[Tensor]:
        starts = range(0, len(feed), EVAL_BATCH_SIZE)
        return [feed.eval_batch(i, min(i + EVAL_BATCH_SIZE, len(feed)), {self.depth})[self.depth] for i in starts]


class LayerMember(FittedMember):
    """A linear classifier that scikit-learn fits, whose solution becomes the network's last layer.

    Where its C is auto, it is the one of C_PATH that is best by the objective on the validation images, the smaller of two
    equal ones (on the training images left out in turn, where none are held out for validation: a refit).
    """

    noun: str

    def __init__(self, config: TrialConfig, start: BlockModel, trunk: Trunk, steps_per_epoch: int) -> None:
        super().__init__(config, start, trunk, steps_per_epoch)
        layer = linear_layer(start)
        if layer is None:
            raise _no_layer(config, start.names[-1])
        self.layer = layer

    @torch.no_grad()
    def _features(self, feed: Feed) -> list[Tensor]:
        """Raises CifarHpcError where they are not the layer's own input, or the block puts out something else than it does."""
        taps = super()._features(feed)
        self.eval_mode()
        if not is_layer_alone(self.suffix, self.layer, taps[0].float()):
            raise _no_layer(self.config, self.model.names[-1])
        return taps

    @property
    def class_weight(self) -> dict[int, float] | None:
        """As scikit-learn has it."""
        weight_K = self.micro_batches.class_weight_K
        return None if weight_K is None else dict(enumerate(weight_K.tolist()))

    def solver(self) -> Any:
        """scikit-learn's estimator, to which a C is given before each fit."""
        raise NotImplementedError

    def fit_classifier(self, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64], val: Feed, look: Look) -> None:
        argument = CLASSIFIERS[self.config.classifier].argument
        assert argument is not None
        asked = getattr(self.config, argument)
        solver = self.solver()
        if asked != "auto":
            self._put(*self._fitted(solver, asked, scaled_ND, labels_N))
            return
        judged = self._judged_on_validation if len(val) else self._judged_in_turn
        best: tuple[float, float, Solution] | None = None
        for c in C_PATH:
            look()
            solution = self._fitted(solver, c, scaled_ND, labels_N)
            value = judged(solver, solution, scaled_ND, labels_N, val)
            if best is None or value > best[0]:
                best = (value, c, solution)
        assert best is not None
        self._put(*best[2])
        self.progress.c_found = best[1]

    def _fitted(self, solver: Any, c: float, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Solution:
        """Weights KD, biases K of the standardised features, and what is to be warned of."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ConvergenceWarning)
            solver.set_params(C=c).fit(scaled_ND, labels_N)
        failed = any(issubclass(one.category, ConvergenceWarning) for one in told)
        warning = (f"the {self.noun} did not converge within {MAX_ITERATIONS} iterations",) if failed else ()
        weight_KD, bias_K = solver.coef_.copy(), solver.intercept_.copy()
        if len(weight_KD) == 1:  # two classes have one decision value: half of it for each, with its sign
            weight_KD, bias_K = np.vstack([-weight_KD, weight_KD]) / 2, np.hstack([-bias_K, bias_K]) / 2
        return weight_KD, bias_K, warning

    def _put(self, weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64], warning: tuple[str, ...]) -> None:
        """Into the layer, the standardisation folded into its weights."""
        folded_KD = weight_KD / self.scaler.scale_
        layer = self.suffix.get_submodule(self.layer)
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(folded_KD))
            layer.bias.copy_(torch.from_numpy(bias_K - folded_KD @ self.scaler.mean_))
        self.model.warnings = (*self.model.warnings, *warning)

    def _judged_on_validation(self, solver: Any, solution: Solution, *data: Any) -> float:
        val: Feed = data[-1]
        self._put(*solution[:2], ())
        return self._value(evaluate([self], val)[0].cpu(), val.labels_N.cpu())

    def _judged_in_turn(self, solver: Any, solution: Solution, *data: Any) -> float:
        from sklearn.base import clone
        from sklearn.model_selection import StratifiedKFold

        scaled_ND, labels_N, _ = data
        counts_N = np.bincount(labels_N)[labels_N]
        alone_i, several_i = np.flatnonzero(counts_N == 1), np.flatnonzero(counts_N > 1)  # the only one is never left out
        if not len(several_i):
            return 0.0
        values = []
        folds_n = min(FOLDS, int(counts_N[several_i].min()))
        for fit, held in StratifiedKFold(folds_n).split(scaled_ND[several_i], labels_N[several_i]):
            fit_i, held_i, part = np.concatenate([several_i[fit], alone_i]), several_i[held], clone(solver)
            weight_KD, bias_K, _ = self._fitted(part, solver.C, scaled_ND[fit_i], labels_N[fit_i])
            logits_NK = torch.from_numpy(scaled_ND[held_i] @ weight_KD.T + bias_K)
            values.append(self._value(logits_NK, torch.from_numpy(labels_N[held_i])))
        return float(np.mean(values))

    def _value(self, logits_NK: Tensor, labels_N: Tensor) -> float:
        """The objective, larger is better."""
        info = self.objective
        if info.metric is None:
            value = objective_value(info, logits_NK, labels_N)
            return -math.inf if value is None else value if info.mode == "max" else -value
        if info.metric == "loss":
            return -nn.functional.cross_entropy(logits_NK, labels_N).item()
        return _hits_of(logits_NK, labels_N).double().mean().item()


def _hits_of(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    return hits_of(logits_NK.t().contiguous()[None], labels_N)[0]


class SvmMember(LayerMember):
    """Support vectors: one against the rest, squared hinge loss."""

    noun = "SVM"

    def solver(self) -> Any:
        from sklearn.svm import LinearSVC

        return LinearSVC(dual="auto", max_iter=MAX_ITERATIONS, random_state=0, class_weight=self.class_weight)


class LogregMember(LayerMember):
    """Multinomial logistic regression by L-BFGS; along the path each fit begins where the one before it ended."""

    noun = "logistic regression"

    def solver(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, class_weight=self.class_weight)


class NeighboursMember(FittedMember):
    """Votes of the nearest training images."""

    def __init__(self, config: TrialConfig, start: BlockModel, trunk: Trunk, steps_per_epoch: int) -> None:
        super().__init__(config, start, trunk, steps_per_epoch)
        self.neighbours: KNeighborsClassifier | None = None

    def fit_classifier(self, scaled_ND: NDArray[np.float64], labels_N: NDArray[np.int64], val: Feed, look: Look) -> None:
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


def build_member(config: TrialConfig, start: BlockModel, trunk: Trunk, steps_per_epoch: int) -> Member:
    """The member that the trial's classifier needs. Raises CifarHpcError where the network cannot have that classifier."""
    member: Member = load(CLASSIFIERS[config.classifier].build)(config, start, trunk, steps_per_epoch)
    return member


def _features(tap: Tensor) -> NDArray[np.float64]:
    return tap.flatten(1).double().cpu().numpy()


def _no_layer(config: TrialConfig, block: str) -> CifarHpcError:
    return CifarHpcError(
        f"classifier: {config.classifier} with arch {config.arch}, whose block {block!r} is not just one linear layer with "
        "a bias; allowed: linear, knn"
    )
