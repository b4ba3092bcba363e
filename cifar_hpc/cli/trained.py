"""`cifar-hpc predict`, `export`, `reproduce`: what is done with a finished trial. Computes nothing itself."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.planning.lineage import parent_of
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, TrialResult
from cifar_hpc.records.store import read_record, write_atomic
from cifar_hpc.report.forms import plural
from cifar_hpc.status.state import resolve_trial
from cifar_hpc.terminal.harmless import to_csv_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cifar_hpc.collect.ensemble import Floats


@dataclasses.dataclass(frozen=True, slots=True)
class _Members:
    """What labels images together. coefficients, intercept: of stacking, as an EnsembleRecord has them; weights: of a soup."""

    classes: tuple[str, ...]
    members: tuple[EnsembleMember, ...]
    coefficients: tuple[tuple[float, ...], ...] | None = None
    intercept: tuple[float, ...] | None = None
    weights: Path | None = None


class To(StrEnum):
    """The form of an exported network."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"


def predict(
    what: Annotated[str, typer.Argument(metavar="TRIAL|POINT|ENSEMBLE", help="an id, its beginning, or an ensemble's file")],
    folder: Annotated[Path, typer.Argument(help="images, in folders of any depth", exists=True)],
) -> None:
    """Label new images: CSV on stdout with id, label and probability. Of a point: the mean over its seeds.

    What cannot be read as an image is named on stderr, and the exit status is 1.
    """
    chosen = _members(Layout(results_root()), what)
    names, probabilities_NK, left_out = _probabilities(chosen, folder)
    rows: list[tuple[str, ...]] = [("id", "label", "probability")]
    for name, share_K in zip(names, probabilities_NK, strict=True):
        best = int(share_K.argmax())
        rows.append((name, chosen.classes[best], f"{share_K[best]:.6f}"))
    typer.echo(to_csv_text(rows), nl=False)
    if left_out:
        typer.echo(f"{plural(len(names), 'image')} labelled, {plural(len(left_out), 'file')} left out:", err=True)
        for line in left_out:
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(1)


def export(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="a trial's id, or its beginning")],
    to: Annotated[To, typer.Option(help="the form")] = To.SAFETENSORS,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="default: TRIAL.safetensors or TRIAL.onnx")] = None,
) -> None:
    """Write a trial's network for other programs, and check that what was written answers as the trial did."""
    from cifar_hpc.deploy.trained import export_trained, load_trained

    trial = _known(trial)
    path = output or Path(f"{trial}.{to.value}")
    trained = load_trained(Layout(results_root()).trial(trial))
    difference = export_trained(trained, path, to.value)
    typer.echo(path)
    side, channels = trained.side, trained.channels
    typer.echo(f"input N x {channels} x {side} x {side}, less mean over std; logits differ by {difference:.1e}", err=True)


def reproduce(trial: Annotated[str, typer.Argument(metavar="TRIAL", help="a trial's id, or its beginning")]) -> None:
    """Run a finished trial again, apart from the pool, and tell where its numbers differ from the record.

    Where none does and the trial did not keep its weights, they are kept now. Exit status 1 where one does.
    """
    from cifar_hpc.config.trial import TrialConfig
    from cifar_hpc.executors.base import run_on_node
    from cifar_hpc.planning.plan import Cohort, Job, Resources

    trial = _known(trial)
    files = Layout(results_root()).trial(trial)
    try:
        recorded = read_record(files.result, TrialResult)
    except FileNotFoundError:
        raise CifarHpcError(f"trial {trial} has not finished: there is nothing to compare with") from None
    config = dataclasses.replace(TrialConfig.from_json(recorded.config), keep="weights")
    resources = Resources(cpus_per_gpu=recorded.hardware.threads)
    with tempfile.TemporaryDirectory(prefix="cifar-hpc-reproduce-") as place:
        again = Layout(Path(place))
        parent = parent_of(config)
        if parent is not None:
            again.pool.mkdir()
            again.trial(parent).folder.symlink_to(Layout(results_root()).trial(parent).folder)
        job = Job(sweep="reproduce", job_id="job-0001", cohorts=(Cohort(trials=(config,)),), resources=resources)
        run_on_node(job, again, executor="inline")
        try:
            repeated = read_record(again.trial(trial).result, TrialResult)
        except FileNotFoundError:
            raise CifarHpcError(f"trial {trial} failed this time: {again.trial(trial).error.read_text()}") from None
        differences = compare_results(recorded, repeated)
        kept = again.trial(trial).weights
        if not differences and kept.exists() and not files.weights.exists():
            write_atomic(files.weights, lambda stream: shutil.copyfileobj(kept.open("rb"), stream))
            typer.echo(f"weights kept: {files.weights}", err=True)
    for line in differences or [f"{trial}: the same numbers to the last bit, {plural(len(recorded.curves), 'epoch')}"]:
        typer.echo(line)
    if differences:
        raise typer.Exit(1)


def compare_results(recorded: TrialResult, repeated: TrialResult) -> list[str]:
    """A sentence for each number that differs, then one for each circumstance that does; empty where no number differs."""
    lines = []
    for name in ("lr", "train_loss", "train_acc", "val_loss", "val_acc"):
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(recorded.curves, repeated.curves, strict=False)]
        wrong = [(n, a, b) for n, (a, b) in enumerate(pairs, 1) if a != b]
        if wrong:
            epoch, one, other = wrong[0]
            lines.append(f"{name} differs from epoch {epoch} on: {one} recorded, {other} now")
    for name in ("best_epoch", "outcome", "test"):
        one, other = getattr(recorded, name), getattr(repeated, name)
        if one != other:
            lines.append(f"{name} differs: {one} recorded, {other} now")
    if len(recorded.curves) != len(repeated.curves):
        lines.append(f"epochs differ: {len(recorded.curves)} recorded, {len(repeated.curves)} now")
    if not lines:
        return []
    for part in ("hardware", "provenance"):
        one, other = getattr(recorded, part), getattr(repeated, part)
        names = [field.name for field in dataclasses.fields(one) if field.name not in ("host", "peak_memory_gb")]
        lines += [
            f"{n}: {getattr(one, n)} then, {getattr(other, n)} now" for n in names if getattr(one, n) != getattr(other, n)
        ]
    return lines


def _known(trial_id: str) -> str:
    """The whole id, of which a beginning may be given. Raises CifarHpcError where the pool has no such trial."""
    return resolve_trial(trial_id, Layout(results_root()).trial_ids())


def _members(layout: Layout, what: str) -> _Members:
    """A trial or a point with equal weights, or the ensemble in that file. Raises CifarHpcError."""
    if what.endswith(".json"):
        try:
            record = read_record(Path(what), EnsembleRecord)
        except FileNotFoundError as error:
            raise CifarHpcError(f"{what}: no such file; `cifar-hpc report` writes those of a sweep's ensembles") from error
        if record.weights is not None:  # a soup is one network, made as any member's is
            one = (dataclasses.replace(record.members[0], weight=1.0),)
            return _Members(record.classes, one, weights=Path(what).parent / record.weights)
        return _Members(record.classes, record.members, record.coefficients, record.intercept)
    results = {}
    for trial_id in [what] if layout.trial(what).result.exists() else layout.trial_ids():
        with contextlib.suppress(FileNotFoundError, RecordError):
            results[trial_id] = read_record(layout.trial(trial_id).result, TrialResult)
    ids = {*results, *(result.point_id for result in results.values())}
    if not any(known.startswith(what.lower()) for known in ids):
        raise CifarHpcError(f"{what}: neither a finished trial nor a point of {layout.pool}, nor a .json file of an ensemble")
    meant = resolve_trial(what, ids)
    found = [result for trial_id, result in results.items() if meant in (trial_id, result.point_id)]
    members = tuple(EnsembleMember(trial_id=r.trial_id, weight=1 / len(found), temperature=1.0) for r in found)
    return _Members(found[0].classes, members)


def _probabilities(chosen: _Members, folder: Path) -> tuple[tuple[str, ...], NDArray[np.float64], tuple[str, ...]]:
    """The names of the images, their probabilities N x K, and a sentence for each file that is none."""
    from cifar_hpc.collect.ensemble import calibrate, combination_of
    from cifar_hpc.data.dataset import unlabelled
    from cifar_hpc.data.folder import LoadedImages, load_images
    from cifar_hpc.data.images import Fit
    from cifar_hpc.deploy.trained import load_trained

    layout = Layout(results_root())
    probabilities: dict[int, Floats] = {}
    loaded: dict[Fit, LoadedImages] = {}
    for i, member in enumerate(chosen.members):
        trained = load_trained(layout.trial(member.trial_id), chosen.weights)
        if trained.classes != chosen.classes:
            raise CifarHpcError(f"trial {member.trial_id} knows other classes than the ensemble")
        images = loaded[trained.fit] = loaded.get(trained.fit) or load_images(folder, trained.fit)
        probabilities[i] = calibrate(trained.logits(unlabelled(images.images_NCHW)), member.temperature)
    combined = combination_of(chosen.members, chosen.coefficients, chosen.intercept).apply(probabilities)
    return images.names, combined, images.left_out
