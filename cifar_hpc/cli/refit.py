"""`cifar-hpc refit SWEEP`: its best points once more, on training and validation images together. Starts through sweep's path.

Owns: which trials those are. They form a sweep of their own, SWEEP-refit, whose trials have no validation figure and no rank.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.states import SweepReader
from cifar_hpc.cli.sweep import On, Where, run_plan, say
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record

if TYPE_CHECKING:
    from cifar_hpc.collect.leaderboard import Row
    from cifar_hpc.spec.sweep import SweepTrial


def refit(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="the sweep's name")],
    top: Annotated[int, typer.Option(min=1, help="how many points, the best by validation")] = 1,
    on: Annotated[On, typer.Option(metavar="WHERE", help="as for sweep")] = On.AUTO,
    profile: Annotated[str | None, typer.Option(help="the Slurm site, as for sweep")] = None,
) -> None:
    """Train the best points again on training and validation images together, as many epochs as were best on validation.

    All seeds of a point train for the mean of their best epochs. Weights are kept, for `predict`.
    """
    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.plan import Resources, make_plan, plan_record
    from cifar_hpc.spec.sweep import SweepSpec

    layout = Layout(results_root())
    plan = read_plan(layout, name)
    board = make_leaderboard(scan(layout, [name]).without_earlier_stages())
    if not board.measured:
        raise CifarHpcError(f"refit: no trial of {name} has a figure on validation yet: cifar-hpc status {name}")
    if not board.claims_ranking:
        say("fewer than three seeds: the best points are those with the best numbers, and no ranking is claimed")
    trials = {trial.config.trial_id: trial for row in board.measured[:top] for trial in _refits(layout, row)}
    spec = SweepSpec(
        name=f"{name}-refit",
        path=Path(plan.spec_path),
        text="",
        trials=tuple(trials.values()),
        objective="val_acc",
        resources=Resources(**plan.resources),
        warnings=(),
    )
    refits = make_plan(spec, share=plan.share)
    command = ("cifar-hpc", "refit", name, "--top", str(top))
    reader = SweepReader(layout, dataclasses.replace(plan_record(refits), command=command))
    run_plan(layout, refits, reader, Where(on, profile), again=())
    point = spec.trials[0].config.point_id
    say(f"once they have finished, all seeds of the best point label new images: cifar-hpc predict {point} FOLDER")


def _refits(layout: Layout, row: Row) -> list[SweepTrial]:
    """The trials of a point, each on all its labelled images."""
    from cifar_hpc.spec.sweep import SweepTrial
    from cifar_hpc.trial import TrialConfig, refitted

    assert row.best_epoch is not None  # a measured point has a best epoch
    epochs = max(1, round(row.best_epoch))
    made = []
    for trial in row.trials:
        if trial.best_epoch is not None:
            config = TrialConfig.from_json(read_record(layout.trial(trial.trial_id).result, TrialResult).config)
            axes = {**row.axes, "epochs": epochs, "seed": trial.seed}
            made.append(SweepTrial(refitted(config, epochs), axes))
    return made
