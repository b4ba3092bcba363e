"""The rounds of a sweep whose trials are all known: under this process, or left to a cluster's queue."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Collection

from cifar_hpc.config.data_notes import DataNotes
from cifar_hpc.executors import open_executor
from cifar_hpc.planning.lineage import Lineage
from cifar_hpc.planning.plan import Job, Plan, jobs_for, recorded_findings
from cifar_hpc.records.claims import clear_finished, is_own
from cifar_hpc.records.jobs import reserve_numbers
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import since_when, write_plan
from cifar_hpc.records.schema import PlanRecord, Status
from cifar_hpc.records.store import append_records, write_changed
from cifar_hpc.status.state import ENDED, GOING_ON, SweepReader
from cifar_hpc.sweep.listener import Begun, Listener
from cifar_hpc.sweep.missing import States, to_start
from cifar_hpc.sweep.preflight import check_there, findings_of
from cifar_hpc.sweep.submit import check_budget, submit
from cifar_hpc.sweep.where import Where

MOST_STARTS = 3  # of one trial by one command: beyond that it ends without a word each time
ANOTHER = "another process trains"
WAIT_S, CLUSTER_WAIT_S = 1.0, 10.0  # between two looks at what others train


class GridRounds:
    """again: failed trials that are tried once more, and nothing beside them but what they start from; empty: what is missing
    of the whole plan."""

    def __init__(self, layout: Layout, plan: Plan, reader: SweepReader, where: Where, again: Collection[str] = ()) -> None:
        self.reader = reader
        self._layout, self._plan, self._where = layout, plan, where
        self._site = where.slurm()
        self.leaves = self._site is not None and not where.wait
        self.pause_s = WAIT_S if self._site is None else CLUSTER_WAIT_S
        self.trained_by = ANOTHER if self._site is None else "jobs of Slurm train"
        self._lineage = Lineage(plan.trials)
        self._again = set(again)  # what may start though it has failed
        self._only = set(again)
        self._starts: Counter[str] = Counter()
        self._cancelled: frozenset[str] = frozenset()  # before this command, which means them too
        self._has_sent = False

    def held(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def prepare(self, listener: Listener) -> States:
        self.reader.plan = since_when(self._layout, self.reader.plan)
        states: States = self.reader.read()
        self._again = self._only = self._lineage.with_open_parents(self._only, states)
        states = self._give_up(states, self._again)
        todo = self._todo(states)
        if todo and self._site is not None:
            check_budget(self._layout, self.reader.plan)
        spec, notes = self._plan.spec, self._check(todo, states)
        findings = findings_of(spec.findings, self._plan.trials, notes, listener)
        self.reader.plan = dataclasses.replace(self.reader.plan, **recorded_findings(findings))
        self._cancelled = _cancelled(states)
        for trial_id in (trial_id for trial_id, state in states.items() if state.status in ENDED):
            clear_finished(self._layout.trial(trial_id), trial_id)
        if spec.text:  # not so where a retry took the plan from disk
            write_changed(self._layout.sweep(spec.name).spec, spec.text.encode())
        keep_plan(self._layout, self.reader.plan, listener)
        return states

    def begun(self, states: States) -> Begun | None:
        todo = self._todo(states)
        if not todo:
            return None
        jobs = jobs_for(self._plan, todo, 1)
        return Begun(
            sweep=self._plan.spec.name,
            trials_n=len(todo),
            all_n=len(self._plan.trials),
            cohorts_n=sum(len(job.cohorts) for job in jobs),
            where="slurm" if self._site else self._where.on_this_machine(len(jobs)),
            root=self._layout.root,
        )

    def ready(self, states: States) -> Collection[str]:
        if self._site is not None:  # its queue starts children after their parents; what it gives up the next `sweep` sees
            has_sent, self._has_sent = self._has_sent, True
            return () if has_sent else self._todo(states)
        todo = {t for t in self._todo(states) if self._starts[t] < MOST_STARTS}
        withdrawn = {
            t for t in _cancelled(states) if self._starts[t] or t not in self._cancelled
        }  # by another shell, meanwhile
        return self._lineage.ready(todo - withdrawn, states)

    def start(self, ready: Collection[str], listener: Listener) -> None:
        self._starts.update(ready)
        self._again = set()
        if self._site is not None:
            submit(self._layout, self._plan, ready, self._site, listener, canary=self._where.canary)
            return
        files = self._layout.sweep(self._plan.spec.name)
        jobs = jobs_for(self._plan, ready, reserve_numbers(files, len(jobs_for(self._plan, ready, 1))))
        executor = open_executor(self._where.on_this_machine(len(jobs)), self._layout)
        handles: dict[str, str] = {}

        def started(job: Job, handle: str) -> None:
            handles[job.job_id] = handle
            append_records(files.jobs, [job.event("submitted", executor.name, handle)])

        try:
            executor.start(self._layout, jobs, started)
        finally:
            ended = [job.event("ended", executor.name, handles[job.job_id]) for job in jobs if job.job_id in handles]
            append_records(files.jobs, ended)

    def settle(self) -> States:
        return self._give_up(self.reader.read(), ())

    def elsewhere(self, states: States) -> Collection[str]:
        """A claim of this process, which trains nothing now, stayed since it could not be given back."""
        meant = {trial_id: state for trial_id, state in states.items() if not self._only or trial_id in self._only}
        if self._site is not None:
            return [trial_id for trial_id, state in meant.items() if state.status in GOING_ON]
        running = {trial_id: state for trial_id, state in meant.items() if state.status is Status.RUNNING}
        return [trial_id for trial_id, state in running.items() if not (state.claim and is_own(state.claim))]

    def _todo(self, states: States) -> set[str]:
        todo = to_start(states, self._again, on_slurm=self._site is not None)
        return todo & self._only if self._only else todo

    def _give_up(self, states: States, again: Collection[str]) -> States:
        while self._lineage.fail_orphans(self._layout, states, again):
            states = self.reader.read()
        return states

    def _check(self, todo: Collection[str], states: States) -> DataNotes:
        configs = [trial for trial in self._plan.trials if trial.trial_id in todo]
        awaiting = [t for t in todo if self._lineage.await_parents(t, states)]
        here = self._site is None or self._site.by_this_python
        return check_there(self._layout, configs, awaiting, by_this_python=here)


def _cancelled(states: States) -> frozenset[str]:
    return frozenset(trial_id for trial_id, state in states.items() if state.status is Status.CANCELLED)


def keep_plan(layout: Layout, plan: PlanRecord, listener: Listener) -> None:
    """Writes the plan, and tells where the one stays that it replaces. Raises as write_plan."""
    if kept := write_plan(layout, plan):
        listener.note(f"the plan that this one replaces stays readable in {kept}, its results in the pool")
