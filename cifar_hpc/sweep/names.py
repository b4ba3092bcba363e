"""A sweep's name: whether it may be taken, and what its plan of before had that the new one has not."""

from __future__ import annotations

from pathlib import Path

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan
from cifar_hpc.records.schema import PlanRecord


def dropped_trials(layout: Layout, plan: PlanRecord) -> list[str]:
    """Trials that the sweep of that name had and this plan has not. Raises CifarHpcError where the name is taken."""
    before = known_plan(layout, plan.sweep)
    if before is None:
        return []
    now = {trial.trial_id for trial in plan.trials}
    dropped = [trial.trial_id for trial in before.trials if trial.trial_id not in now]
    other_file = Path(before.spec_path).absolute() != Path(plan.spec_path).absolute()
    same_search = plan.search and before.search and plan.search["definition"] == before.search["definition"]
    if other_file and len(dropped) == len(before.trials) and not same_search:
        raise CifarHpcError(
            f"{plan.spec_path}: name: {plan.sweep!r} is taken by {before.spec_path}, of which no trial is in this spec; "
            "choose another name"
        )
    return dropped
