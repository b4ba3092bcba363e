"""Ensembles from stored predictions, without training: five ways to combine trials, chosen on validation only.

Owns: the library of members, their temperatures, the methods and the honest estimate. Knows arrays and rules, no files.

Every member is first calibrated by its own temperature (Guo et al. 2017). uniform and accuracy take the best members of each
architecture and all above a threshold, with equal weights or weights by accuracy; greedy adds members with replacement while
log-loss falls, bagging averages greedy choices among random halves (Caruana et al. 2004); stacking is a logistic regression
on the log-probabilities of greedy's members. The validation accuracy of an ensemble is nested: on each fifth of the images,
with members and weights chosen on the other four.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cifar_hpc.config.catalog import ENSEMBLE_LIBRARY, ENSEMBLE_METHODS
from cifar_hpc.config.metrics import right_of, taken_of
from cifar_hpc.records.schema import EnsembleMember, EnsembleRules

USUAL = EnsembleRules(methods=ENSEMBLE_METHODS)
FOLDS = 5
_STEPS = 30
_BAGS = 10
_STACKED = 6  # members that stacking takes
_STACKING_IMAGES = 4000  # and the images that it is fitted on, at most, evenly spaced
_TEMPERATURE_IMAGES = 1000
_FLOOR = 1e-7  # of a probability
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Library:
    """Calibrated members on the validation images. probabilities: M x N x K; archs: M names, for the rules by architecture."""

    archs: tuple[str, ...]
    temperatures: tuple[float, ...]
    probabilities: Floats
    labels: NDArray[np.int64]

    def of_truth(self) -> Floats:
        """The probability that each member gave the true class, M x N."""
        found: Floats = self.probabilities[:, np.arange(len(self.labels)), self.labels]
        return found

    def right(self) -> NDArray[np.bool_]:
        """Whether each member was right, M x N."""
        return np.stack([right_of(member, self.labels) for member in self.probabilities])


@dataclass(frozen=True, slots=True)
class Combination:
    """How members are combined. weights: member -> weight, summing to 1. coefficients K x (members K) and intercept K: for
    stacking only, on the members' log-probabilities in the order of `weights`."""

    method: str
    weights: Mapping[int, float]
    coefficients: NDArray[np.float64] | None = None
    intercept: NDArray[np.float64] | None = None

    def apply(self, probabilities: Mapping[int, Floats]) -> NDArray[np.float64]:
        """Class probabilities N x K from those of the members."""
        if self.coefficients is None:
            return np.asarray(sum(weight * probabilities[member].astype(np.float64) for member, weight in self.weights.items()))
        features = _stacking_features([probabilities[member] for member in self.weights])
        return np.asarray(softmax(features @ self.coefficients.T + (0 if self.intercept is None else self.intercept), axis=1))


def combination_of(
    members: Sequence[EnsembleMember],
    coefficients: Sequence[Sequence[float]] | None = None,
    intercept: Sequence[float] | None = None,
) -> Combination:
    """How the members of a record are combined, each known by its place; the arguments as EnsembleRecord has them."""
    return Combination(
        "",
        {place: member.weight for place, member in enumerate(members)},
        None if coefficients is None else np.asarray(coefficients),
        None if intercept is None else np.asarray(intercept),
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """An ensemble. right: whether each validation image was right, N, by members and weights that did not see it."""

    combination: Combination
    right: NDArray[np.bool_]


def make_library(logits: Sequence[NDArray[np.floating]], labels: NDArray[np.int64], archs: Sequence[str]) -> Library:
    """logits: M arrays N x K of the same validation images."""
    temperatures = [fit_temperature(member, labels) for member in logits]
    probabilities = np.empty((len(logits), *logits[0].shape), np.float32)
    for number, (member, temperature) in enumerate(zip(logits, temperatures, strict=True)):
        probabilities[number] = calibrate(member, temperature)
    return Library(tuple(archs), tuple(temperatures), probabilities, labels)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature that minimises the log-loss of softmax(logits / T), by Newton's steps on 1 / T, 0.05..20.

    One number needs few images: at most so many, evenly spaced.
    """
    step = max(len(labels) // _TEMPERATURE_IMAGES, 1)
    z = logits[::step].astype(np.float64)
    truth = z[np.arange(len(z)), labels[::step]]
    inverse = 1.0
    for _ in range(8):
        p = softmax(inverse * z, axis=1)
        mean = (p * z).sum(1)
        slope, curvature = float((mean - truth).mean()), float(((p * z**2).sum(1) - mean**2).mean())
        inverse = min(max(inverse - slope / max(curvature, 1e-9), inverse / 2, 0.05), inverse * 2, 20.0)
    return 1 / inverse


def calibrate(logits: NDArray[np.floating], temperature: float) -> Floats:
    """softmax(logits / temperature), N x K."""
    return np.asarray(softmax(logits.astype(np.float32) / np.float32(temperature), axis=1))


def choose_ensembles(library: Library, rules: EnsembleRules = USUAL) -> list[Chosen]:
    """Chooses members and weights by each of the rules' methods, on two images or more: one cannot choose and measure."""
    right, truth = library.right(), library.of_truth()
    fold = _dealt(library.labels, min(FOLDS, len(library.labels)))
    folds = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    chosen = []

    def choose(method: str, images: NDArray[np.intp]) -> Combination:
        return _METHODS[method](_Seen(library, images, right[:, images], truth[:, images]), rules)

    for method in rules.methods:
        held = np.zeros(len(library.labels), bool)
        for images in folds:
            found = choose(method, np.flatnonzero(fold != fold[images[0]]))
            p = found.apply({member: library.probabilities[member, images] for member in found.weights})
            held[images] = right_of(p, library.labels[images])
        chosen.append(Chosen(choose(method, np.arange(len(library.labels))), held))
    return chosen


def select_greedily(truth: Floats, steps: int = _STEPS) -> list[int]:
    """Members in the order in which they join, again and again, cut where the log-loss of their mean is least."""
    total = np.zeros(truth.shape[1], np.float32)
    order: list[int] = []
    losses: list[float] = []
    for size in range(1, steps + 1):
        loss = -np.log(np.maximum((total + truth) / size, _FLOOR)).mean(1)
        order.append(int(loss.argmin()))
        losses.append(float(loss.min()))
        total += truth[order[-1]]
    return order[: int(np.argmin(losses)) + 1]


def measure_gain(library: Library) -> list[float]:
    """Validation accuracy of greedy ensembles of 1, 2, ... members: chosen on half of the images and measured on the other, and
    the other way round, so that every image counts once. As many as the shorter of the two has."""
    half_N = _dealt(library.labels, 2)
    right = [_right_by_size(library, half_N == half, half_N != half) for half in (0, 1)]
    return [(first + second) / len(half_N) for first, second in zip(*right, strict=False)]


def _dealt(labels: NDArray[np.int64], parts_n: int) -> NDArray[np.int64]:
    """The part of each image, each class dealt evenly: where a part is short of a class the others have too many of it, and
    what they choose says it too often."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    part_N = np.empty(len(labels), np.int64)
    part_N[order] = np.arange(len(labels)) % parts_n
    return part_N


def _right_by_size(library: Library, chosen_on: NDArray[np.bool_], held: NDArray[np.bool_]) -> list[int]:
    """How many of the held images greedy ensembles of 1, 2, ... members classify rightly."""
    candidates = _most_accurate(library.right()[:, chosen_on])
    total = np.zeros((int(held.sum()), library.probabilities.shape[2]), np.float32)
    counts = []
    for member in select_greedily(library.of_truth()[candidates][:, chosen_on]):
        total += library.probabilities[candidates[member], held]
        counts.append(int(right_of(total, library.labels[held]).sum()))
    return counts


def measure_disagreement(probabilities: Sequence[Floats]) -> NDArray[np.float64]:
    """Share of images that each pair of members classifies differently, M x M."""
    taken = [taken_of(member) for member in probabilities]
    return np.array([[float((one != other).mean()) for other in taken] for one in taken])


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a method chooses by: the library on these of its images alone. right, truth: as Library has them."""

    library: Library
    images: NDArray[np.intp]
    right: NDArray[np.bool_]
    truth: Floats


def _by_rule(library: Library, accuracy: NDArray[np.float64], rules: EnsembleRules) -> list[int]:
    """The best members of each architecture, and those above the threshold, the most accurate first, as many as any ensemble
    looks at; the very best in any case."""
    threshold = float(accuracy.max()) - 0.01 if rules.above is None else rules.above
    taken: list[int] = []
    count: dict[str, int] = {}
    for member in map(int, np.argsort(-accuracy, kind="stable")):
        arch = library.archs[member]
        count[arch] = count.get(arch, 0) + 1
        above = accuracy[member] > threshold and len(taken) < ENSEMBLE_LIBRARY
        if above or count[arch] <= rules.per_arch or not taken:
            taken.append(member)
    return taken


def _uniform(seen: _Seen, rules: EnsembleRules) -> Combination:
    members = _by_rule(seen.library, seen.right.mean(1), rules)
    return Combination("uniform", dict.fromkeys(members, 1 / len(members)))


def _accuracy(seen: _Seen, rules: EnsembleRules) -> Combination:
    accuracy = seen.right.mean(1)
    members = _by_rule(seen.library, accuracy, rules)
    total = float(accuracy[members].sum())
    if total == 0:  # of few images none is right
        return dataclasses.replace(_uniform(seen, rules), method="accuracy")
    return Combination("accuracy", {member: float(accuracy[member]) / total for member in members})


def _greedy(seen: _Seen, rules: EnsembleRules) -> Combination:
    candidates = _most_accurate(seen.right)
    order = select_greedily(seen.truth[candidates])
    return Combination("greedy", _shares([int(candidates[member]) for member in order]))


def _bagging(seen: _Seen, rules: EnsembleRules) -> Combination:
    rng = np.random.default_rng(0)
    candidates = _most_accurate(seen.right)
    joined: list[int] = []
    rounds: list[dict[int, float]] = []
    for _ in range(_BAGS):
        bag = rng.permutation(candidates)[: max((len(candidates) + 1) // 2, 1)]
        rounds.append(_shares([int(bag[member]) for member in select_greedily(seen.truth[bag])]))
        joined += list(rounds[-1])
    weights = {member: sum(found.get(member, 0.0) for found in rounds) / _BAGS for member in dict.fromkeys(joined)}
    return Combination("bagging", dict(sorted(weights.items(), key=lambda item: -item[1])))


def _stacking(seen: _Seen, rules: EnsembleRules) -> Combination:
    from sklearn.linear_model import LogisticRegression  # slow to import, and only stacking needs it

    library, members = seen.library, list(_greedy(seen, rules).weights)[:_STACKED]
    images = seen.images[:: -(-len(seen.images) // _STACKING_IMAGES)]
    features = _stacking_features([library.probabilities[member, images] for member in members])
    classes = library.probabilities.shape[2]
    coefficients = np.zeros((classes, features.shape[1]))
    intercept = np.full(classes, -1e9)  # a class that was never seen is never said
    met = np.unique(library.labels[images])
    if len(met) == 1:  # nothing to fit
        intercept[met] = 0.0
        return Combination("stacking", dict.fromkeys(members, 1 / len(members)), coefficients, intercept)
    with warnings.catch_warnings():  # that it stopped at its limit, or has few images of each class: what it says is measured
        warnings.simplefilter("ignore", UserWarning)
        fitted = LogisticRegression(C=0.01, max_iter=100, tol=1e-3).fit(features, library.labels[images])
    fitted_coefficients, fitted_intercept = fitted.coef_, fitted.intercept_
    if len(met) == 2:  # scikit-learn keeps one row for two classes
        fitted_coefficients = np.vstack([-fitted_coefficients, fitted_coefficients]) / 2
        fitted_intercept = np.concatenate([-fitted_intercept, fitted_intercept]) / 2
    coefficients[met], intercept[met] = fitted_coefficients, fitted_intercept
    return Combination("stacking", dict.fromkeys(members, 1 / len(members)), coefficients, intercept)


_METHODS: dict[str, Callable[[_Seen, EnsembleRules], Combination]] = {
    "uniform": _uniform,
    "accuracy": _accuracy,
    "greedy": _greedy,
    "bagging": _bagging,
    "stacking": _stacking,
}


def _most_accurate(right: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.argsort(-right.mean(1), kind="stable")[:ENSEMBLE_LIBRARY]


def _shares(order: Sequence[int]) -> dict[int, float]:
    counts = {member: order.count(member) for member in dict.fromkeys(order)}
    return {member: count / len(order) for member, count in sorted(counts.items(), key=lambda item: -item[1])}


def _stacking_features(probabilities: Sequence[Floats]) -> Floats:
    logs = [np.log(np.maximum(member, _FLOOR)) for member in probabilities]
    return np.hstack([member - member.mean(1, keepdims=True) for member in logs])
