"""Ensembles of a pool's trials: reads their predictions, lets collect/ensemble choose on val, measures test once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.collect.ensemble import (
    USUAL,
    Chosen,
    Floats,
    Library,
    calibrate,
    choose_ensembles,
    make_library,
    measure_disagreement,
    measure_gain,
)
from cifar_hpc.collect.leaderboard import Leaderboard
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.statistics import Difference, compare_networks
from cifar_hpc.collect.trials import Trial, told_of
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, EnsembleRules
from cifar_hpc.records.store import read_record, utc_now

_MOST_MEMBERS = 300  # trials read, the most accurate, and the best of each architecture


@dataclass(frozen=True, slots=True)
class Measured:
    """An ensemble with its measurements. val, test: it minus the best member on the same images; val's p-value is one-sided.

    None: there is no test split; val of a soup, whose images chose it.
    """

    record: EnsembleRecord
    val: Difference | None
    test: Difference | None


@dataclass(frozen=True, slots=True)
class Ensembles:
    """gain: validation accuracy of greedy ensembles of 1, 2, ... members, on images that did not choose them.

    disagreement: share of validation images on which each pair of greedy's members differs.
    """

    best: Trial  # the most accurate member on validation
    members: int
    measured: tuple[Measured, ...]
    gain: tuple[float, ...]
    shown: tuple[Trial, ...]
    disagreement: NDArray[np.float64]
    soups: tuple[Measured, ...] = ()

    @property
    def highest(self) -> Measured:
        """The ensemble with the highest accuracy on validation."""
        return max(self.measured, key=lambda one: one.record.val_acc or 0.0)  # all have one

    @property
    def gains(self) -> bool:
        """Whether the highest beats the best member on validation by more than chance. Test decides nothing."""
        return self.highest.val is not None and self.highest.val.better


def make_ensembles(
    board: Leaderboard, layout: Layout, rules: EnsembleRules = USUAL, soups: Path | None = None
) -> Ensembles | None:
    """None where fewer than two trials classified the same validation images as the best one.

    soups: the folder of those that `cifar-hpc soup` made.
    """
    trials, predictions = _read_members(board, layout)
    if len(trials) < 2:
        return None
    labels = predictions[0].labels
    library = make_library([found.logits for found in predictions], labels, [str(trial.config["arch"]) for trial in trials])
    chosen = choose_ensembles(library, rules)
    needed = sorted({0, *(member for found in chosen for member in found.combination.weights)})
    tests = _read_tests(trials, needed, layout)
    measured = tuple(_measure(found, trials, library, tests) for found in chosen)
    greedy = next((found for found in chosen if found.combination.method == "greedy"), chosen[0])
    shown = list(greedy.combination.weights)[:12]
    return Ensembles(
        best=trials[0],
        members=len(trials),
        measured=measured,
        gain=tuple(measure_gain(library)),
        shown=tuple(trials[member] for member in shown),
        disagreement=measure_disagreement([library.probabilities[member] for member in shown]),
        soups=tuple(_read_soups(soups, tests.get(0))) if soups else (),
    )


def _read_soups(folder: Path, best: SplitPredictions | None) -> Iterator[Measured]:
    """Soups beside the best member on the test images. Those that cannot be read are left out."""
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(path, EnsembleRecord)
            found = read_predictions(TrialFiles(folder / path.stem), "test", told_of(None, record.test_acc, record.test_n))
        except (RecordError, OSError):
            continue
        test = None
        if found is not None and best is not None and found.same_images(best):
            test = compare_networks(found.right, best.right)
        yield Measured(record, None, test)


def _read_members(board: Leaderboard, layout: Layout) -> tuple[list[Trial], list[SplitPredictions]]:
    """Trials that classified the best trial's validation images, most accurate first. Corrupt predictions are left out."""
    everyone = [trial for row in board.measured for trial in row.trials if trial.metric("val_acc") is not None]
    ranked = sorted(everyone, key=lambda trial: (-(trial.val_acc or 0.0), trial.trial_id))
    first_of_arch = {id(trial) for trial in {str(t.config["arch"]): t for t in reversed(ranked)}.values()}
    trials: list[Trial] = []
    found: list[SplitPredictions] = []
    for place, trial in enumerate(ranked):
        if place >= _MOST_MEMBERS and id(trial) not in first_of_arch:
            continue
        try:
            predictions = read_predictions(layout.trial(trial.trial_id), "val", trial.told("val"))
        except RecordError:
            continue
        if predictions is not None and (not found or predictions.same_images(found[0])):
            trials.append(trial)
            found.append(predictions)
    return trials, found


def _read_tests(trials: Sequence[Trial], needed: Sequence[int], layout: Layout) -> dict[int, SplitPredictions]:
    """Test predictions of the members that were chosen; empty unless all have them, of the same images."""
    tests: dict[int, SplitPredictions] = {}
    for member in needed:
        try:
            found = read_predictions(layout.trial(trials[member].trial_id), "test", trials[member].told("test"))
        except RecordError:
            return {}
        if found is None or (tests and not found.same_images(next(iter(tests.values())))):
            return {}
        tests[member] = found
    return tests


def _measure(found: Chosen, trials: Sequence[Trial], library: Library, tests: dict[int, SplitPredictions]) -> Measured:
    combination = found.combination
    best_right = library.probabilities[0].argmax(1) == library.labels
    test: Difference | None = None
    test_acc: float | None = None
    if tests:
        probabilities: dict[int, Floats] = {m: calibrate(tests[m].logits, library.temperatures[m]) for m in combination.weights}
        right = combination.apply(probabilities).argmax(1) == tests[0].labels
        test, test_acc = compare_networks(right, tests[0].right), float(right.mean())
    record = EnsembleRecord(
        method=combination.method,
        created_at=utc_now(),
        classes=trials[0].classes,
        members=tuple(
            EnsembleMember(trial_id=trials[m].trial_id, weight=weight, temperature=library.temperatures[m])
            for m, weight in combination.weights.items()
        ),
        coefficients=None
        if combination.coefficients is None
        else tuple(tuple(row) for row in combination.coefficients.tolist()),
        intercept=None if combination.intercept is None else tuple(combination.intercept.tolist()),
        val_acc=float(found.right.mean()),
        val_n=len(found.right),
        test_acc=test_acc,
        test_n=len(tests[0].labels) if tests else None,
    )
    return Measured(record, compare_networks(found.right, best_right, sides=1), test)
