"""What executes on a node, whoever started it: claims trials, trains their cohorts, writes their records.

Knows files and the training loop; knows neither specs nor schedulers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import Dataset, Split, load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.loading import pack_weights
from cifar_hpc.models.summary import flops
from cifar_hpc.models.weights import weights_sha256
from cifar_hpc.models.zoo import build_model, in_channels, normalisation
from cifar_hpc.plan import Cohort, Job
from cifar_hpc.records import claims
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.parents import awaits_parent, with_parents_file
from cifar_hpc.records.schema import (
    Claim,
    EpochRecord,
    ErrorRecord,
    Outcome,
    TrialRecord,
    TrialResult,
)
from cifar_hpc.records.store import append_records, utc_now, write_atomic, write_record, write_records
from cifar_hpc.train.checkpoint import load_checkpoint, save_checkpoint
from cifar_hpc.train.classifiers import FittedMember, build_member
from cifar_hpc.train.distributed import World
from cifar_hpc.train.environment import choose_device, choose_precision, describe_hardware, describe_provenance
from cifar_hpc.train.launch import Link, run_ranks
from cifar_hpc.train.loop import EVAL_BATCH_SIZE, Hooks, Interrupted, evaluate, steps_per_epoch, train_cohort
from cifar_hpc.train.lr_finder import run_range_test
from cifar_hpc.train.measure import measure, metrics, split_arrays
from cifar_hpc.train.meeting import Failure, Meeting, MemberFailedError, RanksFailedError, Team
from cifar_hpc.train.member import Member
from cifar_hpc.train.taps import Feed, Trunk
from cifar_hpc.trial import DatasetConfig, TrialConfig

EpochHook = Callable[[str, EpochRecord], bool]

_MEETINGS = itertools.count()  # the launchers of all nodes go through the same ones, in the same order

__all__ = ["EpochHook", "Interrupted", "run_job"]


def run_job(
    job: Job,
    layout: Layout,
    *,
    executor: str,
    on_epoch: EpochHook | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Trains every trial of the job that no living attempt has and that is not finished.

    A trial that fails leaves error.json and the job goes on. on_epoch returning False ends that trial as PRUNED. Raises
    Interrupted, after checkpoints, once interrupted() is true; KeyboardInterrupt as it comes.

    Where the job asks for several processes, this one starts and watches them. On several nodes it is called on each.
    """
    torch.set_num_threads(job.resources.cpus_per_gpu)
    asked = job.resources
    team = Team.here(asked.processes, asked.gpus, asked.nodes)
    for cohort in job.cohorts:
        run = _CohortRun(job, layout, executor, on_epoch, interrupted)
        if team.size == 1:
            if interrupted():
                raise Interrupted
            run.run(cohort)
            continue
        meeting = Meeting(_meeting_folder(job, layout, team), team)
        with meeting.hold():
            if team.place:
                _follow(run, meeting)
            elif interrupted():
                raise Interrupted
            else:
                run.run(cohort, meeting)


def _meeting_folder(job: Job, layout: Layout, team: Team) -> Path:
    if team.launchers_n == 1:
        return Path(tempfile.mkdtemp(prefix="cifar-hpc-ranks-"))
    files, own = layout.sweep(job.sweep), os.environ["SLURM_JOB_ID"]
    start = f"{own}-{os.environ.get('SLURM_RESTART_COUNT', '0')}-"
    if team.place == 0:
        for path in set(files.meetings(f"{own}-")) - set(files.meetings(start)):  # of a start that was killed
            shutil.rmtree(path, ignore_errors=True)
    return files.meeting(f"{start}{job.job_id}-{next(_MEETINGS)}")  # a job that runs twice meets anew


def _follow(run: _CohortRun, meeting: Meeting) -> None:
    """A further node's part: starts its ranks, round after round; what becomes of them the first node judges and records."""
    asked = run.job.resources
    while True:
        with contextlib.suppress(RanksFailedError, Interrupted):
            run_ranks(_train_as_rank, None, meeting, timeout_s=asked.timeout_s, interrupted=run.interrupted)
        if not meeting.follow_leader(asked.timeout_s):
            return


def _train_as_rank(world: World, link: Link, order: _Order | None) -> None:
    """What each process of a world does. order: rank 0's; the others get it from there."""
    order = world.broadcast(order)
    assert order is not None
    torch.set_num_threads(order.job.resources.cpus_per_gpu)
    run = _CohortRun(order.job, order.layout, order.executor, link.epoch_ended, link.interrupted, order.attempts, world)
    run.cohort_n = order.cohort_n
    run.train()


@dataclass
class _Attempt:
    """One trial that this process owns."""

    config: TrialConfig
    files: TrialFiles
    claim: Claim
    started_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class _Order:
    """What a launcher has its ranks train. cohort_n: trials that began together."""

    job: Job
    layout: Layout
    executor: str
    attempts: dict[str, _Attempt]
    cohort_n: int


@dataclass
class _CohortRun:
    """One cohort on this node, from claims to results. world: of this process, which trains; a launcher's is one of one."""

    job: Job
    layout: Layout
    executor: str
    on_epoch: EpochHook | None
    interrupted: Callable[[], bool]
    attempts: dict[str, _Attempt] = field(default_factory=dict)
    world: World = field(default_factory=World)
    saved_at: float = field(default_factory=time.monotonic)
    starts: dict[float | None, BlockModel] = field(default_factory=dict)
    test: Feed | None = None

    def run(self, cohort: Cohort, meeting: Meeting | None = None) -> None:
        """Claims, trains here or in the ranks that meet there, and releases what has no result."""
        job_name = f"{self.job.sweep}/{self.job.job_id}"
        for config in cohort.trials:
            if awaits_parent(config, self.layout):  # it begins after its parent
                continue
            files = self.layout.trial(config.trial_id)
            claim = claims.claim_trial(files, config.trial_id, job_name)
            if claim is not None:
                self.attempts[config.trial_id] = _Attempt(config, files, claim)
        self.cohort_n = len(self.attempts)
        if not self.attempts:
            return
        paths = [attempt.files.claim(attempt.claim.attempt) for attempt in self.attempts.values()]
        with claims.heartbeat(paths):
            try:
                if meeting is None:
                    self.train()
                else:
                    self._train_in_ranks(meeting)
            except Exception as error:
                if isinstance(error, Interrupted):
                    raise
                for attempt in list(self.attempts.values()):
                    self._fail(attempt, error)
            finally:
                for attempt in self.attempts.values():
                    self._release(attempt)

    def _train_in_ranks(self, meeting: Meeting) -> None:
        """Has all ranks train the trials; where one trial ends them by its failure, the others go on from their checkpoints."""
        while True:
            order = _Order(self.job, self.layout, self.executor, self.attempts, self.cohort_n)
            try:
                run_ranks(
                    _train_as_rank,
                    order,
                    meeting,
                    timeout_s=self.job.resources.timeout_s,
                    interrupted=self.interrupted,
                    on_epoch=self.on_epoch,
                )
            except RanksFailedError as error:
                for attempt in list(self.attempts.values()):
                    if attempt.files.result.exists():
                        del self.attempts[attempt.claim.trial_id]
                    elif error.failure.trial_id in (None, attempt.claim.trial_id):
                        self._fail(attempt, error.failure)
                if self.attempts:
                    meeting.next_round()
                    continue
            return

    def train(self) -> None:
        """Trains the attempts to their ends, in this process of its world."""
        attempts = list(self.attempts.values())
        config = attempts[0].config
        for attempt in attempts:
            if self.world.leads and not attempt.files.trial.exists():
                record = TrialRecord(trial_id=attempt.claim.trial_id, config=attempt.config.to_json(), created_at=utc_now())
                write_record(attempt.files.trial, record)
        self.device = choose_device(self.job.resources.gpus)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.precision = choose_precision(config.precision, self.device)
        self.data = _load(config.dataset, _image_size(config))
        self.model_channels = in_channels(with_parents_file(config, self.layout), self.data.channels)
        self.trunk = Trunk(self._starting_model(config), self.precision)
        members = [member for member in map(self._member, attempts) if member is not None]
        if not members:
            return
        depths = {depth for member in members for depth in member.depths}
        steps = steps_per_epoch(config, len(self.data.train.labels_N))
        train = Feed(
            self.trunk,
            self._batches(config, self.data.train, augmented=True),
            depths,
            -(-len(self.data.train.labels_N) // steps),
            keep=config.augment == "none",
            training=True,
            world=self.world,
        )
        val = Feed(self.trunk, self._batches(config, self.data.val), depths, EVAL_BATCH_SIZE, keep=True, world=self.world)
        if self.data.test is not None:
            test = self._batches(config, self.data.test)
            self.test = Feed(self.trunk, test, depths, EVAL_BATCH_SIZE, keep=len(members) > 1, world=self.world)
        for images_n in (len(train) // steps, len(val), *([len(self.test)] if self.test is not None else [])):
            self.world.require(images_n)
        hooks = Hooks(
            epoch_ended=self._epoch_ended,
            finished=self._finish,
            failed=lambda member, error: self._fail(self.attempts[member.config.trial_id], error),
            save=self._save,
            check=self._check,
            save_due=self._save_due,
            interrupted=self.interrupted,
        )
        fitted = [member for member in members if isinstance(member, FittedMember)]
        for unfitted in fitted:
            self._fit(unfitted, train, val)
        for member in members:
            if member.config.lr == "auto" and member.progress.lr_found is None:
                self._find_lr(member, train)
        self._finish([member for member in members if not member.active])  # also those that died between last epoch and result
        train_cohort([m for m in members if m not in fitted and m.config.trial_id in self.attempts], train, val, hooks)

    def _find_lr(self, member: Member, train: Feed) -> None:
        try:
            start = self._starting_model(member.config)
            member.progress.lr_found = run_range_test(member, start, self.trunk.model, train).valley
        except Exception as error:
            self._fail(self.attempts[member.config.trial_id], error)

    def _fit(self, member: FittedMember, train: Feed, val: Feed) -> None:
        try:
            member.fit(train, val, len(self.data.classes))
        except Exception as error:
            self._fail(self.attempts[member.config.trial_id], error)

    def _member(self, attempt: _Attempt) -> Member | None:
        """The trial as its checkpoint left it, or at its beginning; None where it cannot be built."""
        try:
            steps = steps_per_epoch(attempt.config, len(self.data.train.labels_N))
            start = self._starting_model(attempt.config)
            member = build_member(attempt.config, start, self.trunk.model, steps, self.precision)
            member.join(self.world)
            state = None
            if self.world.leads:
                with contextlib.suppress(RecordError):  # a torn checkpoint is no checkpoint: begin again
                    state = load_checkpoint(attempt.files.checkpoint)
            state = self.world.broadcast(state)
            if state is not None:
                member.load_state_dict(state)
            if self.world.leads:
                write_records(attempt.files.metrics, member.progress.curves)
        except Exception as error:
            self._fail(attempt, error)
            return None
        return member

    def _starting_model(self, config: TrialConfig) -> BlockModel:
        """The network before its first step. Members of a cohort start alike but for their dropout."""
        if config.dropout not in self.starts:
            model = build_model(with_parents_file(config, self.layout), len(self.data.classes), self.model_channels)
            self.starts[config.dropout] = model.to(self.device).to(memory_format=torch.channels_last)
        return self.starts[config.dropout]

    def _normalisation(self, config: TrialConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return normalisation(with_parents_file(config, self.layout)) or (self.data.mean, self.data.std)

    def _batches(self, config: TrialConfig, split: Split, *, augmented: bool = False) -> Batches:
        mean, std = self._normalisation(config)
        return Batches(
            split,
            image_size=_image_size(config),
            in_channels=self.model_channels,
            mean=mean,
            std=std,
            augment=config.augment if augmented else "none",
            num_classes=len(self.data.classes),
            device=self.device,
        )

    def _epoch_ended(self, member: Member) -> None:
        if not self.world.leads:
            return
        attempt = self.attempts[member.config.trial_id]
        record = member.progress.curves[-1]
        if self.on_epoch is not None and not self.on_epoch(member.config.trial_id, record) and member.active:
            member.progress.outcome, member.progress.reason = (
                Outcome.PRUNED,
                f"ended by the scheduler after epoch {record.epoch}",
            )
        self._save(member)
        append_records(attempt.files.metrics, [record])

    def _save(self, member: Member) -> None:
        if not self.world.leads:
            return
        self._check(member)
        self.saved_at = time.monotonic()
        save_checkpoint(self.attempts[member.config.trial_id].files.checkpoint, member.state_dict())

    def _check(self, member: Member) -> None:
        if not self.world.leads:
            return
        attempt = self.attempts[member.config.trial_id]
        claims.check_claim(attempt.files, attempt.claim)

    def _save_due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.job.resources.checkpoint_minutes * 60

    def _finish(self, members: Sequence[Member]) -> None:
        """Measures the test split once with each member's best weights and writes the results."""
        measurable = [member for member in members if member.progress.best_epoch is not None]
        for member in measurable:
            member.load_best()
        logits = evaluate(measurable, self.test) if self.test is not None and measurable else []
        test_logits = dict(zip((member.config.trial_id for member in measurable), logits, strict=False))
        for member in members:
            attempt = self.attempts[member.config.trial_id]
            if not self.world.leads:
                continue
            try:
                self._write_result(member, attempt, test_logits.get(member.config.trial_id))
            except Exception as error:
                self._fail(attempt, error)

    def _write_result(self, member: Member, attempt: _Attempt, test_logits_NK: torch.Tensor | None) -> None:
        """Predictions first, the result last and atomically; then what only a running trial needs goes."""
        arrays = split_arrays("val", member.best_val_logits, self.data.val)
        if self.data.test is not None:
            arrays |= split_arrays("test", test_logits_NK, self.data.test)
        self._check(member)
        write_atomic(attempt.files.predictions, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))
        if member.config.keep == "weights" and member.progress.best_epoch is not None and member.config.classifier != "knn":
            weights = pack_weights(member.evaluated_model(), self._normalisation(member.config))
            write_atomic(attempt.files.weights, lambda stream: stream.write(weights))
        self._check(member)
        write_record(attempt.files.result, self._result(member, attempt, test_logits_NK))
        for path in (attempt.files.metrics, attempt.files.checkpoint, attempt.files.error):
            path.unlink(missing_ok=True)
        claims.remove_claims(attempt.files)
        del self.attempts[member.config.trial_id]

    def _result(self, member: Member, attempt: _Attempt, test_logits_NK: torch.Tensor | None) -> TrialResult:
        config, progress, data = member.config, member.progress, self.data
        best = progress.curves[progress.best_epoch - 1] if progress.best_epoch is not None else None
        train_n, val_n = len(data.train.labels_N), len(data.val.labels_N)
        return TrialResult(
            trial_id=config.trial_id,
            point_id=config.point_id,
            config=config.to_json(),
            outcome=progress.outcome or Outcome.FINISHED,
            reason=progress.reason,
            curves=tuple(progress.curves),
            best_epoch=progress.best_epoch,
            train=metrics(best.train_loss, best.train_acc, train_n) if best else None,
            val=metrics(best.val_loss, best.val_acc, val_n) if best else None,
            test=measure(test_logits_NK.cpu(), data.test) if data.test is not None and test_logits_NK is not None else None,
            classes=data.classes,
            train_n=train_n,
            params_total=sum(p.numel() for p in member.model.parameters()),
            params_trained=sum(p.numel() for p in member.suffix.parameters()),
            frozen_blocks=member.frozen,
            total_blocks=len(member.model.blocks),
            flops=flops(member.model, _image_size(config), self.model_channels),
            attempts=attempt.claim.attempt,
            train_s=round(progress.seconds, 3),
            trunk_shared_by=self.cohort_n,
            started_at=attempt.started_at,
            finished_at=utc_now(),
            executor=self.executor,
            job=attempt.claim.job,
            hardware=describe_hardware(self.device, self.precision, self.world.size),
            lr_found=progress.lr_found,
            micro_batch=progress.micro_batch,
            warnings=member.model.warnings,
            provenance=describe_provenance(
                data.sha256, weights_sha256(config.arch, with_parents_file(config, self.layout).weights)
            ),
        )

    def _fail(self, attempt: _Attempt, error: Exception | Failure) -> None:
        """Leaves error.json and gives the trial up; where another attempt owns it now, leaves it alone.

        A rank leaves that to its launcher: raises MemberFailedError, since the other ranks cannot go on without it.
        """
        if self.world.size > 1 and isinstance(error, Exception):
            raise MemberFailedError(attempt.claim.trial_id) from error
        failure = error if isinstance(error, Failure) else Failure.of(error)
        self.attempts.pop(attempt.claim.trial_id, None)
        if failure.kind == claims.ClaimLostError.__name__:
            return
        record = ErrorRecord(
            trial_id=attempt.claim.trial_id,
            attempt=attempt.claim.attempt,
            kind=failure.kind,
            message=failure.message,
            traceback=failure.traceback,
            host=attempt.claim.host,
            job=attempt.claim.job,
            failed_at=utc_now(),
        )
        try:
            write_record(attempt.files.error, record)
        except OSError as unwritable:  # a full disk: the next attempt may still begin at once
            print(f"trial {record.trial_id}: {record.kind}: {record.message}; not recorded: {unwritable}", file=sys.stderr)
        self._release(attempt)

    def _release(self, attempt: _Attempt) -> None:
        with contextlib.suppress(OSError, claims.ClaimLostError):
            claims.check_claim(attempt.files, attempt.claim)
            claims.release_claim(attempt.files, attempt.claim)


@functools.lru_cache(maxsize=2)
def _load(config: DatasetConfig, image_size: int) -> Dataset:
    return load_dataset(config, image_size, data_root())


def _image_size(config: TrialConfig) -> int:
    if config.image_size is None:
        raise CifarHpcError(f"trial {config.trial_id} has no image_size: a spec fills it in from the data set")
    return config.image_size
