"""What ties the files of a trial to each other, and an ensemble to its members: a file that was changed, swapped or copied here
by hand is noticed where it is used, and said.

Owns: which results are whole and true to their config, whose a network is, of which predictions an ensemble was made. Measures
nothing; what predictions give is compared in collect/predictions.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import Iterable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import cast

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import listed
from cifar_hpc.config.sources import look_in
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError, OtherVersionError, RecordError
from cifar_hpc.records.layout import Layout, TrialFiles, is_name
from cifar_hpc.records.schema import Ended, EnsembleMember, EnsembleRecord, Outcome, TrialResult
from cifar_hpc.records.store import open_regular, read_record

CLASSES = "classes"  # the array of predictions.npz that names what its logits and labels count


def read_valid(files: TrialFiles, trial_id: str) -> tuple[TrialResult, TrialConfig]:
    """The result, checked against itself, and its config, of which the user's own code is found as these results keep it.

    Raises RecordError (corrupt, foreign, edited by hand), OtherVersionError and OSError."""
    try:
        result = read_record(files.result, TrialResult)
    except OtherVersionError as error:
        raise _of_other_version(files, error.found) from error
    if result.trial_id != trial_id:
        raise RecordError(f"{files.result}: bears the id {result.trial_id}")
    try:
        config = TrialConfig.from_json(result.config)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _of_other_version(files, f"{files.result}: its config is not one of this version: {error}") from error
    if config.trial_id != trial_id:
        found = f"{files.result}: its config does not hash to its id: of another id scheme, or edited by hand"
        raise _of_other_version(files, found)
    known = _known_order(config.dataset, result.classes)
    if known is not None and result.classes != known:
        raise RecordError(
            f"{files.result}: its classes are {listed(result.classes)}; those of {config.dataset.name} are {listed(known)}"
        )
    look_in(Layout(files.folder.parent.parent).sources)
    return result, config


def files_of(layout: Layout, result: Ended) -> TrialFiles:
    """The files of the trial that belong to this result of it: a sweep whose search stopped the trial has its own, once another
    sweep has trained it again."""
    files, sweep = layout.trial(result.trial_id), result.job.partition("/")[0]
    if result.outcome is Outcome.PRUNED and is_name(sweep) and (aside := files.until_stopped(sweep)).result.exists():
        return aside
    return files


def gone_since(trial_id: str, sweep: str) -> str:
    """What is told where the network is asked for that a trial had when the sweep's search stopped it."""
    return (
        f"another sweep has trained {trial_id} again since the search of {sweep} stopped it: the network of then did not stay"
    )


def _of_other_version(files: TrialFiles, found: str) -> OtherVersionError:
    return OtherVersionError(found, without=shlex.join(["mv", str(files.result), str(files.refused_result())]))


def _known_order(dataset: DatasetConfig, classes: Iterable[str]) -> tuple[str, ...] | None:
    """The classes of the data set's labels, as far as the config tells; None where only the images do."""
    kept = dataset.classes
    if dataset.name == "folder":  # in the order of their names
        return tuple(sorted(classes if kept is None else kept))
    names = catalog.DATASETS[dataset.name].classes if dataset.name in catalog.DATASETS else ()
    return tuple(name for name in names if kept is None or name in kept) or None


def check_classes(files: TrialFiles, classes: tuple[str, ...]) -> None:
    """Raises RecordError where the labels of predictions.npz are of other classes, or in another order, than result.json says;
    one from before they were named there, or that cannot be read, says nothing."""
    import numpy as np

    found = classes
    with (
        contextlib.suppress(Exception),
        open_regular(files.predictions) as stream,
        np.load(stream, allow_pickle=False) as arrays,
    ):
        found = tuple(map(str, arrays[CLASSES])) if CLASSES in arrays else classes
    if found != classes:
        raise RecordError(f"{files.predictions}: {of_classes(found, classes)}")


def of_classes(found: Sequence[str] | None, told: Sequence[str] | None) -> str:
    return (
        f"is of the classes {listed(found or ())}, result.json says {listed(told or ())}: one of them was edited, or is "
        "another trial's"
    )


def own_weights(files: TrialFiles, result: TrialResult) -> Path:
    """The file of the trial's network. Raises RecordError where another lies there, OSError where there is none."""
    if result.kept_sha256 is not None and (found := sha256_of(files.weights)) != result.kept_sha256:
        raise RecordError(
            f"{files.weights}: is not the network that trial {result.trial_id} kept (SHA-256 {found[:12]}..., result.json says "
            f"{result.kept_sha256[:12]}...): another's, or corrupt. Delete it; `cifar-hpc reproduce {result.trial_id}` brings "
            "the trial's own back"
        )
    return files.weights


def soup_weights(path: Path, record: EnsembleRecord) -> Path:
    """The file of a soup's network. path: of its record. Raises RecordError where another lies there, or none."""
    assert record.weights is not None
    file = path.parent / record.weights
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise RecordError(f"{path}: its weights {record.weights!r:.80} lie outside its folder")
    if not file.exists():
        raise RecordError(f"{file}: is not there; `cifar-hpc soup` makes it again")
    if record.weights_sha256 is not None and sha256_of(file) != record.weights_sha256:
        raise RecordError(f"{file}: is not the network of {path}: another's, or corrupt; `cifar-hpc soup` makes it again")
    return file


def member_of(files: TrialFiles, weight: float, temperature: float = 1.0) -> EnsembleMember:
    """A trial as a member of an ensemble that was made of the predictions which it has now, if any: a soup needs none."""
    found = sha256_of(files.predictions) if files.predictions.exists() else None
    return EnsembleMember(trial_id=files.folder.name, weight=weight, temperature=temperature, predictions_sha256=found)


def check_members(layout: Layout, members: Iterable[EnsembleMember], name: str) -> None:
    """Raises CifarHpcError where the predictions of a member are not those of which the ensemble was made."""
    changed = []
    for member in members:
        if member.predictions_sha256 is not None:
            found = None
            with contextlib.suppress(OSError, RecordError):
                found = sha256_of(layout.trial(member.trial_id).predictions)
            if found != member.predictions_sha256:
                changed.append(member.trial_id)
    if changed:
        raise CifarHpcError(
            f"{name}: was made of other predictions than its members have now: {listed(list(dict.fromkeys(changed)))}. "
            "`cifar-hpc report`, or `soup`, makes it again"
        )


def sha256_of(path: Path) -> str:
    """Raises OSError; RecordError where it is no regular file."""
    with open_regular(path) as stream:
        return hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest()
