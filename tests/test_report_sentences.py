"""The sentences of a report where trials of several kinds meet, on generated records."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.comparison import FAR_BELOW, Comparison, compare_points
from cifar_hpc.collect.curves import make_curve_grid
from cifar_hpc.collect.ledger import Entry, Ledger, make_ledger
from cifar_hpc.collect.pivot import class_accuracies, make_pivot
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import Section, chosen_sections
from cifar_hpc.collect.statistics import Difference
from cifar_hpc.collect.trials import Axis
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import Outcome
from cifar_hpc.records.store import write_record
from cifar_hpc.report.caveats import caveats, covers_text
from cifar_hpc.report.comparisons import pivot_table
from cifar_hpc.report.corrections import write_corrected
from cifar_hpc.report.explore import explorable
from cifar_hpc.report.figures import BEYOND
from cifar_hpc.report.figures_curves import draw_curves
from cifar_hpc.report.figures_effects import draw_along, draw_parallel
from cifar_hpc.report.figures_ensemble import draw_disagreement
from cifar_hpc.report.figures_ranking import draw_ranking
from cifar_hpc.report.findings import find
from cifar_hpc.report.next_seed import next_seed
from cifar_hpc.report.page_tables import ensemble_tables
from cifar_hpc.report.summary import certainty_text, cost_text, headline
from cifar_hpc.report.tables import seeds_text
from cifar_hpc.report.words import overlap_words, these_networks, words_of

IMAGES = Images.draw(60, 20)
BASE = next(configs(1, seeds=1, epochs=2))
Changes = dict[str, object]
DIVERGED: Changes = {"outcome": Outcome.DIVERGED}
AT_ONCE: Changes = {**DIVERGED, "best_epoch": None, "train": None, "val": None, "test": None}
CUT: Changes = {"outcome": Outcome.PRUNED}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def trained(layout: Layout, changes: dict[tuple[float, int], Changes], terms: str = "") -> Section:
    """By lr and seed what the record says otherwise."""
    for (lr, seed), changed in changes.items():
        result = write_trial(layout, dataclasses.replace(BASE, lr=lr, seed=seed), IMAGES)
        write_record(layout.trial(result.trial_id).result, dataclasses.replace(result, **changed))  # type: ignore[arg-type]
    (section,) = chosen_sections(layout, [], terms)
    return section


def test_kinds_of_configurations_are_told_in_the_order_in_which_they_stand(layout: Layout) -> None:
    """One measured in part was said to stand below the complete ones, of which one that a search had cut stood below it."""
    kinds = {0.1: ({},) * 3, 0.2: (CUT,) * 3, 0.3: (DIVERGED,) * 3, 0.4: ({}, AT_ONCE, AT_ONCE)}
    section = trained(layout, {(lr, seed): one for lr, ones in kinds.items() for seed, one in enumerate(ones)})
    assert [row.axes["lr"] for row in section.board.rows] == [0.1, 0.4, 0.2, 0.3]
    rows, pool = section.board.rows, section.pool
    cut, lost = (
        "1 configuration of which the search ended a trial early",
        "1 configuration of which every finished trial diverged",
    )
    part = "1 configuration measured by a part of the seeds only"
    for shown, told in (
        (rows, f"Below the others, whatever the numbers: {part}, then {cut}, then {lost}."),
        (rows[2:], f"In this order, whatever the numbers: {cut}, then {lost}."),
        (rows[3:], f"All that was measured: {lost}."),
    ):
        assert told in caveats(pool, dataclasses.replace(section.board, rows=shown))


@pytest.mark.parametrize("outcome", [DIVERGED, AT_ONCE])
def test_what_a_filter_leaves_of_a_configurations_trials_is_not_called_all_of_them(layout: Layout, outcome: Changes) -> None:
    section = trained(layout, {(0.1, 0): outcome, (0.1, 1): outcome, (0.1, 2): {}}, "outcome=diverged")
    (row,) = section.board.rows
    assert row.hidden == 1 and re.fullmatch(r"2 (of these )?diverged", seeds_text(row))


def test_networks_that_measured_nothing_are_not_among_those_that_were_tested(layout: Layout) -> None:
    section = trained(layout, {(0.1, 0): {}, (0.1, 1): AT_ONCE, (0.2, 0): {}})
    assert these_networks(*section.board.measured) == "these two networks"


def test_hours_of_what_its_predictions_contradict_are_in_the_cost_and_by_axis_and_are_no_waste(layout: Layout) -> None:
    section = trained(layout, {(0.1, 0): {}, (0.2, 0): {}})
    first, *others = section.pool.trials
    pool = dataclasses.replace(section.pool, trials=tuple(others), contradicted=(first,))
    ledger = make_ledger(pool, section.board)
    assert "diverged" not in cost_text(ledger)
    assert sum(entry.trials for entry in ledger.by_axis["lr"].values()) == 2
    assert cost_text(Ledger({("cpu", "stopped by the search"): Entry(1, 2.0)}, {}, {}, {}, {})).startswith(
        "Training took 2.0 hours on CPU, 2.0 of them in trials that diverged, failed, were lost or stopped"
    )


def test_the_first_is_so_far_where_others_are_to_come_and_not_where_all_have_ended(layout: Layout) -> None:
    found = find(trained(layout, {(0.1, 0): {}, (0.1, 1): AT_ONCE, (0.2, 0): {}, (0.2, 1): AT_ONCE}), layout)
    for to_come, first in ((0, "First: "), (2, "First so far: ")):
        pool = dataclasses.replace(found.pool, to_come=to_come)
        assert headline(dataclasses.replace(found, pool=pool))[0].startswith(first)


def test_of_those_that_a_search_ended_early_none_is_called_the_best(layout: Layout) -> None:
    """Their seeds trained for unlike numbers of epochs, and nothing tests them."""
    section = trained(layout, {(lr, seed): CUT for lr in (0.1, 0.2) for seed in range(3)})
    assert headline(find(section, layout))[0].startswith("First: ")


def test_a_loss_that_exploded_and_a_difference_of_losses_too_small_to_show_are_told_shortly(layout: Layout) -> None:
    """A mean of 3e29 ended the report with a traceback; another was '0.000 of loss behind'."""
    config = dataclasses.replace(BASE, objective="val_loss")
    for lr, loss in ((0.1, 1e30), (0.2, 2e30)):
        result = write_trial(layout, dataclasses.replace(config, lr=lr), IMAGES)
        curves = tuple(dataclasses.replace(epoch, val_loss=loss) for epoch in result.curves)
        assert result.val is not None
        val = dataclasses.replace(result.val, loss=loss)
        write_record(layout.trial(result.trial_id).result, dataclasses.replace(result, val=val, curves=curves))
        layout.trial(result.trial_id).predictions.unlink()
    (section,) = chosen_sections(layout, [], "")
    assert headline(find(section, layout))[0].startswith("First by validation: lr 0.1: 1e+30 validation loss (one seed)")
    best, second = (row.point_id for row in section.board.rows)
    close = Comparison(best, {second: Difference(0.0001, 0.5, "t-test")}, {}, None, False)
    assert "is less than 0.01 of loss behind" in certainty_text(section.board, close)


def test_what_was_not_tested_is_not_called_worse(layout: Layout) -> None:
    """Such as what a search cut, which stands below all others with a number that may be the highest."""
    board = trained(layout, {(lr, 0): {} for lr in (0.1, 0.2, 0.3, 0.4)}).board
    best, second, *rest = (row.point_id for row in board.rows)
    far = Comparison(best, {second: Difference(0.3, 0.001, "t-test")}, dict.fromkeys(rest, FAR_BELOW), None, False)
    told = certainty_text(board, far)
    assert told.startswith("Better than 1 other. ") and told.endswith(" Not tested, below these: 2.")


def test_the_flattery_of_one_seed_and_what_has_no_value_are_told_as_they_are(layout: Layout) -> None:
    """It counted the luck of a seed that nothing left out; both of two networks were called by what they have in common."""
    for clip in (None, 1.0):
        dataset = dataclasses.replace(BASE.dataset, split_seed=0, split_by_seed=True)
        write_trial(layout, dataclasses.replace(BASE, dataset=dataset, grad_clip=clip), IMAGES)
    (section,) = chosen_sections(layout, [], "")
    told = " ".join(headline(find(section, layout)))
    assert "flatters this network's number by" in told and "the luck of its seed is not in that" in told
    assert {words_of(row) for row in section.board.rows} == {"grad_clip -", "grad_clip 1"}


def test_seeds_that_a_filter_hides_are_not_to_be_trained_again(layout: Layout) -> None:
    changes: dict[tuple[float, int], Changes] = {(lr, seed): {} for lr in (0.1, 0.2) for seed in range(5)}
    trained(layout, changes)
    write_plan(layout, [dataclasses.replace(BASE, lr=lr, seed=seed) for lr, seed in changes], "s")
    for terms, told in (("", True), ("seed<3", False)):
        (section,) = chosen_sections(layout, ["s"], terms)
        found = find(section, layout)
        assert found.comparison is not None
        second = found.board.measured[1].point_id
        tied = dataclasses.replace(
            found.comparison.differences[second], p_value=0.5, freedom=4.0, difference=0.05, error=0.03, of_images=0.0
        )
        asked = next_seed(
            dataclasses.replace(found, comparison=dataclasses.replace(found.comparison, differences={second: tied})), layout
        )
        assert asked is not None and (asked.command is not None) is told and ("of training" in asked.sentences[-1]) is told


def test_a_column_of_what_has_no_value_is_not_headed_as_the_best(layout: Layout) -> None:
    for weights in ("imagenet", None):
        for clip in (None, 1.0):
            write_trial(layout, dataclasses.replace(BASE, weights=weights, grad_clip=clip), IMAGES)
    (section,) = chosen_sections(layout, [], "")
    axes: list[Axis] = ["grad_clip"]
    assert pivot_table(make_pivot(section.board, ["weights"], axes), section.board, "val").header == [
        *("weights", "grad_clip -", "grad_clip 1")
    ]
    assert pivot_table(make_pivot(section.board, axes, []), section.board, "val").header == ["grad_clip", "best"]


def test_intervals_of_another_objective_on_the_one_fold_that_a_filter_leaves_count_the_seeds_only(layout: Layout) -> None:
    trained(layout, {(0.1, seed): {} for seed in range(3)})
    trials = [
        dataclasses.replace(trial, fold=1, config={**trial.config, "dataset.folds": 3, "objective": "val_loss"})
        for trial in scan(layout).trials
    ]
    told = covers_text(trials)
    assert "Those of other objectives, and the bands of learning curves, count that of the seeds only." in told


@pytest.mark.parametrize(("ran", "tested"), [(False, True), (True, True), (True, False)])
def test_a_refit_is_told_as_what_it_is_before_and_after_it_ran_with_and_without_a_test_set(
    layout: Layout, ran: bool, tested: bool
) -> None:
    config = dataclasses.replace(BASE, dataset=dataclasses.replace(BASE.dataset, val_frac=0.0))
    write_plan(layout, [config], "s")
    if ran:
        result = write_trial(layout, config, IMAGES)
        whole = dataclasses.replace(result, val=None, test=result.test if tested else None)
        write_record(layout.trial(result.trial_id).result, whole)
    (section,) = chosen_sections(layout, ["s"], "")
    assert any("held out no images" in note for note in caveats(section.pool, section.board)) is ran
    said = "These trials had no validation images." if ran else "No trial here has a validation accuracy that counts."
    assert headline(find(section, layout))[0] == said


def test_a_title_that_a_spreadsheet_would_take_for_a_formula_is_known_again(tmp_path: Path) -> None:
    """What was corrected below it was lost, and one of the reader's own had one quotation mark more after each call."""
    path, rows = tmp_path / "labels.csv", [["file", "label", "=x", "suggested"], ["a", "b", "1", ""]]
    write_corrected(path, rows, "file", ["suggested"])
    path.write_text("file,label,'=x,suggested,+note\na,b,2,,seen\n")
    for _ in range(2):
        assert write_corrected(path, rows, "file", ["suggested"]) == 1
        assert path.read_text() == "file,label,'=x,suggested,'+note\na,b,2,,seen\n"


@pytest.mark.parametrize(("train_size", "splits"), [(None, False), (40, True)])
def test_seeds_are_not_advised_where_their_splits_leave_all_images_of_the_data_set_to_train_on(
    layout: Layout, train_size: int | None, splits: bool
) -> None:
    dataset = dataclasses.replace(BASE.dataset, own_val=60, split_by_seed=True, train_size=train_size)
    for k in (1, 9):
        config = dataclasses.replace(BASE, dataset=dataset, weights="imagenet", freeze="all", classifier="knn", knn_k=k)
        write_trial(layout, config, IMAGES)
    (section,) = chosen_sections(layout, [], "")
    last = headline(find(section, layout))[-1]
    assert ("seeds: 3" in last) is splits and ("its seeds measure the same" in last) is not splits


def test_a_search_that_would_sample_other_configurations_is_not_advised_more_seeds(layout: Layout) -> None:
    """Which a population refuses: also where the two best are of its first generation, or a filter hides those that go on."""
    trained(layout, {(0.1, 0): {}, (0.2, 0): {}})
    write_plan(layout, [dataclasses.replace(BASE, lr=lr) for lr in (0.1, 0.2)], "s")
    population = {"algorithm": "random", "scheduler": {"name": "pbt"}}
    halving = {"algorithm": "random", "scheduler": {"name": "asha"}}
    searches = ((None, True), (population, False), (halving, True), ({"algorithm": "optuna", "scheduler": None}, False))
    for search, told in searches:
        search = search and {**search, "trials_at_most": 2}
        write_record(layout.sweep("s").plan, dataclasses.replace(read_plan(layout, "s"), search=search))
        (section,) = chosen_sections(layout, ["s"], "")
        assert ("seeds: 3" in headline(find(section, layout))[-1]) is told


def test_that_nothing_flatters_is_said_of_who_is_told_from_all_others_alone(layout: Layout) -> None:
    section = trained(layout, {(lr, seed): {} for lr in (0.1, 0.2) for seed in range(3)})
    found, rival = find(section, layout), section.board.rows[1].point_id
    for p_value, said in (
        (0.001, "by less than 1 pp"),
        (0.5, "loses nothing: by how much being the best flatters its number, that"),
    ):
        comparison = Comparison(section.board.rows[0].point_id, {rival: Difference(0.1, p_value, "t-test")}, {}, 0.0, False)
        assert said in " ".join(headline(dataclasses.replace(found, comparison=comparison)))


def test_the_flattery_of_what_a_search_left_does_not_count_whom_it_ended(layout: Layout) -> None:
    section = trained(layout, {(0.1, 0): {}, (0.2, 0): {}, (0.3, 0): CUT})
    (told,) = [line for line in headline(find(section, layout)) if "flatters" in line]
    assert told.endswith("is not in that. That the search ended 1 other by the same images is not in that.")


def test_the_flattery_does_not_count_those_whose_predictions_could_not_be_read(layout: Layout) -> None:
    section = trained(layout, {(lr, 0): {} for lr in (0.1, 0.2, 0.3)})
    layout.trial(section.board.rows[1].trials[0].trial_id).predictions.unlink()
    (told,) = [line for line in headline(find(section, layout)) if "flatters" in line]
    assert told.startswith("Being the best flatters this network's number")


def test_what_overlapping_intervals_do_not_tell_is_said_where_two_have_one(layout: Layout) -> None:
    section = trained(layout, {(lr, seed): {} for lr in (0.1, 0.2) for seed in range(3)})
    found = find(section, layout)
    assert found.comparison is not None and found.comparison.test
    assert overlap_words(found.comparison, found.board.rows)
    assert not overlap_words(found.comparison, found.board.rows[:1])


def test_classes_that_the_validation_images_of_a_seed_lack_are_told_of_the_others(layout: Layout) -> None:
    lacking = Images(np.where(IMAGES.labels == 3, 4, IMAGES.labels), IMAGES.hardness, IMAGES.val_n)
    for seed, images in enumerate((IMAGES, lacking)):
        dataset = dataclasses.replace(BASE.dataset, split_seed=seed, split_by_seed=True)
        write_trial(layout, dataclasses.replace(BASE, seed=seed, dataset=dataset), images)
    (section,) = chosen_sections(layout, [], "")
    (row,) = section.board.rows
    told = class_accuracies(row, layout, "val")
    alone = class_accuracies(dataclasses.replace(row, trials=row.trials[:1]), layout, "val")
    assert told.keys() == alone.keys() and told["cat"] == alone["cat"]


@pytest.mark.parametrize("own_val", [None, 60])
def test_no_split_is_advised_of_images_that_the_data_set_brings_to_validate_on(layout: Layout, own_val: int | None) -> None:
    dataset = dataclasses.replace(BASE.dataset, own_val=own_val)
    for k in (1, 9):
        config = dataclasses.replace(BASE, dataset=dataset, weights="imagenet", freeze="all", classifier="knn", knn_k=k)
        write_trial(layout, config, IMAGES)
    (section,) = chosen_sections(layout, [], "")
    last = headline(find(section, layout))[-1]
    assert "nothing is drawn" in last and ("split_seed" in last) == (own_val is None)
    write_trial(layout, dataclasses.replace(BASE, dataset=dataset, weights="imagenet"), IMAGES, accuracy=0.99)
    (section,) = chosen_sections(layout, [], "")
    assert headline(find(section, layout))[-1].startswith(last.partition(": of")[0]), (
        "seeds would give the other no place beside it"
    )


def test_two_are_compared_alike_in_either_order_where_the_seeds_of_one_alone_have_splits_of_their_own(layout: Layout) -> None:
    """On test the first decided: p 0.66, and 0.64 the other way round."""
    for seed in (1, 2, 3):
        own = dataclasses.replace(BASE.dataset, split_seed=seed, split_by_seed=True)
        write_trial(layout, dataclasses.replace(BASE, seed=seed, dataset=own), IMAGES, accuracy=0.6)
        write_trial(layout, dataclasses.replace(BASE, seed=seed), IMAGES, accuracy=0.6)
    one, other = (section.board.rows[0] for section in chosen_sections(layout, [], ""))
    there, back = compare_points(one, other, layout, "test"), compare_points(other, one, layout, "test")
    assert (there.p_value, there.test, there.error) == (back.p_value, back.test, back.error)


def test_several_sweeps_cost_what_their_own_jobs_spent(layout: Layout) -> None:
    """Of two that trained none of their trials the hours of a third stood as theirs."""
    trained(layout, {(lr, 0): {} for lr in (0.1, 0.2)})
    for name in ("one", "other", "pool"):
        write_plan(layout, [dataclasses.replace(BASE, lr=lr) for lr in (0.1, 0.2)], name)
    for names, reused in ((["one", "other"], True), (["one", "pool"], False), ([], False)):
        (section,) = chosen_sections(layout, names, "")
        ledger = make_ledger(section.pool, section.board)
        assert bool(ledger.reused) is reused and bool(ledger.by_outcome) is not reused


def test_one_seed_that_would_have_a_split_of_its_own_is_not_told_as_several_that_share_one(layout: Layout) -> None:
    dataset = dataclasses.replace(BASE.dataset, split_seed=0, split_by_seed=True)
    write_trial(layout, dataclasses.replace(BASE, dataset=dataset), IMAGES)
    assert "All trials share one split" in covers_text(scan(layout).trials)


def test_long_names_in_figures_have_room_and_stay_different(layout: Layout) -> None:
    """Their ends, by which they differ, were cut off, or their beginnings lay outside."""
    long = f"{'networks/' * 9}nets.py:make"
    for lr, arch in itertools.product((0.1, 0.2), (long, "resnet18")):
        write_trial(layout, dataclasses.replace(BASE, arch=arch, weights=None, lr=lr), IMAGES)
    (section,) = chosen_sections(layout, [], "")
    found = find(section, layout)
    assert found.ensembles is not None
    ensembles = dataclasses.replace(
        found.ensembles, shown=tuple(row.trials[0] for row in found.board.rows), disagreement=np.zeros((4, 4))
    )
    for drawing in (draw_ranking(found.board, None), draw_disagreement(ensembles)):
        names = [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()]
        assert len(set(names)) == 4 and max(map(len, names)) < 75


@pytest.mark.parametrize("own", [True, False])
def test_a_soup_of_another_split_than_the_rows_above_it_is_told_as_such(layout: Layout, own: bool) -> None:
    for seed, arch in ((0, "resnet18"), (0, "vgg11_bn"), (1, "resnet18")):
        dataset = dataclasses.replace(BASE.dataset, split_seed=seed, split_by_seed=True) if own else BASE.dataset
        write_trial(layout, dataclasses.replace(BASE, arch=arch, seed=seed, dataset=dataset), IMAGES)
    (section,) = chosen_sections(layout, [], "")
    found = find(section, layout)
    assert found.ensembles is not None
    soup = dataclasses.replace(found.ensembles.measured[0], val=None)
    table, *_ = ensemble_tables(dataclasses.replace(found, ensembles=dataclasses.replace(found.ensembles, soups=(soup,))))
    assert ("Soups are measured on the images of their members' split" in table.note) is own


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.FINISHED])
def test_losses_that_exploded_leave_the_others_their_room_and_the_captions_say_so(layout: Layout, outcome: Outcome) -> None:
    """All others lay on the axis: a twentieth of a curve's values might be beyond the panel, and these were more."""
    for lr in (0.1, 0.2, 0.3):
        config = dataclasses.replace(BASE, lr=lr, objective="val_loss")
        ended = write_trial(layout, config, IMAGES)
        if lr == 0.3:
            curves = tuple(dataclasses.replace(epoch, val_loss=1e9, train_loss=1e9) for epoch in ended.curves)
            assert ended.val is not None
            val = dataclasses.replace(ended.val, loss=1e9)
            told = dataclasses.replace(ended, curves=curves, val=val, outcome=outcome)
            write_record(layout.trial(ended.trial_id).result, told)
            layout.trial(ended.trial_id).predictions.unlink()
    (section,) = chosen_sections(layout, [], "")
    board = section.board
    curves = next(draw_curves(make_curve_grid(section.pool, board, None, None, "lr"), board, "loss"))
    assert curves.figure.axes[0].get_ylim()[1] < 100 and "beyond the panels" in curves.caption
    assert explorable(section.pool, board)["ends"][1] < 100
    for drawing, ends in (
        (draw_ranking(board, None), lambda axes: axes.get_xlim()),
        (draw_along("lr", None, board), lambda axes: axes.get_ylim()),
        (draw_parallel(board), lambda axes: [float(text.get_text()) for text in axes.texts[-2:]]),
    ):
        assert ends(drawing.figure.axes[0])[1] < 100 and drawing.caption.endswith(BEYOND)


@pytest.mark.parametrize(("classifier", "c", "said"), [("logreg", None, True), ("logreg", 1.0, False), ("svm", None, False)])
def test_a_c_that_validation_chose_is_told_to_flatter(layout: Layout, classifier: str, c: float | None, said: bool) -> None:
    of = {"logreg_c": c} if classifier == "logreg" else {}
    write_trial(layout, dataclasses.replace(BASE, classifier=classifier, epochs=1, **of), IMAGES)
    (section,) = chosen_sections(layout, [], "")
    assert ("best C, which the same images chose" in covers_text(section.pool.trials)) is said
    told = " ".join(caveats(section.pool, dataclasses.replace(section.board, objective="val_loss")))
    assert ("softmax of its margins" in told) is (classifier == "svm")
