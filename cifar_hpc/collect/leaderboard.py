"""The leaderboard: points over seeds, best first. Validation ranks; test stands beside it.

Owns: what a row says, who is ranked, the Pareto front. Draws and formats nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cifar_hpc.collect.objectives import known_own
from cifar_hpc.collect.scan import Pool, varying_axes
from cifar_hpc.collect.statistics import Estimate, estimate, estimate_over_splits, within
from cifar_hpc.collect.trials import Axis, Trial, Unfinished, short_paths, value_text, with_short_paths
from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.normalize import features_are_shared
from cifar_hpc.config.registry import CLASSIFIERS, OBJECTIVES, ObjectiveInfo
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.records.order import Last, Standing, last_of
from cifar_hpc.records.plans import MIN_SEEDS, is_partial
from cifar_hpc.records.schema import Outcome, Status

SEEN = "validated with images that what it starts from may have trained on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One point. Accuracies are fractions; None: no seed measured it. trials, failed, lost, unfinished, contradicted (by their
    own predictions, so that none of the numbers is of them): its seeds."""

    number: int | None  # of its row, from 1, by which it is named: SWEEP#3; None: the whole leaderboard has no such row
    place: int | None  # from 1, among the points with enough seeds to claim one; None: too few
    point_id: str
    axes: Mapping[Axis, Any]  # only the axes that vary
    config: Mapping[Axis, Any]
    trials: tuple[Trial, ...]
    failed: tuple[Unfinished, ...]
    lost: tuple[Unfinished, ...]
    unfinished: tuple[Unfinished, ...]
    contradicted: tuple[Trial, ...]
    rounds: tuple[tuple[int, int], ...]  # seed and repeat of each trial that measured the objective
    score: Estimate | None  # the objective on validation, at each seed's best epoch
    val_acc: Estimate | None
    test_acc: Estimate | None
    gap: float | None  # mean accuracy while it learned, at the best epoch, minus that on validation; as best_epoch
    best_epoch: float | None  # mean; None of a classifier that is solved, not trained, as epochs
    epochs: float | None  # trained, mean: fewer than asked for where patience, a search or a limit ended trials
    train_s: float | None  # mean of a trial
    device_hours: float  # of all its trials
    pareto: bool  # no point is both better and faster
    test_score: Estimate | None = None  # the objective on test, where it is neither accuracy nor loss
    own: ObjectiveInfo | None = None  # its trials' objective, where it is one of the user's own that a plan here tells of
    begun: bool = False  # whether its trials started from other trials' networks
    whole_axes: Mapping[Axis, Any] = field(default_factory=dict)  # those that vary without the filter, or across data sets
    hidden: int = 0  # of a filtered leaderboard: how many of its trials the filter leaves out
    beside: int = 0  # of a filtered leaderboard: the most trials by which a configuration is measured there
    seen: int = 0  # of its trials, how many may be validated with images that a network before them trained on
    before_s: float | None = None  # what these took, mean of a trial; None: nothing, or nobody knows

    @property
    def draws_nothing(self) -> bool:
        """Whether all seeds measure the same: a classifier that is solved, on features of images that all of them share."""
        config, own = self.config, any(trial.own_split for trial in self.trials)
        drawn = config.get("dataset.split_seed") == BY_SEED and (own or config.get("dataset.train_size") is not None)
        alike = features_are_shared(str(config.get("arch")), config.get("weights"), config.get("weights_point"))
        return alike and not drawn and not CLASSIFIERS[str(config.get("classifier", "linear"))].trained

    @property
    def whole_s(self) -> float | None:
        """What a trial took together with those that it started from; None where that is not known."""
        if self.train_s is None or (self.begun and self.before_s is None):
            return None
        return self.train_s + (self.before_s or 0.0)

    @property
    def all_axes(self) -> Mapping[Axis, Any]:
        """Those of its sweep, also those that a filter fixes."""
        return {**self.whole_axes, **self.axes}

    @property
    def told_by(self) -> Mapping[Axis, Any]:
        """The axes that vary and its values; of one that a filter, or its data set and split, has to itself `whole_axes`."""
        return self.axes or self.whole_axes

    @property
    def label(self) -> str:
        """The point in words: 'arch=resnet18 lr=0.001'; without what it has no value for, unless it has none at all."""
        told = {key: value for key, value in self.told_by.items() if value is not None or key == "weights"} or self.told_by
        return " ".join(f"{key}={value_text(value, key)}" for key, value in told.items()) or "the only configuration"

    @property
    def best_trial(self) -> Trial:
        """The finished seed that is best on validation, by the objective. There must be one."""
        known = self.own or self.config["objective"] in OBJECTIVES
        objective = str(self.config["objective"]) if known else "val_acc"
        sign = 1 if self.info.mode == "max" else -1
        return max(self.trials, key=lambda t: -math.inf if (value := t.metric(objective)) is None else sign * value)

    @property
    def info(self) -> ObjectiveInfo:
        """Of its trials' objective; accuracy where nothing here tells what that is."""
        return self.own or OBJECTIVES.get(str(self.config.get("objective")), OBJECTIVES["val_acc"])

    @property
    def keeps_weights(self) -> bool:
        """Whether its networks can label new images."""
        return CLASSIFIERS[str(self.config.get("classifier", "linear"))].keeps_weights

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """Of all its seeds, those that count first."""
        parts = self.trials, self.failed, self.lost, self.unfinished, self.contradicted
        return tuple(t.trial_id for part in parts for t in part)

    @property
    def ended_early(self) -> bool:
        """Whether a trial trained fewer epochs than it was to have."""
        return self.epochs is not None and isinstance(wanted := self.config.get("epochs"), int) and self.epochs < wanted

    @property
    def seeds(self) -> int:
        """How many measured the objective."""
        return self.score.n if self.score else 0

    @property
    def whole_rounds(self) -> bool:
        """Whether all folds have measured, so that it was measured on all images; without folds always."""
        return self.config.get("dataset.folds") is None or (self.score is not None and not self.partial)

    @property
    def runs_n(self) -> int:
        """Its trials, finished or not."""
        return len(self.trial_ids)

    @property
    def asked_n(self) -> int | None:
        """How many trials were to measure it, where only a part of them has: others failed, diverged, or are still to come."""
        asked = max(self.runs_n + self.hidden, self.config.get("dataset.folds") or 0)
        return asked if self.score is not None and self.seeds < asked else None

    @property
    def partial(self) -> bool:
        """Whether it was measured, and by too few of its trials, those that a filter hides among them unless it hides as many
        of all: see is_partial."""
        asked = max(self.runs_n, min(self.runs_n + self.hidden, self.beside))
        return self.score is not None and is_partial(self.rounds, asked, self.config.get("dataset.folds"))

    @property
    def hidden_alone(self) -> bool:
        """Whether a filter hides trials of it, and none that it shows is without a measurement."""
        return self.hidden > 0 and len(self.rounds) == self.runs_n

    @property
    def cut(self) -> int:
        """How many of its trials a search ended early."""
        return sum(trial.outcome is Outcome.PRUNED for trial in self.trials)

    @property
    def diverged(self) -> int:
        return sum(trial.outcome is Outcome.DIVERGED for trial in self.trials)

    @property
    def last(self) -> Last:
        """Why it stands below points of a lower number."""
        return last_of([trial.outcome for trial in self.trials], partial=self.partial, seen=self.seen > 0)

    def standing(self, info: ObjectiveInfo) -> Standing:
        """Where it stands among points that are ranked by the same objective, info. One of its trials must have measured it."""
        assert self.score is not None
        return Standing.of(self.last, self.score.mean, info, self.trials[0].params_trained, self.point_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """rows: best first; points without a measured seed last. Only of trials on the same images (collect/image_sets) does the
    order mean anything."""

    objective: str
    axes: tuple[Axis, ...]
    rows: tuple[Row, ...]
    own: ObjectiveInfo | None = None  # as Pool.ranked.own
    tried: Mapping[Axis, tuple[Any, ...]] = field(
        default_factory=dict
    )  # of a filtered one: its axes' values without the filter

    @property
    def info(self) -> ObjectiveInfo:
        return self.own or OBJECTIVES[self.objective]

    def values(self, axis: Axis) -> tuple[Any, ...]:
        """The values of an axis: 'none' and None, numbers upwards, words, 'all'."""
        return tuple(sorted(dict.fromkeys(row.axes[axis] for row in self.rows), key=_value_order))

    @property
    def runs(self) -> str:
        """What the means are over: see runs_of."""
        return runs_of([trial for row in self.rows for trial in row.trials])

    @property
    def measured(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.score is not None)

    def filtered(self, rows: Iterable[Row], tried: Mapping[Axis, tuple[Any, ...]]) -> Leaderboard:
        """This with rows of which it is known what a filter hides: ranked again, with the numbers that they have; tried: see
        there."""
        rows = list(rows)
        most = max((len(row.rounds) for row in rows), default=0)
        numbers = {row.point_id: row.number for row in rows}
        ranked = _ranked((replace(row, beside=most) for row in rows), self.info)
        return replace(self, rows=tuple(replace(row, number=numbers[row.point_id]) for row in ranked), tried=tried)

    @property
    def rivals(self) -> tuple[Row, ...]:
        """The rows among which the first one's number was the best; not those that stand below it whatever theirs are."""
        return tuple(row for row in self.measured if row.last == self.measured[0].last)

    @property
    def images(self) -> int | None:
        """How many images measured the first row's objective; None where none did."""
        return self.measured[0].score.images if self.measured and self.measured[0].score else None

    @property
    def intervals_of_images(self) -> bool:
        """Whether the intervals of the objective cover the luck of the images beside that of seeds."""
        return all(row.score.of_images for row in self.measured if row.score and row.score.low is not None)

    @property
    def is_population(self) -> bool:
        """Whether points start from trials of other points here, generation after generation."""
        here = {f"{PARENT_PREFIX}{trial.trial_id}" for row in self.rows for trial in row.trials}
        return any(row.axes.get("weights") in here for row in self.rows)

    @property
    def claims_ranking(self) -> bool:
        """Whether the first two points have enough seeds for an order to mean something."""
        return all(row.place is not None for row in self.measured[:2])


def runs_of(trials: Sequence[Trial]) -> str:
    """'seeds', 'folds' or 'seeds and folds': what the means of these trials are over."""
    if not any(trial.fold is not None for trial in trials):
        return "seeds"
    return "folds" if len({trial.seed for trial in trials}) == 1 else "seeds and folds"


def make_leaderboard(pool: Pool) -> Leaderboard:
    """Ranks the pool's points as records/order.py has it. One of which every trial diverged, or that a part of its folds or
    seeds has measured, takes no place; nor does one that may be validated with images that trained what it starts from."""
    axes = varying_axes(pool)
    finished: dict[str, list[Trial]] = {}
    unfinished: dict[str, list[Unfinished]] = {}
    for trial in pool.trials:
        finished.setdefault(trial.point_id, []).append(trial)
    for waiting in pool.unfinished:
        unfinished.setdefault(waiting.point_id, []).append(waiting)
    contradicted: dict[str, list[Trial]] = {}
    for trial in pool.contradicted:
        contradicted.setdefault(trial.point_id, []).append(trial)
    points = dict.fromkeys((*finished, *unfinished, *contradicted))
    rows = [
        _row(point, axes, pool, finished.get(point, []), unfinished.get(point, []), contradicted.get(point, []))
        for point in points
    ]
    ends = short_paths(row.axes.get("weights") for row in rows)
    rows = [replace(row, axes=with_short_paths(row.axes, ends)) for row in rows]
    return Leaderboard(objective=pool.objective, axes=axes, rows=_ranked(rows, pool.info), own=pool.ranked.own)


def comparable_s(rows: Sequence[Row]) -> list[float | None]:
    """Row.whole_s of each row, where it says what a trial of it takes beside the others'. None of one of which a trial diverged
    or was cut off, and was quick for that reason, or that a part measured; of all where they are of unlike devices."""
    if len({(t.device, t.hardware, t.world_size, t.gpu_share) for row in rows for t in row.trials}) > 1:
        return [None] * len(rows)
    return [None if any(row.last) or row.diverged or row.cut else row.whole_s for row in rows]


def _ranked(rows: Iterable[Row], info: ObjectiveInfo) -> tuple[Row, ...]:
    """In their order, with numbers and places; those that no trial measured last."""
    rows = list(rows)
    measured = sorted((row for row in rows if row.score), key=lambda row: row.standing(info))
    timed = [(row, seconds) for row, seconds in zip(measured, comparable_s(measured), strict=True) if seconds is not None]
    on_front = _pareto_front([(row.standing(info).cost, seconds) for row, seconds in timed])
    front = {row.point_id for (row, _), best in zip(timed, on_front, strict=True) if best}
    places = itertools.count(1)
    ranked = [
        replace(
            row,
            number=number,
            place=next(places) if row.seeds >= MIN_SEEDS and not (row.last.diverged or row.partial or row.seen) else None,
            pareto=row.point_id in front,
        )
        for number, row in enumerate(measured, 1)
    ]
    others = (replace(row, number=number) for number, row in enumerate((row for row in rows if not row.score), len(ranked) + 1))
    return *ranked, *others


def _value_order(value: Any) -> tuple[int, float, str]:
    if value is None or value == "none":
        return (0, 0.0, "")
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (3 if value == "all" else 2, 0.0, str(value))


def _row(
    point_id: str,
    axes: Sequence[Axis],
    pool: Pool,
    trials: Sequence[Trial],
    unfinished: Sequence[Unfinished],
    contradicted: Sequence[Trial],
) -> Row:
    trials = sorted(trials, key=lambda trial: (trial.seed, trial.fold or 0))
    config = (trials or unfinished or contradicted)[0].config
    trained = [trial for trial in trials if config.get("epochs")]
    gaps = [t.train_acc - t.val_acc for t in trained if t.train_acc is not None and t.val_acc is not None]
    return Row(
        number=None,
        place=None,
        point_id=point_id,
        axes={axis: config.get(axis) for axis in axes},
        config=config,
        trials=tuple(trials),
        failed=tuple(trial for trial in unfinished if trial.status is Status.FAILED),
        lost=tuple(trial for trial in unfinished if trial.status is Status.LOST),
        unfinished=tuple(trial for trial in unfinished if trial.status not in (Status.FAILED, Status.LOST)),
        contradicted=tuple(contradicted),
        rounds=tuple(trial.round for trial in trials if trial.metric(pool.objective) is not None),
        score=_over_seeds(trials, pool.objective, pool.info),
        val_acc=_over_seeds(trials, "val_acc", OBJECTIVES["val_acc"]),
        test_acc=_over_seeds(trials, "test_acc", OBJECTIVES["val_acc"], test=True),
        test_score=_over_seeds(trials, f"test_{pool.objective}", pool.info, test=True) if pool.info.metric is None else None,
        own=known_own(config, pool.ranked.known),
        gap=_mean_of(gaps),
        best_epoch=_mean_of([t.best_epoch for t in trained if t.best_epoch is not None]),
        epochs=_mean_of([t.epochs for t in trained]),
        train_s=_mean_of([trial.train_s for trial in trials]),
        device_hours=sum(trial.device_hours for trial in trials),
        pareto=False,
        begun=any(trial.parent_id for trial in trials),
        seen=sum(trial.trial_id in pool.seen for trial in trials),
        before_s=_mean_before(trials, pool.before_s),
    )


def _over_seeds(trials: Sequence[Trial], metric: str, info: ObjectiveInfo, *, test: bool = False) -> Estimate | None:
    """info: of the objective that it is. test: it was measured on the test images, not on validation."""
    measured = [(value, trial) for trial in trials if (value := trial.metric(metric)) is not None]
    if not measured:
        return None
    counted, first = info.metric == "acc", measured[0][1]
    if first.own_split:
        found = _over_splits(measured, counted=counted, test=test)
    else:
        found = estimate(_of_independent(measured), first.test_n if test else first.val_n, counted=counted)
    return None if found is None else within(found, info.bounds)


def _of_independent(measured: Sequence[tuple[float, Trial]]) -> list[float]:
    """What each seed measured; of a seed that trained from several networks, as a refit of what starts from folds,
    the mean: these have most of their training in common."""
    found: dict[int, list[float]] = {}
    for value, trial in measured:
        found.setdefault(trial.seed, []).append(value)
    return [sum(values) / len(values) for values in found.values()]


def _over_splits(measured: Sequence[tuple[float, Trial]], *, counted: bool, test: bool) -> Estimate | None:
    trials = [trial for _, trial in measured]
    values, splits = [value for value, _ in measured], [trial.split for trial in trials]
    share = (trials[0].val_n or 1) / max(trials[0].train_n or 0, 1)
    if test:  # all on the same images
        return estimate(values, trials[0].test_n, counted=counted, share=share, splits=splits)
    rounds = len({trial.round for trial in trials})
    return estimate_over_splits(values, [trial.val_n or 1 for trial in trials], rounds, share, splits, counted=counted)


def _mean_of(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean_before(trials: Sequence[Trial], before_s: Mapping[str, float]) -> float | None:
    if not any(trial.parent_id for trial in trials):
        return None
    found = [before_s.get(trial.trial_id) if trial.parent_id else 0.0 for trial in trials]
    return None if None in found else _mean_of([seconds for seconds in found if seconds is not None])


def _pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the (a, b) pairs, both better when smaller, no other pair beats in one without losing in the other."""
    front = [False] * len(costs)
    last: tuple[float, float] = (float("inf"), float("inf"))
    for i in sorted(range(len(costs)), key=lambda i: costs[i]):
        if costs[i][1] < last[1] or costs[i] == last:
            front[i], last = True, costs[i]
    return front
