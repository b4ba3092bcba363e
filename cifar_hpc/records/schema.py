"""What the records say: frozen dataclasses that map one to one to JSON. Accuracy is a fraction; times are UTC ISO-8601.

Owns the records of trials, plans and ensembles; of jobs jobs.py, of what a sweep took usage.py. How they are read: codec.py.
Knows no file.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from cifar_hpc.config.registry import CLASSIFIERS, OBJECTIVES
from cifar_hpc.records.codec import SCHEMA_VERSION, Amount, Count, Int, Name, Number, Plain, Record, SealedRecord, Share


class Status(StrEnum):
    """Where a trial stands. LOST is never written: a reader infers it from a claim whose owner is gone."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    LOST = "lost"


class Outcome(StrEnum):
    """Why a trial with a result ended."""

    FINISHED = "finished"  # all epochs
    EARLY_STOPPED = "early_stopped"  # its own patience
    OUT_OF_TIME = "out_of_time"  # its own max_minutes
    DIVERGED = "diverged"  # loss or weights not finite
    PRUNED = "pruned"  # a search scheduler's decision; its status is STOPPED

    @property
    def is_from_outside(self) -> bool:
        """Whether others, or a clock, ended it, and not what it measured: trained again by itself it would go on."""
        return self in (Outcome.PRUNED, Outcome.OUT_OF_TIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord(Record):
    """One epoch of one trial: a line of metrics.jsonl, an entry of result.json's curves."""

    epoch: Number
    lr: float  # at the epoch's end
    train_loss: Amount | None  # mean over the epoch's augmented images, in train mode; None: not finite
    train_acc: Share | None
    val_loss: Amount | None
    val_acc: Share | None
    train_s: Amount
    val_s: Amount
    objective: float | None = None  # on validation, where it is neither accuracy nor loss

    def value(self, metric: str | None) -> float | None:
        """Of the trial's objective; metric: acc or loss where it is one of them."""
        value: float | None = getattr(self, f"val_{metric}") if metric else self.objective
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMetrics(Record):
    """One measurement of one split: mean cross-entropy, share of the n images that are right."""

    loss: Amount | None
    acc: Share
    n: Number
    more: dict[str, float] = dataclasses.field(default_factory=dict)  # objectives beside these, by name

    def __post_init__(self) -> None:
        for name, value in self.more.items():
            if name in OBJECTIVES and OBJECTIVES[name].share and not 0 <= value <= 1:
                raise ValueError(f"{name} {value} is no share")

    def value(self, objective: str, metric: str | None) -> float | None:
        """Of the objective; metric: acc or loss where it is one of them."""
        value: float | None = getattr(self, metric) if metric else self.more.get(objective)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware(Record):
    """What a trial ran on."""

    device: str  # cpu, cuda
    name: str  # the processor's or GPU's name
    host: str
    world_size: Number
    threads: Number  # CPU threads of a process
    precision: str  # as resolved: fp32, tf32, bf16
    peak_memory_gb: Amount | None  # of the device; None where not measured
    gpu_share: Amount | None = None  # of its GPU, 0..1, where the job asked for no whole one
    graphs: str | None = None  # of a GPU: whether its steps were captured as CUDA graphs, and why not; None where not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance(Record):
    """With which code a trial ran. commit, diff_sha256: None outside a git checkout, diff_sha256 None where clean."""

    cifar_hpc: str
    python: str
    torch: str
    torchvision: str
    commit: str | None
    diff_sha256: str | None
    data_sha256: str | None  # of the images and labels that were loaded
    weights_sha256: str | None
    timm: str | None = None  # where the network is one of its
    sources: tuple[str, ...] = ()  # the user's own code that the trial is made of, with its hash


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord(Record):
    """trial.json: what is trained, written by the first attempt."""

    schema_version: Int = SCHEMA_VERSION
    trial_id: Name
    config: Plain
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """claim-<attempt>.json: who runs the trial. Only the newest claim counts; its file's mtime is the owner's heartbeat."""

    schema_version: Int = SCHEMA_VERSION
    trial_id: Name
    attempt: Number
    host: str
    boot_id: str  # a pid means nothing after a reboot
    pid: Number
    pid_started: Amount  # the kernel's start time of that pid, clock ticks: pids are used again
    job: str  # <sweep>/<job id>
    claimed_at: str  # or when it began to train, of one that waited
    released_at: str | None = None  # the attempt ended in order, without a result
    restart_token: str | None = None  # the same in all starts of a job that its scheduler starts again; None: it does not
    shared_by: Number = 1  # trials that the process was to train side by side, this one included
    device: str | None = None  # as Hardware has it; this and devices are None in older claims, and where nothing is trained
    devices: Amount | None = None  # that its processes train on; of a GPU that jobs share, this one's part
    lost_s: Amount | None = None  # see TrialResult; of the attempts before this one
    waits: bool = False  # its process trains others of the cohort before it: other folds, or what the memory holds at once
    ended: str | None = None  # of a released one under a scheduler: by the job's time limit (time), or on request (asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult(SealedRecord):
    """result.json: the truth about a finished trial. Written last, atomically, never changed, but that `reproduce` adds the
    digest of a network that it brings back."""

    schema_version: Int = SCHEMA_VERSION
    trial_id: Name
    point_id: Name
    config: Plain
    outcome: Outcome
    reason: str  # one sentence for a person
    curves: tuple[EpochRecord, ...]
    best_epoch: Number | None  # by the objective on validation; None where no epoch was finite
    train: SplitMetrics | None  # at the best epoch
    val: SplitMetrics | None  # at the best epoch
    test: SplitMetrics | None  # measured once, with the best epoch's weights; None where there is no labelled test split
    classes: tuple[str, ...]
    train_n: Count
    params_total: Count
    params_trained: Count
    frozen_blocks: Count
    total_blocks: Count
    flops: Count | None  # multiply-adds x 2 of one forward pass of one image; None where not measured
    attempts: Number
    train_s: Amount  # seconds in training and validation, all attempts that count
    trunk_shared_by: Number  # trials that trained beside this one in its cohort, itself included
    started_at: str
    finished_at: str
    executor: str
    job: str
    hardware: Hardware
    provenance: Provenance
    lr_found: Amount | None = None  # by the range test of lr: auto
    c_found: Amount | None = None  # on validation, of svm_c or logreg_c: auto
    micro_batch: Number | None = None  # images that went through at once, where a batch did not fit the device's memory
    warnings: tuple[str, ...] = ()  # what a person should know of how the network was made and fitted
    # This trial's share of what earlier attempts that failed, or were killed, had trained since their last checkpoint; not in
    # train_s. Of one that was killed up to the last heartbeat, so at most HEARTBEAT_S short. None: not measured.
    lost_s: Amount | None = None
    saved_s: Amount | None = None  # in training, by batches and trunk passes that it shared with others; None: not measured
    task: str | None = None  # what finished it under a scheduler, as its claim's restart_token
    kept_sha256: str | None = None  # of weights.safetensors; None: it kept none, or is older than this key

    def mend(self) -> str:
        return "a retry trains it again"

    def __post_init__(self) -> None:
        """Raises ValueError where it contradicts itself."""
        if [epoch.epoch for epoch in self.curves] != list(range(1, len(self.curves) + 1)):
            raise ValueError("the epochs of its curves are not 1, 2, 3, ...")
        if self.frozen_blocks > self.total_blocks or self.params_trained > self.params_total:
            raise ValueError("more is frozen or trained than there is")
        if self.best_epoch is not None:
            self._check_best(self.best_epoch)

    def _check_best(self, best_epoch: int) -> None:
        if best_epoch > len(self.curves):
            raise ValueError(f"best_epoch {best_epoch} is not among its {len(self.curves)} epochs")
        at_best = self.curves[best_epoch - 1]
        for split, found in (("train", self.train), ("val", self.val)):  # of val's loss its predictions tell
            curve: float | None = getattr(at_best, f"{split}_acc")
            if found and curve is not None and abs(found.acc - curve) > 1e-6:
                raise ValueError(f"{split}.acc {found.acc:.4f} is not the curve's {curve:.4f} at its best epoch {best_epoch}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord(Record):
    """error.json: why the last attempt of a trial failed."""

    schema_version: Int = SCHEMA_VERSION
    trial_id: Name
    attempt: Count
    kind: str  # exception class, or a signal's or scheduler's word
    message: str
    traceback: str
    host: str
    job: str
    failed_at: str
    task: str | None = None  # as in TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleMember(Record):
    """One trial of an ensemble. weight: its share; temperature: what its logits are divided by before the softmax."""

    trial_id: Name
    weight: Share
    temperature: Annotated[float, Field(gt=0)]
    predictions_sha256: str | None = None  # of its predictions.npz at that time; None: it had none, or is older than this key


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRecord(SealedRecord):
    """An ensemble as `predict` takes it: the weighted mean of its members' probabilities or, for stacking, softmax(C f + b)
    of f, the members' log-probabilities one after another, each less its mean over the classes."""

    schema_version: Int = SCHEMA_VERSION
    method: str
    created_at: str
    classes: tuple[str, ...]
    members: tuple[EnsembleMember, ...]
    coefficients: tuple[tuple[float, ...], ...] | None  # C, classes x (members classes)
    intercept: tuple[float, ...] | None  # b, classes
    val_acc: Share | None  # nested: members and weights chosen on other images; None: refits, which trained on them
    val_n: Number | None
    test_acc: Share | None
    test_n: Number | None
    weights: str | None = None  # of a soup: the file of the members' mean, as seen from this one's folder
    weights_sha256: str | None = None  # its digest

    def mend(self) -> str:
        return "`cifar-hpc report`, or the `soup` or `refit` that wrote it, makes it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial(Record):
    """One trial of a plan. axes: the swept keys and their values, as the spec spells them. picks: what a search's sampler
    chose, by axis; empty where the spec itself says the trial. resources: what it has other than the plan's."""

    trial_id: Name
    point_id: Name
    axes: Plain
    config: Plain
    picks: Plain = dataclasses.field(default_factory=dict)
    resources: Plain = dataclasses.field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """As epochs_in has it."""
        return epochs_in(self.config)


def epochs_in(config: Mapping[str, Any]) -> int:
    """The epochs that a trial of this config is to train; 0 where its classifier is fitted, which stands as an epoch in its
    curves."""
    classifier = CLASSIFIERS.get(str(config.get("classifier", "linear")))
    return 0 if classifier and not classifier.trained else int(config["epochs"])


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRules(Record):
    """Which ensembles a sweep's report makes, as spec.sweep.Ensembling has it."""

    methods: tuple[str, ...]
    per_arch: Count = 1
    above: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule(Record):
    """Whose networks stay, as spec.parts.Keep has it."""

    best: Count = 1
    max_gb: Amount = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnObjective(Record):
    """What who ranks has to know of an objective of the user's own, as config.registry.ObjectiveInfo has it."""

    mode: Literal["max", "min"]
    noun: str
    share: bool
    sha256: str  # of its code: objectives of one name are the same where this is


class Ended(Protocol):
    """A result, or a row of one."""

    @property
    def trial_id(self) -> str: ...

    @property
    def outcome(self) -> Outcome: ...

    @property
    def job(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord(SealedRecord):
    """plan.json: the trials of a sweep, in the spec's order, and how they train together."""

    schema_version: Int = SCHEMA_VERSION
    sweep: Name
    created_at: str
    spec_path: str
    objective: str
    trials: tuple[PlannedTrial, ...]
    cohorts: tuple[tuple[Name, ...], ...]  # trial ids
    resources: Plain = dataclasses.field(default_factory=dict)  # of each job, as spec.sweep.Resources has them
    overrides: tuple[str, ...] = ()  # the `--set` arguments that changed the spec
    where: tuple[str, ...] = ()  # the options that said where it runs when it was typed last, such as --on ray
    findings: tuple[str, ...] = ()  # what is worth knowing of the images and weights files that it trains with
    # Of which data sets each of them is, by DatasetConfig.digest; one that is not here is of all.
    findings_of: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    share: bool = True  # whether trials with a common trunk train side by side
    ensemble: EnsembleRules | None = None  # None: the usual ones
    keep: KeepRule | None = None  # whose networks stay, of the trials that do not say so themselves
    command: tuple[str, ...] = ()  # what is typed to go on with it, where it is not `sweep` with its spec
    promise: dict[str, float] = dataclasses.field(default_factory=dict)  # by features_id: those of more start first
    own_objective: OwnObjective | None = None  # where `objective` is one that a plug-in registers
    # Of a search: its definition, algorithm, num_points, scheduler, trials_at_most (once it has sampled
    # all that it will: those that it has) and first_job, the number of its first job.
    search: Plain | None = None
    # Where the trials of each cohort are judged together: the keys of the scheduler, and first_job, the number of the first job
    # that ended trials by them.
    halving: Plain | None = None

    def mend(self) -> str:
        again = shlex.join(self.command) if self.command else "cifar-hpc sweep SPEC"
        return f"put it back as it was, or move it away, and `{again}` plans it from the beginning"

    @property
    def trials_at_most(self) -> int:
        """Trials that the sweep will have; a search adds them one by one."""
        return max(len(self.trials), self.search["trials_at_most"] if self.search else 0)

    @property
    def to_come(self) -> int:
        """Trials that a search may still sample, at most."""
        return self.trials_at_most - len(self.trials)

    @property
    def is_population(self) -> bool:
        """Whether the best go on from generation to generation."""
        return bool(self.search and (self.search.get("scheduler") or {}).get("name") == "pbt")

    @property
    def samples_anew(self) -> bool:
        """Whether with another number of seeds its search has other configurations, as its sampler or scheduler goes by what
        was measured; random values stay."""
        return self.is_population or bool(self.search and self.search.get("algorithm") != "random")

    def ends(self, result: Ended) -> bool:
        """Whether the sweep is done with a trial that has this result. One that was pruned has ended for the search whose
        scheduler decided so, and for no other sweep."""
        if result.outcome is not Outcome.PRUNED:
            return True
        sweep, _, job = result.job.partition("/")
        number = job.rpartition("-")[2]
        judged = self.search or self.halving
        return judged is not None and sweep == self.sweep and number.isdecimal() and int(number) >= judged["first_job"]
