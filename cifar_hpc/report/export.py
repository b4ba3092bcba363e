"""A pool's trials for the tracking tools that people already use, each through its own library, offline.

Owns: what a trial is called there: its label, its curves by epoch under train/ and val/, its final metrics under final/.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.trials import CURVES, Trial, value_text
from cifar_hpc.config.identity import ID_LENGTH
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.schema import Outcome


class Tracker(StrEnum):
    """What the trials are exported to."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


LIBRARIES = {Tracker.TENSORBOARD: "tensorboardX", Tracker.MLFLOW: "mlflow", Tracker.WANDB: "wandb"}
_RUN = re.compile(rf" [a-z2-7]{{{ID_LENGTH}}}(-[0-9]+)?$")
_FINAL = ("train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "train_s")


def export_pool(pool: Pool, board: Leaderboard, folder: Path, to: Tracker) -> str:
    """Writes every finished trial below the folder; says what shows them. Raises CifarHpcError where the library is absent.

    A trial that stands there is left as it is: a finished one never changes, but that one which a search stopped may train on
    for another sweep, and is then another run. What is none of the pool's any more is removed.
    """
    if find_spec(LIBRARIES[to]) is None:
        raise CifarHpcError(f"--export {to} needs {LIBRARIES[to]}: pip install 'cifar-hpc[{to}]'")
    folder.mkdir(parents=True, exist_ok=True)
    return {Tracker.TENSORBOARD: _to_tensorboard, Tracker.MLFLOW: _to_mlflow, Tracker.WANDB: _to_wandb}[to](pool, board, folder)


def _to_tensorboard(pool: Pool, board: Leaderboard, folder: Path) -> str:
    """An event file a trial, with the axes as hyperparameters."""
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped, unused-ignore]
    from tensorboardX.summary import hparams  # type: ignore[import-untyped, unused-ignore]

    for position, trial in enumerate(pool.trials):
        place, half = folder / _name(board, trial).replace("/", "_"), folder / f".{trial.trial_id}"
        if place.exists():
            continue
        shutil.rmtree(half, ignore_errors=True)  # what a killed one left
        with SummaryWriter(str(half), write_to_disk=True) as writer:
            for epoch, metrics in _curves(pool, position):
                for name, value in metrics.items():
                    writer.add_scalar(name, value, epoch, walltime=_ended_s(trial))
            final = _final(trial)
            for summary in hparams(_axes(board, trial), final):
                writer.file_writer.add_summary(summary)
            for name, value in final.items():
                writer.add_scalar(name, value, trial.epochs, walltime=_ended_s(trial))
        half.rename(place)
    here = {_name(board, trial).replace("/", "_") for trial in pool.trials}
    for place in folder.iterdir():  # under axes of before, or of no trial here
        if _RUN.search(place.name) and place.name not in here:
            shutil.rmtree(place, ignore_errors=True)
    return f"tensorboard --logdir {folder}"


def _to_mlflow(pool: Pool, board: Leaderboard, folder: Path) -> str:
    """Runs of one experiment in an SQLite file."""
    from mlflow.entities import Metric, Param, RunTag  # type: ignore[import-not-found, unused-ignore]
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found, unused-ignore]

    store = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=store)
    title = "+".join(pool.sweeps) or "all trials"
    known = client.get_experiment_by_name(title)
    experiment = known.experiment_id if known else client.create_experiment(title, (folder / "artifacts").as_uri())
    there = {run.data.tags.get("trial_id"): run.info.run_id for run in client.search_runs([experiment], max_results=50_000)}
    for key in there.keys() - {_key(trial) for trial in pool.trials}:
        client.delete_run(there[key])
    for position, trial in enumerate(pool.trials):
        if _key(trial) in there:
            continue
        ended_ms = int(1000 * _ended_s(trial))
        begun_ms = ended_ms - int(1000 * trial.train_s)
        run = client.create_run(experiment, start_time=begun_ms, run_name=_name(board, trial)).info.run_id
        rows = [*_curves(pool, position), (trial.epochs, _final(trial))]
        metrics = [Metric(name, value, ended_ms, epoch) for epoch, found in rows for name, value in found.items()]
        for start in range(0, len(metrics), 1000):  # so many at once, at most
            client.log_batch(run, metrics=metrics[start : start + 1000])
        params = [Param(name, str(value)) for name, value in _axes(board, trial).items()]
        client.log_batch(run, params=params, tags=[RunTag("trial_id", _key(trial))])
        client.set_terminated(run, end_time=ended_ms)
    return f"mlflow ui --backend-store-uri {store}"


def _to_wandb(pool: Pool, board: Leaderboard, folder: Path) -> str:
    """An offline run a trial, under the trial's id, for `wandb sync`."""
    import wandb  # type: ignore[import-not-found, unused-ignore]

    title = "+".join(pool.sweeps) or "cifar-hpc"
    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    there = {path.name.split("-", 3)[-1]: path for path in folder.glob("wandb/offline-run-*")}  # offline-run-TIME-KEY
    for key in there.keys() - {_key(trial) for trial in pool.trials}:
        shutil.rmtree(there[key], ignore_errors=True)
    for position, trial in enumerate(pool.trials):
        if _key(trial) in there:
            continue
        axes, name = _axes(board, trial), _name(board, trial)
        run = wandb.init(mode="offline", dir=folder, project=title, name=name, id=_key(trial), config=axes, settings=settings)
        for epoch, metrics in _curves(pool, position):
            run.log(metrics, step=epoch)
        run.summary.update(_final(trial))
        run.finish()
    return f"wandb sync {folder}/wandb/offline-run-*"


def _curves(pool: Pool, position: int) -> Iterator[tuple[int, dict[str, float]]]:
    """(epoch, metric -> value) of one trial; what was not measured is absent."""
    curves = {name: pool.curves.of(name, position) for name in CURVES}
    for epoch in range(pool.trials[position].epochs):
        found = {name.replace("_", "/"): float(values[epoch]) for name, values in curves.items()}
        yield epoch + 1, {name: value for name, value in found.items() if math.isfinite(value)}


def _final(trial: Trial) -> dict[str, float]:
    return {f"final/{name}": value for name in _FINAL if (value := trial.metric(name)) is not None}


def _axes(board: Leaderboard, trial: Trial) -> dict[str, Any]:
    values = {axis: trial.config.get(axis) for axis in board.axes}
    plain = {axis: value if isinstance(value, int | float) else value_text(value, axis) for axis, value in values.items()}
    return {**plain, "seed": trial.seed, **({} if trial.fold is None else {"fold": trial.fold})}


def _name(board: Leaderboard, trial: Trial) -> str:
    parts = [f"{axis}={value_text(value)}" for axis, value in _axes(board, trial).items()]
    return f"{' '.join(parts)[:150]} {_key(trial)}"


def _key(trial: Trial) -> str:
    """By which a run is known: of a trial that a search stopped, which may train on, with its epochs."""
    return trial.trial_id if trial.outcome is not Outcome.PRUNED else f"{trial.trial_id}-{trial.epochs}"


def _ended_s(trial: Trial) -> float:
    return datetime.fromisoformat(trial.finished_at).timestamp()
