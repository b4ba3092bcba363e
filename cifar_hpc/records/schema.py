"""What the records say: frozen dataclasses that map one to one to JSON. Accuracy is a fraction; times are UTC ISO-8601."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from cifar_hpc.errors import RecordError

SCHEMA_VERSION = 1


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


class Record:
    """A dataclass that maps to a JSON object: unknown keys are kept out, missing ones must have a default."""

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises RecordError where a key is missing or the schema_version is newer than this program."""
        if data.get("schema_version", 0) > SCHEMA_VERSION:
            raise RecordError(
                f"schema_version {data['schema_version']} is newer than this program's {SCHEMA_VERSION}: update cifar-hpc"
            )
        try:
            return cls(**{name: read(data[name]) for name, read in _readers(cls).items() if name in data})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RecordError(f"not a {cls.__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord(Record):
    """One epoch of one trial: a line of metrics.jsonl, an entry of result.json's curves."""

    epoch: int  # from 1
    lr: float  # at the epoch's end
    train_loss: float | None  # mean over the epoch's augmented images, in train mode; None: not finite
    train_acc: float | None
    val_loss: float | None
    val_acc: float | None
    train_s: float
    val_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMetrics(Record):
    """One measurement of one split."""

    loss: float | None
    acc: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware(Record):
    """What a trial ran on."""

    device: str  # cpu, cuda
    name: str  # the processor's or GPU's name
    host: str
    world_size: int
    threads: int  # CPU threads of a process
    precision: str  # as resolved: fp32, bf16
    peak_memory_gb: float | None  # of the device; None where not measured


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord(Record):
    """trial.json: what is trained, written by the first attempt."""

    schema_version: int = SCHEMA_VERSION
    trial_id: str
    config: dict[str, Any]
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """claim-<attempt>.json: who runs the trial. Only the newest claim counts; its file's mtime is the owner's heartbeat."""

    schema_version: int = SCHEMA_VERSION
    trial_id: str
    attempt: int
    host: str
    boot_id: str  # a pid means nothing after a reboot
    pid: int
    pid_started: float  # the kernel's start time of that pid, clock ticks: pids are used again
    job: str  # <sweep>/<job id>
    claimed_at: str
    released_at: str | None = None  # the attempt ended in order, without a result
    restart_token: str | None = None  # the same in all starts of a job that its scheduler starts again; None: it does not
    shared_by: int = 1  # trials that the process was to train side by side, this one included
    lost_s: float | None = None  # see TrialResult; of the attempts before this one


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult(Record):
    """result.json: the truth about a finished trial. Written last, atomically, never changed."""

    schema_version: int = SCHEMA_VERSION
    trial_id: str
    point_id: str
    config: dict[str, Any]
    outcome: Outcome
    reason: str  # one sentence for a person
    curves: tuple[EpochRecord, ...]
    best_epoch: int | None  # by the objective on validation; None where no epoch was finite
    train: SplitMetrics | None  # at the best epoch
    val: SplitMetrics | None  # at the best epoch
    test: SplitMetrics | None  # measured once, with the best epoch's weights; None where there is no labelled test split
    classes: tuple[str, ...]
    train_n: int
    params_total: int
    params_trained: int
    frozen_blocks: int
    total_blocks: int
    flops: int | None  # multiply-adds x 2 of one forward pass of one image; None where not measured
    attempts: int
    train_s: float  # seconds in training and validation, all attempts that count
    trunk_shared_by: int  # trials that trained beside this one in its cohort, itself included
    started_at: str
    finished_at: str
    executor: str
    job: str
    hardware: Hardware
    provenance: Provenance
    lr_found: float | None = None  # by the range test of lr: auto
    micro_batch: int | None = None  # images that went through at once, where a batch did not fit the device's memory
    warnings: tuple[str, ...] = ()  # what a person should know of how the network was made and fitted
    # This trial's share of what earlier attempts, killed without a word, had trained since their last checkpoint; not in
    # train_s. Up to the last heartbeat, so at most HEARTBEAT_S short an attempt. None: not measured.
    lost_s: float | None = None
    saved_s: float | None = None  # in training, by batches and trunk passes that it shared with others; None: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord(Record):
    """error.json: why the last attempt of a trial failed."""

    schema_version: int = SCHEMA_VERSION
    trial_id: str
    attempt: int
    kind: str  # exception class, or a signal's or scheduler's word
    message: str
    traceback: str
    host: str
    job: str
    failed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleMember(Record):
    """One trial of an ensemble. weight: its share; temperature: what its logits are divided by before the softmax."""

    trial_id: str
    weight: float
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRecord(Record):
    """An ensemble as `predict` takes it: the weighted mean of its members' probabilities or, for stacking, softmax(C f + b)
    of f, the members' log-probabilities one after another, each less its mean over the classes."""

    schema_version: int = SCHEMA_VERSION
    method: str
    created_at: str
    classes: tuple[str, ...]
    members: tuple[EnsembleMember, ...]
    coefficients: tuple[tuple[float, ...], ...] | None  # C, classes x (members classes)
    intercept: tuple[float, ...] | None  # b, classes
    val_acc: float | None  # nested: members and weights chosen on other images; None: refits, which trained on them
    val_n: int | None
    test_acc: float | None
    test_n: int | None
    weights: str | None = None  # of a soup: the file of the members' mean, as seen from this one's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial(Record):
    """One trial of a plan. axes: the swept keys and their values, as the spec spells them. picks: what a search's sampler
    chose, by axis; empty where the spec itself says the trial."""

    trial_id: str
    point_id: str
    axes: dict[str, Any]
    config: dict[str, Any]
    picks: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRules(Record):
    """Which ensembles a sweep's report makes, as spec.sweep.Ensembling has it."""

    methods: tuple[str, ...]
    per_arch: int = 1
    above: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord(Record):
    """plan.json: the trials of a sweep, in the spec's order, and how they train together."""

    schema_version: int = SCHEMA_VERSION
    sweep: str
    created_at: str
    spec_path: str
    objective: str
    trials: tuple[PlannedTrial, ...]
    cohorts: tuple[tuple[str, ...], ...]  # trial ids
    resources: dict[str, Any] = dataclasses.field(default_factory=dict)  # of each job, as spec.sweep.Resources has them
    overrides: tuple[str, ...] = ()  # the `--set` arguments that changed the spec
    share: bool = True  # whether trials with a common trunk train side by side
    ensemble: EnsembleRules | None = None  # None: the usual ones
    command: tuple[str, ...] = ()  # what is typed to go on with it, where it is not `sweep` with its spec
    # Of a search: its definition, algorithm, num_points, scheduler, trials_at_most and first_job, the number of its first job.
    search: dict[str, Any] | None = None

    @property
    def trials_at_most(self) -> int:
        """Trials that the sweep will have; a search adds them one by one."""
        return max(len(self.trials), self.search["trials_at_most"] if self.search else 0)

    def ends(self, result: TrialResult) -> bool:
        """Whether the sweep is done with a trial that has this result. One that was pruned has ended for the search whose
        scheduler decided so, and for no other sweep."""
        if result.outcome is not Outcome.PRUNED:
            return True
        sweep, _, job = result.job.partition("/")
        return self.search is not None and sweep == self.sweep and int(job.rsplit("-", 1)[-1]) >= self.search["first_job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Record):
    """A line of jobs.jsonl. event: reserved (all job numbers up to this one), submitted, waiting, ended, cancelled.

    handle: what the backend calls the job.
    """

    schema_version: int = SCHEMA_VERSION
    at: str
    event: str
    job_id: str
    trial_ids: tuple[str, ...]
    executor: str
    handle: str
    detail: str = ""


Reader = Callable[[Any], Any]
_READERS: dict[type, dict[str, Reader]] = {}  # of each record class; resolving its types takes longer than reading a record


def _readers(cls: type) -> dict[str, Reader]:
    if cls not in _READERS:
        _READERS[cls] = {name: _reader(kind) for name, kind in typing.get_type_hints(cls).items()}
    return _READERS[cls]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    return value


def _reader(kind: Any) -> Reader:
    """What takes a JSON value as that type. It raises ValueError, or RecordError from a nested record."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        some = _reader(next(arg for arg in typing.get_args(kind) if arg is not type(None)))
        return lambda value: None if value is None else some(value)
    if origin is tuple:
        item = _reader(typing.get_args(kind)[0])
        return lambda value: tuple(map(item, _expect(list, value)))
    if isinstance(kind, type) and issubclass(kind, Record):
        return lambda value: kind.from_json(_expect(dict, value))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind
    if kind is float:
        return lambda value: float(value) if type(value) is int else _expect(float, value)
    return functools.partial(_expect, origin or kind)


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}, found {value!r:.60}")
    return value
