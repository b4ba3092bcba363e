"""How far a sweep is, in numbers: trials and epochs, the best so far, the time left. Reads no files and prints nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cifar_hpc.config.dataset import measured_on
from cifar_hpc.config.identity import canonical
from cifar_hpc.config.registry import ObjectiveInfo
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.planning.cohorts import known_train_images
from cifar_hpc.planning.estimate import Experience, Sample
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.order import Standing, last_of
from cifar_hpc.records.plans import answering, is_partial, ranked_by, round_of
from cifar_hpc.records.schema import Outcome, PlannedTrial, PlanRecord, Status
from cifar_hpc.status.names import names_of
from cifar_hpc.status.query import fold_of
from cifar_hpc.status.state import ENDED
from cifar_hpc.status.words import decimals_of, fixed_text, percent_text


@dataclass(frozen=True, slots=True)
class Best:
    """The best point so far: the mean of the objective over the seeds that have finished."""

    name: str
    metric: str
    value: float
    seeds: int
    images: int
    share: bool  # of 0..1
    of_n: int | None = None  # the trials that it is to have, where these are a part of them
    equals: int = 0  # other points that measured the very same on these images
    sets: int = 1  # data sets or splits that the points were measured on: a report ranks each by itself
    seen: bool = False  # whether what it starts from may have trained on the images that validate it
    point_id: str = ""
    trial_ids: tuple[str, ...] = ()  # that have measured it

    @property
    def score(self) -> str:
        """'val acc 81.20 % (mean of 3)', 'val acc 92 % (1 of 5), equal to 2 others'."""
        decimals = decimals_of(self.images, share=self.share)
        shown = f"{percent_text(self.value, decimals)} %" if self.share else fixed_text(self.value, decimals)
        mean = f" ({self.seeds} of {self.of_n})" if self.of_n else f" (mean of {self.seeds})" if self.seeds > 1 else ""
        equal = f", equal to {plural(self.equals, 'other')}" if self.equals else ""
        sets = f", on one of {self.sets} data sets or splits, which are not comparable" if self.sets > 1 else ""
        return f"{self.metric.replace('_', ' ')} {shown}{mean}{equal}{sets}"

    def __str__(self) -> str:
        return f"{self.name}  {self.score}"


def best_point(plan: PlanRecord, states: Mapping[str, TrialState]) -> Best | None:
    """By what ranks the plan, on validation, of the last stages where there are some; None before anything was measured."""
    objective, info = ranked_by(plan)
    points: dict[str, _Point] = {}
    for trial in answering(plan):
        if trial.point_id not in points:
            points[trial.point_id] = _Point(trial)
        points[trial.point_id].add(trial, states[trial.trial_id], objective, info)
    measured = {point_id: point for point_id, point in points.items() if point.values}
    if not measured:
        return None
    standings = {point_id: point.standing(info) for point_id, point in measured.items()}
    first = min(standings.values())
    best = measured[first.point_id]
    same = [standings[id_].equals(first) for id_, point in measured.items() if point.measured_on == best.measured_on]
    seeds = len(best.values)
    return Best(
        _name_of_point(plan, first.point_id),
        objective,
        best.mean,
        seeds,
        max(best.images),
        info.share,
        of_n=best.runs if seeds < best.runs else None,
        equals=sum(same) - 1,
        sets=len({point.measured_on for point in measured.values()}),
        seen=best.seen,
        point_id=first.point_id,
        trial_ids=tuple(best.trial_ids),
    )


def _name_of_point(plan: PlanRecord, point_id: str) -> str:
    """By what tells it from the plan's other points; a trial of each is enough for that."""
    trials: dict[str, PlannedTrial] = {}
    for trial in plan.trials:
        trials.setdefault(trial.point_id, trial)
    return names_of(trials.values(), seed=False)[trials[point_id].trial_id]


class _Point:
    """What the trials of a configuration have measured so far."""

    def __init__(self, trial: PlannedTrial) -> None:
        dataset = trial.config["dataset"]
        self.measured_on = canonical(measured_on(dataset))
        self.runs = 0
        self.values: list[float] = []
        self.images: list[int] = []  # of each value
        self._point_id = trial.point_id
        self._folds: int | None = dataset.get("folds")
        self._rounds: list[tuple[int, int]] = []
        self._outcomes: list[Outcome] = []
        self._params_trained = 0
        self.seen = False
        self.trial_ids: list[str] = []  # of each value

    def add(self, trial: PlannedTrial, state: TrialState, objective: str, info: ObjectiveInfo) -> None:
        self.runs += 1
        if state.result is None:
            return
        self._outcomes.append(state.result.outcome)
        self.seen |= state.seen
        self._params_trained = max(self._params_trained, state.result.params_trained)
        val = state.result.val
        value = None if val is None else val.value(objective, info.metric)
        if val is None or value is None:
            return
        self.values.append(value)
        self.trial_ids.append(trial.trial_id)
        self.images.append(val.n)
        self._rounds.append(round_of(int(trial.config["seed"]), fold_of(trial.config), self._folds))

    @property
    def mean(self) -> float:
        return fmean(self.values, self.images)  # folds are not of one size

    def standing(self, info: ObjectiveInfo) -> Standing:
        last = last_of(self._outcomes, partial=is_partial(self._rounds, self.runs, self._folds), seen=self.seen)
        return Standing.of(last, self.mean, info, self._params_trained, self._point_id)


def images_per_s(trial: PlannedTrial, state: TrialState, trials: Iterable[TrialState] = ()) -> float | None:
    """Training images a second in the trial's last epoch; None before one has ended, where nobody knows how many there are, and
    where others train beside it, with which it shares its seconds.

    trials: others of the sweep, of which a finished one on the same images has counted them.
    """
    if not state.epochs or state.epochs[-1].train_s <= 0 or (state.claim is not None and state.claim.shared_by > 1):
        return None
    dataset = trial.config["dataset"]
    counted = next((one.result.train_n for one in trials if one.result and one.result.config["dataset"] == dataset), None)
    images = counted or known_train_images(TrialConfig.from_json(trial.config).dataset)
    return None if images is None else images / state.epochs[-1].train_s


class Pace:
    """How fast a sweep gets on while it is looked at: what trains side by side, and what else it costs, is in it."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._gained_s = 0.0  # when an epoch ended last
        self._first: dict[str, int] = {}
        self._done_n = 0

    def left_s(self, plan: PlanRecord, states: Mapping[str, TrialState], now_s: float) -> float | None:
        """Seconds to the end, at now_s of a clock; None before an epoch has ended since the first look, and near the end."""
        epochs = {trial_id: state.epochs_kept for trial_id, state in states.items()}
        if self._began_s is None:
            self._began_s, self._first = now_s, epochs
        if sum(epochs.values()) != self._done_n:
            self._gained_s, self._done_n = now_s, sum(epochs.values())
        costs = _epoch_costs_s(plan, states)
        gained, left = 0.0, _to_come(plan) * fmean(costs.values()) if costs else 0.0
        for trial in plan.trials:
            cost, state = costs[trial.point_id], states[trial.trial_id]
            gained += (state.epochs_kept - self._first.get(trial.trial_id, 0)) * cost
            left += _epochs_left(trial, states) * cost if is_open(state) else 0.0
        if not left or gained <= 0:
            return None
        left_s = left / gained * (self._gained_s - self._began_s) - (now_s - self._gained_s)
        return left_s if left_s >= 1 else None


def _epoch_costs_s(plan: PlanRecord, states: Mapping[str, TrialState]) -> dict[str, float]:
    """Of each point, seconds of one epoch by what those of this sweep took; 0 before any has ended."""
    configs: dict[str, Mapping[str, Any]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    for trial in plan.trials:
        configs[trial.point_id] = trial.config
        seconds[trial.point_id] += [epoch.train_s + epoch.val_s for epoch in states[trial.trial_id].epochs]
    experience = Experience([Sample(configs[point], fmean(taken)) for point, taken in seconds.items() if taken])
    return {point: experience.epoch_s(config) or 0.0 for point, config in configs.items()}


def _to_come(plan: PlanRecord) -> int:
    """Epochs of trials that a search has still to sample, at most."""
    longest = max((int(trial.config["epochs"]) for trial in plan.trials), default=0)
    return plan.to_come * longest


def epochs_text(trial: PlannedTrial, state: TrialState) -> str:
    """'3/10'; empty of a classifier that is fitted."""
    return f"{state.epochs_done}/{trial.epochs}" if trial.epochs else ""


def is_open(state: TrialState) -> bool:
    return state.status not in ENDED and state.status is not Status.FAILED


def _epochs_left(trial: PlannedTrial, states: Mapping[str, TrialState]) -> int:
    return max(0, int(trial.config["epochs"]) - states[trial.trial_id].epochs_kept)


@dataclass(frozen=True, slots=True)
class Counts:
    """Trials and epochs of a sweep, and how many have ended. A trial that has ended counts with the epochs that it trained, one
    that begins again with none of those of before, one that a search will sample with those of the longest so far, a classifier
    that is fitted with none."""

    trials: int
    done: int
    failed: int
    epochs: int
    epochs_done: int
    to_come: int = 0  # of the trials, those that a search may still sample

    @classmethod
    def of(cls, plan: PlanRecord, states: Mapping[str, TrialState]) -> Counts:
        trials = [trial for trial in plan.trials if trial.epochs]
        trained = sum(states[trial.trial_id].epochs_kept for trial in trials)
        left = sum(_epochs_left(trial, states) for trial in trials if is_open(states[trial.trial_id]))
        left += _to_come(plan) if trials else 0
        done = sum(state.status in ENDED for state in states.values())
        failed = sum(state.status is Status.FAILED for state in states.values())
        return cls(plan.trials_at_most, done, failed, trained + left, trained, plan.to_come)

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return ", ".join(filter(None, (f"{self.of_trials}{failed}", self.of_epochs)))

    @property
    def of_trials(self) -> str:
        """'6/9 trials', '6 of up to 24 trials'."""
        return f"{self.done}{self._of}{self.trials} trials"

    @property
    def of_epochs(self) -> str:
        """'12/18 epochs'; empty where no trial trains: all classifiers are fitted."""
        return f"{self.epochs_done}{self._of}{self.epochs} epochs" if self.epochs else ""

    @property
    def _of(self) -> str:
        return " of up to " if self.to_come else "/"
