"""Ends trials of a cohort after its rungs, from their records and from what trains here. Owns: Judge. Decides nothing itself:
planning/halving.py does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cifar_hpc.planning.halving import Endings, Rungs
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EpochRecord, Outcome
from cifar_hpc.train.member import Member


class Judge:
    """others: trials that this job trains after those here, or has trained up to a rung: other folds, or what the memory does
    not hold beside those here."""

    def __init__(self, rungs: Rungs, layout: Layout, others: Collection[str]) -> None:
        self._rungs, self._layout, self._others = rungs, layout, others

    def look(self, members: Sequence[Member]) -> list[Member]:
        """Ends those of the members, all of which train here, that do not go on. Returns those that have to wait at a rung
        until others have come as far."""
        if not members:
            return []
        found = self._endings(members)
        waiting = []
        for member in members:
            trial_id, done = member.config.trial_id, len(member.progress.curves)
            if not member.active:
                continue
            ending = found.ended.get(trial_id)
            if ending is not None and done >= ending.epoch:
                member.progress.outcome, member.progress.reason = Outcome.PRUNED, ending.reason
            elif found.undecided is not None and trial_id in self._rungs.trial_ids and done >= found.undecided:
                waiting.append(member)
        return waiting

    def _endings(self, members: Sequence[Member]) -> Endings:
        here = {member.config.trial_id: member.progress.curves for member in members}
        living = {member.config.trial_id for member in members if member.active}
        values, awaited = {}, set()
        metric = members[0].objective.metric
        for trial_id in self._rungs.trial_ids:
            if trial_id in here:
                values[trial_id] = _values(here[trial_id], metric)
                awaited |= {trial_id} & living
                continue
            state = read_state(self._layout.trial(trial_id), trial_id)
            values[trial_id] = _values(state.epochs, metric)
            if trial_id in self._others and state.result is None:
                awaited.add(trial_id)
        return self._rungs.endings(values, awaited)


def _values(curves: Sequence[EpochRecord], metric: str | None) -> list[float | None]:
    return [record.value(metric) for record in curves]
