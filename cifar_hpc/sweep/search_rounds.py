"""The rounds of a search: its points are sampled one after another while others train, side by side, through Ray."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator

from cifar_hpc.config.data_notes import DataNotes
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.jobs import reserve_numbers
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan
from cifar_hpc.records.schema import PlanRecord, Status
from cifar_hpc.records.store import append_records, write_changed
from cifar_hpc.search.run import SearchRun, ended_journal, journal_of
from cifar_hpc.search.samplers import check_sampler
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.sweep.holding import held
from cifar_hpc.sweep.listener import Begun, Listener, Silent
from cifar_hpc.sweep.missing import States
from cifar_hpc.sweep.preflight import check_there, findings_of
from cifar_hpc.sweep.rounds import ANOTHER, MOST_STARTS, WAIT_S, keep_plan
from cifar_hpc.sweep.where import On, Where, reader_of

UNDONE = (Status.PLANNED, Status.QUEUED, Status.LOST, Status.CANCELLED, Status.RUNNING)
SAMPLE = ("sample",)  # what is ready where a search goes on: which trials that are it says itself


class SearchRounds:
    """again: failed trials that are tried once more. Raises CifarHpcError where the search cannot run here."""

    leaves = False
    pause_s = WAIT_S
    trained_by = ANOTHER

    def __init__(self, layout: Layout, spec: SweepSpec, where: Where, again: Collection[str] = ()) -> None:
        assert spec.search is not None
        self._layout, self._spec, self._again, self._where = layout, spec, again, where
        self._search = spec.search
        self._starts: Counter[str] = Counter()
        self._rounds_n = 0
        self._notes: DataNotes = {}
        self._ended = False
        self._listener: Listener = Silent()
        self.reader = reader_of(layout, journal_of(spec, known_plan(layout, spec.name), 1))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For this process alone. Raises CifarHpcError where a living one has it."""
        if why := not_here(self._spec, self._where):
            raise CifarHpcError(f"search: {why}")
        check_sampler(self._search)
        self._notes = check_there(self._layout, self._spec.configs)
        with held(self._layout.sweep(self._spec.name), "runs this search"):
            yield

    def prepare(self, listener: Listener) -> States:
        self._listener = listener
        findings = findings_of(self._spec.findings, self._spec.configs, self._notes, listener)
        self._spec = dataclasses.replace(self._spec, findings=findings)
        self.reader.plan = journal_of(self._spec, known_plan(self._layout, self._spec.name), 1)
        self._ended = self._write_where_ended()
        return self.reader.read()

    def begun(self, states: States) -> Begun | None:
        if self._ended:
            return None
        most_n = self.reader.plan.trials_at_most
        return Begun(
            sweep=self._spec.name,
            trials_n=most_n,
            all_n=most_n,
            cohorts_n=most_n,
            where="ray",
            root=self._layout.root,
            what=in_words(self._spec),
        )

    def ready(self, states: States) -> Collection[str]:
        """A population may go on now that what it waited for has ended."""
        if self._rounds_n == 0:
            return SAMPLE
        undone = [trial_id for trial_id, state in states.items() if state.status in UNDONE]
        if undone and (self.elsewhere(states) or all(self._starts[trial_id] >= MOST_STARTS for trial_id in undone)):
            return ()
        return SAMPLE if self._preview().peek() is not None else ()

    def start(self, ready: Collection[str], listener: Listener) -> None:
        from cifar_hpc.executors.ray.executor import RayTuneExecutor

        self._rounds_n += 1
        files, executor = self._layout.sweep(self._spec.name), RayTuneExecutor()
        write_changed(files.spec, self._spec.text.encode())
        handles: dict[str, tuple[Job, str]] = {}

        def started(job: Job, handle: str) -> None:
            self._starts.update(job.trial_ids)
            handles[job.job_id] = job, handle
            append_records(files.jobs, [job.event("submitted", executor.name, handle)])

        first_job = reserve_numbers(files, self.reader.plan.trials_at_most + len(self._spec.trials) + 1)
        journal = known_plan(self._layout, self._spec.name)
        run = SearchRun(self._layout, self._spec, journal, again=self._again, first_job=first_job, write=self._write)
        self._write(run.record)
        self._again = ()
        try:
            executor.search(self._layout, run, started)
        finally:
            append_records(files.jobs, [job.event("ended", executor.name, handle) for job, handle in handles.values()])

    def settle(self) -> States:
        self._write_where_ended()
        return self.reader.read()

    def elsewhere(self, states: States) -> Collection[str]:
        """What another sweep trains, where nothing else is left to wait for."""
        undone = [trial_id for trial_id, state in states.items() if state.status in UNDONE]
        return undone if all(states[trial_id].status is Status.RUNNING for trial_id in undone) else ()

    def _write_where_ended(self) -> bool:
        """Whether nothing is left to train: then the journal is complete, though no round was needed for its last points."""
        plan = ended_journal(self._layout, self._spec, self._again)
        if plan is None:
            return False
        write_changed(self._layout.sweep(plan.sweep).spec, self._spec.text.encode())
        self._write(plan)
        return True

    def _write(self, plan: PlanRecord) -> None:
        self.reader.plan = plan
        keep_plan(self._layout, plan, self._listener)

    def _preview(self) -> SearchRun:
        """The search as it would go on, written nowhere."""
        journal = known_plan(self._layout, self._spec.name)
        return SearchRun(self._layout, self._spec, journal, again=self._again, first_job=1, write=lambda record: None)


def not_here(spec: SweepSpec, where: Where) -> str:
    """Why a search cannot run there, and what to type; empty where it can."""
    if where.on is not On.INLINE and where.slurm() is None:
        return ""
    return (
        "trials are judged while they train side by side, through Ray. "
        f"On a cluster: sbatch slurm/ray_cluster.sbatch {spec.path}; on this machine: --on ray"
    )


def in_words(spec: SweepSpec, sampled_n: int | None = None) -> str:
    """'at most 8 configurations with 3 seeds each, sampled at random'. sampled_n: configurations of a search that samples no
    more."""
    assert spec.search is not None
    search, by = spec.search, spec.search.algorithm
    sampled = f"sampled {'at random' if by == 'random' else f'by {by}'}"
    if search.is_population:
        return f"a population of {search.num_points}, {sampled}"
    n = min(search.num_points, search.space.size or search.num_points)
    seeds = f" with {search.seeds_n} seeds each" if search.seeds_n > 1 else ""
    folds = f" of {search.folds_n} folds each" if search.folds_n > 1 else ""
    how_many = f"at most {plural(n, 'configuration')}" if sampled_n is None else plural(sampled_n, "configuration")
    return f"{how_many}{seeds}{folds}, {sampled}"
