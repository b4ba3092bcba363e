"""Which trials train side by side. Trials that differ only in what comes after a common frozen trunk share its forward passes.

Owns: Cohort, what the members of one must have in common, when a cohort is full, the estimated work. Imports no torch.

Work is counted in forward passes of one image through the network, by FLOPs: a frozen step costs its trunk's share s of one
pass and three times the rest (forward, and backward at twice that), and a trunk whose outputs are kept is passed once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from cifar_hpc.config import catalog
from cifar_hpc.config.architecture import known_architecture
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.keys import Role
from cifar_hpc.config.own import OwnNetwork
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.trained import ever_trained
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.planning.halving import Rungs

MOST_MEMBERS = 64
MOST_PROBES = 1024  # linear classifiers, which are stepped as one
# A cohort is full once its trunk is so small a share of its work: more members would save nothing more. Linear classifiers
# join all the same.
TRUNK_FRAC = 0.05
MEMBER_COPIES = 5  # of a member's trained weights in memory: itself, gradient, two moments, best epoch
MEMBER_MEMORY_GB = 8.0  # for all copies of a cohort where the spec states no memory_gb, of which they may take half
CIFAR_STEM_FLOPS = 16  # times the FLOPs of the ImageNet stem, which takes every fourth pixel of rows and columns
UNKNOWN_FLOPS = 1e9  # of an image of 224 pixels through a network of the user's own
DEFAULT_TRAIN_N = 50_000  # images, where neither spec nor catalogue tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Trials trained side by side, so that their common trunk runs once for all. rungs: where they are judged together; None:
    each gets all its epochs."""

    trials: tuple[TrialConfig, ...]
    rungs: Rungs | None = None

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(trial.trial_id for trial in self.trials)


def alone(trials: Sequence[TrialConfig]) -> tuple[Cohort, ...]:
    """Every trial in a cohort of its own."""
    return tuple(Cohort(trials=(trial,)) for trial in trials)


def group_cohorts(trials: Sequence[TrialConfig], memory_gb: float | None, *, whole_points: bool = False) -> tuple[Cohort, ...]:
    """The trials in cohorts, in the order of each cohort's first trial.

    A trial that freezes nothing trains alone, but for one that is a linear classifier whole: those are stepped as one.
    whole_points: all folds of a configuration are in one cohort, since they are judged together.
    """
    groups: dict[object, list[TrialConfig]] = {}
    for trial in trials:
        groups.setdefault(_common(trial, whole_points) if _shares(trial) else trial.trial_id, []).append(trial)
    position = {trial.trial_id: i for i, trial in enumerate(trials)}
    cohorts = [cohort for group in groups.values() for cohort in _fill(group, memory_gb, whole_points)]
    return tuple(sorted(cohorts, key=lambda cohort: min(position[trial_id] for trial_id in cohort.trial_ids)))


def work_of(cohort: Cohort) -> float:
    """Estimated FLOPs of training a cohort to its last epoch, validation and test left out."""
    first = cohort.trials[0]
    return (
        (image_flops(first) or UNKNOWN_FLOPS * ((first.image_size or 224) / 224) ** 2)
        * train_images(first)
        * (trunk_passes(cohort.trials) * _trunk_share(cohort.trials) + _suffix_passes(cohort.trials))
    )


def image_flops(trial: TrialConfig) -> float | None:
    """Estimated FLOPs of one image at its size through the network; None where no table tells of it."""
    info = known_architecture(trial.network)
    finer = CIFAR_STEM_FLOPS if trial.stem == "cifar" else 1
    return info.flops * ((trial.image_size or 224) / 224) ** 2 * finer if info else None


def train_images(trial: TrialConfig) -> float:
    """Estimated images of its training split."""
    return known_train_images(trial.dataset) or trial.dataset.trained_of(DEFAULT_TRAIN_N)


def known_train_images(dataset: DatasetConfig) -> float | None:
    """The same, where spec or catalogue tells."""
    labelled_n = dataset.train_size or dataset.labelled or catalog.labelled_images(dataset.name, dataset.classes)
    return None if labelled_n is None else dataset.trained_of(labelled_n)


def trunk_passes(trials: Sequence[TrialConfig]) -> int:
    """How often the images of the training split go through the common trunk of these trials, trained side by side."""
    if not any(_depth(trial) > 0 for trial in trials):
        return 0
    return 1 if trials[0].augment == "none" else max(trial.epochs for trial in trials)


def _fill(group: Sequence[TrialConfig], memory_gb: float | None, whole_points: bool) -> list[Cohort]:
    """Cuts a group of equal trunks into cohorts, the deepest trunks first."""
    room_gb = (memory_gb or 2 * MEMBER_MEMORY_GB) / 2
    filled, filling = [], _Filling()
    for trial in sorted(group, key=_depth, reverse=True):
        goes_on = whole_points and filling.members and filling.members[-1].point_id == trial.point_id
        if filling.members and not goes_on and not filling.takes(trial, room_gb):
            filled.append(filling)
            filling = _Filling()
        filling.add(trial)
    return [Cohort(trials=tuple(one.members)) for one in [*filled, filling]]


@dataclass
class _Filling:
    """A cohort in the making. Its sums are kept: to add up thousands of linear classifiers for each further one would take
    minutes."""

    members: list[TrialConfig] = field(default_factory=list)
    trunk_passes: int = 0
    trunk_share: float = 0.0
    suffix_passes: float = 0.0
    memory_gb: float = 0.0

    def takes(self, trial: TrialConfig, room_gb: float) -> bool:
        linear = _is_linear(trial)
        trunk = self.trunk_passes * self.trunk_share
        small = trunk <= TRUNK_FRAC * (trunk + self.suffix_passes) and not linear
        full = len(self.members) >= (MOST_PROBES if linear else MOST_MEMBERS) or small
        return not full and self.memory_gb + _memory_gb(trial) <= room_gb

    def add(self, trial: TrialConfig) -> None:
        self.members.append(trial)
        self.trunk_passes = max(self.trunk_passes, trunk_passes([trial]))
        self.trunk_share = max(self.trunk_share, _trunk_share([trial]))
        self.suffix_passes += _suffix_passes([trial])
        self.memory_gb += _memory_gb(trial)


def _common(trial: TrialConfig, whole_points: bool) -> tuple[object, ...]:
    """Folds of one trunk share its features, where weights that all start from make the trunk and nothing is augmented."""
    folds_share = whole_points or (trial.weights is not None and trial.augment == "none")
    dataset = trial.dataset.of_fold if folds_share else trial.dataset
    return tuple(dataset if name == "dataset" else getattr(trial, name) for name in _COMMON_KEYS)


_COMMON_KEYS = [key for key in keys_with(Role.COMMON) if "." not in key]


def _shares(trial: TrialConfig) -> bool:
    """Whether some blocks run frozen, or all that there is to train is a linear classifier."""
    if trial.stop.max_minutes is not None:
        return False  # its time would depend on its company
    return _depth(trial) > 0 or _is_linear(trial)


def _is_linear(trial: TrialConfig) -> bool:
    """Whether the classifier is all that it trains."""
    names = _blocks(trial.network)
    return names is not None and _depth(trial) == len(names) - 1


def _trunk_share(trials: Sequence[TrialConfig]) -> float:
    return max(_flop_share(trial.network, 0, _depth(trial)) for trial in trials)


def _suffix_passes(trials: Sequence[TrialConfig]) -> float:
    return sum(trial.epochs * 3 * _suffix_share(trial) for trial in trials)


def _suffix_share(trial: TrialConfig) -> float:
    """Of a pass of the network as the catalogue counts it, which is of 1000 classes."""
    info = known_architecture(trial.network)
    if info is None:
        return 1.0
    last = len(info.blocks) - 1
    classifier = _flop_share(trial.network, last, last + 1) * _classes(trial) / 1000
    return _flop_share(trial.network, _depth(trial), last) + classifier


def _classes(trial: TrialConfig) -> int:
    return len(trial.dataset.classes or catalog.dataset(trial.dataset.name).classes) or 1000


def parts_of(trials: Sequence[TrialConfig], room_gb: float) -> list[list[TrialConfig]]:
    """A cohort's trials, in their order, in parts whose members take at most so much memory; one alone may take more."""
    parts: list[list[TrialConfig]] = []
    left_gb = 0.0
    for trial in trials:
        size_gb = _memory_gb(trial)
        if not parts or size_gb > left_gb:
            parts.append([])
            left_gb = room_gb
        parts[-1].append(trial)
        left_gb -= size_gb
    return parts


def _memory_gb(trial: TrialConfig) -> float:
    info = known_architecture(trial.network)
    if info is None:
        return 0.0
    side_frac = (trial.image_size or 224) / 224 if len(info.blocks) == 1 else 1.0  # a classifier of pixels
    classifier = info.block_params[-1] * _classes(trial) / 1000 * side_frac**2
    return MEMBER_COPIES * 4 * (sum(info.block_params[_depth(trial) : -1]) + classifier) / 1e9


def _depth(trial: TrialConfig) -> int:
    """Blocks of the trunk: those before the first that the trial ever trains."""
    names = _blocks(trial.network)
    return 0 if names is None else ever_trained(trial, names).index(True)


@functools.cache
def _blocks(arch: str | OwnNetwork) -> tuple[str, ...] | None:
    info = known_architecture(arch)
    return info.blocks if info else None


@functools.cache
def _flop_share(arch: str | OwnNetwork, first: int, end: int) -> float:
    info = known_architecture(arch)
    return sum(info.flop_shares[first:end]) if info else 0.0
