"""`cifar-hpc refit`: the best configurations once more, on training and validation images together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifar_hpc.cli.speech import OnOption, ProfileOption, conclude
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.sweep.where import On, Where
from cifar_hpc.terminal.listener import Shown


def refit(
    what: Annotated[str, typer.Argument(metavar="SWEEP|ENSEMBLE", help="a sweep's name, or an ensemble's .json file")],
    top: Annotated[int | None, typer.Option(min=1, help="of a sweep: how many points, the best by validation; 1")] = None,
    on: OnOption = On.AUTO,
    profile: ProfileOption = None,
) -> None:
    """Train the best points again on training and validation images together, as many epochs as were best on validation.

    All seeds of a point train for the mean of their best epochs. Weights are kept, for `predict`. Of an ensemble: every
    member, and a new ensemble of the same weights is written, which nothing has measured on validation.
    """
    layout, where = Layout(results_root()), Where(on, profile)
    if not what.endswith(".json"):
        from cifar_hpc.sweep.refit import refit_sweep

        conclude(refit_sweep(layout, what, top or 1, where, Shown()))
        return
    if top is not None:
        raise CifarHpcError("refit: --top chooses among a sweep's points; of an ensemble all members are trained again")
    from cifar_hpc.sweep.refit_ensemble import refit_ensemble

    conclude(refit_ensemble(layout, Path(what), where, Shown()))
