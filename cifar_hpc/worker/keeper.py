"""Which trained networks of a sweep stay: those of its best configurations by validation, and those that an ensemble may have
as members, while a budget lasts.

Asked before a network is written, so that of a thousand probes not a thousand are; and once a cohort has ended, when what was
beaten in the meantime is removed. Owns: Keeper. What a spec says of it is records.KeepRule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from cifar_hpc.config.catalog import ENSEMBLE_LIBRARY
from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.config.trial import BY_RULE, PARENT_PREFIX
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.ancestry import Ancestry
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.order import Standing, last_of
from cifar_hpc.records.plans import parent_in, ranked_by, read_plan
from cifar_hpc.records.schema import EnsembleRules, KeepRule, Outcome, PlanRecord
from cifar_hpc.records.ties import read_valid

LARGER = OBJECTIVES["val_acc"]  # as all values here: the larger the better


def keeper_of(layout: Layout, sweep: str) -> Keeper:
    """The same one for all cohorts of a process, so that it reads each result once."""
    key = (str(layout.root), sweep)
    if key not in _keepers:
        _keepers[key] = Keeper(layout, sweep)
    return _keepers[key]


class Keeper:
    """Of one sweep, in the process that trains some of its trials."""

    def __init__(self, layout: Layout, sweep: str) -> None:
        self._layout, self._sweep = layout, sweep
        self._plan: PlanRecord | None = None
        self._points: dict[str, str] = {}  # by trial
        self._archs: dict[str, str] = {}  # by trial
        self._read_at = 0  # when the plan that was read was written, ns
        self._values: dict[str, float] = {}  # by trial: the objective on validation, larger is better
        self._outcomes: dict[str, Outcome] = {}  # by trial, of those that have a result
        self._params: dict[str, int] = {}  # by trial, that they train
        self._flattered: set[str] = set()  # trials that may be validated with images that trained what they start from
        self._removable: set[str] = set()
        self._seen: set[str] = set()  # trials whose result was read
        self._top: set[str] = set()  # points whose networks are written

    def hear(self, values: Mapping[str, float | None]) -> None:
        """What trials of this process have reached; None: without validation."""
        if self._plan is None:
            self._read()
        self._values |= {trial_id: value for trial_id, value in values.items() if value is not None}
        self._top = set(self._order(self._rule)) if self._rule else set()

    def takes(self, trial_id: str) -> bool:
        """Whether the network of a trial, of which it heard, is to be written."""
        rule = self._rule
        if rule is None:
            return False
        if trial_id not in self._values:  # nothing ranks it, and nothing else would keep it
            return True
        return self._points.get(trial_id, trial_id) in self._top

    def settle(self) -> None:
        """Removes the networks, of those that this sweep's rule kept, that it keeps no more."""
        if self._plan is None:
            return
        self._read()
        rule = self._rule
        if rule is None:
            return
        order = self._order(rule)
        at = {point: number for number, point in enumerate(order)}
        place = {trial_id: at.get(self._points.get(trial_id, trial_id), len(order)) for trial_id in self._values}
        there = [i for i in self._values if self._layout.trial(i).weights.exists()]
        there.sort(key=place.__getitem__)
        total, beaten = 0, []
        for trial_id in there:
            with contextlib.suppress(FileNotFoundError):
                size, number = self._layout.trial(trial_id).weights.stat().st_size, place[trial_id]
                if number == 0 or (number < len(order) and total + size <= rule.max_gb * 1e9):
                    total += size
                elif trial_id in self._removable:
                    beaten.append(trial_id)
        if beaten:
            needed = set(self._needed_elsewhere())
            for trial_id in beaten:
                if trial_id not in needed:
                    self._layout.trial(trial_id).weights.unlink(missing_ok=True)

    @property
    def _rule(self) -> KeepRule | None:
        return self._plan.keep if self._plan else None

    def _order(self, rule: KeepRule) -> list[str]:
        """The points whose networks may stay, first those that are kept first: the best, then the best of each architecture,
        which some ensembles take in any case, then as many of the next as ensembles look at."""
        points: dict[str, list[str]] = {}
        arch_of: dict[str, str] = {}
        for trial_id in self._values:
            point = self._points.get(trial_id, trial_id)
            points.setdefault(point, []).append(trial_id)
            arch_of[point] = self._archs.get(trial_id, "")
        ranked = sorted(points, key=lambda point: self._standing(point, points[point]))
        ensemble = (self._plan.ensemble if self._plan else None) or EnsembleRules(methods=())
        left = dict.fromkeys(arch_of.values(), ensemble.per_arch)
        firsts = []
        for point in ranked:
            left[arch_of[point]] -= 1
            firsts += [point] if left[arch_of[point]] >= 0 else []
        return list(dict.fromkeys([*ranked[: rule.best], *firsts, *ranked[:ENSEMBLE_LIBRARY]]))

    def _standing(self, point: str, trial_ids: Sequence[str]) -> Standing:
        """As a report has it; but that a point of which some trials are still to come stands where its numbers are."""
        outcomes = [self._outcomes[trial_id] for trial_id in trial_ids if trial_id in self._outcomes]
        last = last_of(outcomes, partial=False, seen=not self._flattered.isdisjoint(trial_ids))
        mean = fmean(self._values[trial_id] for trial_id in trial_ids)
        return Standing.of(last, mean, LARGER, max(self._params.get(trial_id, 0) for trial_id in trial_ids), point)

    def _read(self) -> None:
        """The plan as it stands, and what has finished since."""
        try:
            written_at = self._layout.sweep(self._sweep).plan.stat().st_mtime_ns
            if self._plan is None or written_at != self._read_at:
                self._plan, self._read_at = read_plan(self._layout, self._sweep), written_at
                self._points = {trial.trial_id: trial.point_id for trial in self._plan.trials}
                self._archs = {trial.trial_id: str(trial.config.get("arch")) for trial in self._plan.trials}
        except (CifarHpcError, OSError):
            return
        if self._plan.keep is None:
            return
        objective, info = ranked_by(self._plan)
        for trial in self._plan.trials:
            if trial.trial_id in self._seen:
                continue
            with contextlib.suppress(RecordError, OSError):
                result, _ = read_valid(self._layout.trial(trial.trial_id), trial.trial_id)
                self._seen.add(trial.trial_id)
                self._outcomes[trial.trial_id], self._params[trial.trial_id] = result.outcome, result.params_trained
                if parent_in(result.config) and Ancestry(self._layout, {}).may_have_seen(trial.trial_id):
                    self._flattered.add(trial.trial_id)
                value = None if result.val is None else result.val.value(objective, info.metric)
                if value is not None:
                    self._values[trial.trial_id] = value if info.mode == "max" else -value
                if result.config.get("keep") == BY_RULE and result.job.partition("/")[0] == self._sweep:
                    self._removable.add(trial.trial_id)

    def _needed_elsewhere(self) -> Iterator[str]:
        """Trials whose weights another sweep keeps or starts from."""
        for sweep in self._layout.sweeps():
            if sweep.name == self._sweep:
                continue
            with contextlib.suppress(CifarHpcError, OSError):
                plan = read_plan(self._layout, sweep.name)
                for trial in plan.trials:
                    if trial.config.get("keep"):
                        yield trial.trial_id
                    yield str(trial.config.get("weights") or "").removeprefix(PARENT_PREFIX)


_keepers: dict[tuple[str, str], Keeper] = {}
