"""A search in progress: what is to train next, sampled or left from before. plan.json is its journal: a point is written there
before it trains, so that a search that was killed goes on with the same points.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.planning.cohorts import Cohort
from cifar_hpc.planning.plan import Job, make_plan, plan_record
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.jobs import JobEvent, next_number
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan, state_for
from cifar_hpc.records.schema import EpochRecord, Outcome, PlannedTrial, PlanRecord, Status
from cifar_hpc.records.store import read_records
from cifar_hpc.search.population import propose_heir, survivors
from cifar_hpc.search.samplers import Tried, known, propose
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.spec.search import Picks, Search
from cifar_hpc.spec.sweep import SweepSpec

Trials = tuple[SweepTrial, ...]  # of one point, one a seed


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A trial of the search. epochs: those that it has trained, on this search's account or another's, from which a scheduler
    learns; job: what is left to train of it, None where it has ended."""

    trial_id: str
    epochs: Sequence[EpochRecord]
    job: Job | None


@dataclass(slots=True)
class _Point:
    """tried: what is known of it, once all its trials have results."""

    picks: Picks
    trial_ids: tuple[str, ...]
    tried: Tried | None = None


class SearchRun:
    """One search, for the process that runs it.

    before: the journal, None at the beginning; again: failed trials that are tried once more; first_job: the number of the
    first job; write: stores the journal after each new point.
    """

    def __init__(
        self,
        layout: Layout,
        spec: SweepSpec,
        before: PlanRecord | None,
        *,
        again: Collection[str] = (),
        first_job: int,
        write: Callable[[PlanRecord], None],
    ) -> None:
        assert spec.search is not None
        self.search: Search = spec.search
        self.objective = spec.objective
        self.metric = spec.objective_info.metric
        self.mode = spec.objective_info.mode
        self.record = journal_of(spec, before, first_job)
        self._layout, self._spec, self._again, self._write = layout, spec, frozenset(again), write
        self._next_job = first_job
        self._points = _points_of(self.record)
        self._waiting = self._begin()

    def next(self) -> Suggestion | None:
        """The next trial; None once all points of the search were given, or where it `waits`. What has ended comes before what
        trains."""
        if not self._waiting:
            self._waiting.extend(map(self._suggest, self._new_point()))
        return self._waiting.popleft() if self._waiting else None

    def peek(self) -> Job | None:
        """A job that is still to train, left for `next` to give; None where there is none."""
        while not any(suggestion.job for suggestion in self._waiting):
            new = [self._suggest(config) for config in self._new_point()]
            if not new:
                return None
            self._waiting.extend(new)
        return next(suggestion.job for suggestion in self._waiting if suggestion.job)

    @property
    def waits(self) -> bool:
        """Whether there is more to give once all trials that were given have ended: a population's next generation."""
        before = self._generation_before()
        return 0 < len(self._points) < self.search.trials_at_most and any(self._tried(point).open for point in before)

    @property
    def suggestions_at_most(self) -> int:
        """Trials that `next` may still give."""
        return len(self.record.trials) + self.search.trials_at_most

    def _begin(self) -> deque[Suggestion]:
        known_before = [self._suggest(TrialConfig.from_json(trial.config)) for trial in self.record.trials]
        return deque(sorted(known_before, key=lambda suggestion: suggestion.job is not None))

    def _suggest(self, config: TrialConfig) -> Suggestion:
        trial_id = config.trial_id
        state = state_for(self._layout, trial_id, [self.record])
        if state.result is not None:
            return Suggestion(trial_id, state.result.curves, None)
        if state.status is Status.FAILED and trial_id not in self._again:
            return Suggestion(trial_id, (), None)
        name, cohort = f"job-{self._next_job:04d}", Cohort(trials=(config,))
        self._next_job += 1
        wanted = next((trial.resources for trial in self.record.trials if trial.trial_id == trial_id), {})
        resources = dataclasses.replace(self._spec.resources, **wanted)
        job = Job(sweep=self._spec.name, job_id=name, cohorts=(cohort,), resources=resources)
        return Suggestion(trial_id, state.epochs, job)

    def _new_point(self) -> Sequence[TrialConfig]:
        """Samples a point and writes it down; none where the search has had all its points, or waits."""
        if self.search.is_population:
            new = self._new_heirs()
        else:
            new = self._new_picks() if len(self._points) < self.search.num_points else iter(())
        for picks, trials in new:
            planned = [_planned(trial, picks) for trial in trials]
            self._points.append(_Point(picks, tuple(trial.trial_id for trial in planned)))
            self.record = _with_trials(self.record, planned)
            self._write(self.record)
            return [trial.config for trial in trials]
        return ()

    def _new_picks(self, cut: Callable[[SweepTrial], SweepTrial] = lambda trial: trial) -> Iterator[tuple[Picks, Trials]]:
        """Sampled points that are new. cut: what becomes of each trial."""
        here = {trial.trial_id for trial in self.record.trials}
        refused: list[Picks] = []
        for picks in propose(self.search, [self._tried(point) for point in self._points], self.mode):
            if known(picks, refused):
                continue
            trials = tuple(map(cut, self.search.space.trials(picks)))
            if trials and not here.intersection(trial.config.trial_id for trial in trials):
                yield picks, trials
            refused.append(picks)

    def _new_heirs(self) -> Iterator[tuple[Picks, Trials]]:
        """One place of a population's next generation: what it trains, from whose weights."""
        before, n = self._generation_before(), len(self._points)
        if n >= self.search.trials_at_most or any(self._tried(point).open for point in before):
            return
        if not before:
            yield from self._new_picks(self._generation_of)
            return
        generation, place = divmod(n, self.search.num_points)
        parents = [self._tried(point) for point in before]
        best, going_on = survivors(self.search, parents, self.mode)
        kept = {i: self._heirs(parents[i].picks, before[i], generation) for i in going_on}
        if place in kept:
            yield parents[place].picks, kept[place]
            return
        taken = {trial.trial_id for trial in self.record.trials}
        taken |= {trial.config.trial_id for trials in kept.values() for trial in trials}
        for picks, parent in propose_heir(self.search, parents, best, generation, place):
            trials = self._heirs(picks, before[parent], generation)
            if trials and taken.isdisjoint(trial.config.trial_id for trial in trials):
                yield picks, trials

    def _heirs(self, picks: Picks, parent: _Point, generation: int) -> Trials:
        return tuple(self._generation_of(trial, parent, generation) for trial in self.search.space.trials(picks))

    def _generation_before(self) -> list[_Point]:
        """The population's generation from which the next trial starts; empty for the first one, and without a population."""
        size = self.search.num_points
        first = (len(self._points) // size - 1) * size
        return self._points[first : first + size] if self.search.is_population and first >= 0 else []

    def _generation_of(self, trial: SweepTrial, parent: _Point | None = None, generation: int = 0) -> SweepTrial:
        """The trial cut to the epochs of one generation, which keeps its weights for the next one.

        Each generation has a seed of its own, or all would see their images in the same order, cut in the same places.
        """
        assert self.search.scheduler is not None
        config = dataclasses.replace(trial.config, epochs=self.search.scheduler.grace_epochs, keep="weights")
        if parent is None:
            return dataclasses.replace(trial, config=normalise(config))
        weights = f"{PARENT_PREFIX}{parent.trial_ids[0]}"
        config = dataclasses.replace(config, weights=weights, weights_fingerprint=None, seed=config.seed + generation)
        return dataclasses.replace(trial, config=normalise(config), axes={**trial.axes, "weights": weights})

    def _tried(self, point: _Point) -> Tried:
        """What is known of the point now, from its trials' records; results are not read again."""
        if point.tried is not None:
            return point.tried
        states = [state_for(self._layout, trial_id, [self.record]) for trial_id in point.trial_ids]
        results = [state.result for state in states if state.result is not None]
        values = [value for state in states if (value := self._value(state)) is not None]
        if self.search.is_population and len(results) == len(states):
            kept = all(self._layout.trial(trial_id).weights.exists() for trial_id in point.trial_ids)
            values = values if kept else []  # another sweep trained it and kept no weights: nothing can go on from it
        over = len(results) + sum(state.status is Status.FAILED for state in states)
        if over < len(states):
            return Tried(point.picks, None)
        tried = Tried(
            point.picks,
            fmean(values) if values else None,
            epochs=min((len(result.curves) for result in results), default=0),
            pruned=any(result.outcome is Outcome.PRUNED for result in results),
            failed=not values,
        )
        if len(results) == len(states):
            point.tried = tried
        return tried

    def _value(self, state: TrialState) -> float | None:
        """The objective at the best epoch, on validation."""
        val = state.result.val if state.result else None
        return None if val is None else val.value(self.objective, self.metric)


def ended_journal(layout: Layout, spec: SweepSpec, again: Collection[str] = ()) -> PlanRecord | None:
    """The journal of a search that has nothing left to train, complete: with the sampled points that other sweeps have trained.
    None where it goes on. It may have fewer points than were asked for: too few train unlike, or a generation failed. Writes
    nothing."""
    first_job = next_number(read_records(layout.sweep(spec.name).jobs, JobEvent))
    before = known_plan(layout, spec.name)
    run = SearchRun(layout, spec, before, again=again, first_job=first_job, write=lambda record: None)
    if run.peek() is not None or run.waits:
        return None
    return dataclasses.replace(run.record, search={**(run.record.search or {}), "trials_at_most": len(run.record.trials)})


def journal_of(spec: SweepSpec, before: PlanRecord | None, first_job: int) -> PlanRecord:
    """The plan of a search as it stands: with the points of its journal where that is of the same search, else at its
    beginning. A search is the same as long as nothing but num_points changes."""
    assert spec.search is not None
    same = before is not None and before.search is not None and before.search["definition"] == spec.search.definition
    since = before.search["first_job"] if same and before and before.search else first_job
    about = {
        "definition": spec.search.definition,
        "algorithm": spec.search.algorithm,
        "num_points": spec.search.num_points,
        "scheduler": dataclasses.asdict(spec.search.scheduler) if spec.search.scheduler else None,
        "trials_at_most": len(spec.trials) + spec.search.trials_at_most,
        "first_job": since,
    }
    record = dataclasses.replace(plan_record(make_plan(spec, share=False)), search=about, share=True)
    if not same or before is None:
        return record
    here = {trial.trial_id for trial in record.trials}
    return _with_trials(record, [trial for trial in before.trials if trial.picks and trial.trial_id not in here])


def _with_trials(record: PlanRecord, trials: Sequence[PlannedTrial]) -> PlanRecord:
    cohorts = tuple((trial.trial_id,) for trial in trials)
    return dataclasses.replace(record, trials=(*record.trials, *trials), cohorts=(*record.cohorts, *cohorts))


def _planned(trial: SweepTrial, picks: Picks) -> PlannedTrial:
    config = trial.config
    return PlannedTrial(
        trial_id=config.trial_id,
        point_id=config.point_id,
        axes=trial.axes,
        config=config.to_json(),
        picks=dict(picks),
        resources=trial.resources,
    )


def _points_of(record: PlanRecord) -> list[_Point]:
    """The sampled points of a journal, in their order."""
    points: dict[str, _Point] = {}
    for trial in record.trials:
        if trial.picks:
            point = points.setdefault(trial.point_id, _Point(_as_picks(trial.picks), ()))
            point.trial_ids = (*point.trial_ids, trial.trial_id)
    return list(points.values())


def _as_picks(plain: dict[str, Any]) -> Picks:
    return dict(plain)
