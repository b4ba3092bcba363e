"""Where trials stand: their own files, the sweeps' lists of jobs and what a queue says, read together. The one reader of
states.

Owns: QUEUED and CANCELLED (which no trial file tells), what a result of another sweep's search means for this one, the cheap
repeated look at many trials. Imports no backend: a queue is handed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from cifar_hpc.errors import RecordError
from cifar_hpc.planning.lineage import ParentFailedError, parent_failure
from cifar_hpc.records.ancestry import Ancestry
from cifar_hpc.records.claims import TrialState, is_alive
from cifar_hpc.records.jobs import JobEvent, JobState, newest_events, open_jobs, process_states
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.logs import last_words
from cifar_hpc.records.plans import parent_in, state_for
from cifar_hpc.records.schema import Claim, PlanRecord, Status, TrialRecord
from cifar_hpc.records.starts import task_of
from cifar_hpc.records.store import read_record, read_records

ENDED = frozenset({Status.COMPLETED, Status.STOPPED})
GOING_ON = frozenset({Status.QUEUED, Status.RUNNING})
_ATTACHED = ("inline", "ray")  # executors whose handles name a process


class Queue(Protocol):
    """Who is asked about jobs that no process of this machine runs: executors/slurm implements it."""

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """The state of each handle, in one query; UNKNOWN where it cannot be asked, or did not answer."""

    def explain(self, handles: Sequence[str]) -> Mapping[str, str]:
        """Why each handle waits, how it ended, or why it cannot be asked, in words; absent where the queue does not know."""


class Standing(Protocol):
    """Whatever has a status."""

    @property
    def status(self) -> Status: ...


class SweepReader:
    """Reads the states of a sweep's trials again and again; a finished trial is read once, for it never changes."""

    def __init__(self, layout: Layout, plan: PlanRecord, queue: Queue | None = None) -> None:
        self.plan = plan
        self._layout = layout
        self._queue = queue
        self._ended: dict[str, TrialState] = {}

    def read(self) -> dict[str, TrialState]:
        """By trial id, in the plan's order."""
        ids = [trial.trial_id for trial in self.plan.trials]
        states = read_states(self._layout, ids, [self.plan], self._queue, self._ended)
        self._ended |= {trial_id: state for trial_id, state in states.items() if state.status in ENDED}
        return states


def read_states(
    layout: Layout,
    trial_ids: Iterable[str],
    plans: Sequence[PlanRecord] = (),
    queue: Queue | None = None,
    known: Mapping[str, TrialState] | None = None,
) -> dict[str, TrialState]:
    """By trial id. plans: of the sweeps that ask, none: the whole pool, with the jobs of all sweeps; known: states that are
    taken as they are."""
    known, asking = known or {}, _by_trial(plans)
    configs: dict[str, Mapping[str, Any]] = {}
    for plan in plans:
        configs |= {trial.trial_id: trial.config for trial in plan.trials}
    states: dict[str, TrialState] = {}
    ancestry = Ancestry(layout, configs)
    for trial_id in trial_ids:
        state = known.get(trial_id) or _from_files(layout, trial_id, asking.get(trial_id, ()))
        if state.result and trial_id in configs and trial_id not in known and ancestry.may_have_seen(trial_id):
            state = replace(state, seen=True)
        states[trial_id] = _without_parents_failure(layout, state, configs.get(trial_id), states)
    sweeps = [layout.sweep(plan.sweep) for plan in plans] or layout.sweeps()
    if all(state.status in ENDED for state in states.values()):
        return states
    newest: dict[str, JobEvent] = {}
    of: dict[str, SweepFiles] = {}
    for sweep in sweeps:
        for trial_id, event in newest_events(read_records(sweep.jobs, JobEvent)).items():
            if trial_id not in newest or newest[trial_id].at <= event.at:
                newest[trial_id], of[trial_id] = event, sweep
    left = {one for one, event in newest.items() if event.event == "ended" and one in states and _may_wait(states[one], event)}
    for sweep in sweeps if left else ():
        held = _held_by_queue(sweep, left, queue) if queue else {}
        newest |= held
        of |= dict.fromkeys(held, sweep)
    return _with_jobs(states, newest, of, queue)


def is_going_on(layout: Layout, trials: Iterable[Standing], sweeps: Iterable[str] = ()) -> bool:
    """Whether something is still to come without anybody typing a command: a trial waits or trains, or a search samples."""
    return any(trial.status in GOING_ON for trial in trials) or any(_is_driven(layout, name) for name in sweeps)


def _is_driven(layout: Layout, sweep: str) -> bool:
    claims = layout.sweep(sweep).driver.claims()
    try:
        return bool(claims) and is_alive(read_record(claims[-1], Claim), claims[-1])
    except (OSError, RecordError):
        return False


def _from_files(layout: Layout, trial_id: str, plans: Sequence[PlanRecord]) -> TrialState:
    """One trial that cannot be read hides no other."""
    try:
        return state_for(layout, trial_id, plans)
    except (OSError, RecordError) as error:
        return TrialState(trial_id, Status.FAILED, f"cannot be read: {error}")


def _by_trial(plans: Iterable[PlanRecord]) -> dict[str, list[PlanRecord]]:
    asking: dict[str, list[PlanRecord]] = {}
    for plan in plans:
        for trial in plan.trials:
            asking.setdefault(trial.trial_id, []).append(plan)
    return asking


def _without_parents_failure(
    layout: Layout, state: TrialState, config: Mapping[str, Any] | None, before: Mapping[str, TrialState]
) -> TrialState:
    """A trial that failed with its parent has not failed once that one is mended: it may start with it, or after it. before:
    the states of those that stand before it in its plan, as parents do."""
    if state.error is None or state.error.kind != ParentFailedError.__name__:
        return state
    parent = parent_in(config or _recorded_config(layout, state.trial_id))
    if parent is None:
        return state
    open_ = parent in before and before[parent].status not in (Status.FAILED, *ENDED)  # whatever its files still say
    if not open_ and parent_failure(parent, layout) is not None:
        return state
    return replace(state, status=Status.PLANNED, reason="", error=None)


def _recorded_config(layout: Layout, trial_id: str) -> Mapping[str, Any]:
    try:
        return read_record(layout.trial(trial_id).trial, TrialRecord).config
    except (OSError, RecordError):
        return {}


def _held_by_queue(sweep: SweepFiles, trial_ids: Collection[str], queue: Queue) -> dict[str, JobEvent]:
    """The sweep's jobs in a queue that still have these trials before them, whichever job of a process has ended since."""
    jobs = [job for job in open_jobs(sweep) if job.executor not in _ATTACHED and {*job.trial_ids} & {*trial_ids}]
    known = queue.states([job.handle for job in jobs]) if jobs else {}
    living = [job for job in jobs if known[job.handle] in (JobState.RUNNING, JobState.QUEUED)]
    return {trial_id: job for job in living for trial_id in job.trial_ids if trial_id in trial_ids}


def _with_jobs(
    states: dict[str, TrialState], newest: Mapping[str, JobEvent], of: Mapping[str, SweepFiles], queue: Queue | None
) -> dict[str, TrialState]:
    waiting = {
        trial_id: event
        for trial_id, event in newest.items()
        if trial_id in states and event.event != "ended" and _may_wait(states[trial_id], event)
    }
    submitted = {trial_id: event for trial_id, event in waiting.items() if event.event in ("submitted", "sending")}
    living = {**process_states(sorted({event.handle for event in submitted.values() if event.executor in _ATTACHED}))}
    for trial_id in newest.keys() & states.keys():
        event, claim = newest[trial_id], states[trial_id].claim
        if states[trial_id].status is Status.RUNNING and claim and claim.job == f"{of[trial_id].name}/{event.job_id}":
            living[event.handle] = JobState.RUNNING  # of another host, which this one cannot ask
    queued = {trial_id: event.handle for trial_id, event in submitted.items() if event.executor not in _ATTACHED}
    merged = _in_queue({trial_id: states[trial_id] for trial_id in queued}, queued, queue)
    states.update(_with_last_words(merged, queued, of))
    for trial_id, event in waiting.items():
        if event.event == "cancelled":
            states[trial_id] = replace(states[trial_id], status=Status.CANCELLED)
        elif event.event == "waiting":
            states[trial_id] = replace(states[trial_id], reason=f"waits for room in the queue: {event.detail}")
        elif living.get(event.handle) is JobState.RUNNING:
            states[trial_id] = replace(states[trial_id], status=Status.QUEUED, reason="")
    return states


def _in_queue(states: Mapping[str, TrialState], handles: Mapping[str, str], queue: Queue | None) -> dict[str, TrialState]:
    """The trials that no process owns now, by what the queue says of their jobs: one query, at most one more for the gone."""
    asked = list(handles.values())
    known: Mapping[str, JobState] = queue.states(asked) if queue and asked else dict.fromkeys(asked, JobState.UNKNOWN)
    words = queue.explain(asked) if queue and asked else {}
    merged = {}
    for trial_id, handle in handles.items():
        state, said = known[handle], words.get(handle, "")
        if state is JobState.UNKNOWN:
            new = replace(states[trial_id], status=Status.QUEUED, reason=said or "nobody was asked about its job")
        elif state is JobState.RUNNING:
            again = "" if states[trial_id].status is Status.PLANNED and not states[trial_id].epochs else " again"
            reason = f"its job runs and has not come to it{again}"
            new = replace(states[trial_id], status=Status.QUEUED, reason=reason)
        elif state is not JobState.GONE:
            new = replace(states[trial_id], status=Status.QUEUED, reason=said)
        elif said.startswith("CANCELLED"):
            new = replace(states[trial_id], status=Status.CANCELLED, reason=f"Slurm: {said}")
        elif states[trial_id].status is Status.LOST or (said and not said.startswith("COMPLETED")):
            new = replace(states[trial_id], status=Status.LOST, reason=f"Slurm: {said or 'its job is gone'}")
        elif not states[trial_id].reason:
            new = replace(states[trial_id], reason="its job has ended")
        else:
            continue
        merged[trial_id] = new
    return merged


def _with_last_words(
    states: Mapping[str, TrialState], handles: Mapping[str, str], of: Mapping[str, SweepFiles]
) -> dict[str, TrialState]:
    """What a job left untrained, with what that said last: a module that is missing, a container that is not there."""
    told: dict[tuple[SweepFiles, str], str] = {}
    explained = {}
    for trial_id, state in states.items():
        if state.status in (Status.LOST, Status.PLANNED):
            task = task_of(state.claim.restart_token) if state.claim else None
            place = of[trial_id], task or handles[trial_id]
            if place not in told:
                told[place] = last_words(*place) or _without_a_word(state, place[0])
            state = replace(state, reason=f"{state.reason}{told[place]}")
        explained[trial_id] = state
    return explained


def _without_a_word(state: TrialState, sweep: SweepFiles) -> str:
    """What it means that a job failed and printed nothing at all: Slurm could not write its log."""
    failed = state.status is Status.LOST and state.reason.startswith("Slurm: FAILED")
    return f"; it left no log: does its node see {sweep.logs}?" if failed else ""


def _may_wait(state: TrialState, event: JobEvent) -> bool:
    """Whether a job submitted then may still have the trial before it: a failure after that was this job's own."""
    if state.status is Status.FAILED:
        return event.event in ("submitted", "sending") and state.error is not None and state.error.failed_at < event.at
    return state.status in (Status.PLANNED, Status.LOST)
