"""A sweep's name: whether it may be taken, and what its plan of before had that the new one has not, which may go on."""

from __future__ import annotations

from pathlib import Path

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.jobs import open_jobs
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.status.state import GOING_ON, read_states


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


def going_on_without(layout: Layout, plan: PlanRecord) -> list[str]:
    """Trials of the sweep's open jobs that still wait or train though its plan has them no longer; of a grid with a spec."""
    if plan.search is not None or plan.command:
        return []
    planned = {trial.trial_id for trial in plan.trials}
    carried = dict.fromkeys(trial_id for job in open_jobs(layout.sweep(plan.sweep)) for trial_id in job.trial_ids)
    if not (ids := [trial_id for trial_id in carried if trial_id not in planned]):
        return []
    states = read_states(layout, ids, queue=SlurmQueue(layout.queue))
    return [trial_id for trial_id, state in states.items() if state.status in GOING_ON]
