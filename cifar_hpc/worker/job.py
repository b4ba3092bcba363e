"""What executes on a node, whoever started it: claims trials, has their cohorts trained here or in several processes.

Knows claims, processes and memory that runs out; how trials train and what of it is recorded the trainer knows. Knows neither
specs nor schedulers.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.distributed.launch import Link, run_ranks
from cifar_hpc.distributed.rendezvous import Failure, RanksFailedError, Rendezvous, Team
from cifar_hpc.distributed.world import PeerLostError, World
from cifar_hpc.errors import Interrupted
from cifar_hpc.planning.cohorts import parts_of
from cifar_hpc.planning.halving import Rungs
from cifar_hpc.planning.lineage import awaits_parent
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records import claims
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.node import Node
from cifar_hpc.records.schema import Outcome
from cifar_hpc.train.device import choose_device
from cifar_hpc.train.portions import give_back, is_out_of_memory
from cifar_hpc.worker.attempt import Attempt
from cifar_hpc.worker.environment import gpu_share
from cifar_hpc.worker.trainer import EpochHook, Order, train_order

DEVICE_FRAC = 0.5  # of a GPU's free memory for the weights of trials side by side; images and activations take the rest
NO_SCHEDULER = Node()
_RENDEZVOUS = itertools.count()  # the launchers of all nodes go through the same ones, in the same order

__all__ = ["EpochHook", "Interrupted", "run_job"]


def run_job(
    job: Job,
    layout: Layout,
    *,
    executor: str,
    node: Node = NO_SCHEDULER,
    on_epoch: EpochHook | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Trains every trial of the job that no living attempt has and that is not finished.

    A trial that fails leaves error.json and the job goes on. on_epoch returning anything but True ends that trial as
    PRUNED, a text being the reason. Raises Interrupted, after checkpoints, once interrupted() is true; KeyboardInterrupt as
    it comes.

    Where the job asks for several processes, this one starts and watches them. On several nodes it is called on each. node:
    where this is.
    """
    torch.set_num_threads(job.resources.cpus_per_gpu)
    asked = job.resources
    team = Team.here(asked.processes, asked.gpus, asked.nodes, node)
    _tell_shortfall(node, asked)
    share = (gpu_share(asked.gpus) or 1.0) if team.on_gpus else 1.0
    on = claims.Devices("cuda" if team.on_gpus else "cpu", team.size * share)
    for cohort in job.cohorts:
        run = _Cohort(job, layout, executor, node, on, on_epoch, interrupted)
        if team.size == 1:
            if interrupted():
                raise Interrupted
            run.run(cohort)
            continue
        rendezvous = Rendezvous(_rendezvous_folder(job, layout, team, node), team)
        with rendezvous.hold():
            if team.place:
                _follow(run, rendezvous)
            elif interrupted():
                raise Interrupted
            else:
                run.run(cohort, rendezvous)


def _rendezvous_folder(job: Job, layout: Layout, team: Team, node: Node) -> Path:
    if team.launchers_n == 1:
        return Path(tempfile.mkdtemp(prefix="cifar-hpc-ranks-"))
    files, own = layout.sweep(job.sweep), node.job_id
    start = f"{own}-{node.restarts}-"
    if team.place == 0:
        for path in set(files.meetings(f"{own}-")) - set(files.meetings(start)):  # of a start that was killed
            shutil.rmtree(path, ignore_errors=True)
    return files.rendezvous(f"{start}{job.job_id}-{next(_RENDEZVOUS)}")  # a job that runs twice meets again


def _tell_shortfall(node: Node, asked: Resources) -> None:
    """Into the job's log, where less is here than was granted or is used."""
    if node.gpus and asked.gpus != 0 and not torch.cuda.is_available():
        print(
            f"Slurm granted GPU {', '.join(node.gpus)}, and torch sees none: training on the CPU", file=sys.stderr, flush=True
        )
    if node.cpus is not None and node.cpus < asked.cpus_per_gpu:
        print(f"{asked.cpus_per_gpu} threads a trial on {node.cpus} CPUs that Slurm granted", file=sys.stderr, flush=True)


def _follow(run: _Cohort, rendezvous: Rendezvous) -> None:
    """A further node's part: starts its ranks, round after round; what becomes of them the first node judges and records."""
    asked = run.job.resources
    while True:
        with contextlib.suppress(RanksFailedError, Interrupted):
            run_ranks(train_as_rank, (run.node, None), rendezvous, timeout_s=asked.timeout_s, interrupted=run.interrupted)
        if not rendezvous.follow_rank_0(asked.timeout_s):
            return


def train_as_rank(world: World, link: Link, given: tuple[Node, Order | None]) -> None:
    """What each process of a world does. given: its own node, and rank 0's order; the others get that from there."""
    node, order = given[0], world.broadcast(given[1])
    assert order is not None
    torch.set_num_threads(order.job.resources.cpus_per_gpu)
    train_order(order, node, world, link.epoch_ended, link.interrupted)


@dataclass
class _Cohort:
    """One cohort on this node, from claims to results.

    A part is what trains side by side: at first all, and where the memory does not hold them, first half of them and then the
    other.
    """

    job: Job
    layout: Layout
    executor: str
    node: Node
    on: claims.Devices
    on_epoch: EpochHook | None
    interrupted: Callable[[], bool]
    attempts: list[Attempt] = field(default_factory=list)
    features_on_device: bool = True

    def run(self, cohort: Cohort, rendezvous: Rendezvous | None = None) -> None:
        """Claims, trains here or in the ranks that meet there, and releases what has no result."""
        job_name = f"{self.job.sweep}/{self.job.job_id}"
        trials = [config for config in cohort.trials if not awaits_parent(config, self.layout)]  # they begin after it
        if cohort.rungs is not None:  # started again: what it has ended stays so
            trials = [config for config in trials if not self._ended(config, job_name)]
        open_n = Counter(c.dataset.fold for c in trials if not self.layout.trial(c.trial_id).result.exists())
        try:
            for config in trials:
                fold = config.dataset.fold
                waits = bool(self.attempts) and self.attempts[0].config.dataset.fold != fold
                attempt = Attempt.begin(config, self.layout, job_name, max(1, open_n[fold]), waits=waits, on=self.on)
                self.attempts += [attempt] if attempt is not None else []
            with claims.heartbeat([attempt.claim_path for attempt in self.attempts]):
                parts = self._parts(rendezvous)
                for _ in range(1 if cohort.rungs is None else 1 + len(cohort.rungs.epochs)):
                    parts = self._train_parts(parts, cohort.rungs, rendezvous)  # those that wait at a rung for others go on
        finally:
            for attempt in _unfinished(self.attempts):
                attempt.release()

    def _ended(self, config: TrialConfig, job_name: str) -> bool:
        """Whether this job, in an earlier run, has ended the trial at a rung."""
        files = self.layout.trial(config.trial_id)
        found = [claims.read_state(of, config.trial_id).result for of in (files, files.until_stopped(self.job.sweep))]
        return any(result and result.outcome is Outcome.PRUNED and result.job == job_name for result in found)

    def _train_parts(
        self, parts: list[list[Attempt]], rungs: Rungs | None, rendezvous: Rendezvous | None
    ) -> list[list[Attempt]]:
        """Trains one part after another, each as far as it comes; returns what is left of them."""
        done: list[list[Attempt]] = []
        while parts:
            part, *parts = parts
            for attempt in itertools.chain(*parts):
                attempt.let_wait(True)
            others = tuple(a.claim.trial_id for a in _unfinished(self.attempts) if a not in part)
            order = Order(self.job, self.layout, self.executor, tuple(part), len(part), self.features_on_device, rungs, others)
            if self._train(order, rendezvous):
                done.append(part)
            else:
                parts = [*self._smaller(order), *parts]
        return [left for part in done if (left := _unfinished(part))]

    def _parts(self, rendezvous: Rendezvous | None) -> list[list[Attempt]]:
        """All side by side, or as many as the free memory of this process's GPU holds: the plan knew no device."""
        if not self.attempts or rendezvous is not None or choose_device(self.job.resources.gpus).type != "cuda":
            return [self.attempts] if self.attempts else []
        room_gb = DEVICE_FRAC * torch.cuda.mem_get_info()[0] / 1e9
        left = iter(self.attempts)
        parts = parts_of([attempt.config for attempt in self.attempts], room_gb)
        return [list(itertools.islice(left, len(part))) for part in parts]

    def _train(self, order: Order, rendezvous: Rendezvous | None) -> bool:
        """Trains a part to its end, and gives back what it took; False where the memory does not hold so much but may hold
        less."""
        try:
            return self._trained(order, rendezvous)
        finally:
            give_back()

    def _trained(self, order: Order, rendezvous: Rendezvous | None) -> bool:
        try:
            if rendezvous is None:
                train_order(order, self.node, World(), self.on_epoch, self.interrupted)
            else:
                self._train_in_ranks(order, rendezvous)
            return True
        except Interrupted:
            raise
        except Exception as error:
            if not order.is_too_much(error):
                for attempt in _unfinished(order.attempts):
                    attempt.fail(Failure.of(error))
                return True
        return False  # outside the except clause: the error's frames hold the memory that the next part needs

    def _smaller(self, order: Order) -> list[list[Attempt]]:
        """What is left of a part that was too much: first all of it with the features of its images in host memory, where they
        were kept on the device; then half after half."""
        left = _unfinished(order.attempts)
        if order.keeps_on_gpu:
            self.features_on_device = False
            print("out of memory: features of the training images go to host memory", file=sys.stderr)
            return [left]
        half = (len(left) + 1) // 2
        print(f"out of memory with {order.part_n} trials side by side: going on with {half}", file=sys.stderr)
        return [attempts for attempts in (left[:half], left[half:]) if attempts]

    def _train_in_ranks(self, order: Order, rendezvous: Rendezvous) -> None:
        """Has all ranks train the trials; where one trial ends them by its failure, the others go on from their checkpoints.

        Raises OutOfMemoryError where that was the end of a rank and less may fit, NodeLostError where a node is gone.
        """
        while left := _unfinished(order.attempts):
            rendezvous.begin_round()
            try:
                run_ranks(
                    train_as_rank,
                    (self.node, replace(order, attempts=tuple(left))),
                    rendezvous,
                    timeout_s=self.job.resources.timeout_s,
                    interrupted=self.interrupted,
                    on_epoch=self.on_epoch,
                )
                return
            except RanksFailedError as error:
                failure = error.failure
            if failure.kind == PeerLostError.__name__:
                rendezvous.require_all()
            for attempt in left:
                attempt.over = attempt.files.result.exists()
            if failure.trial_id is None and _means_memory(failure):
                too_much = torch.OutOfMemoryError(failure.message)
                if order.is_too_much(too_much):
                    raise too_much
            for attempt in _unfinished(left):
                if failure.trial_id in (None, attempt.claim.trial_id):
                    attempt.fail(failure)


def _means_memory(failure: Failure) -> bool:
    return failure.kind == torch.OutOfMemoryError.__name__ or is_out_of_memory(RuntimeError(failure.message))


def _unfinished(attempts: Sequence[Attempt]) -> list[Attempt]:
    return [attempt for attempt in attempts if not attempt.over]
