"""What of ended trials goes on disk: result, predictions and weights, of many in one go.

Owns: Results. Knows neither when trials end nor who may go on in their place.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cifar_hpc.config.plugins import objective_of
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.trained import trained_in
from cifar_hpc.config.trial import BY_RULE
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.deltas import pack_trained
from cifar_hpc.records.schema import Hardware, Outcome, Provenance, TrialResult
from cifar_hpc.records.store import utc_now
from cifar_hpc.records.ties import CLASSES
from cifar_hpc.train.graphs import Graphs
from cifar_hpc.train.inspection import Arrays, Insight, worst_errors
from cifar_hpc.train.lanes import one_thread
from cifar_hpc.train.measure import measure, metrics, split_arrays
from cifar_hpc.train.member import Member
from cifar_hpc.worker.attempt import Attempt
from cifar_hpc.worker.environment import describe_hardware, describe_provenance
from cifar_hpc.worker.inputs import Inputs
from cifar_hpc.worker.keeper import Keeper

WRITERS = 16  # threads that write records side by side: they wait for the disk, not for each other
WRITTEN_AT_ONCE = 64  # trials whose records are in memory at once


@dataclass(frozen=True)
class _Ended:
    """A trial that is over, with all of its network that its records need; logits NK on the CPU, None: not measured."""

    member: Member
    attempt: Attempt
    val_NK: Tensor | None
    test_NK: Tensor | None
    seen: Arrays
    weights: bytes | None
    flops: int
    provenance: Provenance


class Results:
    """Of trials that one process trains side by side. part_n: trials that shared a trunk; world_size: processes that trained
    each; gpus: as the job asked for them."""

    def __init__(
        self,
        executor: str,
        part_n: int,
        inputs: Inputs,
        keeper: Keeper,
        graphs: Graphs,
        insight: Insight,
        world_size: int,
        gpus: float | None = None,
    ) -> None:
        self._executor, self._part_n = executor, part_n
        self._inputs, self._keeper, self._graphs, self._insight = inputs, keeper, graphs, insight
        self._world_size, self._gpus = world_size, gpus
        self._frozen_params: dict[int, int] = {}  # by the number of blocks
        self._cores = threading.Semaphore(torch.get_num_threads())

    def write(
        self,
        over: Sequence[tuple[Member, Attempt]],
        test_logits: Mapping[str, Tensor],
        failed: Callable[[Attempt, Exception], None],
    ) -> None:
        """Of members whose best weights are in place. test_logits: by trial, of those that were measured; failed: is told of
        one whose records could not be written, which fails that trial alone."""
        for start in range(0, len(over), WRITTEN_AT_ONCE):
            self._write(over[start : start + WRITTEN_AT_ONCE], test_logits, failed)

    def _write(
        self,
        over: Sequence[tuple[Member, Attempt]],
        test_logits: Mapping[str, Tensor],
        failed: Callable[[Attempt, Exception], None],
    ) -> None:
        val = _on_host([member.best_val_logits for member, _ in over])
        test = _on_host([test_logits.get(member.config.trial_id) for member, _ in over])
        hardware = describe_hardware(
            self._inputs.device, self._inputs.precision, self._world_size, self._graphs.note, self._gpus
        )
        looked: list[_Ended] = []
        for (member, attempt), val_NK, test_NK in zip(over, val, test, strict=True):
            try:
                looked.append(self._look_at(member, attempt, val_NK, test_NK))
            except Exception as error:
                failed(attempt, error)
        with one_thread(), ThreadPoolExecutor(WRITERS) as pool:
            writings = [(ended.attempt, pool.submit(self._finish, ended, hardware)) for ended in looked]
            for attempt, writing in writings:
                try:
                    writing.result()
                except Exception as error:
                    failed(attempt, error)

    def _look_at(self, member: Member, attempt: Attempt, val_NK: Tensor | None, test_NK: Tensor | None) -> _Ended:
        return _Ended(
            member,
            attempt,
            val_NK,
            test_NK,
            self._insight.arrays(member) if val_NK is not None or test_NK is not None else {},
            self._weights_of(member),
            self._inputs.flops,
            describe_provenance(member.config, self._inputs.data.sha256, self._inputs.weights_sha256),
        )

    def _weights_of(self, member: Member) -> bytes | None:
        """Of the network as it stands, where it is kept."""
        if member.progress.best_epoch is None or not CLASSIFIERS[member.config.classifier].keeps_weights:
            return None
        kept = member.config.keep
        if kept == "weights" or (kept == BY_RULE and self._keeper.takes(member.config.trial_id)):
            return pack_trained(member.evaluated_model(), self._inputs.normalisation, self._inputs.start)
        return None

    def _finish(self, ended: _Ended, hardware: Hardware) -> None:
        with self._cores:  # who computes takes turns; who waits for the disk does not
            arrays, result = self._arrays(ended), self._result(ended, hardware)
        ended.attempt.finish(result, arrays, ended.weights)

    def _arrays(self, ended: _Ended) -> Arrays:
        """Of predictions.npz."""
        data, objective = self._inputs.data, objective_of(ended.member.config)
        arrays = split_arrays("val", ended.val_NK, data.val, objective) | ended.seen
        if data.test is not None and ended.test_NK is not None:
            arrays |= split_arrays("test", ended.test_NK, data.test, objective)
            arrays |= worst_errors("test", data.test, ended.test_NK)
        elif ended.val_NK is not None:
            arrays |= worst_errors("val", data.val, ended.val_NK)
        arrays[CLASSES] = np.array(data.classes)
        return arrays

    def _result(self, ended: _Ended, hardware: Hardware) -> TrialResult:
        member, attempt, data = ended.member, ended.attempt, self._inputs.data
        config, progress = member.config, member.progress
        best = progress.curves[progress.best_epoch - 1] if progress.best_epoch is not None else None
        return TrialResult(
            trial_id=config.trial_id,
            point_id=config.point_id,
            config=config.to_json(),
            outcome=progress.outcome or Outcome.FINISHED,
            reason=progress.reason,
            curves=tuple(progress.curves),
            best_epoch=progress.best_epoch,
            train=metrics(best.train_loss, best.train_acc, None, data.train, config) if best else None,
            val=metrics(best.val_loss, best.val_acc, ended.val_NK, data.val, config) if best else None,
            test=None if data.test is None or ended.test_NK is None else measure(ended.test_NK, data.test, config),
            classes=data.classes,
            train_n=len(data.train.labels_N),
            params_total=self._params_of(member),
            params_trained=_trained(member),
            frozen_blocks=member.frozen,
            total_blocks=len(member.model.blocks),
            flops=ended.flops,
            attempts=attempt.claim.attempt,
            train_s=round(progress.seconds, 3),
            trunk_shared_by=self._part_n,
            started_at=attempt.started_at,
            finished_at=utc_now(),
            executor=self._executor,
            job=attempt.claim.job,
            task=attempt.claim.restart_token,
            kept_sha256=None if ended.weights is None else hashlib.sha256(ended.weights).hexdigest(),
            hardware=hardware,
            lr_found=progress.lr_found,
            c_found=progress.c_found,
            micro_batch=member.micro_batches.size,
            lost_s=attempt.claim.lost_s,
            saved_s=None if progress.saved_s is None else round(progress.saved_s, 3),
            warnings=(*member.model.warnings, *progress.warnings),
            provenance=ended.provenance,
        )

    def _params_of(self, member: Member) -> int:
        """Of the whole network: those of the trunk are counted once for all."""
        frozen, model = member.frozen, member.model
        if frozen not in self._frozen_params:
            trunk = BlockModel(model.names[:frozen], list(model.blocks)[:frozen])
            self._frozen_params[frozen] = sum(p.numel() for p in trunk.parameters())
        return self._frozen_params[frozen] + sum(p.numel() for p in member.suffix.parameters())


def _trained(member: Member) -> int:
    """How many parameters training or a fit changed: of what keeps no weights, none."""
    if not CLASSIFIERS[member.config.classifier].keeps_weights:
        return 0
    model, epochs_n = member.model, max(1, len(member.progress.curves))  # what was to be unfrozen later never trained
    stepped = [trained_in(member.config, model.names, epoch) for epoch in range(1, epochs_n + 1)]
    ever = {id(p) for block, *on in zip(model.blocks, *stepped, strict=True) if any(on) for p in block.parameters()}
    return sum(p.numel() for group in member.optimizer.param_groups for p in group["params"] if id(p) in ever)


def _on_host(logits: Sequence[Tensor | None]) -> list[Tensor | None]:
    """NK each, on the CPU: brought there in one go."""
    there = [logits_NK for logits_NK in logits if logits_NK is not None]
    if not there or not there[0].is_cuda:
        return list(logits)
    brought = iter(torch.stack(there).cpu())
    return [None if logits_NK is None else next(brought) for logits_NK in logits]
