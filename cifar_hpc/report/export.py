"""A pool's trials for the tracking tools that people already use, each through its own library, offline.

Owns: what a tracker is told of a trial (name, parameters, curves by epoch under train/ and val/, final metrics under final/),
and that each of its runs tells that, whole and once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from cifar_hpc.terminal.harmless import one_line


class Tracker(StrEnum):
    """What the trials are exported to."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


LIBRARIES = {Tracker.TENSORBOARD: "tensorboardX", Tracker.MLFLOW: "mlflow", Tracker.WANDB: "wandb"}
_RUN = re.compile(rf" [a-z2-7]{{{ID_LENGTH}}}(-[0-9]+)?$")
_UNKNOWN_TO_MLFLOW = re.compile(r"[^\w.\- :/]")  # in names
_NAME_BYTES = 150  # of what a run's name says beside its key: a folder's name has 255
_FINAL = ("train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
_MLFLOW_STATUS = {Outcome.DIVERGED.value: "FAILED", Outcome.PRUNED.value: "KILLED"}
_MARK = "exported"  # what a whole run bears with its digest: a file in its folder, in MLflow a tag


@dataclass(frozen=True, slots=True)
class Run:
    """What a tracker is told of a trial; what was not measured is absent. key: by which it is known there; curves: (epoch,
    metric -> value); outcome: how it ended; times in seconds since 1970."""

    key: str
    name: str
    params: Mapping[str, Any]
    curves: tuple[tuple[int, dict[str, float]], ...]
    final: Mapping[str, float]
    outcome: str
    begun_s: float
    ended_s: float

    @property
    def rows(self) -> list[tuple[int, Mapping[str, float]]]:
        """The curves, and the final metrics at the last epoch."""
        return [*self.curves, (len(self.curves), self.final)]

    @property
    def digest(self) -> str:
        """Another one as soon as any of it is."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()


def export_pool(pool: Pool, board: Leaderboard, folder: Path, to: Tracker) -> str:
    """Writes every finished trial below the folder; says what shows them. Raises CifarHpcError where the library is absent.

    A run that stands there whole and tells the same is left as it is. It is written again where its writing was interrupted or
    what it tells has changed, such as name and parameters after an axis was added. What is none of the pool's any more is
    removed.
    """
    if find_spec(LIBRARIES[to]) is None:
        raise CifarHpcError(f"--export {to} needs {LIBRARIES[to]}: pip install 'cifar-hpc[{to}]'")
    folder.mkdir(parents=True, exist_ok=True)
    runs = {run.digest: run for run in (_run_of(pool, board, position) for position in range(len(pool.trials)))}
    write = {Tracker.TENSORBOARD: _to_tensorboard, Tracker.MLFLOW: _to_mlflow, Tracker.WANDB: _to_wandb}[to]
    return write(runs, "+".join(pool.sweeps), folder)


def _to_tensorboard(runs: Mapping[str, Run], title: str, folder: Path) -> str:
    """An event file a run, with its parameters as hyperparameters. A folder's name is the run's."""
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped, unused-ignore]
    from tensorboardX.summary import hparams  # type: ignore[import-untyped, unused-ignore]

    for digest in _to_write(runs, (path for path in folder.iterdir() if _RUN.search(path.name))):
        run = runs[digest]
        half = folder / f".{run.key}"
        shutil.rmtree(half, ignore_errors=True)  # what a killed one left
        with SummaryWriter(str(half), write_to_disk=True) as writer:
            for summary in hparams(dict(run.params), dict(run.final)):
                writer.file_writer.add_summary(summary)
            for epoch, metrics in run.rows:
                for name, value in metrics.items():
                    writer.add_scalar(name, value, epoch, walltime=run.ended_s)
        (half / _MARK).write_text(digest)
        half.rename(folder / run.name.replace("/", "_"))
    return f"tensorboard --logdir {folder}"


def _to_mlflow(runs: Mapping[str, Run], title: str, folder: Path) -> str:
    """Runs of one experiment in an SQLite file."""
    from mlflow.entities import Metric, Param, RunTag  # type: ignore[import-not-found, unused-ignore]
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found, unused-ignore]

    store, title = f"sqlite:///{folder / 'mlflow.db'}", title or "all trials"
    client = MlflowClient(tracking_uri=store)
    known = client.get_experiment_by_name(title)
    experiment = known.experiment_id if known else client.create_experiment(title, (folder / "artifacts").as_uri())
    whole = set()
    for there in client.search_runs([experiment], max_results=50_000):
        if (digest := there.data.tags.get(_MARK)) in runs:
            whole.add(digest)
        else:
            client.delete_run(there.info.run_id)
    for digest in (digest for digest in runs if digest not in whole):
        run = runs[digest]
        ended_ms = int(1000 * run.ended_s)
        made = client.create_run(experiment, start_time=int(1000 * run.begun_s), run_name=run.name).info.run_id
        metrics = [
            Metric(_UNKNOWN_TO_MLFLOW.sub("_", name), value, ended_ms, epoch)
            for epoch, found in run.rows
            for name, value in found.items()
        ]
        for start in range(0, len(metrics), 1000):  # so many at once, at most
            client.log_batch(made, metrics=metrics[start : start + 1000])
        client.log_batch(made, params=[Param(name, str(value)) for name, value in run.params.items()])
        client.set_terminated(made, _MLFLOW_STATUS.get(run.outcome, "FINISHED"), ended_ms)
        client.log_batch(made, tags=[RunTag("trial_id", run.key), RunTag(_MARK, digest)])
    return f"mlflow ui --backend-store-uri {store}"


def _to_wandb(runs: Mapping[str, Run], title: str, folder: Path) -> str:
    """An offline run for each, under its trial's id, for `wandb sync`."""
    import wandb  # type: ignore[import-not-found, unused-ignore]

    # The machine that exports is not the one that trained: nothing is told of it.
    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True)
    project = title or "cifar-hpc"
    for digest in _to_write(runs, folder.glob("wandb/offline-run-*")):
        run = runs[digest]
        axes = dict(run.params)
        made = wandb.init(
            mode="offline", dir=folder, project=project, name=run.name, id=run.key, config=axes, settings=settings
        )
        for epoch, metrics in run.curves:
            made.log(metrics, step=epoch)
        made.summary.update(dict(run.final))
        made.finish(exit_code=int(run.outcome == Outcome.DIVERGED))
        for place in folder.glob(f"wandb/offline-run-*-{run.key}"):
            (place / _MARK).write_text(digest)
    return f"wandb sync {folder}/wandb/offline-run-*"


def _to_write(runs: Mapping[str, Run], there: Iterable[Path]) -> list[str]:
    """The runs that none of the folders is, by their digests; folders that are none of the runs are removed."""
    whole = set()
    for place in list(there):
        mark = place / _MARK
        digest = mark.read_text() if mark.is_file() else ""
        if digest in runs:
            whole.add(digest)
        else:
            shutil.rmtree(place, ignore_errors=True)
    return [digest for digest in runs if digest not in whole]


def _run_of(pool: Pool, board: Leaderboard, position: int) -> Run:
    """Of the pool's trial at that position."""
    trial = pool.trials[position]
    key = trial.trial_id if trial.outcome is not Outcome.PRUNED else f"{trial.trial_id}-{trial.epochs}"  # may train on
    params, ended_s = _params(board, trial), datetime.fromisoformat(trial.finished_at).timestamp()
    said = one_line(" ".join(f"{axis}={value_text(value)}" for axis, value in params.items()))
    return Run(
        key=key,
        name=f"{said.encode()[:_NAME_BYTES].decode(errors='ignore')} {key}",
        params=params,
        curves=tuple(_curves(pool, position)),
        final=_final(trial),
        outcome=trial.outcome.value,
        begun_s=ended_s - trial.train_s,
        ended_s=ended_s,
    )


def _curves(pool: Pool, position: int) -> Iterator[tuple[int, dict[str, float]]]:
    """(epoch, metric -> value) of one trial."""
    curves = {name: pool.curves.of(name, position) for name in CURVES}
    for epoch in range(pool.trials[position].epochs):
        found = {name.replace("_", "/"): float(values[epoch]) for name, values in curves.items()}
        yield epoch + 1, {name: value for name, value in found.items() if math.isfinite(value)}


def _final(trial: Trial) -> dict[str, float]:
    measured = {f"final/{name}": value for name in (*_FINAL, *trial.more) if (value := trial.metric(name)) is not None}
    return {**measured, "final/train_s": trial.train_s}


def _params(board: Leaderboard, trial: Trial) -> dict[str, Any]:
    values = {axis: trial.config.get(axis) for axis in board.axes}
    plain = {axis: value if isinstance(value, int | float) else value_text(value, axis) for axis, value in values.items()}
    return {**plain, "seed": trial.seed, **({} if trial.fold is None else {"fold": trial.fold})}
