"""Where the trials of a sweep stand: the trials' files and the sweep's list of jobs, read together. Imports no backend.

Owns: reading a plan, the cheap repeated look at many trials, QUEUED and CANCELLED (which no trial file tells), id prefixes.
"""

from __future__ import annotations

import dataclasses
import secrets
import shlex
from collections.abc import Collection, Iterable, Mapping

from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import JobState, LocalHandles
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.planning.lineage import ParentFailedError, parent_failure
from cifar_hpc.records.claims import TrialState, read_state
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.schema import JobEvent, PlannedTrial, PlanRecord, Status
from cifar_hpc.records.store import append_records, read_records, utc_now

ENDED = frozenset({Status.COMPLETED, Status.STOPPED})
SHORTEST_ID = 8
MOST_LETTERS = 200
_ATTACHED = ("inline", "ray")  # executors whose handles name a process


class SweepReader:
    """Reads the states of a sweep's trials again and again; a finished trial is read once, for it never changes."""

    def __init__(self, layout: Layout, plan: PlanRecord) -> None:
        self.plan = plan
        self._layout = layout
        self._ended: dict[str, TrialState] = {}

    def read(self) -> dict[str, TrialState]:
        """By trial id, in the plan's order."""
        states = {trial.trial_id: self._state(trial.trial_id) for trial in self.plan.trials}
        for trial in self.plan.trials:
            states[trial.trial_id] = self._without_parents_failure(trial, states[trial.trial_id])
        events = read_records(self._layout.sweep(self.plan.sweep).jobs, JobEvent)
        return _with_jobs(states, events, SlurmQueue(self._layout.queue))

    def _state(self, trial_id: str) -> TrialState:
        if trial_id in self._ended:
            return self._ended[trial_id]
        state = read_state(self._layout.trial(trial_id), trial_id)
        if state.result is not None and not self.plan.ends(state.result):
            reason = f"stopped after epoch {state.epochs_done} by another sweep's search: begins again"
            return TrialState(trial_id, Status.PLANNED, reason)
        if state.status in ENDED:
            self._ended[trial_id] = state
        return state

    def _without_parents_failure(self, trial: PlannedTrial, state: TrialState) -> TrialState:
        """A trial that failed with its parent has not failed once that one is mended: it may start with it, or after it."""
        if state.error is None or state.error.kind != ParentFailedError.__name__:
            return state
        parent = str(trial.config["weights"]).removeprefix(PARENT_PREFIX)
        if parent_failure(parent, self._layout) is not None:
            return state
        return dataclasses.replace(state, status=Status.PLANNED, reason="", error=None)


def open_jobs(sweep: SweepFiles) -> list[JobEvent]:
    """What was submitted, has not ended and was not cancelled, as far as jobs.jsonl tells."""
    jobs: dict[tuple[str, str], JobEvent] = {}
    for event in read_records(sweep.jobs, JobEvent):
        key = (event.job_id, event.handle)
        if event.event == "submitted":
            jobs[key] = event
        else:
            jobs.pop(key, None)
    return list(jobs.values())


def reserve_numbers(sweep: SweepFiles, jobs_n: int) -> int:
    """The first of jobs_n job numbers that no other command has, nor will: a line of jobs.jsonl says that they are taken.

    Where two commands add their lines at once, the one whose line stands behind looks further.
    """
    handle = f"{LocalHandles.own_handle()}/{secrets.token_hex(4)}"
    while True:
        first = next_number(read_records(sweep.jobs, JobEvent))
        last = f"job-{first + jobs_n - 1:04d}"
        reserved = JobEvent(at=utc_now(), event="reserved", job_id=last, trial_ids=(), executor="", handle=handle)
        append_records(sweep.jobs, [reserved])
        events = read_records(sweep.jobs, JobEvent)
        if reserved in events and next_number(events[: events.index(reserved)]) == first:
            return first


def next_number(events: Iterable[JobEvent]) -> int:
    """One more than the highest job number of the events."""
    numbers = (event.job_id.rpartition("-")[2] for event in events)
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 10), default=0)


def resolve_trial(prefix: str, trial_ids: Collection[str]) -> str:
    """The one id that begins so, as git does with commits. Raises CifarHpcError where there is none, or several."""
    found = sorted({trial_id for trial_id in trial_ids if trial_id.startswith(prefix.lower())})
    if len(found) == 1:
        return found[0]
    what = f"means {len(found)} trials ({', '.join(found[:4])}...): give more letters" if found else "begins no trial's id here"
    raise CifarHpcError(f"trial: {prefix!r} {what}")


def short_ids(trial_ids: Collection[str]) -> dict[str, str]:
    """Each id's beginning that no other of them has, at least SHORTEST_ID letters, all of one length."""
    length = SHORTEST_ID
    while len({trial_id[:length] for trial_id in trial_ids}) < len(set(trial_ids)):
        length += 1
    return {trial_id: trial_id[:length] for trial_id in trial_ids}


def first_line(reason: str) -> str:
    """The first line of a reason, cut to MOST_LETTERS: an exception may say a page."""
    line = next(iter(reason.splitlines()), "")
    return line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]}..."


def _with_jobs(states: dict[str, TrialState], events: Collection[JobEvent], cluster: SlurmQueue) -> dict[str, TrialState]:
    newest: dict[str, JobEvent] = {}
    cancelled = {(event.job_id, event.handle) for event in events if event.event == "cancelled"}
    for event in events:  # a cancelled job ends too, and says so later
        if event.event != "ended" or (event.job_id, event.handle) not in cancelled:
            newest |= dict.fromkeys(event.trial_ids, event)
    waiting = {
        trial_id: event
        for trial_id, event in newest.items()
        if trial_id in states and event.event != "ended" and _may_wait(states[trial_id], event)
    }
    handles = {event.handle for event in waiting.values() if event.event == "submitted" and event.executor in _ATTACHED}
    backend: Mapping[str, JobState] = LocalHandles().states(sorted(handles))
    queued = {t: event.handle for t, event in waiting.items() if event.event == "submitted" and event.executor == "slurm"}
    states.update(_on_cluster({t: states[t] for t in queued}, queued, cluster))
    for trial_id, event in waiting.items():
        if event.event == "cancelled":
            states[trial_id] = dataclasses.replace(states[trial_id], status=Status.CANCELLED)
        elif event.event == "waiting":
            states[trial_id] = dataclasses.replace(states[trial_id], reason=f"waits for room in the queue: {event.detail}")
        elif backend.get(event.handle) is JobState.RUNNING:
            states[trial_id] = dataclasses.replace(states[trial_id], status=Status.QUEUED, reason="")
    return states


def _on_cluster(states: Mapping[str, TrialState], handles: Mapping[str, str], cluster: SlurmQueue) -> dict[str, TrialState]:
    """The trials that no process owns now, by what Slurm says of their jobs: one squeue, at most one sacct."""
    known = cluster.states(list(handles.values()))
    words = cluster.explain(list(handles.values())) if JobState.UNKNOWN not in known.values() else {}
    merged = {}
    for trial_id, handle in handles.items():
        state, said = known[handle], words.get(handle, "")
        if state is JobState.UNKNOWN:
            new = dataclasses.replace(states[trial_id], status=Status.QUEUED, reason="Slurm does not answer")
        elif state is not JobState.GONE:
            new = dataclasses.replace(states[trial_id], status=Status.QUEUED, reason=said)
        elif said.startswith("CANCELLED"):
            new = dataclasses.replace(states[trial_id], status=Status.CANCELLED, reason=f"Slurm: {said}")
        elif states[trial_id].status is Status.LOST or (said and not said.startswith("COMPLETED")):
            new = dataclasses.replace(states[trial_id], status=Status.LOST, reason=f"Slurm: {said or 'its job is gone'}")
        else:
            continue
        merged[trial_id] = new
    return merged


def _may_wait(state: TrialState, event: JobEvent) -> bool:
    """Whether a job submitted then may still have the trial before it: a failure after that was this job's own."""
    if state.status is Status.FAILED:
        return event.event == "submitted" and state.error is not None and state.error.failed_at < event.at
    return state.status in (Status.PLANNED, Status.LOST)


def sweep_command(plan: PlanRecord) -> str:
    """What continues the sweep when it is typed, with what was set for it."""
    if plan.command:
        return shlex.join(plan.command)
    words = ["cifar-hpc", "sweep", plan.spec_path, *(word for text in plan.overrides for word in ("--set", text))]
    return shlex.join(words if plan.share else [*words, "--no-share"])


def failure_lines(plan: PlanRecord) -> list[str]:
    """What to type where trials failed: `retry` runs them as they were planned, so that a mistake in the spec stays one."""
    return [
        f"why: cifar-hpc logs {plan.sweep}",
        f"once mended: cifar-hpc retry {plan.sweep}   (a mistake in the spec: mend it there, then {sweep_command(plan)})",
    ]
