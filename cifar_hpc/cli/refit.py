"""`cifar-hpc refit`: the best configurations once more, on training and validation images together."""

from __future__ import annotations

from typing import Annotated

import typer

from cifar_hpc.cli.speech import ONE_NAME, OnOption, ProfileOption, conclude
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.sweep.where import On, Where
from cifar_hpc.terminal.listener import Shown


def refit(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"{ONE_NAME}; an ensemble: SWEEP/greedy, or its file",
        ),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="of a sweep: how many configurations, the best by validation; 1")
    ] = None,
    on: OnOption = On.AUTO,
    profile: ProfileOption = None,
) -> None:
    """Train the best configurations again on training and validation images together, for as many epochs as were best.

    All seeds of a configuration train, each for the mean of their best epochs. Weights are kept, for `predict`. A network that
    they start from, as of an earlier stage, is not trained again. Of an ensemble: every member, and a new ensemble of the same
    weights is written, which nothing has measured on validation.
    """
    from cifar_hpc.collect.names import find_ensemble

    layout, where = Layout(results_root()), Where(on, profile)
    ensemble = find_ensemble(layout, what)
    if ensemble is None:
        from cifar_hpc.sweep.refit import refit_named

        outcome = refit_named(layout, what, top, where, Shown())
        points = {trial.point_id for trial in outcome.plan.trials}
        which = outcome.plan.sweep if len(points) == 1 else outcome.plan.trials[0].point_id  # of the best: nothing ranks refits
        conclude(outcome, f"label new images: cifar-hpc predict {which} FOLDER > labels.csv")
        return
    if top is not None:
        raise CifarHpcError("refit: --top chooses among a sweep's configurations; of an ensemble all members are trained again")
    from cifar_hpc.sweep.refit_ensemble import refit_ensemble

    conclude(refit_ensemble(layout, ensemble, where, Shown()))
