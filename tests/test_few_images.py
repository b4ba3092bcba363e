"""A report of very few images, or of one class: nothing breaks, and nothing is claimed that they cannot tell."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.comparison import compare_points
from cifar_hpc.collect.doubts import find_doubts
from cifar_hpc.collect.ensemble import _dealt, choose_ensembles, make_library
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import chosen_sections, make_sections
from cifar_hpc.collect.statistics import compare_chosen, estimate
from cifar_hpc.config.normalize import normalise
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.bundle import write_report
from cifar_hpc.report.comparisons import asked_pivot
from cifar_hpc.report.findings import Findings, find
from cifar_hpc.report.summary import headline
from cifar_hpc.report.trial_page import diagnose_trial, trial_summary, trial_tables
from cifar_hpc.report.words import these_networks


def found_of(root: Path, images: Images, seeds: int, objective: str) -> tuple[Layout, Findings]:
    layout = Layout(root)
    trials = [dataclasses.replace(trial, objective=objective) for trial in configs(3 * seeds, seeds=seeds, epochs=2)]
    for number, trial in enumerate(trials):
        write_trial(layout, trial, images, accuracy=0.4 + 0.1 * (number % 5), sweep="few")
    write_plan(layout, trials, "few")
    return layout, find(make_sections(scan(layout, ["few"]), layout)[0], layout)


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize(("val_n", "test_n"), [(1, 0), (1, 1), (2, 1), (4, 2), (6, 0)])
def test_a_report_of_few_images_breaks_nowhere(val_n: int, test_n: int, one_class: bool, tmp_path: Path) -> None:
    drawn = Images.draw(val_n, test_n)
    labels = np.zeros_like(drawn.labels) if one_class else drawn.labels
    for seeds, objective in ((1, "val_loss"), (2, "macro_auroc"), (3, "val_acc")):
        images = Images(labels, drawn.hardness, val_n)
        layout, found = found_of(tmp_path / f"{seeds}{objective}", images, seeds, objective)
        assert headline(found)
        rows = found.board.measured
        if len(rows) > 1:
            try:
                compare_points(rows[0], rows[1], layout)
            except CifarHpcError as refused:
                assert "test" in str(refused)
        find_doubts(found.board, layout)
        for one in found.ensembles.measured if found.ensembles else ():
            assert one.record.val_n == val_n > 1
        trial, what, split = diagnose_trial(found.pool, found.pool.trials[0].trial_id, layout)
        assert trial_summary(trial, what, split) and trial_tables(trial, what, split)
    assert write_report([found], layout).exists()


def test_an_ensemble_on_four_images_is_measured_by_members_chosen_on_the_others() -> None:
    labels = np.array([0, 1, 0, 1])
    logits = np.where(np.eye(2)[labels] > 0, 3.0, 0.0)
    library = make_library([logits, 2 * logits], labels, ["a", "b"])
    for one in choose_ensembles(library):
        if one.combination.method != "stacking":
            assert one.right.all(), one.combination.method


def test_stacking_of_images_of_one_class_says_that_class() -> None:
    labels = np.array([0] * 9 + [1])
    rng = np.random.default_rng(0)
    library = make_library([rng.normal(size=(10, 2)) for _ in range(3)], labels, ["a", "b", "c"])
    (stacking,) = [one for one in choose_ensembles(library) if one.combination.method == "stacking"]
    assert stacking.right.sum() <= 9


def test_each_fifth_that_measures_an_ensemble_has_its_share_of_every_class() -> None:
    """Of fifths at random what is frequent in four is rare in the last: what knows nothing measures less than chance."""
    labels = np.repeat(np.arange(10), 5)
    assert all(np.bincount(labels[_dealt(labels, 5) == part], minlength=10).tolist() == [1] * 10 for part in range(5))
    right = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        library = make_library([rng.normal(size=(50, 10)) for _ in range(4)], labels, list("abcd"))
        right += [one.right.mean() for one in choose_ensembles(library) if one.combination.method == "stacking"]
    assert 0.06 < np.mean(right) < 0.14


def test_of_one_image_no_number_of_seeds_tells_that_a_configuration_is_better() -> None:
    one_SN, other_SN = np.ones((8, 1)), np.array([[0.0], [0.0], [1.0], [0.0], [0.0], [0.0], [0.0], [0.0]])
    assert not compare_chosen(one_SN, other_SN).better
    found = estimate([1.0, 0.0, 1.0], 1)
    assert found and (found.low is None or found.high is None or found.high - found.low > 0.7)


def test_more_seeds_are_no_next_step_of_a_configuration_of_which_nothing_is_drawn(tmp_path: Path) -> None:
    """A solved classifier on given features is one trial, however many seeds the spec has."""
    layout, weights = Layout(tmp_path), {"weights": "imagenet", "arch": "resnet18", "freeze": "all", "image_size": 32}
    trained = [normalise(dataclasses.replace(one, **weights)) for one in configs(3, seeds=3, epochs=2)]
    solved = normalise(dataclasses.replace(trained[2], classifier="logreg"))
    for trial in (*trained, solved):
        write_trial(layout, trial, Images.draw(60, 20), accuracy=0.9 if trial is solved else 0.5, sweep="few")
    write_plan(layout, [*trained, solved], "few")
    (line,) = (line for line in headline(find(make_sections(scan(layout, ["few"]), layout)[0], layout)) if "Next:" in line)
    assert "split_seed: seed" in line and "`seeds: 3`" not in line, line


def test_what_has_a_part_of_its_seeds_for_a_filter_stands_below_the_complete_and_pivots_say_the_part(tmp_path: Path) -> None:
    layout, trials = Layout(tmp_path), list(configs(6, seeds=3, epochs=2))
    for number, trial in enumerate(trials):
        images = Images.draw(200, 20)
        write_trial(layout, trial, images, accuracy=0.6 if number < 2 else 0.95 if number == 2 else 0.8, sweep="few")
    write_plan(layout, trials, "few")
    (cut,) = chosen_sections(layout, ["few"], "val_acc>0.7")
    assert [(row.partial, row.seeds, row.hidden) for row in cut.board.rows] == [(False, 3, 0), (True, 1, 2)]
    (axis,) = cut.board.axes
    cells = [text for line in asked_pivot([cut], axis)["val"].rows for text in line[1:]]
    assert sorted(cell.rpartition("(")[2] for cell in cells) == ["1 of 3)", "3)"], cells
    (alike,) = chosen_sections(layout, ["few"], "seed=2")  # hides as many of all
    assert [row.partial for row in alike.board.rows] == [False, False] and alike.board.rows[0].hidden == 2


def test_what_is_told_of_networks_says_of_how_many() -> None:
    """Of two folds each they are four."""
    network = SimpleNamespace(val_acc=0.5)
    one, folds = SimpleNamespace(trials=(network,)), SimpleNamespace(trials=(network, network))
    assert (these_networks(one, one), these_networks(folds, folds)) == ("these two networks", "these 4 networks")
