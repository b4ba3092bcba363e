"""`cifar-hpc predict`, `export`, `reproduce`: what is done with a finished trial. Computes nothing itself."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import ONE_NAME, say
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.ties import read_valid
from cifar_hpc.terminal.harmless import to_data_csv

if TYPE_CHECKING:
    from cifar_hpc.deploy.trained import TrainedTrial

TrialName = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL",
        help=f"{ONE_NAME}; of several seeds that which is best on validation; a soup: SWEEP/soup-greedy",
    ),
]


class To(StrEnum):
    """The form of an exported network."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"


def predict(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"{ONE_NAME}; an ensemble: SWEEP/greedy, or its file",
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="images, in folders of any depth", exists=True)],
) -> None:
    """Label new images: CSV on stdout with id, label and probability (none of an svm, which has margins). Of a configuration:
    the mean over all its networks.

    The ids are the files' names as they are, for programs (control characters and bytes that are no UTF-8 spelled out, such as
    \\n): a spreadsheet is to import them as text. What cannot be read as an image is named on stderr, and the exit status is 1;
    so too where an answer is NaN, which gives no label.
    """
    from cifar_hpc.api.predictor import members_of, predict_images

    layout = Layout(results_root())
    members = members_of(layout, what)
    say(
        f"{plural(len({member.trial_id for member in members.members}), 'network')} of {what}: labelling the images of {folder}"
    )
    found = predict_images(layout, members, folder)
    rows: list[tuple[str, ...]] = [("id", "label", "probability")]
    for name, label, share_K in zip(found.names, found.labels, found.probabilities_NK, strict=True):
        rows.append((name, label or "", "" if label is None or found.margins else f"{share_K.max():.6f}"))
    typer.echo(to_data_csv(rows), nl=False)
    for line in members.unread:
        typer.echo(f"not in the mean over {plural(len(members.members), 'network')}: {line}", err=True)
    if found.frames:
        first = f"{found.frames[0]}{' and others' if len(found.frames) > 1 else ''}"
        typer.echo(f"{plural(len(found.frames), 'file')} of several frames ({first}): the first is labelled", err=True)
    if found.left_out:
        typer.echo(f"{plural(len(found.names), 'image')} labelled, {plural(len(found.left_out), 'file')} left out:", err=True)
        for line in found.left_out:
            typer.echo(f"  {line}", err=True)
    if unlabelled := found.labels.count(None):
        typer.echo(f"{plural(unlabelled, 'image')} without a label: the answer is no number (NaN)", err=True)
    if found.left_out or members.unread or unlabelled:
        raise typer.Exit(1)
    say(f"{plural(len(found.names), 'image')} labelled")


def export(
    trial: TrialName,
    to: Annotated[To, typer.Option(help="the form")] = To.SAFETENSORS,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="default: results/SWEEP/NAME.safetensors or .onnx")
    ] = None,
) -> None:
    """Write the network of a trial or a soup for other programs, and check that what was written answers as it did."""
    from cifar_hpc.deploy.trained import export_trained

    trained, place = _one_network(Layout(results_root()), trial)
    path = output or place.with_name(f"{place.name}.{to.value}")
    path.parent.mkdir(parents=True, exist_ok=True)
    difference = export_trained(trained, path, to.value)
    typer.echo(path)
    side, channels = trained.side, trained.channels
    typer.echo(
        f"input N x {channels} x {side} x {side}, less mean over std; logits differ by {difference:.1e} of the largest",
        err=True,
    )


def reproduce(trial: Annotated[str, typer.Argument(metavar="NAME", help=ONE_NAME)]) -> None:
    """Run a finished trial again, apart from the pool, and tell where its numbers differ from the record; of a configuration,
    its finished seeds and folds. One that a search or its limit of time ended is trained as far as its record goes.

    Where none does and the trial did not keep its weights, they are kept now. Exit status 1 where one does.
    """
    from cifar_hpc.collect.names import find_named
    from cifar_hpc.sweep.reproduce import reproduce_trial

    layout, differ = Layout(results_root()), False
    named = find_named(layout, trial).trial_ids
    for trial_id in [one for one in named if layout.trial(one).result.exists()] or named:
        found = reproduce_trial(layout, trial_id)
        if found.weights:
            typer.echo(f"weights kept: {found.weights}", err=True)
        for line in found.differences or [f"the same numbers to the last bit, {found.extent}"]:
            typer.echo(f"{trial_id}: {line}")
        differ = differ or bool(found.differences)
    if differ:
        raise typer.Exit(1)


def _one_network(layout: Layout, name: str) -> tuple[TrainedTrial, Path]:
    """Of a trial or a soup, and where it is written by default, but for the ending. Raises CifarHpcError."""
    from cifar_hpc.api.predictor import members_of
    from cifar_hpc.collect.names import ensemble_name, find_ensemble, find_files
    from cifar_hpc.deploy.trained import load_trained

    ensemble = find_ensemble(layout, name)
    if ensemble is None:
        files = find_files(layout, name)
        return load_trained(files), _place_of(layout, files.folder.name) / files.folder.name
    found = members_of(layout, name)
    if found.weights is None:
        ids = " ".join(dict.fromkeys(member.trial_id for member in found.members))
        raise CifarHpcError(f"{name} is an ensemble: export its networks one by one ({ids}), or make a soup")
    trained = load_trained(layout.trial(found.members[0].trial_id), found.weights)
    said = ensemble_name(layout, ensemble)
    return trained, ensemble.parent.parent / ensemble.stem if said == str(ensemble) else layout.root / said


def _place_of(layout: Layout, trial_id: str) -> Path:
    """The folder of the sweep whose job trained it, beside its report."""
    sweep = read_valid(layout.trial(trial_id), trial_id)[0].job.partition("/")[0]
    return layout.sweep(sweep).folder if layout.has_sweep(sweep) else layout.report
