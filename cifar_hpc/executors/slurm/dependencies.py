"""What must have ended before an array starts: the canary of its resource class, and the jobs of its trials' parents.

Owns: the --dependency of each array, and which classes have passed a canary. Sends nothing.

A canary must have succeeded (afterok), or Slurm removes what waits for it. Parents need only have ended (afterany): a parent
that failed leaves the exit status of its job at 0, one that could not go on leaves another, and in both cases it is the child
that knows what that means for it. Elements of children do not stand for elements of parents (aftercorr): jobs are packed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cifar_hpc.executors.slurm.arrays import ArrayPlan, Gate, Submission
from cifar_hpc.executors.slurm.handles import job_of
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.snapshot import package_digest
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import SweepFiles
from cifar_hpc.records.schema import JobEvent
from cifar_hpc.records.store import read_records

RELAY = "relay-"  # how the ids begin of jobs that submit what had no room


class Order:
    """The dependencies of one submission; told of each array once it is sent, lower levels first."""

    def __init__(
        self, files: SweepFiles, queue: SlurmQueue, profile: SlurmProfile, submission: Submission, canary: bool
    ) -> None:
        self._files = files
        self._profile = profile
        self._events = [event for event in read_records(files.jobs, JobEvent) if event.event == "submitted"]
        self._code = package_digest() if canary else ""
        gates = {array.needs.gate for array in submission.arrays} if canary else set()
        self._passed = {gate for gate in gates if self._has_passed(gate)}
        self._without = {gate: level for gate, level in submission.gates.items() if gate in gates - self._passed}
        self._canaries: dict[Gate, str] = {}
        self._queue = queue
        self._handles = self._queued_parents(submission.arrays)

    @property
    def canaries_n(self) -> int:
        """Classes that need one."""
        return len(self._without)

    def needs_canary(self, array: ArrayPlan) -> bool:
        return self._without.get(array.needs.gate) == array.level and array.needs.gate not in self._canaries

    def dependency(self, array: ArrayPlan, of_canary: bool = False) -> str | None:
        """For sbatch; None where nothing is to be waited for. of_canary: of the array's canary, not of the array."""
        canaries = [
            job_of(handle)
            for gate, handle in self._canaries.items()
            if self._without[gate] < array.level or gate == array.needs.gate
        ]
        parents = (self._handles[parent] for job in array.jobs for parent in job.parent_ids if parent in self._handles)
        waits = {"afterok": [] if of_canary else canaries, "afterany": sorted({job_of(handle) for handle in parents})}
        return ",".join(":".join((kind, *ids)) for kind, ids in waits.items() if ids) or None

    def canary_sent(self, array: ArrayPlan, handle: str) -> None:
        self._canaries[array.needs.gate] = handle

    def sent(self, array: ArrayPlan, handles: Sequence[str]) -> None:
        """handles: of the array's elements, in order."""
        for element, handle in zip(array.elements, handles, strict=True):
            for job in element.jobs:
                self._handles |= dict.fromkeys(job.trial_ids, handle)

    def mark(self, array: ArrayPlan) -> str:
        """The class of what stands behind a canary, else nothing. It is recorded with the job: where such a job has begun, its
        canary has succeeded, which no cluster without accounting remembers."""
        behind = array.needs.gate in self._canaries or array.needs.gate in self._passed
        return self._mark(array.needs.gate) if behind else ""

    def _has_passed(self, gate: Gate) -> bool:
        mark = self._mark(gate)
        return any(event.detail == mark and self._files.element_log(event.handle).exists() for event in self._events)

    def _mark(self, gate: Gate) -> str:
        """The class in twelve letters: what is asked of Slurm, how, and by which code."""
        return "class " + hashlib.sha256(repr((gate, self._profile, self._code)).encode()).hexdigest()[:12]

    def queued_relay(self) -> str | None:
        """A job of an earlier submission that will submit what waits; one that does so now is not waited for."""
        relays = [event.handle for event in self._events if event.job_id.startswith(RELAY)]
        states = self._queue.states(relays) if relays else {}
        return next((handle for handle, state in states.items() if state is JobState.QUEUED), None)

    def _queued_parents(self, arrays: Iterable[ArrayPlan]) -> dict[str, str]:
        """Parents that an earlier submission put into the queue, where they still stand or run."""
        wanted = {parent for array in arrays for job in array.jobs for parent in job.parent_ids}
        newest = {trial_id: e.handle for e in self._events if e.executor == "slurm" for trial_id in wanted & set(e.trial_ids)}
        if not newest:
            return {}
        states = self._queue.states(list(newest.values()))
        return {trial_id: h for trial_id, h in newest.items() if states[h] in (JobState.QUEUED, JobState.RUNNING)}
