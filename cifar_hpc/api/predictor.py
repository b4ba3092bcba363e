"""Labels images with what was trained: a trial, all seeds of a configuration, an ensemble or a soup.

Owns: which networks answer for a name, and how their answers are combined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.names import find_ensemble, find_named
from cifar_hpc.config.metrics import taken_of
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.records.ties import check_members, files_of, gone_since, read_valid, soup_weights
from cifar_hpc.status.words import duration_text

if TYPE_CHECKING:
    from cifar_hpc.collect.ensemble import Floats
    from cifar_hpc.deploy.trained import TrainedTrial


@dataclass(frozen=True, slots=True)
class Members:
    """What labels images together. coefficients, intercept: of stacking, as an EnsembleRecord has them; weights: of a soup;
    unread: a sentence for each result of the point that could not be read, or is contradicted by its own predictions."""

    classes: tuple[str, ...]
    members: tuple[EnsembleMember, ...]
    coefficients: tuple[tuple[float, ...], ...] | None = None
    intercept: tuple[float, ...] | None = None
    weights: Path | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Predictions:
    """names: of N images, relative to their folder; probabilities_NK: of K classes; left_out: a sentence for each file that is
    no image; frames: names of those of which only the first of several frames was labelled; margins: whether some are the
    softmax of an SVM's margins, which orders the classes and is no probability."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities_NK: NDArray[np.float64]
    left_out: tuple[str, ...]
    frames: tuple[str, ...] = ()
    margins: bool = False

    @property
    def labels(self) -> list[str | None]:
        """The class that each image is taken for; None where the answer is NaN."""
        return labels_of(self.probabilities_NK, self.classes)


def labels_of(probabilities_NK: NDArray[np.float64], classes: Sequence[str]) -> list[str | None]:
    """Of N images, as Predictions.labels."""
    return [classes[taken] if taken >= 0 else None for taken in taken_of(probabilities_NK).tolist()]


def members_of(layout: Layout, what: str) -> Members:
    """A trial, or all seeds of a configuration with equal weights, or an ensemble, by any name that collect/names.py knows.
    Raises CifarHpcError."""
    path = find_ensemble(layout, what)
    if path is not None:
        try:
            record = read_record(path, EnsembleRecord)
        except FileNotFoundError as error:
            raise CifarHpcError(f"{what}: no such file; `cifar-hpc report` writes those of a sweep's ensembles") from error
        check_members(layout, record.members, str(path))
        if record.weights is not None:  # a soup is one network, made as any member's is
            one = (dataclasses.replace(record.members[0], weight=1.0),)
            return Members(record.classes, one, weights=soup_weights(path, record))
        return Members(record.classes, record.members, record.coefficients, record.intercept)
    if layout.has_trial(what) and (result := _finished(layout, what)) is not None:  # a whole id: nothing has to be ranked
        return _equal([result])
    named = find_named(layout, what)
    if named.trial_id is not None:
        result = _finished(layout, named.trial_id)
        if result is None:
            raise CifarHpcError(
                f"trial {named.trial_id} has no result yet: `cifar-hpc logs {named.trial_id}` tells what became of it"
            )
        return _equal([result])
    return members_of_row(layout, named.row)


def members_of_row(layout: Layout, row: Row) -> Members:
    """All seeds of a configuration, those that a filter leaves of it, with equal weights. Raises CifarHpcError."""
    results = [read_valid(files_of(layout, trial), trial.trial_id)[0] for trial in row.trials]
    if not results:
        raise CifarHpcError(f"no trial of {row.label} has a result that counts: {', '.join(row.trial_ids)}")
    unread = [f"{trial.trial_id}: {trial.reason}" for trial in row.failed if layout.trial(trial.trial_id).result.exists()]
    unread += [f"{trial.trial_id}: its predictions give other numbers than its record" for trial in row.contradicted]
    there = [result for result in results if files_of(layout, result).weights.exists()]
    lost = [result for result in results if result not in there and result.best_epoch is not None]
    if not there and not lost:
        raise CifarHpcError(f"no trial of {row.label} has a network: {results[0].reason}")
    gone = {r.trial_id: gone_since(r.trial_id, sweep) for r in lost if (sweep := files_of(layout, r).stopped_by) is not None}
    if gone and not there:
        raise CifarHpcError(next(iter(gone.values())))
    if not there and CLASSIFIERS[str(lost[0].config.get("classifier", "linear"))].keeps_weights:
        cost = duration_text(sum(result.train_s for result in lost))
        raise CifarHpcError(
            f"the networks of {row.label} did not stay; `cifar-hpc reproduce {row.point_id}` brings them back, in "
            f"about {cost} of training"
        )
    brought = {r.trial_id: f"{r.trial_id}: its network did not stay: `cifar-hpc reproduce {r.trial_id}`" for r in lost}
    lacking = list((brought | gone).values())
    lacking += [f"{r.trial_id}: {r.reason}" for r in results if r.best_epoch is None]
    return _equal(there or results, [*unread, *(lacking if there else [])])


def _finished(layout: Layout, trial_id: str) -> TrialResult | None:
    """Raises RecordError where it cannot be read."""
    try:
        return read_valid(layout.trial(trial_id), trial_id)[0]
    except FileNotFoundError:
        return None


def _equal(results: Sequence[TrialResult], unread: Sequence[str] = ()) -> Members:
    members = tuple(EnsembleMember(trial_id=r.trial_id, weight=1 / len(results), temperature=1.0) for r in results)
    return Members(results[0].classes, members, unread=tuple(unread))


def predict_images(layout: Layout, chosen: Members, source: Path) -> Predictions:
    """source: one image, or a folder with images at any depth. Raises DataError, CifarHpcError where weights were not kept."""
    from cifar_hpc.collect.ensemble import calibrate, combination_of
    from cifar_hpc.data.dataset import unlabelled
    from cifar_hpc.data.folder import LoadedImages, load_images
    from cifar_hpc.data.images import Fit
    from cifar_hpc.deploy.trained import load_trained

    probabilities: dict[int, Floats] = {}
    loaded: dict[Fit, LoadedImages] = {}
    margins = False
    for i, member in enumerate(chosen.members):
        trained = load_trained(layout.trial(member.trial_id), chosen.weights)
        if trained.classes != chosen.classes:
            raise CifarHpcError(f"trial {member.trial_id} knows other classes than the ensemble")
        margins = margins or are_margins(trained, member)
        images = loaded[trained.fit] = loaded.get(trained.fit) or load_images(source, trained.fit)
        probabilities[i] = calibrate(trained.logits(unlabelled(images.images_NCHW)), member.temperature)
    combined = combination_of(chosen.members, chosen.coefficients, chosen.intercept).apply(probabilities)
    return Predictions(images.names, chosen.classes, combined, images.left_out, images.frames, margins)


def are_margins(trained: TrainedTrial, member: EnsembleMember) -> bool:
    """Whether the softmax of its logits is no probability: of an SVM's margins that no temperature of an ensemble made one."""
    return member.temperature == 1 and not CLASSIFIERS[trained.config.classifier].probabilistic
