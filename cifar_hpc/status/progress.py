"""How far a sweep is, in numbers: trials and epochs, the best so far, the time left. Reads no files and prints nothing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.planning.cohorts import known_train_images
from cifar_hpc.planning.estimate import Experience, Sample
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.plans import answering, is_partial, ranked_by, round_of
from cifar_hpc.records.schema import Outcome, PlannedTrial, PlanRecord, Status
from cifar_hpc.status.names import names_of
from cifar_hpc.status.query import fold_of
from cifar_hpc.status.state import ENDED
from cifar_hpc.status.words import decimals_of, number_text, percent_text


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
    equals: int = 0  # other points that measured the very same
    sets: int = 1  # data sets or splits that the points were measured on: a report ranks each by itself

    @property
    def score(self) -> str:
        """'val acc 81.20 % (mean of 3)', 'val acc 92 % (1 of 5), equal to 2 others'."""
        decimals = decimals_of(self.images, share=self.share)
        shown = f"{percent_text(self.value, decimals)} %" if self.share else number_text(self.value, decimals)
        mean = f" ({self.seeds} of {self.of_n})" if self.of_n else f" (mean of {self.seeds})" if self.seeds > 1 else ""
        equal = f", equal to {plural(self.equals, 'other')}" if self.equals else ""
        sets = f", the highest of {self.sets} data sets or splits, which are not comparable" if self.sets > 1 else ""
        return f"{self.metric.replace('_', ' ')} {shown}{mean}{equal}{sets}"

    def __str__(self) -> str:
        return f"{self.name}  {self.score}"


def best_point(plan: PlanRecord, states: Mapping[str, TrialState]) -> Best | None:
    """By what ranks the plan, on validation, of the last stages where there are some; None before anything was measured."""
    values: dict[str, list[float]] = defaultdict(list)
    rounds: dict[str, list[tuple[int, int]]] = defaultdict(list)
    names: dict[str, str] = {}
    counted: dict[str, list[int]] = defaultdict(list)  # the images of each measurement
    behind: dict[str, tuple[bool, int]] = {}  # what the leaderboard looks at beside the value: cut short, parameters
    told, (objective, info) = names_of(plan.trials, seed=False), ranked_by(plan)
    asked = answering(plan)
    runs = Counter(trial.point_id for trial in asked)
    folds = {trial.point_id: trial.config["dataset"].get("folds") for trial in asked}
    for trial in asked:
        result = states[trial.trial_id].result
        val = result.val if result else None
        value = None if val is None else val.value(objective, info.metric)
        if value is not None:
            values[trial.point_id].append(value)
            rounds[trial.point_id].append(round_of(int(trial.config["seed"]), fold_of(trial.config), folds[trial.point_id]))
            assert result is not None
            assert val is not None
            counted[trial.point_id].append(val.n)
            names.setdefault(trial.point_id, told[trial.trial_id])
            cut, params = behind.get(trial.point_id, (False, result.params_trained))
            behind[trial.point_id] = cut or result.outcome is Outcome.PRUNED, params
    if not values:
        return None
    sets = {_images_of(trial.config["dataset"]) for trial in asked if trial.point_id in values}
    sign = -1 if info.mode == "max" else 1
    means = {point_id: fmean(found, counted[point_id]) for point_id, found in values.items()}  # folds are not of one size
    partial = {point_id: is_partial(found, runs[point_id], folds[point_id]) for point_id, found in rounds.items()}

    def place(point_id: str) -> tuple[bool, bool, float, int, str]:  # as collect/leaderboard orders rows
        cut, params = behind[point_id]
        return cut, partial[point_id], sign * means[point_id], params, point_id

    point = min(values, key=place)
    of_n = runs[point] if len(values[point]) < runs[point] else None
    equals = sum(place(other)[:3] == place(point)[:3] for other in values) - 1
    images = max(counted[point])
    return Best(names[point], objective, means[point], len(values[point]), images, info.share, of_n, equals, len(sets))


def _images_of(dataset: Mapping[str, Any]) -> str:
    """What is one for the trials that are measured on the same images, or on folds or splits by seed of them."""
    of_seed = {"fold", "split_seed"} if dataset.get("split_by_seed") else {"fold"}
    return json.dumps({key: value for key, value in dataset.items() if key not in of_seed}, sort_keys=True)


def images_per_s(trial: PlannedTrial, state: TrialState, trials: Iterable[TrialState] = ()) -> float | None:
    """Training images a second in the trial's last epoch; None before one has ended, and where nobody knows how many there are.

    trials: others of the sweep, of which a finished one on the same images has counted them.
    """
    if not state.epochs or state.epochs[-1].train_s <= 0:
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
        epochs = {trial_id: state.epochs_done for trial_id, state in states.items()}
        if self._began_s is None:
            self._began_s, self._first = now_s, epochs
        if sum(epochs.values()) != self._done_n:
            self._gained_s, self._done_n = now_s, sum(epochs.values())
        costs = _epoch_costs_s(plan, states)
        gained, left = 0.0, _to_come(plan) * fmean(costs.values()) if costs else 0.0
        for trial in plan.trials:
            cost, state = costs[trial.point_id], states[trial.trial_id]
            gained += (state.epochs_done - self._first.get(trial.trial_id, 0)) * cost
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
    return (plan.trials_at_most - len(plan.trials)) * longest


def is_open(state: TrialState) -> bool:
    return state.status not in ENDED and state.status is not Status.FAILED


def _epochs_left(trial: PlannedTrial, states: Mapping[str, TrialState]) -> int:
    return max(0, int(trial.config["epochs"]) - states[trial.trial_id].epochs_done)


@dataclass(frozen=True, slots=True)
class Counts:
    """Trials and epochs of a sweep, and how many have ended. A trial that has ended counts with the epochs that it trained, one
    that a search will sample with those of the longest so far."""

    trials: int
    done: int
    failed: int
    epochs: int
    epochs_done: int

    @classmethod
    def of(cls, plan: PlanRecord, states: Mapping[str, TrialState]) -> Counts:
        trained = sum(states[trial.trial_id].epochs_done for trial in plan.trials)
        left = sum(_epochs_left(trial, states) for trial in plan.trials if is_open(states[trial.trial_id]))
        left += _to_come(plan)
        done = sum(state.status in ENDED for state in states.values())
        failed = sum(state.status is Status.FAILED for state in states.values())
        return cls(plan.trials_at_most, done, failed, trained + left, trained)

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.trials} trials{failed}, {self.epochs_done}/{self.epochs} epochs"
