"""Ensembles of a pool's trials: reads their predictions, lets collect/ensemble choose on val, measures test once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from cifar_hpc.collect.leaderboard import SEEN, Leaderboard, Row
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.rounds import read_rounds
from cifar_hpc.collect.statistics import Difference, compare_networks
from cifar_hpc.collect.trials import Trial, told_of
from cifar_hpc.config.metrics import right_of
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.schema import EnsembleRecord, EnsembleRules
from cifar_hpc.records.store import read_record, utc_now
from cifar_hpc.records.ties import check_members, files_of, member_of

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

    best: Trial  # the most accurate member on validation; of folds, which are one member, the first, with what all measured
    best_n: int  # its networks: one, or those of its folds
    trials: int  # whose networks could be members
    measured: tuple[Measured, ...]
    gain: tuple[float, ...]
    shown: tuple[Trial, ...]
    disagreement: NDArray[np.float64]
    soups: tuple[Measured, ...] = ()
    left_out: tuple[str, ...] = ()  # trials, test images and soups that are in none of it, and why

    @property
    def seed(self) -> int | None:
        """That of all members, where each seed has a split of its own."""
        return self.best.seed if self.best.own_split and self.best.fold is None else None

    @property
    def highest(self) -> Measured:
        """The ensemble with the highest accuracy on validation."""
        return max(self.measured, key=lambda one: one.record.val_acc or 0.0)  # all have one

    @property
    def gains(self) -> bool:
        """Whether the highest beats the best member on validation by more than chance. Test decides nothing."""
        return self.highest.val is not None and self.highest.val.better


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be a member: one network, or those of a round's folds, which share a weight. trial: the first of them, with what
    all of them measured."""

    trial: Trial
    networks: tuple[Trial, ...]


def make_ensembles(
    board: Leaderboard, layout: Layout, rules: EnsembleRules = USUAL, soups: Path | None = None
) -> Ensembles | None:
    """None where fewer than two trials classified the same validation images as the best one, two images at least.

    soups: the folder of those that `cifar-hpc soup` made.
    """
    left_out: list[str] = []
    candidates, predictions = _read_members(board, layout, left_out)
    if len(candidates) < 2 or len(predictions[0].labels) < 2:
        return None
    trials = [candidate.trial for candidate in candidates]
    labels = predictions[0].labels
    library = make_library([found.logits for found in predictions], labels, [str(trial.config["arch"]) for trial in trials])
    of_folds = any(len(candidate.networks) > 1 for candidate in candidates)
    # Stacking's coefficients are of one network each: there is no such network for the mean of several folds'.
    chosen = [one for one in choose_ensembles(library, rules) if not of_folds or one.combination.coefficients is None]
    if not chosen:
        return None
    needed = sorted({0, *(member for found in chosen for member in found.combination.weights)})
    tests = _read_tests(candidates, needed, layout, left_out)
    measured = tuple(_measure(found, candidates, library, tests, layout) for found in chosen)
    greedy = next((found for found in chosen if found.combination.method == "greedy"), chosen[0])
    shown = list(greedy.combination.weights)[:12]
    best = trials[0]
    if len(candidates[0].networks) > 1:  # as an ensemble is measured against it
        shares = _shares(tests[0], library.temperatures[0]) if tests else None
        best = replace(best, test_acc=None if shares is None else float(right_of(shares, tests[0][0].labels).mean()))
    return Ensembles(
        best=best,
        best_n=len(candidates[0].networks),
        trials=sum(len(candidate.networks) for candidate in candidates),
        measured=measured,
        gain=tuple(measure_gain(library)),
        shown=tuple(trials[member] for member in shown),
        disagreement=measure_disagreement([library.probabilities[member] for member in shown]),
        soups=tuple(_read_soups(soups, board, layout, tests[0][0] if tests and len(tests[0]) == 1 else None, left_out))
        if soups
        else (),
        left_out=tuple(left_out),
    )


def _read_soups(
    folder: Path, board: Leaderboard, layout: Layout, best: SplitPredictions | None, left_out: list[str]
) -> Iterator[Measured]:
    """Soups beside the best member on the test images. Those that cannot be read, or whose members were trained again, deleted
    or are none of the board's any more, are left out; why is added to `left_out`."""
    here = {trial.trial_id: row.seen for row in board.rows for trial in row.trials}
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(path, EnsembleRecord)
            check_members(layout, record.members, f"soup {path.stem}")
            if gone_n := sum(member.trial_id not in here for member in record.members):
                gone = plural(gone_n, "trial")
                raise CifarHpcError(f"soup {path.stem}: of {gone} not in this table; `cifar-hpc soup` makes it again")
            if any(here[member.trial_id] for member in record.members):
                raise CifarHpcError(f"soup {path.stem}: {SEEN}")
            found = read_predictions(TrialFiles(folder / path.stem), "test", told_of(None, record.test_acc, record.test_n))
        except (CifarHpcError, OSError) as error:
            left_out.append(str(error))
            continue
        test = None
        if found is not None and best is not None and found.same_images(best):
            test = compare_networks(found.right, best.right)
        yield Measured(record, None, test)


def _candidates(row: Row) -> list[Candidate]:
    measured = [trial for trial in row.trials if trial.metric("val_acc") is not None]
    if row.config.get("dataset.folds") is None:
        return [Candidate(trial, (trial,)) for trial in measured]
    rounds: dict[tuple[int, int], list[Trial]] = {}
    for trial in measured if row.whole_rounds else ():
        rounds.setdefault(trial.round, []).append(trial)
    return [Candidate(_as_one(trials), tuple(trials)) for trials in rounds.values()]


def _as_one(trials: Sequence[Trial]) -> Trial:
    images = sum(trial.val_n or 0 for trial in trials)
    tests = [trial.test_acc for trial in trials if trial.test_acc is not None]
    return replace(
        trials[0],
        val_acc=sum((trial.val_acc or 0.0) * (trial.val_n or 0) for trial in trials) / images,
        val_n=images,
        test_acc=sum(tests) / len(tests) if tests else None,
    )


def _read_members(board: Leaderboard, layout: Layout, left_out: list[str]) -> tuple[list[Candidate], list[SplitPredictions]]:
    """Those that classified the best one's validation images, most accurate first. Those whose predictions are corrupt or
    missing are not among them; why is added to `left_out`."""
    everyone = [candidate for row in board.measured if not row.seen for candidate in _candidates(row)]
    if seen_n := sum(len(row.rounds) for row in board.measured if row.seen):
        left_out.append(f"{plural(seen_n, 'trial')} ({SEEN})")
    everyone = _of_one_split(everyone, left_out)
    ranked = sorted(everyone, key=lambda one: -(one.trial.val_acc or 0.0))  # equal ones in the order of the leaderboard
    first_of_arch = {id(one) for one in {str(c.trial.config["arch"]): c for c in reversed(ranked)}.values()}
    candidates: list[Candidate] = []
    found: list[SplitPredictions] = []
    unread: list[str] = []
    others_n = 0
    for place, candidate in enumerate(ranked):
        if place >= _MOST_MEMBERS and id(candidate) not in first_of_arch:
            continue
        trial = candidate.trial
        try:
            if len(candidate.networks) > 1:
                predictions: SplitPredictions | None = read_rounds(candidate.networks, layout)
            else:
                predictions = read_predictions(files_of(layout, trial), "val", trial.told("val"), trial.classes)
        except RecordError as error:
            unread += [str(error)] * len(candidate.networks)
            continue
        if predictions is None or not predictions.all_told:
            continue
        if found and not predictions.same_images(found[0]):
            others_n += len(candidate.networks)
            continue
        candidates.append(candidate)
        found.append(predictions)
    if others_n:
        left_out.append(f"{plural(others_n, 'trial')} (validated on other images than the most accurate one)")
    if unread:
        left_out.append(f"{plural(len(unread), 'trial')} ({unread[0]}{', and others' if len(set(unread)) > 1 else ''})")
    return candidates, found


def _of_one_split(everyone: list[Candidate], left_out: list[str]) -> list[Candidate]:
    """Where each seed has a split of its own, those of the best configuration's first seed: the most accurate of all is that of
    the seed whose images happen to be the easiest."""
    if not everyone or not everyone[0].trial.own_split or everyone[0].trial.fold is not None:
        return everyone
    seed = everyone[0].trial.seed
    kept = [one for one in everyone if one.trial.seed == seed]
    if others_n := len(everyone) - len(kept):
        left_out.append(f"{plural(others_n, 'trial')} (each seed has a split of its own: these are of seed {seed}'s)")
    return kept


def _read_tests(
    candidates: Sequence[Candidate], needed: Sequence[int], layout: Layout, left_out: list[str]
) -> dict[int, list[SplitPredictions]]:
    """Test predictions of the networks that were chosen; empty unless all have them, of the same images: where it is
    not the data that has none, why is added to `left_out`."""
    tests: dict[int, list[SplitPredictions]] = {}
    first: SplitPredictions | None = None
    for member in needed:
        for trial in candidates[member].networks:
            try:
                found = read_predictions(files_of(layout, trial), "test", trial.told("test"), trial.classes)
            except RecordError as error:
                left_out.append(f"test images ({error})")
                return {}
            if found is None:
                return {}
            if first is not None and not found.same_images(first):
                left_out.append(f"test images ({trial.trial_id} classified others)")
                return {}
            first = first or found
            tests.setdefault(member, []).append(found)
    return tests


def _shares(networks: Sequence[SplitPredictions], temperature: float) -> Floats:
    """What a member gives each class of the test images: the mean of its networks."""
    return np.asarray(np.mean([calibrate(one.logits, temperature) for one in networks], axis=0), np.float64)


def _measure(
    found: Chosen, candidates: Sequence[Candidate], library: Library, tests: dict[int, list[SplitPredictions]], layout: Layout
) -> Measured:
    combination = found.combination
    best_right = right_of(library.probabilities[0], library.labels)
    test: Difference | None = None
    test_acc: float | None = None
    if tests:
        probabilities: dict[int, Floats] = {m: _shares(tests[m], library.temperatures[m]) for m in combination.weights}
        labels = tests[0][0].labels
        right = right_of(combination.apply(probabilities), labels)
        best = right_of(_shares(tests[0], library.temperatures[0]), labels) if len(tests[0]) > 1 else tests[0][0].right
        test, test_acc = compare_networks(right, best), float(right.mean())
    record = EnsembleRecord(
        method=combination.method,
        created_at=utc_now(),
        classes=candidates[0].trial.classes,
        members=tuple(
            member_of(files_of(layout, network), weight / len(candidates[m].networks), library.temperatures[m])
            for m, weight in combination.weights.items()
            for network in candidates[m].networks
        ),
        coefficients=None
        if combination.coefficients is None
        else tuple(tuple(row) for row in combination.coefficients.tolist()),
        intercept=None if combination.intercept is None else tuple(combination.intercept.tolist()),
        val_acc=float(found.right.mean()),
        val_n=len(found.right),
        test_acc=test_acc,
        test_n=len(tests[0][0].labels) if tests else None,
    )
    return Measured(record, compare_networks(found.right, best_right, sides=1), test)
