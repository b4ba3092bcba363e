"""Ensembles against numbers worked out by hand, and what their estimates promise."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from benchmarks.pool import Images, configs, draw_logits, write_plan, write_trial
from cifar_hpc.collect.ensemble import (
    Library,
    choose_ensembles,
    fit_temperature,
    make_library,
    measure_disagreement,
    select_greedily,
)
from cifar_hpc.collect.ensemble_pool import Measured, make_ensembles
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.collect.statistics import Difference
from cifar_hpc.config.catalog import ENSEMBLE_METHODS
from cifar_hpc.errors import SpecError
from cifar_hpc.planning.plan import make_plan, plan_record, recorded_plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EnsembleRecord, EnsembleRules
from cifar_hpc.records.store import write_record
from cifar_hpc.report.findings import find
from cifar_hpc.report.summary import headline
from cifar_hpc.spec.load import load_spec


@pytest.fixture(scope="module")
def library() -> Library:
    """Twelve members of three architectures on 1,000 images."""
    images, rng = Images.draw(1000, 0), np.random.default_rng(0)
    logits = [draw_logits(0.7 + 0.01 * member, images, "x" * (member % 3), rng) for member in range(12)]
    return make_library(logits, images.labels, [f"arch{member % 3}" for member in range(12)])


def test_the_temperature_is_the_one_of_least_log_loss() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    logits = 3.0 * rng.standard_normal((800, 4)) + 4.0 * np.eye(4)[labels]

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits / temperature, axis=1)[np.arange(800), labels]).mean())

    grid = np.geomspace(0.1, 10, 2000)
    best = grid[np.argmin([loss(t) for t in grid])]
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=0.005)


def test_a_member_that_is_always_right_gets_a_bounded_temperature() -> None:
    labels = np.arange(100) % 3
    assert 0.05 <= fit_temperature(10.0 * np.eye(3)[labels], labels) <= 20


def test_greedy_takes_the_pair_whose_mean_is_best_not_the_two_best() -> None:
    """The first two are alike; the third is worse than both but right where they are wrong."""
    truth = np.array([[0.9, 0.9, 0.1], [0.9, 0.88, 0.1], [0.2, 0.2, 0.95]], np.float32)
    order = select_greedily(truth, steps=2)
    assert order == [0, 2]
    mean = truth[order].mean(0)
    assert -np.log(mean).mean() == min(-np.log((truth[i] + truth[j]) / 2).mean() for i in range(3) for j in range(3))


def test_greedy_stops_where_another_member_would_hurt() -> None:
    truth = np.array([[0.99, 0.99], [0.5, 0.5]], np.float32)
    assert set(select_greedily(truth, steps=10)) == {0}


def test_the_rule_takes_the_best_of_each_architecture_and_all_above_the_threshold(library: Library) -> None:
    accuracy = library.right().mean(1)
    (uniform, weighted) = choose_ensembles(
        library, EnsembleRules(methods=("uniform", "accuracy"), above=float(np.sort(accuracy)[-3]))
    )
    top = set(np.argsort(-accuracy)[:2].tolist())
    best_of_each = {max((m for m in range(12) if m % 3 == arch), key=lambda m: accuracy[m]) for arch in range(3)}
    assert set(uniform.combination.weights) == top | best_of_each
    assert set(uniform.combination.weights.values()) == {1 / len(top | best_of_each)}
    weights = weighted.combination.weights
    assert sum(weights.values()) == pytest.approx(1)
    for member, weight in weights.items():
        assert weight == pytest.approx(accuracy[member] / sum(accuracy[m] for m in weights))


@pytest.mark.parametrize("method", ENSEMBLE_METHODS)
def test_every_method_beats_its_best_member_when_members_err_apart(library: Library, method: str) -> None:
    (found,) = choose_ensembles(library, EnsembleRules(methods=(method,)))
    assert found.right.mean() > library.right().mean(1).max() + 0.01
    assert sum(found.combination.weights.values()) == pytest.approx(1)
    probabilities = found.combination.apply(dict(enumerate(library.probabilities)))
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", ENSEMBLE_METHODS)
def test_the_nested_estimate_of_pure_noise_is_chance(method: str) -> None:
    """Forty members that guess: choosing among them must not look better than guessing does."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 5, 1500)
    noise = make_library(list(rng.standard_normal((40, 1500, 5))), labels, ["a"] * 40)
    (found,) = choose_ensembles(noise, EnsembleRules(methods=(method,)))
    assert found.right.mean() == pytest.approx(0.2, abs=0.035)


@pytest.mark.parametrize("method", ENSEMBLE_METHODS)
def test_members_that_are_right_on_no_image_have_weights_that_sum_to_one(method: str) -> None:
    logits, labels = [np.eye(3)[[1, 1, 2, 2]] * size for size in (1.0, 2.0)], np.array([0, 0, 0, 0])
    (found,) = choose_ensembles(make_library(logits, labels, ["a", "b"]), EnsembleRules(methods=(method,)))
    assert sum(found.combination.weights.values()) == pytest.approx(1)


def test_stacking_of_two_classes_and_of_a_class_never_seen_gives_probabilities() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = [2.0 * np.eye(3)[labels] + rng.standard_normal((200, 3)) for _ in range(4)]
    (found,) = choose_ensembles(make_library(logits, labels, ["a"] * 4), EnsembleRules(methods=("stacking",)))
    p = found.combination.apply({m: softmax(logits[m], axis=1).astype(np.float32) for m in range(4)})
    assert p.sum(1) == pytest.approx(1)
    assert p[:, 2].max() < 1e-6
    assert found.right.mean() > 0.8


def test_stacking_of_few_images_of_many_classes_warns_of_nothing() -> None:
    labels = np.arange(60) % 40
    logits = list(np.random.default_rng(0).standard_normal((3, 60, 40)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_ensembles(make_library(logits, labels, ["a"] * 3), EnsembleRules(methods=("stacking",)))


def test_disagreement_is_the_share_of_images_classified_differently() -> None:
    one, other = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]], np.eye(2, dtype=np.float32)[[0, 1, 1, 1]]
    assert measure_disagreement([one, other]).tolist() == [[0, 0.25], [0.25, 0]]


def test_a_pools_ensembles_are_measured_beside_its_best_trial_and_kept_as_records(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    trials = list(configs(9, seeds=3, epochs=3))
    images = Images.draw(400, 300)
    for config in trials:
        write_trial(layout, config, images, accuracy=0.8)
    corrupt = layout.trial(trials[0].trial_id).predictions
    corrupt.write_bytes(corrupt.read_bytes()[:100])
    other = dataclasses.replace(trials[0], seed=8)
    write_trial(layout, other, Images.draw(350, 300), accuracy=0.7)  # other images: cannot be a member
    write_plan(layout, [*trials, other])
    found = make_ensembles(make_leaderboard(scan(layout)), layout)
    assert found is not None
    others, unread = found.left_out
    assert found.trials == 8 and others == "1 trial (validated on other images than the most accurate one)"
    assert unread.startswith("1 trial (") and "corrupt" in unread
    assert found.best.val_acc == max(
        trial.val_acc or 0 for trial in scan(layout).trials if trial.trial_id != trials[0].trial_id
    )
    for one in found.measured:
        assert EnsembleRecord.from_json(one.record.to_json()) == one.record
        assert one.record.test_acc is not None
        assert one.test is not None
        assert one.test.difference == pytest.approx(one.record.test_acc - (found.best.test_acc or 0), abs=1e-6)
        assert not {member.trial_id for member in one.record.members} & {trials[0].trial_id, other.trial_id}


def test_an_ensemble_gains_by_validation_alone(tmp_path: Path) -> None:
    """Better on test by more than chance and not on validation: it gains nothing that may be claimed."""
    layout = Layout(tmp_path)
    for config in configs(2, seeds=1, epochs=3):
        write_trial(layout, config, Images.draw(200, 100), accuracy=0.8)
    found = make_ensembles(make_leaderboard(scan(layout)), layout)
    assert found is not None
    record = found.measured[0].record
    none, some = Difference(0.0, 0.6, "McNemar"), Difference(0.05, 1e-6, "McNemar")
    assert not dataclasses.replace(found, measured=(Measured(record, none, some),)).gains
    assert dataclasses.replace(found, measured=(Measured(record, some, none),)).gains


def test_one_trial_alone_is_no_ensemble(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (config,) = configs(1, 1, 3)
    write_trial(layout, config, Images.draw(50, 20))
    assert make_ensembles(make_leaderboard(scan(layout)), layout) is None


def test_a_spec_says_which_ensembles_its_report_makes(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    text = "name: s\ndataset: digits\nbase: {arch: linear}\ngrid: {lr: [0.1, 0.2]}\n"
    spec.write_text(text + "ensemble: {methods: [uniform, greedy], members: {per_arch: 2, above: 0.9}}\n")
    record = plan_record(make_plan(load_spec(spec)))
    layout = Layout(tmp_path / "results")
    layout.sweep("s").folder.mkdir(parents=True)
    write_record(layout.sweep("s").plan, record)
    rules = EnsembleRules(methods=("uniform", "greedy"), per_arch=2, above=0.9)
    assert scan(layout, ["s"]).ensemble == rules
    assert plan_record(recorded_plan(record)).ensemble == rules
    spec.write_text(text)
    assert plan_record(make_plan(load_spec(spec))).ensemble is None
    spec.write_text(text + "ensemble: {methods: [gredy], members: {per_arc: 1, above: 90}}\n")
    with pytest.raises(SpecError) as refused:
        load_spec(spec)
    message = str(refused.value)
    assert all(word in message for word in ("'gredy'", "greedy", "per_arch", "at most 1")), message


def test_per_arch_takes_so_many_of_each_architecture_and_never_nobody(library: Library) -> None:
    accuracy = library.right().mean(1)
    rules = EnsembleRules(methods=("uniform",), per_arch=2, above=1.0)
    (found,) = choose_ensembles(library, rules)
    best_two = {m for arch in range(3) for m in sorted(range(arch, 12, 3), key=lambda m: -accuracy[m])[:2]}
    assert set(found.combination.weights) == best_two
    (found,) = choose_ensembles(library, dataclasses.replace(rules, per_arch=0))
    assert set(found.combination.weights) == {int(accuracy.argmax())}


def test_where_each_seed_has_a_split_ensembles_are_of_the_best_configurations_first_seed_and_say_so(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for trial in configs(9, seeds=3, epochs=2):
        own = dataclasses.replace(trial.dataset, split_seed=trial.seed, split_by_seed=True)
        lucky = 0.95 if trial.seed == 1 else 0.6  # the images of seed 1 are easy
        write_trial(layout, dataclasses.replace(trial, dataset=own), Images.draw(60, 20), accuracy=lucky)
    found = find(make_sections(scan(layout), layout)[0], layout)
    ensembles = found.ensembles
    assert ensembles is not None and ensembles.trials == 3 and ensembles.best.seed == 0
    assert ensembles.left_out == ("6 trials (each seed has a split of its own: these are of seed 0's)",)
    (line,) = (line for line in headline(found) if "nsemble" in line)
    assert "the most accurate of 3 trials of seed 0, whose split the ensembles are of" in line, line
