"""What the stages of a sweep mean while it runs and where it is shown: who can start, who fails with its parent, how
far each stage is. Reads plans and trials' files; starts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.planning.lineage import fail_with_parent, parent_of
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import PlannedTrial, Status


class Lineage:
    """Which trials of a sweep start from which others of it."""

    def __init__(self, trials: Iterable[TrialConfig]) -> None:
        self._children = {trial.trial_id: trial for trial in trials}
        parents = {trial_id: parent_of(trial) for trial_id, trial in self._children.items()}
        self._parents = {child: parent for child, parent in parents.items() if parent in self._children}
        self._children = {child: self._children[child] for child in self._parents}

    def ready(self, trial_ids: Collection[str], states: Mapping[str, TrialState]) -> set[str]:
        """Those that need not wait for another process: their parents in the sweep have ended, or start with them."""

        def is_ready(trial_id: str) -> bool:
            parent = self._parents.get(trial_id)
            return parent is None or states[parent].result is not None or (parent in trial_ids and is_ready(parent))

        return {trial_id for trial_id in trial_ids if is_ready(trial_id)}

    def await_parents(self, trial_id: str, states: Mapping[str, TrialState]) -> bool:
        """Whether the trial's weights are still to come from a trial of the sweep, or will never come."""
        parent = self._parents.get(trial_id)
        if parent is None:
            return False
        result = states[parent].result
        return result is None or result.best_epoch is None

    def fail_orphans(self, layout: Layout, states: Mapping[str, TrialState], todo: Collection[str]) -> bool:
        """Writes the failure of trials whose parent has failed and is not tried again in todo; whether there were any."""
        open_ = {t for t, state in states.items() if state.status not in (Status.FAILED, Status.RUNNING) and not state.result}
        orphans = [
            config
            for child, config in self._children.items()
            if child in open_ and states[self._parents[child]].status is Status.FAILED and self._parents[child] not in todo
        ]
        return sum(fail_with_parent(config, layout) for config in orphans) > 0

    def with_failed_parents(self, trial_ids: Iterable[str], states: Mapping[str, TrialState]) -> set[str]:
        """The trials and those of their ancestors that have failed: without them they fail again."""
        found: set[str] = set()
        for trial_id in trial_ids:
            found.add(trial_id)
            while (parent := self._parents.get(trial_id)) is not None and states[parent].status is Status.FAILED:
                found.add(parent)
                trial_id = parent
        return found


def stage_lines(trials: Sequence[PlannedTrial], states: Mapping[str, TrialState]) -> list[str]:
    """'  stage     pretrain: 3 completed, 1 failed' for each stage; nothing where there are none."""
    counts: dict[str, Counter[Status]] = {}
    for trial in trials:
        if "stage" in trial.axes:
            counts.setdefault(str(trial.axes["stage"]), Counter())[states[trial.trial_id].status] += 1
    return [
        f"  stage     {stage}: " + ", ".join(f"{found[status]} {status.value}" for status in Status if found[status])
        for stage, found in counts.items()
    ]
