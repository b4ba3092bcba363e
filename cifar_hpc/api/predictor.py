"""Labels images with what was trained: a trial, all seeds of a configuration, an ensemble or a soup.

Owns: which networks answer for a name, and how their answers are combined.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, TrialRecord, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.status.names import resolve_trial

if TYPE_CHECKING:
    from cifar_hpc.collect.ensemble import Floats


@dataclass(frozen=True, slots=True)
class Members:
    """What labels images together. coefficients, intercept: of stacking, as an EnsembleRecord has them; weights: of a soup;
    unread: a sentence for each result of the point that could not be read."""

    classes: tuple[str, ...]
    members: tuple[EnsembleMember, ...]
    coefficients: tuple[tuple[float, ...], ...] | None = None
    intercept: tuple[float, ...] | None = None
    weights: Path | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Predictions:
    """names: of N images, relative to their folder; probabilities_NK: of K classes; left_out: a sentence for each file that is
    no image; frames: names of those of which only the first of several frames was labelled."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities_NK: NDArray[np.float64]
    left_out: tuple[str, ...]
    frames: tuple[str, ...] = ()


def members_of(layout: Layout, what: str) -> Members:
    """A trial or a point with equal weights, or the ensemble in that file. Raises CifarHpcError."""
    if what.endswith(".json"):
        try:
            record = read_record(Path(what), EnsembleRecord)
        except FileNotFoundError as error:
            raise CifarHpcError(f"{what}: no such file; `cifar-hpc report` writes those of a sweep's ensembles") from error
        if record.weights is not None:  # a soup is one network, made as any member's is
            one = (dataclasses.replace(record.members[0], weight=1.0),)
            return Members(record.classes, one, weights=Path(what).parent / record.weights)
        return Members(record.classes, record.members, record.coefficients, record.intercept)
    results = {}
    broken: dict[str, str] = {}
    for trial_id in [what] if layout.trial(what).result.exists() else layout.trial_ids():
        try:
            results[trial_id] = read_record(layout.trial(trial_id).result, TrialResult)
        except FileNotFoundError:
            continue
        except RecordError as error:
            broken[trial_id] = str(error)
    ids = {*results, *(result.point_id for result in results.values())}
    if not any(known.startswith(what.lower()) for known in ids):
        raise CifarHpcError(f"{what}: neither a finished trial nor a point of {layout.pool}, nor a .json file of an ensemble")
    meant = resolve_trial(what, ids)
    found = [result for trial_id, result in results.items() if meant in (trial_id, result.point_id)]
    members = tuple(EnsembleMember(trial_id=r.trial_id, weight=1 / len(found), temperature=1.0) for r in found)
    unread = tuple(why for trial_id, why in broken.items() if _point_of(layout, trial_id) == found[0].point_id == meant)
    return Members(found[0].classes, members, unread=unread)


def _point_of(layout: Layout, trial_id: str) -> str | None:
    """The point of a trial whose result cannot be read, from its trial.json; None where that does not tell it either."""
    with contextlib.suppress(OSError, RecordError, TypeError, KeyError, ValueError, AttributeError):
        return TrialConfig.from_json(read_record(layout.trial(trial_id).trial, TrialRecord).config).point_id
    return None


def predict_images(layout: Layout, chosen: Members, source: Path) -> Predictions:
    """source: one image, or a folder with images at any depth. Raises DataError, CifarHpcError where weights were not kept."""
    from cifar_hpc.collect.ensemble import calibrate, combination_of
    from cifar_hpc.data.dataset import unlabelled
    from cifar_hpc.data.folder import LoadedImages, load_images
    from cifar_hpc.data.images import Fit
    from cifar_hpc.deploy.trained import load_trained

    probabilities: dict[int, Floats] = {}
    loaded: dict[Fit, LoadedImages] = {}
    for i, member in enumerate(chosen.members):
        trained = load_trained(layout.trial(member.trial_id), chosen.weights)
        if trained.classes != chosen.classes:
            raise CifarHpcError(f"trial {member.trial_id} knows other classes than the ensemble")
        images = loaded[trained.fit] = loaded.get(trained.fit) or load_images(source, trained.fit)
        probabilities[i] = calibrate(trained.logits(unlabelled(images.images_NCHW)), member.temperature)
    combined = combination_of(chosen.members, chosen.coefficients, chosen.intercept).apply(probabilities)
    return Predictions(images.names, chosen.classes, combined, images.left_out, images.frames)
