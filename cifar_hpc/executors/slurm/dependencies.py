"""What must have ended before an array starts: the canary of its resource class, and the jobs of its trials' parents.

Owns: the --dependency of each array, and which classes have passed a canary. Sends nothing.

All of it need only have ended (afterany). A canary that was preempted, cancelled or lost with its node has decided nothing;
that a class is broken, it says in a file which each batch script reads before it starts anything, and it cancels what waits
for it. A parent that failed leaves the exit status of its job at 0, one that could not go on leaves another: in both cases the
child knows what that means for it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from cifar_hpc.executors.slurm.arrays import ArrayPlan, Gate, Submission
from cifar_hpc.executors.slurm.handles import job_of
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.snapshot import package_digest
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.jobs import JobEvent, JobState
from cifar_hpc.records.layout import SweepFiles
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
        self._code = package_digest()
        gates = submission.gates.items() if canary else ()
        self._without = {gate: level for gate, level in gates if not self._has_passed(gate)}
        self._canaries: dict[Gate, str] = {}
        self._queue = queue
        self._handles = self._queued_parents(submission.arrays)

    @property
    def canaries_n(self) -> int:
        """Classes that need one."""
        return len(self._without)

    def needs_canary(self, array: ArrayPlan) -> bool:
        return self._without.get(array.needs.gate) == array.level and array.needs.gate not in self._canaries

    def has_canary(self, array: ArrayPlan) -> bool:
        """Whether one of its class stands before it in this submission."""
        return array.needs.gate in self._canaries

    def dependency(self, array: ArrayPlan, of_canary: bool = False) -> str | None:
        """For sbatch; None where nothing is to be waited for. of_canary: of the array's canary, not of the array."""
        canaries = [
            job_of(handle)
            for gate, handle in self._canaries.items()
            if not of_canary and (self._without[gate] < array.level or gate == array.needs.gate)
        ]
        parents = (self._handles[parent] for job in array.jobs for parent in job.parent_ids if parent in self._handles)
        ids = dict.fromkeys([*canaries, *sorted({job_of(handle) for handle in parents})])
        return ":".join(("afterany", *ids)) if ids else None

    def canary_sent(self, array: ArrayPlan, handle: str) -> None:
        self._canaries[array.needs.gate] = handle

    def sent(self, jobs: Sequence[Job], handle: str) -> None:
        for job in jobs:
            self._handles |= dict.fromkeys(job.trial_ids, handle)

    def mark(self, array: ArrayPlan) -> str:
        """The class in twelve letters: what is asked of Slurm, how, and by which code."""
        return self._mark(array.needs.gate)

    def forget_broken(self, array: ArrayPlan) -> None:
        """Before a new canary of the class is sent: what an earlier one found may be mended. Raises OSError."""
        path = self._files.resource_class(self.mark(array))
        if _word_of(path) == "broken":
            path.unlink(missing_ok=True)

    def _has_passed(self, gate: Gate) -> bool:
        return _word_of(self._files.resource_class(self._mark(gate))) == "passed"

    def _mark(self, gate: Gate) -> str:
        return hashlib.sha256(repr((gate, self._profile, self._code)).encode()).hexdigest()[:12]

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


def _word_of(path: Path) -> str:
    """The first word of a class's file; empty where there is none."""
    with contextlib.suppress(OSError):
        return path.read_text().partition("\n")[0]
    return ""
