"""An ensemble of its members' refits, for `predict`.

Owns: which refit takes which member's place, and what of the ensemble still holds for refits. Weights do, and temperatures:
they were chosen on validation images, on which refits trained, so that nothing could choose them again. Stacking's coefficients
do where each member keeps a network of its own for its columns (Wolpert 1992 trains the members once more on all images and
keeps the combiner, too). The validation accuracy does not: it is absent.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cifar_hpc.config.metrics import right_of
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import EnsembleRecord, PlanRecord, TrialResult
from cifar_hpc.records.store import read_record, utc_now, write_record
from cifar_hpc.records.ties import check_members, member_of, read_valid
from cifar_hpc.status.axes import keys_that_differ
from cifar_hpc.status.words import score_text
from cifar_hpc.sweep.listener import Listener, SweepOutcome
from cifar_hpc.sweep.refit import refit_of, train_refits
from cifar_hpc.sweep.where import Where

if TYPE_CHECKING:
    from cifar_hpc.collect.trials import Trial
    from cifar_hpc.spec.parts import SweepTrial


def refit_ensemble(layout: Layout, path: Path, where: Where, listener: Listener) -> SweepOutcome:
    """Trains the members' refits and, once all have finished, writes their ensemble beside them. Raises CifarHpcError."""
    try:
        record = read_record(path, EnsembleRecord)
    except FileNotFoundError:
        raise CifarHpcError(f"{path}: no such file; `cifar-hpc report` writes those of a sweep's ensembles") from None
    refits = _refits(layout, path, record)
    owner = _owner(layout, path)
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-") or "ensemble"
    name = (f"{owner}-{stem}" if owner else stem)[:58] + "-refit"
    command = ("cifar-hpc", "refit", str(path))
    outcome = train_refits(layout, name, refits, _plan_like(layout, owner, path), command, where, listener)
    files = layout.sweep(name)
    ids = [refit.config.trial_id for refit in refits]
    if not all(layout.trial(trial_id).result.exists() for trial_id in ids):
        listener.note(f"once they have finished, the same command writes {files.ensemble}")
        return outcome
    made = _ensemble_of(layout, record, ids, listener)
    write_record(files.ensemble, made)
    measured = "" if made.test_acc is None else f"test acc {score_text(made.test_acc, made.test_n)} %; "
    listener.note(f"{made.method} of {len({*ids})}: {measured}no validation accuracy, for its members trained on those images")
    listener.note(f"it labels new images: cifar-hpc predict {shlex.quote(name + '/ensemble')} FOLDER")
    return outcome


def _refits(layout: Layout, path: Path, record: EnsembleRecord) -> list[SweepTrial]:
    """In the order of the members."""
    from cifar_hpc.collect.scan import scan

    if record.weights is not None:
        raise CifarHpcError(f"{path}: a soup is one network, the mean of others: there is nothing to train again")
    if record.val_acc is None:
        raise CifarHpcError(f"{path}: its members are refits already")
    check_members(layout, record.members, str(path))
    points: dict[str, list[Trial]] = defaultdict(list)
    known: dict[str, Trial] = {}
    for trial in scan(layout).trials:
        points[trial.point_id].append(trial)
        known[trial.trial_id] = trial
    wanted = [member.trial_id for member in record.members]
    missing = [trial_id for trial_id in wanted if trial_id not in known or known[trial_id].best_epoch is None]
    if missing:
        raise CifarHpcError(f"{path}: no finished trial {', '.join(missing)} in {layout.pool}")
    weightless = [trial_id for trial_id in wanted if known[trial_id].config.get("classifier") == "knn"]
    if weightless:
        raise CifarHpcError(f"{path}: {', '.join(weightless)}: classifier knn keeps no weights that could label new images")
    trials = [known[trial_id] for trial_id in wanted]
    axes = keys_that_differ([trial.config for trial in trials])
    refits = []
    for trial in trials:
        best = fmean(one.best_epoch for one in points[trial.point_id] if one.best_epoch is not None)
        refits.append(refit_of(layout, trial, best, {axis: trial.config.get(axis) for axis in axes}))
    if record.coefficients is not None and len({refit.config.trial_id for refit in refits}) < len(refits):
        raise CifarHpcError(
            f"{path}: members that differ only in their epochs become one refit, and stacking's coefficients hold for "
            "members of their own: refit another ensemble (greedy, bagging, uniform, accuracy)"
        )
    return refits


def _owner(layout: Layout, path: Path) -> str | None:
    """The sweep whose report made the ensemble; None where it is of several or lies elsewhere."""
    place, root = path.resolve(), layout.root.resolve()
    name = place.relative_to(root).parts[0] if place.is_relative_to(root) else None
    return name if name and layout.has_sweep(name) else None


def _plan_like(layout: Layout, owner: str | None, path: Path) -> PlanRecord:
    """Whose resources the refits get: the sweep's, else the usual ones."""
    if owner is not None:
        return dataclasses.replace(read_plan(layout, owner), spec_path=str(path))
    nothing: Mapping[str, Any] = {"sweep": "", "created_at": "", "objective": "val_acc", "trials": (), "cohorts": ()}
    return PlanRecord(spec_path=str(path), **nothing)


def _ensemble_of(layout: Layout, record: EnsembleRecord, ids: Sequence[str], listener: Listener) -> EnsembleRecord:
    results = [read_valid(layout.trial(trial_id), trial_id)[0] for trial_id in ids]
    for result in results:
        if result.best_epoch is None:
            raise CifarHpcError(f"trial {result.trial_id}, which takes a member's place, has no weights: {result.reason}")
        if result.classes != record.classes:
            raise CifarHpcError(f"trial {result.trial_id} knows other classes than the ensemble")
    weights: dict[tuple[str, float], float] = {}  # the folds of a round become one refit, which is one member
    for member, trial_id in zip(record.members, ids, strict=True):
        key = trial_id, member.temperature
        weights[key] = weights.get(key, 0.0) + member.weight
    members = tuple(member_of(layout.trial(trial_id), weight, at) for (trial_id, at), weight in weights.items())
    made = dataclasses.replace(
        record, created_at=utc_now(), members=members, val_acc=None, val_n=None, test_acc=None, test_n=None
    )
    return _with_test(layout, made, {result.trial_id: result for result in results}, listener)


def _with_test(layout: Layout, made: EnsembleRecord, results: Mapping[str, TrialResult], listener: Listener) -> EnsembleRecord:
    """Its accuracy on the test images, from the members' stored predictions; absent where one has none, or of others."""
    from cifar_hpc.collect.ensemble import Floats, calibrate, combination_of
    from cifar_hpc.collect.predictions import read_predictions

    probabilities: dict[int, Floats] = {}
    first = None
    for i, member in enumerate(made.members):
        result = results[member.trial_id]
        try:
            found = read_predictions(layout.trial(member.trial_id), "test", result.test, result.classes)
        except RecordError as error:
            listener.note(f"test accuracy not measured: {error}")
            return made
        first = first or found
        if found is None or first is None:
            return made
        if not found.same_images(first):
            listener.note(f"test accuracy not measured: {member.trial_id} classified other test images")
            return made
        probabilities[i] = calibrate(found.logits, member.temperature)
    assert first is not None  # an ensemble has members
    combination = combination_of(made.members, made.coefficients, made.intercept)
    right_N = right_of(combination.apply(probabilities), first.labels)
    return dataclasses.replace(made, test_acc=float(right_N.mean()), test_n=len(right_N))
