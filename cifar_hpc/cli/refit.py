"""`cifar-hpc refit`: a sweep's best points, or an ensemble's members, once more on training and validation images together.

Owns: which trials those are. They form a sweep of their own, SWEEP-refit, whose trials have no validation figure and no rank.
Starts through sweep's path.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.cli.sweep import On, Where, run_plan, say
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import PlanRecord, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.status.state import SweepReader

if TYPE_CHECKING:
    from cifar_hpc.collect.trials import Trial
    from cifar_hpc.spec.sweep import SweepTrial


def refit(
    what: Annotated[str, typer.Argument(metavar="SWEEP|ENSEMBLE", help="a sweep's name, or an ensemble's .json file")],
    top: Annotated[int | None, typer.Option(min=1, help="of a sweep: how many points, the best by validation; 1")] = None,
    on: Annotated[On, typer.Option(metavar="WHERE", help="as for sweep")] = On.AUTO,
    profile: Annotated[str | None, typer.Option(help="the Slurm site, as for sweep")] = None,
) -> None:
    """Train the best points again on training and validation images together, as many epochs as were best on validation.

    All seeds of a point train for the mean of their best epochs. Weights are kept, for `predict`. Of an ensemble: every
    member, and a new ensemble of the same weights is written, which nothing has measured on validation.
    """
    layout, where = Layout(results_root()), Where(on, profile)
    if not what.endswith(".json"):
        refit_sweep(layout, what, top or 1, where)
        return
    if top is not None:
        raise CifarHpcError("refit: --top chooses among a sweep's points; of an ensemble all members are trained again")
    from cifar_hpc.cli.refit_ensemble import refit_ensemble

    refit_ensemble(layout, Path(what), where)


def refit_sweep(layout: Layout, name: str, top: int, where: Where) -> None:
    """The best `top` points of the sweep, all their seeds."""
    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.scan import scan

    plan = read_plan(layout, name)
    board = make_leaderboard(scan(layout, [name]).without_earlier_stages())
    if not board.measured:
        raise CifarHpcError(f"refit: no trial of {name} has a figure on validation yet: cifar-hpc status {name}")
    if not board.claims_ranking:
        say("fewer than three seeds: the best points are those with the best numbers, and no ranking is claimed")
    refits = [
        refit_of(layout, trial, row.best_epoch, row.axes)
        for row in board.measured[:top]
        for trial in row.trials
        if trial.best_epoch is not None and row.best_epoch is not None
    ]
    train_refits(layout, f"{name}-refit", refits, plan, ("cifar-hpc", "refit", name, "--top", str(top)), where)
    point = refits[0].config.point_id
    say(f"once they have finished, all seeds of the best point label new images: cifar-hpc predict {point} FOLDER")


def refit_of(layout: Layout, trial: Trial, best_epoch: float, axes: Mapping[str, Any]) -> SweepTrial:
    """The trial on all its labelled images. best_epoch: the mean over its point's seeds; axes: what tells it apart."""
    from cifar_hpc.config.normalize import refitted
    from cifar_hpc.config.plugins import load_plugins
    from cifar_hpc.config.sources import look_in
    from cifar_hpc.config.trial import TrialConfig
    from cifar_hpc.spec.sweep import SweepTrial

    epochs = max(1, round(best_epoch))
    config = TrialConfig.from_json(read_record(layout.trial(trial.trial_id).result, TrialResult).config)
    look_in(layout.sources)
    load_plugins(config.sources or ())
    return SweepTrial(refitted(config, epochs), {**axes, "epochs": epochs, "seed": trial.seed})


def train_refits(
    layout: Layout, name: str, refits: Iterable[SweepTrial], like: PlanRecord, command: tuple[str, ...], where: Where
) -> None:
    """Runs them as a sweep of that name, with the resources of the plan `like`. command: what goes on with it when typed.

    Raises CifarHpcError where a sweep that is no refit has the name.
    """
    from cifar_hpc.planning.plan import Resources, make_plan, plan_record
    from cifar_hpc.spec.sweep import SweepSpec

    with contextlib.suppress(FileNotFoundError, RecordError):
        before = read_record(layout.sweep(name).plan, PlanRecord)
        if before.command[:2] != command[:2]:
            raise CifarHpcError(f"refit: {name!r} is a sweep already, of {before.spec_path}: give that one another name")
    spec = SweepSpec(
        name=name,
        path=Path(like.spec_path),
        text="",
        trials=tuple({refit.config.trial_id: refit for refit in refits}.values()),
        objective="val_acc",
        resources=Resources(**like.resources),
        warnings=(),
    )
    plan = make_plan(spec, share=like.share)
    run_plan(layout, plan, SweepReader(layout, dataclasses.replace(plan_record(plan), command=command)), where, again=())
