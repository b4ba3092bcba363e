"""The parts that a config names, each known by one entry: optimisers, schedules, classifiers, objectives.

An entry says everything that the package has to know of a part, so that what is not said cannot be guessed: an entry with a
field missing cannot be made, and a name without an entry raises. What needs torch is named as 'module:attribute' and imported
when it is first built, so that a login node knows every name. Knows no trial, and none of what it names.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cifar_hpc.errors import UnknownNameError

Target = str | Callable[..., Any]  # 'package.module:attribute', or the thing itself
EntryT = TypeVar("EntryT")


@functools.cache
def load(target: Target) -> Any:
    """What a target names; a module is imported when it is first asked for."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, EntryT], Generic[EntryT]):
    """Entries by name, in their order. what: the spec's key that names them."""

    def __init__(self, what: str, entries: Mapping[str, EntryT]) -> None:
        self.what = what
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> EntryT:
        """Raises UnknownNameError, a KeyError, with the names that there are and the nearest one."""
        if name not in self._entries:
            raise UnknownNameError(self.what, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return id(self)

    def names_where(self, test: Callable[[EntryT], bool]) -> tuple[str, ...]:
        return tuple(name for name, entry in self._entries.items() if test(entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerInfo:
    """build: (config, parameter groups, blocks) -> torch.optim.Optimizer; a group has 'params' and 'height', the blocks
    between it and the classifier. probe_rule: the rule of train/stack.RULES by which it is stepped as one batch of linear
    probes; None: it never is. momentum: whether the key `momentum` acts. usual_lr: the rate that its authors start from."""

    doc: str
    build: Target
    probe_rule: str | None
    momentum: bool
    usual_lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """shape: (step, steps), both counted after warm-up -> the learning rate as a share of its peak, 0..1.
    own_rise: whether it begins below its peak by itself, so that warmup_epochs does not act."""

    doc: str
    shape: Target
    own_rise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierInfo:
    """build: the kind of member that has it. trained: by steps; else fitted once to frozen features. keeps_weights: whether
    it is a layer of the network. probabilistic: whether the softmax of what it answers is a probability, as that of margins is
    not. argument, default: the trial key that steers it alone, if any."""

    doc: str
    build: Target
    trained: bool
    keeps_weights: bool
    probabilistic: bool
    argument: str | None
    default: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveInfo:
    """mode: max or min. noun: what a table calls it. share: whether it is one of 0..1, shown in percent. measure: (logits
    N x K, labels N), numpy -> its value, None where it is not defined; None: the loop's own accuracy or loss, under `metric`.
    counts: the same arguments -> what each image counts for it, N, more being better; None: the jackknife says. between: of one
    that takes more of the logits than each image's largest: the same arguments and an error N of logits -> the least and the
    largest that it may then be, None where it is not defined; its counts are stored, since those of rounded logits are others.
    sha256: of the code of one of the user's own; who reads results knows it from the plan, without its measure and counts."""

    doc: str
    mode: str
    noun: str
    share: bool
    metric: str | None = None
    measure: Target | None = None
    counts: Target | None = None
    between: Target | None = None
    sha256: str | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest that it can be."""
        return (0.0 if self.share or self.metric == "loss" else -math.inf), 1.0 if self.share else math.inf

    @property
    def difference_bounds(self) -> tuple[float, float]:
        """The least and the largest that the difference of two can be."""
        least, most = self.bounds
        return least - most, most - least


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentInfo:
    """An operation beyond the catalogue's. draw, change: as data/pixels.Operation has them; args: as in catalog.AUGMENT_OPS."""

    draw: Target
    change: Target
    args: Mapping[str, Any]


_OPTIMIZERS, _SHAPES, _MEMBERS = "cifar_hpc.train.optimizers", "cifar_hpc.config.schedule", "cifar_hpc.train.classifiers"
OPTIMIZERS: Registry[OptimizerInfo] = Registry(
    "optimizer",
    {
        "sgd": OptimizerInfo(
            doc="stochastic gradient descent with Nesterov momentum",
            build=f"{_OPTIMIZERS}:build_sgd",
            probe_rule="sgd",
            momentum=True,
            usual_lr=0.1,
        ),
        "adam": OptimizerInfo(doc="Adam", build=f"{_OPTIMIZERS}:build_adam", probe_rule="adam", momentum=False, usual_lr=1e-3),
        "adamw": OptimizerInfo(
            doc="Adam with decoupled weight decay",
            build=f"{_OPTIMIZERS}:build_adamw",
            probe_rule="adamw",
            momentum=False,
            usual_lr=1e-3,
        ),
        "muon": OptimizerInfo(
            doc="orthogonalised momentum of the hidden matrices, adamw for all other parameters",
            build=f"{_OPTIMIZERS}:build_muon",
            probe_rule=None,
            momentum=True,
            usual_lr=1e-3,
        ),
    },
)
SCHEDULES: Registry[ScheduleInfo] = Registry(
    "schedule",
    {
        "constant": ScheduleInfo(doc="the peak throughout", shape=f"{_SHAPES}:constant", own_rise=False),
        "cosine": ScheduleInfo(doc="half a cosine down to 0", shape=f"{_SHAPES}:cosine", own_rise=False),
        "linear": ScheduleInfo(doc="a straight line down to 0", shape=f"{_SHAPES}:linear", own_rise=False),
        "onecycle": ScheduleInfo(doc="a rise over 0.3 of the steps, then a fall", shape=f"{_SHAPES}:one_cycle", own_rise=True),
        "step": ScheduleInfo(doc="a tenth after half, a hundredth after 3/4", shape=f"{_SHAPES}:milestones", own_rise=False),
    },
)
CLASSIFIERS: Registry[ClassifierInfo] = Registry(
    "classifier",
    {
        "linear": ClassifierInfo(
            doc="trained with the rest",
            build="cifar_hpc.train.member:Member",
            trained=True,
            keeps_weights=True,
            probabilistic=True,
            argument=None,
            default=None,
        ),
        "svm": ClassifierInfo(
            doc="support vectors, linear, one against the rest",
            build=f"{_MEMBERS}:SvmMember",
            trained=False,
            keeps_weights=True,
            probabilistic=False,
            argument="svm_c",
            default=1.0,
        ),
        "logreg": ClassifierInfo(
            doc="multinomial logistic regression, by L-BFGS",
            build=f"{_MEMBERS}:LogregMember",
            trained=False,
            keeps_weights=True,
            probabilistic=True,
            argument="logreg_c",
            default="auto",
        ),
        "knn": ClassifierInfo(
            doc="a vote of the nearest neighbours",
            build=f"{_MEMBERS}:NeighboursMember",
            trained=False,
            keeps_weights=False,
            probabilistic=True,
            argument="knn_k",
            default=5,
        ),
    },
)
_METRICS = "cifar_hpc.config.metrics"
OBJECTIVES: Registry[ObjectiveInfo] = Registry(  # validation chooses: no other split may
    "objective.metric",
    {
        "val_acc": ObjectiveInfo(doc="share of images that are right", mode="max", metric="acc", noun="accuracy", share=True),
        "val_loss": ObjectiveInfo(doc="cross-entropy", mode="min", metric="loss", noun="loss", share=False),
        "balanced_acc": ObjectiveInfo(
            doc="mean over the classes of the share of their images that is right",
            mode="max",
            noun="balanced accuracy",
            share=True,
            measure=f"{_METRICS}:balanced_acc",
            counts=f"{_METRICS}:balanced_counts",
        ),
        "macro_f1": ObjectiveInfo(
            doc="mean of F1 over the classes",
            mode="max",
            noun="macro F1",
            share=True,
            measure=f"{_METRICS}:macro_f1",
            counts=f"{_METRICS}:f1_counts",
        ),
        "macro_auroc": ObjectiveInfo(
            doc="mean over the classes of the area under the ROC curve, each against the rest",
            mode="max",
            noun="macro AUROC",
            share=True,
            measure=f"{_METRICS}:macro_auroc",
            counts=f"{_METRICS}:auroc_counts",
            between=f"{_METRICS}:auroc_between",
        ),
    },
)


def measured_objectives() -> tuple[str, ...]:
    """The package's own beside accuracy and loss, which every trial measures at its best epoch."""
    return OBJECTIVES.names_where(lambda info: info.measure is not None)
