"""From jobs to job arrays: which trials share an array task, which elements an array, what each asks of Slurm.

Pure: reads no file and asks no cluster. Owns the answer to failures that are not a trial's own: more memory, other nodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.node import Element
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import QueueEntry
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.plan import Job

MEMORY_STEP = 1.5  # after the memory was not enough
MEMORY_UNKNOWN_GB = 8.0  # what is multiplied where neither spec nor profile named any
START_MINUTES = 5.0  # of a job: Python, data, model
NODE_FAILURES = ("NODE_FAIL", "BOOT_FAIL")
Gate = tuple[object, ...]  # a resource class: what arrays that share a canary have in common
TIME_FAILURES = ("TIMEOUT", "DEADLINE")


@dataclass(frozen=True, slots=True)
class Needs:
    """What one element asks for. Elements of equal needs share an array. gpus, cpus, memory_gb: of each node; minutes: the time
    limit; at_once: trials side by side on one GPU."""

    nodes: int
    gpus: int
    cpus: int
    memory_gb: float | None
    minutes: int
    at_once: int
    exclude: tuple[str, ...]

    @property
    def gate(self) -> Gate:
        return self.nodes, self.gpus, self.cpus, self.memory_gb, self.at_once


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array: its needs and its elements, index 0 first. level: of its jobs; a higher one waits for the lower ones."""

    needs: Needs
    elements: tuple[Element, ...]
    level: int = 0

    @property
    def jobs(self) -> tuple[Job, ...]:
        return tuple(job for element in self.elements for job in element.jobs)


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted now and what is left. waiting: jobs beyond the limits; given_up: trial ids and why."""

    arrays: tuple[ArrayPlan, ...]
    waiting: tuple[Job, ...]
    given_up: Mapping[str, str]

    @property
    def gates(self) -> Mapping[Gate, int]:
        """What asks for a canary: each class, by the lowest level on which it has several elements."""
        elements = Counter((array.level, array.needs.gate) for array in self.arrays for _ in array.elements)
        several = [place for place, n in elements.items() if n > 1]
        return {gate: level for level, gate in sorted(several, key=lambda place: place[0], reverse=True)}


@dataclass(frozen=True, slots=True)
class History:
    """How earlier starts of a trial ended, where it was not the trial's own doing: Slurm's words and the nodes."""

    endings: tuple[QueueEntry, ...] = ()

    @property
    def out_of_memory(self) -> int:
        return sum(entry.state == "OUT_OF_MEMORY" for entry in self.endings)

    @property
    def failed_node(self) -> str | None:
        """The last one: to avoid every node that ever failed would leave none in the end. Of several that a trial ran on
        nobody knows which one it was."""
        nodes = (entry.nodes for entry in reversed(self.endings) if entry.state in NODE_FAILURES and entry.nodes)
        return next((name for name in nodes if not set("[,") & set(name)), None)

    @property
    def failures(self) -> int:
        return sum(entry.state in ("OUT_OF_MEMORY", *NODE_FAILURES, *TIME_FAILURES) for entry in self.endings)


def plan_submission(
    jobs: Sequence[Job],
    root: Path,
    profile: SlurmProfile,
    limits: Limits,
    histories: Mapping[str, History],
    canary: bool,
) -> Submission:
    """The arrays for these jobs, lower levels first, else in their order; with `canary` each class has one element less room.

    Raises CifarHpcError where a job asks for what cannot be had.
    """
    given_up: dict[str, str] = {}
    wanted = []
    for job in sorted(jobs, key=lambda job: job.level):
        if parents := given_up.keys() & set(job.parent_ids):
            given_up |= dict.fromkeys(job.trial_ids, f"their parent {min(parents)} is not either")
            continue
        worst = max((histories.get(trial_id, History()) for trial_id in job.trial_ids), key=lambda h: h.failures)
        if worst.failures >= profile.max_attempts:
            words = ", ".join(dict.fromkeys(entry.state for entry in worst.endings))
            given_up |= dict.fromkeys(job.trial_ids, f"{worst.failures} starts ended {words}")
        else:
            wanted.append(job)
    classes: dict[tuple[int, Needs], list[Job]] = {}
    for job in wanted:
        needs = _needs(job, profile, [histories.get(t, History()) for t in job.trial_ids])
        classes.setdefault((job.level, needs), []).append(job)
    arrays: list[ArrayPlan] = []
    waiting: list[Job] = []
    room = limits.room
    behind_canary: set[Gate] = set()
    for (level, needs), members in classes.items():
        packs = _pack(members, needs, profile)
        gate = int(canary and len(packs) > 1 and needs.gate not in behind_canary)
        behind_canary |= {needs.gate} if gate else set()
        if any(job.level < level for job in waiting):
            room = 0  # their parents wait, too
        fitting = packs if room is None else packs[: max(0, room - gate)]
        waiting += [job for pack in packs[len(fitting) :] for job in pack]
        room = None if room is None else room - len(fitting) - gate
        arrays += _cut(fitting, level, needs, root, profile, limits.max_array_size)
    return Submission(tuple(arrays), tuple(waiting), given_up)


def job_minutes(job: Job, profile: SlurmProfile) -> float:
    """The longest time that the job's trials may take one after another, minutes."""
    return len(job.trial_ids) * (job.resources.minutes or profile.minutes)


def _needs(job: Job, profile: SlurmProfile, histories: Iterable[History]) -> Needs:
    asked = job.resources
    gpus = asked.gpus if asked.gpus is not None else (1.0 if profile.gres else 0.0)
    if gpus and not profile.gres:
        raise CifarHpcError(
            f"resources.gpus is {gpus:g}, and profile {profile.name!r} says that the site has none (gres: null)"
        )
    processes = asked.processes or max(1, round(gpus))
    alone = asked.nodes > 1 or processes > 1
    at_once = max(1, int(1 / gpus)) if 0 < gpus < 1 and profile.share_gpus and not alone else 1
    histories = list(histories)
    memory_gb = asked.memory_gb or profile.memory_gb
    if steps := max((history.out_of_memory for history in histories), default=0):
        memory_gb = (memory_gb or MEMORY_UNKNOWN_GB) * MEMORY_STEP**steps
    return Needs(
        nodes=asked.nodes,
        gpus=math.ceil(gpus),
        cpus=asked.cpus_per_gpu * processes * at_once,
        memory_gb=None if memory_gb is None else memory_gb * at_once,
        minutes=math.ceil(asked.minutes or profile.minutes),
        at_once=at_once,
        exclude=tuple(sorted({history.failed_node for history in histories if history.failed_node})),
    )


def _pack(jobs: Sequence[Job], needs: Needs, profile: SlurmProfile) -> list[tuple[Job, ...]]:
    """Jobs dealt into elements of about job_minutes, but into no fewer elements than may run at once."""
    total = sum(job_minutes(job, profile) for job in jobs) / needs.at_once
    longest = max(job_minutes(job, profile) for job in jobs)
    elements = math.ceil(total / max(profile.job_minutes, longest))
    elements = min(len(jobs), max(elements, profile.parallel or 1))
    ends = [round(len(jobs) * (place + 1) / elements) for place in range(elements)]
    return [tuple(jobs[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _cut(
    packs: Collection[tuple[Job, ...]], level: int, needs: Needs, root: Path, profile: SlurmProfile, max_array_size: int
) -> list[ArrayPlan]:
    """Arrays of at most max_array_size elements, with the time limit of the longest element."""
    arrays = []
    rest = list(packs)
    while rest:
        part, rest = rest[:max_array_size], rest[max_array_size:]
        longest = max(sum(job_minutes(job, profile) for job in pack) for pack in part) / needs.at_once
        minutes = min(longest + START_MINUTES, profile.max_minutes or math.inf)
        elements = tuple(
            Element(
                index=index,
                root=root,
                jobs=pack,
                at_once=min(needs.at_once, len(pack)),
                requeue=profile.requeue,
                max_attempts=profile.max_attempts,
            )
            for index, pack in enumerate(part)
        )
        arrays.append(ArrayPlan(dataclasses.replace(needs, minutes=max(1, math.ceil(minutes))), elements, level))
    return arrays
