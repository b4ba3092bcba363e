"""From jobs to job arrays: which jobs the tasks of an array share, how many tasks pull them, what each task asks of Slurm.

Pure: reads no file and asks no cluster. Owns the answer to failures that are not a trial's own: more memory, other nodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.flags import cpus_of, memory_gb_of, shards_of
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import QueueEntry
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.plan import Job

MEMORY_STEP = 1.5  # after the memory was not enough
MEMORY_UNKNOWN_GB = 8.0  # what is multiplied where neither spec nor profile named any
START_MINUTES = 5.0  # of a job: Python, data, model; a worker with less work than that is not worth its start
ALONE_ROOM = 2  # with room for no more jobs there is no canary: one worker is its own
NODE_FAILURES = ("NODE_FAIL", "BOOT_FAIL")
TIME_FAILURES = ("TIMEOUT", "DEADLINE")
OWN_FAILURES = ("OUT_OF_MEMORY", *TIME_FAILURES)  # ends of a job that are its trial's own doing
Gate = tuple[object, ...]  # a resource class: what arrays that share a canary have in common


@dataclass(frozen=True, slots=True)
class Needs:
    """What one array task asks for. Jobs of equal needs share an array. gpus, cpus, memory_gb: of each node; minutes: the time
    limit; at_once: trials side by side on one GPU; shards: of a GPU, in place of whole ones; site: the profile's class."""

    nodes: int
    gpus: int
    cpus: int
    memory_gb: float | None
    minutes: int
    at_once: int
    exclude: tuple[str, ...]
    shards: int = 0
    site: str = ""

    def gpus_taken(self, profile: SlurmProfile) -> float:
        """Of all nodes; of a GPU that the site cuts into shards, its part."""
        return self.shards / (profile.shards or 1) if self.shards else self.gpus * self.nodes

    @property
    def gate(self) -> Gate:
        return self.nodes, self.gpus, self.cpus, self.memory_gb, self.at_once, self.shards, self.site


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array: what each of its workers asks for, and the jobs that they share. level: of its jobs; a higher one waits for
    the lower ones. minutes: what each job may take, in the jobs' order."""

    needs: Needs
    jobs: tuple[Job, ...]
    workers: int = 1
    level: int = 0
    minutes: tuple[float, ...] = ()

    @property
    def least_minutes(self) -> int:
        """What a worker can do with: its longest job and the start, and half of its share: Slurm keeps a limit that it has
        shortened when the job is requeued. All its time where the jobs' times are not known."""
        longest = max(self.minutes, default=float(self.needs.minutes))
        return min(self.needs.minutes, math.ceil(max(longest + START_MINUTES, self.needs.minutes / 2)))


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted now and what is left. waiting: jobs beyond the limits; given_up: trial ids and why."""

    arrays: tuple[ArrayPlan, ...]
    waiting: tuple[Job, ...]
    given_up: Mapping[str, str]

    @property
    def gates(self) -> Mapping[Gate, int]:
        """What asks for a canary: each class, by the lowest level on which it has several workers."""
        several = [(array.level, array.needs.gate) for array in self.arrays if array.workers > 1]
        return {gate: level for level, gate in sorted(several, key=lambda place: place[0], reverse=True)}


@dataclass(frozen=True, slots=True)
class History:
    """How earlier starts of a trial ended. endings: Slurm's words and nodes of those that ended without a word, the newest
    last; fruitless: starts since its newest checkpoint that ended by its own doing."""

    endings: tuple[QueueEntry, ...] = ()
    fruitless: int = 0

    @property
    def out_of_memory(self) -> int:
        return sum(entry.state == "OUT_OF_MEMORY" for entry in self.endings)

    @property
    def timeouts(self) -> int:
        """Of the last starts, those in a row that their time limit ended before a newer checkpoint."""
        ends = [entry.state in TIME_FAILURES for entry in reversed(self.endings)]
        return min(self.fruitless, ends.index(False) if False in ends else len(ends))

    @property
    def failed_node(self) -> str | None:
        """The last one: to avoid every node that ever failed would leave none in the end. Of several that a trial ran on
        nobody knows which one it was."""
        nodes = (entry.nodes for entry in reversed(self.endings) if entry.state in NODE_FAILURES and entry.nodes)
        return next((name for name in nodes if not set("[,") & set(name)), None)


def plan_submission(
    jobs: Sequence[Job], profile: SlurmProfile, limits: Limits, histories: Mapping[str, History], canary: bool
) -> Submission:
    """The arrays for these jobs, lower levels first, else in their order; with `canary` a class with several workers has one
    place less.

    Raises CifarHpcError where a job asks for what cannot be had.
    """
    given_up: dict[str, str] = {}
    wanted = []
    for job in sorted(jobs, key=lambda job: job.level):
        if parents := given_up.keys() & set(job.parent_ids):
            given_up |= dict.fromkeys(job.trial_ids, f"their parent {min(parents)} is not either")
            continue
        worst = max((histories.get(trial_id, History()) for trial_id in job.trial_ids), key=lambda h: h.fruitless)
        if worst.fruitless >= profile.max_attempts:
            words = ", ".join(dict.fromkeys(entry.state for entry in worst.endings if entry.state in OWN_FAILURES))
            why = f"{worst.fruitless} starts came to nothing{f' ({words})' if words else ''}"
            given_up |= dict.fromkeys(job.trial_ids, why)
        else:
            wanted.append(job)
    classes: dict[tuple[int, Needs], list[Job]] = {}
    for job in wanted:
        needs = _needs(job, profile, [histories.get(t, History()) for t in job.trial_ids])
        classes.setdefault((job.level, needs), []).append(job)
    whole = [_Class(level, needs, members, profile.of_class(needs.site)) for (level, needs), members in classes.items()]
    arrays: list[ArrayPlan] = []
    waiting: list[Job] = []
    for one, workers in zip(whole, _allot(whole, limits.room, canary), strict=True):
        if workers:
            arrays += one.arrays(workers, limits.max_array_size)
        else:
            waiting += one.jobs
    return Submission(tuple(arrays), tuple(waiting), given_up)


def after_timeouts(job: Job, histories: Mapping[str, History]) -> Job:
    """The job, with twice the time for each of its last starts that met the time limit before it had saved anything."""
    starts = max((histories.get(trial_id, History()).timeouts for trial_id in job.trial_ids), default=0)
    if job.duration is None or not starts:
        return job
    return dataclasses.replace(job, duration=job.duration.allowing(2**starts))


def job_minutes(job: Job, profile: SlurmProfile) -> float:
    """The longest time that the job's trials may take one after another, minutes: as it was estimated, else as guessed."""
    if job.duration is not None:
        return job.duration.p95_s / 60
    return len(job.trial_ids) * (job.resources.minutes or profile.minutes)


class _Class:
    """Jobs of one level and of equal needs: how many workers they fill, and for how long."""

    def __init__(self, level: int, needs: Needs, jobs: Sequence[Job], profile: SlurmProfile) -> None:
        self.level, self.needs, self.jobs, self.profile = level, needs, tuple(jobs), profile
        self._minutes = [job_minutes(job, profile) for job in jobs]

    @property
    def workers(self) -> int:
        """As many as `parallel`, or where that is not said so many that each lasts about job_minutes, and no more than the work
        fills."""
        total, longest = sum(self._minutes) / self.needs.at_once, max(self._minutes)
        about = START_MINUTES if self.profile.parallel else max(self.profile.job_minutes, longest)
        filled = min(math.ceil(total / about), math.ceil(len(self.jobs) / self.needs.at_once))
        return max(1, min(filled, self.profile.parallel or filled))

    def arrays(self, workers: int, most: int) -> list[ArrayPlan]:
        """Arrays of at most so many tasks, each with its share of the jobs."""
        parts = math.ceil(workers / most)
        arrays = []
        for part in range(parts):
            jobs, minutes = self.jobs[part::parts], self._minutes[part::parts]
            mine = len(range(part, workers, parts))
            limit = self._limit(sum(minutes) / self.needs.at_once / mine, max(minutes))
            needs = dataclasses.replace(self.needs, minutes=limit)
            arrays.append(ArrayPlan(needs, jobs, mine, self.level, tuple(minutes)))
        return arrays

    def _limit(self, share: float, longest: float) -> int:
        """Of a worker: its share of the work, and what is above job_minutes in a start of its own."""
        bound = max(self.profile.job_minutes, longest) if self.profile.requeue else math.inf
        minutes = min(max(share, longest), bound) + START_MINUTES
        return max(1, math.ceil(min(minutes, self.profile.max_minutes or math.inf)))


def _allot(classes: Sequence[_Class], room: int | None, canary: bool) -> list[int]:
    """Workers of each class. Each gets one before any gets a second; children wait where their parents do."""
    if room is None:
        return [one.workers for one in classes]
    left = room
    counts: list[int] = []
    for one in classes:
        parents_wait = any(before.level < one.level and not n for before, n in zip(classes, counts, strict=False))
        counts.append(0 if parents_wait else min(1, left))
        left -= counts[-1]
    if room <= ALONE_ROOM:
        return counts
    behind_canary: set[Gate] = set()
    for place, one in enumerate(classes):
        gate = int(canary and one.needs.gate not in behind_canary)
        if counts[place] and (more := min(one.workers - 1, left - gate)) > 0:
            counts[place] += more
            left -= more + gate
            behind_canary |= {one.needs.gate} if gate else set()
    return counts


def _needs(job: Job, profile: SlurmProfile, histories: Iterable[History]) -> Needs:
    asked = job.resources
    gpus = asked.gpus if asked.gpus is not None else (1.0 if profile.gres else 0.0)
    processes = asked.processes or max(1, round(gpus))
    alone = asked.nodes > 1 or processes > 1
    at_once = max(1, int(1 / gpus)) if 0 < gpus < 1 and profile.share_gpus and not alone else 1
    histories = list(histories)
    shards = 0 if alone or at_once > 1 else shards_of(profile, gpus)
    whole = gpus if shards else math.ceil(gpus)
    memory_gb = memory_gb_of(profile, asked.memory_gb, whole)
    if steps := max((history.out_of_memory for history in histories), default=0):
        memory_gb = (memory_gb or MEMORY_UNKNOWN_GB) * MEMORY_STEP**steps
    memory_gb = None if memory_gb is None else memory_gb * at_once
    class_name = profile.class_of(nodes=asked.nodes, gpus=gpus, memory_gb=memory_gb, minutes=job_minutes(job, profile))
    if gpus and not profile.of_class(class_name).gres:
        raise CifarHpcError(
            f"resources.gpus is {gpus:g}, and profile {profile.name!r} says that the site has none (gres: null)"
        )
    return Needs(
        nodes=asked.nodes,
        gpus=math.ceil(gpus),
        cpus=cpus_of(profile, asked.cpus_per_gpu * processes * at_once, whole),
        memory_gb=memory_gb,
        minutes=math.ceil(asked.minutes or profile.minutes),
        at_once=at_once,
        exclude=tuple(sorted({history.failed_node for history in histories if history.failed_node})),
        shards=shards,
        site=class_name,
    )


def canary_job(array: ArrayPlan) -> Job:
    """The canary of an array: the first trial of its first job, as a job of its own name."""
    job = array.jobs[0]
    first = dataclasses.replace(job.cohorts[0], trials=job.cohorts[0].trials[:1])
    return dataclasses.replace(job, job_id=job.job_id.replace("job-", "canary-"), cohorts=(first,))
