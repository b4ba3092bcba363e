"""What the read half makes of folds: one accuracy over all images, and a ± that covers the split."""

from __future__ import annotations

import math
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student

from cifar_hpc.collect.comparison import SPLITS_TEST, compare_points, compare_with_best
from cifar_hpc.collect.ensemble_pool import make_ensembles
from cifar_hpc.collect.insight import Insight, WrongImage
from cifar_hpc.collect.leaderboard import Row, make_leaderboard
from cifar_hpc.collect.rounds import point_predictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.collect.statistics import FOLDS_TEST, Difference, estimate
from cifar_hpc.config.registry import OBJECTIVES, load
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_record
from cifar_hpc.report.caveats import caveats, covers_text
from cifar_hpc.report.comparison_table import comparison_lines, comparison_table
from cifar_hpc.report.figures_insight import draw_insight
from cifar_hpc.report.findings import find
from cifar_hpc.report.summary import best_text, in_short
from cifar_hpc.report.tables import leaderboard_records, seeds_text
from cifar_hpc.report.trial_page import diagnose_trial, images_words, trial_tables
from cifar_hpc.report.words import words_of
from cifar_hpc.spec.load import spec_of
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of

SPEC = (
    "name: folded\ndataset: {name: digits, train_size: 90}\nbase: {arch: linear, classifier: knn}\n"
    "grid: {knn_k: [1, 9, 30]}\nfolds: {n: 3, repeats: 2}\n"
)


@pytest.fixture
def keeping(monkeypatch):
    """As if neighbours kept weights: what keeps none is not advised to be refitted."""
    monkeypatch.setattr(Row, "keeps_weights", True)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    return swept(Layout(tmp_path_factory.mktemp("folded")), SPEC)


def swept(layout: Layout, text: str) -> Layout:
    spec = spec_of(text, layout.root / "x.yaml")
    plan = make_plan(spec, share=True)
    layout.sweep(spec.name).plan.parent.mkdir(parents=True, exist_ok=True)
    write_record(layout.sweep(spec.name).plan, plan_record(plan))
    splits = {trial.config.dataset.of_fold: [] for trial in spec.trials}
    for trial in spec.trials:
        splits[trial.config.dataset.of_fold].append(trial.config)
    for number, configs in enumerate(splits.values(), 1):
        run_job(job_of(*configs, together=True, number=number), layout, executor="inline")
    return layout


def test_a_point_is_measured_on_all_images_and_its_spread_is_that_of_its_folds(layout):
    board = make_leaderboard(scan(layout, ["folded"]))
    best = board.measured[0]
    assert len(board.rows) == 3 and best.score.n == 6 and best.val_acc.images == 90 and best.place == 1
    values = [trial.val_acc for trial in best.trials]
    assert best.score.sd == pytest.approx(statistics.stdev(values)) and "fold" not in board.axes
    predictions = point_predictions(best, layout, "val")
    assert set(predictions) == {(0, 0), (0, 1)}
    for found in predictions.values():
        assert len(found.labels) == 90 and set(found.fold) in ({1, 2, 3}, {4, 5, 6})
    assert best.score.mean == pytest.approx(np.mean([found.right.mean() for found in predictions.values()]))
    half = student.ppf(0.975, 5) * statistics.stdev(values) * math.sqrt(1 / 6 + 30 / 60)
    assert best.score.high == pytest.approx(min(best.score.mean + half, 1.0))


def test_other_folds_of_the_same_images_are_not_called_other_images(layout):
    one = make_leaderboard(scan(layout, ["folded"])).measured[0]
    rounds = list(point_predictions(one, layout, "val").values())
    assert rounds[0].same_images(rounds[1])
    dealt = replace(one, config={**one.config, "dataset.split_seed": 7})
    with pytest.raises(CifarHpcError, match="did not have the same splits of their val images"):
        compare_points(one, dealt, layout)


def test_seeds_of_the_same_folds_make_no_comparison_on_test_surer(layout, tmp_path):
    """Neighbours vote alike whatever the seed: three seeds of six folds are six networks, and not eighteen."""
    found = []
    for one in (layout, swept(Layout(tmp_path), SPEC + "seeds: 3\n")):
        rows = sorted(make_leaderboard(scan(one, ["folded"])).measured, key=lambda row: row.config["knn_k"])
        found.append(compare_points(rows[0], rows[1], one, "test"))
    assert found[0].p_value == pytest.approx(found[1].p_value) and found[0].low == pytest.approx(found[1].low)


def test_two_points_are_compared_fold_by_fold(layout):
    board = make_leaderboard(scan(layout, ["folded"]))
    comparison = compare_with_best(board, layout)
    assert {found.test for found in comparison.differences.values()} == {SPLITS_TEST} and comparison.optimism is not None
    one, other = board.measured[0], board.measured[-1]
    gaps = np.array([a.val_acc - b.val_acc for a, b in zip(one.trials, other.trials, strict=True)])
    found = compare_points(one, other, layout)
    t = gaps.mean() / (gaps.std(ddof=1) * math.sqrt(1 / 6 + 0.5))
    assert found.p_value == pytest.approx(2 * student.sf(abs(t), 5)) and found.difference == pytest.approx(gaps.mean())
    assert compare_points(one, other, layout, "test").test == FOLDS_TEST
    assert "mean over folds:" in comparison_table(one, other, layout)[0]


@pytest.mark.parametrize("objective", ["balanced_acc", "macro_f1", "macro_auroc"])
def test_what_is_tested_of_folds_is_the_mean_that_ranks_them(layout, objective, tmp_path):
    """The scores of two folds' networks have no scale in common: the AUROC of all together is another number. What each image
    counts for it only trials that sought it have written: rounded logits do not tell."""
    if objective == "macro_auroc":
        layout = swept(Layout(tmp_path), f"{SPEC}objective: {{metric: macro_auroc}}\n")
    one, other = make_leaderboard(scan(layout, ["folded"])).rows[:2]
    measure = load(OBJECTIVES[objective].measure)
    means = [
        statistics.mean(
            measure(found.logits[found.fold == fold], found.labels[found.fold == fold])
            for found in point_predictions(row, layout, "val").values()
            for fold in np.unique(found.fold)
        )
        for row in (one, other)
    ]
    if objective == "macro_auroc":
        assert means == pytest.approx([one.score.mean, other.score.mean], abs=0.01)
        means = [one.score.mean, other.score.mean]
    difference = compare_points(one, other, layout, info=OBJECTIVES[objective]).difference
    assert difference == pytest.approx(means[0] - means[1], abs=1e-6)


def test_two_in_folds_have_an_interval_that_ends_where_a_difference_cannot_be_beyond(layout, tmp_path):
    rows = make_leaderboard(scan(layout, ["folded"])).measured[::2]
    found = compare_points(*rows, layout)
    assert found.high - found.difference == pytest.approx(student.ppf(0.975, 5) * found.error)
    assert f"(95 % interval {100 * found.low:+.0f} to {100 * found.high:+.0f})" in comparison_lines(*rows, layout)[0]
    few = swept(
        Layout(tmp_path), SPEC.replace("folds: {n: 3, repeats: 2}", "folds: 2").replace("9, 30]", "9]").replace("90", "30")
    )
    one, other = make_leaderboard(scan(few, ["folded"])).measured
    for ahead, behind, sign in ((one, other, 1), (other, one, -1)):
        found = compare_points(ahead, behind, few)
        assert abs(found.difference) + student.ppf(0.975, 1) * found.error > 1
        assert -1 <= found.low < found.difference < found.high <= 1 and sign in (found.low, found.high)


def test_the_difference_of_two_rows_is_that_of_their_numbers_where_folds_are_uneven(tmp_path):
    text = SPEC.replace("folds: {n: 3, repeats: 2}", "folds: 4").replace("[1, 9, 30]", "[1, 60]")
    layout = swept(Layout(tmp_path), text)
    one, other = make_leaderboard(scan(layout, ["folded"])).measured
    assert len({trial.val_n for trial in one.trials}) > 1
    assert compare_points(one, other, layout).difference == pytest.approx(one.val_acc.mean - other.val_acc.mean, abs=1e-6)


def test_an_ensemble_chooses_on_out_of_fold_predictions_and_has_all_networks_of_a_member(layout):
    ensembles = make_ensembles(make_leaderboard(scan(layout, ["folded"])), layout)
    assert ensembles.best.val_n == 90
    for one in ensembles.measured:
        assert len(one.record.members) % 3 == 0 and sum(m.weight for m in one.record.members) == pytest.approx(1)
        assert one.record.val_n == 90 and one.record.coefficients is None
        assert one.record.test_acc - ensembles.best.test_acc == pytest.approx(one.test.difference)  # one table shows all three
    assert (ensembles.best_n, ensembles.trials) == (3, 18)


def test_trials_whose_fold_cannot_be_read_are_all_counted_among_those_that_no_ensemble_has(layout, tmp_path):
    copy = Layout(shutil.copytree(layout.root, tmp_path / "copy"))
    board = make_leaderboard(scan(copy, ["folded"]))
    copy.trial(board.rows[1].trials[0].trial_id).predictions.write_bytes(b"")
    found = make_ensembles(board, copy)
    assert found.trials == 18 - 3 and found.left_out[0].startswith("3 trials (") and "others" not in found.left_out[0]


def test_the_report_says_what_the_spread_covers_and_names_the_folds(layout):
    pool = scan(layout, ["folded"])
    assert "split, seed and images; the intervals allow for training images that splits share" in covers_text(pool.trials)
    assert "out of fold" in covers_text(pool.trials)
    trial, found, split = diagnose_trial(pool, pool.trials[0].trial_id, layout)
    assert split == "val" and found.confusion.sum() == 90
    assert images_words(trial, found, split) == "validation, all 3 folds together"  # 90 images, of which this fold has 30
    assert pool.trials[0].run == "seed 0, fold 1" and pool.trials[0].facts["fold"] == 1


def test_the_page_of_a_fold_tells_its_fold_and_seed_and_which_images_each_table_and_picture_is_of(layout):
    pool = scan(layout, ["folded"])
    trial = next(trial for trial in pool.trials if trial.fold == 5)
    _, found, split = diagnose_trial(pool, trial.trial_id, layout)
    *of_images, config = trial_tables(trial, found, split)
    assert all("(validation, all 3 folds together)" in table.title for table in of_images) and len(of_images) == 3
    assert {("dataset.fold", "5"), ("seed", "0")} <= set(config.rows)
    image = WrongImage(np.zeros((8, 8, 1), np.uint8), row=0, true=1, taken=2, confidence=0.9)
    (wrong,) = draw_insight(Insight(None, {}, np.zeros(0, np.int64), (image,)), trial.classes, split, trial.fold)
    assert wrong.caption.startswith("The validation images of fold 5 that it took for another class")


def test_the_refit_that_a_report_of_folds_advises_is_of_the_row_that_it_calls_best(layout, keeping):
    (section,) = chosen_sections(layout, ["folded"], "")
    whole = in_short(find(section, layout))
    assert any("`cifar-hpc refit folded` trains the best configuration once" in line for line in whole)
    second = section.board.measured[1]
    (part,) = chosen_sections(layout, ["folded"], f"knn_k={second.config['knn_k']}")
    assert any(f"`cifar-hpc refit {second.point_id}` " in line for line in in_short(find(part, layout)))


def test_a_sentence_names_a_configuration_that_a_filter_leaves_alone_by_what_tells_it_apart_in_its_sweep(layout):
    (alone,) = chosen_sections(layout, ["folded"], "knn_k=9")
    assert best_text(alone.board).startswith("The only configuration measured: knn_k 9: ")
    (whole,) = chosen_sections(layout, ["folded"], "")
    assert words_of(alone.board.rows[0]) == words_of(whole.board.measured[1])


def test_the_first_sentence_counts_the_seeds_of_the_row_that_it_names(layout):
    """Another row has two: the probe from which a sweep's trials start has one."""
    (section,) = chosen_sections(layout, ["folded"], "")
    first, second, *rest = section.board.rows
    more = tuple(replace(trial, seed=number % 2) for number, trial in enumerate(second.trials))
    board = replace(section.board, rows=(first, replace(second, trials=more), *rest))
    assert board.runs == "seeds and folds" and f"(mean of {first.score.n} folds, " in best_text(board)


def test_a_filter_that_leaves_out_trials_of_a_configuration_is_told_and_its_advice_is_of_all_of_them(layout, keeping):
    whole, part = (chosen_sections(layout, ["folded"], terms)[0] for terms in ("", "fold!=1"))
    assert {row.hidden for row in whole.board.rows} == {0} and {row.hidden for row in part.board.rows} == {1}
    assert not any("filter" in note for note in caveats(whole.pool, whole.board))
    assert any("Of 3 configurations the filter leaves out some trials" in note for note in caveats(part.pool, part.board))
    assert "so far" not in best_text(part.board)
    cut = replace(whole.board, rows=(replace(whole.board.rows[0], hidden=3), *whole.board.rows[1:]))  # as of one seed of two
    told = in_short(replace(find(whole, layout), board=cut))
    assert any("trains the best configuration again on the images of all its folds" in line for line in told)
    halves = tuple(replace(row, trials=row.trials[:2], place=None) for row in whole.board.rows[:2])
    told = in_short(replace(find(whole, layout), board=replace(whole.board, rows=halves)))
    assert "dealt again" in told[-1] and "seeds" not in told[-1]
    (second,) = chosen_sections(layout, ["folded"], "dataset.fold=2")  # as trial.json has the key
    assert {trial.fold for trial in second.pool.trials} == {2} and {row.hidden for row in second.board.rows} == {5}
    assert not any("three seeds or more" in line for line in in_short(find(second, layout)))
    (part,) = chosen_sections(layout, ["folded"], "knn_k!=30")
    assert part.board.values("knn_k") == (1, 9) and part.board.tried["knn_k"] == (1, 9, 30)


def test_what_one_seed_measured_from_several_networks_counts_once_in_an_interval(layout):
    """A refit of what starts from folds took 2 seeds from 3 networks for 6 seeds."""
    pool = scan(layout, ["folded"])
    best = make_leaderboard(pool).measured[0]
    trials = [
        replace(trial, fold=None, seed=number // 3, parent_id=str(number % 3), config={**trial.config, "dataset.folds": None})
        for number, trial in enumerate(best.trials)
    ]
    pool = replace(pool, trials=tuple(trials))
    board = make_leaderboard(pool)
    assert board.runs == "seeds" and "folds" not in leaderboard_records(board)[0]
    means = [statistics.mean(trial.test_acc for trial in trials if trial.seed == seed) for seed in (0, 1)]
    assert board.rows[0].test_acc == estimate(means, trials[0].test_n)
    told = "from more than one network, such as from 3: its number is their mean, and intervals count seeds."
    assert any(note.endswith(told) for note in caveats(pool, board))
    assert "Validation is out of fold" not in covers_text(trials)
    pool = replace(pool, trials=(trials[0], trials[3]))
    assert not any("more than one network" in note for note in caveats(pool, make_leaderboard(pool)))


def test_folds_are_not_counted_as_seeds(layout):
    board = make_leaderboard(scan(layout, ["folded"]))
    assert {(record["seeds"], record["folds"]) for record in leaderboard_records(board)} == {(1, 6)}


def test_the_refit_of_folds_that_start_from_other_trials_is_said_to_train_once_from_each_of_these(layout, keeping):
    (section,) = chosen_sections(layout, ["folded"], "")
    best = section.board.measured[0]
    trials = tuple(replace(t, parent_id=f"p{n}", seed=seed) for seed in (0, 1) for n, t in enumerate(best.trials))
    begun = replace(section.board, rows=(replace(best, trials=trials, begun=True), *section.board.rows[1:]))
    (told,) = [line for line in in_short(replace(find(section, layout), board=begun)) if "cifar-hpc refit" in line]
    assert "from each of the 6 networks that its folds start from, 12 times in all, on the images of all its folds" in told
    assert told.endswith("; what it starts from stays as it was trained.")


def test_stacking_that_folds_leave_out_is_warned_of():
    text = f"{SPEC}ensemble: {{methods: [greedy, stacking]}}\n"
    assert any("stacking has no effect" in told for told in spec_of(text, Path("x.yaml")).warnings)
    assert not any("stacking" in told for told in spec_of(SPEC, Path("x.yaml")).warnings)


def test_seeds_with_splits_of_their_own_are_one_row_whose_spread_covers_the_split(tmp_path):
    text = SPEC.replace("folds: {n: 3, repeats: 2}\n", "seeds: 3\n").replace(
        "train_size: 90", "train_size: 90, split_seed: seed"
    )
    layout = swept(Layout(tmp_path), text)
    pool = scan(layout, ["folded"])
    board = make_leaderboard(pool)
    assert [row.score.n for row in board.rows] == [3, 3, 3] and {trial.seed for trial in pool.trials} == {0, 1, 2}
    assert "split of its own" in covers_text(pool.trials)
    assert {d.test for d in compare_with_best(board, layout).differences.values()} == {SPLITS_TEST}


def test_folds_that_each_seed_draws_itself_are_as_many_splits(tmp_path):
    text = SPEC.replace("folds: {n: 3, repeats: 2}", "folds: 3\nseeds: 2").replace("size: 90", "size: 90, split_seed: seed")
    board = make_leaderboard(scan(swept(Layout(tmp_path), text), ["folded"]))
    one, other = board.measured[0], board.measured[-1]
    gaps = np.array([a.val_acc - b.val_acc for a, b in zip(one.trials, other.trials, strict=True)])
    found = compare_points(one, other, Layout(tmp_path))
    t = gaps.mean() / (gaps.std(ddof=1) * math.sqrt(1 / 6 + 0.5))
    assert found.p_value == pytest.approx(2 * student.sf(abs(t), 5)) and found.freedom == 5


def test_seeds_that_draw_from_a_set_with_validation_images_of_its_own_are_measured_on_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for name, level in (("bright", 150), ("dark", 90)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray((level + rng.integers(-80, 80, (8, 8))).astype(np.uint8)).save(folder / f"{number}.png")
    text = (
        f"name: folded\ndataset: {{folder: {tmp_path / 'photos'}, train_size: 20, split_seed: seed}}\nseeds: 3\n"
        "base: {arch: linear, classifier: knn, image_size: 8}\ngrid: {knn_k: [1, 3]}\n"
    )
    pool = scan(swept(Layout(tmp_path / "results"), text), ["folded"])
    board = make_leaderboard(pool)
    assert board.measured[0].score == estimate([trial.val_acc for trial in board.measured[0].trials], 16)
    assert covers_text(pool.trials).endswith("the validation images that the data set brings.")
    whole = replace(pool.trials[0], config={**pool.trials[0].config, "dataset.train_size": None})
    assert "Of some configurations, not of all, each seed" in covers_text([*pool.trials, whole])
    (found,) = compare_with_best(board, Layout(tmp_path / "results")).differences.values()
    assert found.test != SPLITS_TEST and found.images == 16


def test_compare_says_which_configuration_is_without_a_number_and_why(layout):
    pool = scan(layout, ["folded"])
    first, second, _ = make_leaderboard(pool).measured
    missing = second.trials[0].trial_id
    part = make_leaderboard(pool.where(lambda trial: trial.trial_id != missing))
    row = next(row for row in part.rows if row.point_id == second.point_id)
    said = re.escape(f"{row.label}: not all folds have measured it: no paired test is possible.")
    for compared in (compare_points, comparison_table):
        with pytest.raises(CifarHpcError, match=said):
            compared(first, row, layout)
    assert seeds_text(replace(row, contradicted=row.trials[:2])) == "2 left out (seed 0, fold 2; seed 0, fold 3)"


def test_seeds_that_two_configurations_share_are_compared_on_the_validation_images_of_these(tmp_path):
    """The first seed of one may be none of the other's."""
    layout = Layout(tmp_path)
    drawn = SPEC.replace("folds: {n: 3, repeats: 2}", "SEEDS").replace("size: 90", "size: 90, split_seed: seed")
    for name, k, seeds in (("a", 1, [0, 1, 2, 3]), ("b", 30, [1, 2, 3, 4]), ("c", 9, [3, 4, 5])):
        text = drawn.replace("SEEDS", f"seeds: {seeds}").replace("[1, 9, 30]", f"[{k}]").replace("folded", name)
        swept(layout, text)
    one, other, third = (make_leaderboard(scan(layout, [name])).measured[0] for name in "abc")
    title, _ = comparison_table(one, other, layout)
    assert title.startswith("Validation") and title.endswith("mean over seeds that both have:")
    found = compare_points(one, other, layout)
    gaps = [a.val_acc - b.val_acc for a, b in zip(one.trials[1:], other.trials, strict=False)]
    assert found.difference == pytest.approx(statistics.mean(gaps), abs=1e-6) and found.freedom == 2
    assert found.test == f"{SPLITS_TEST}, of the 3 seeds that both have"
    with pytest.raises(CifarHpcError, match="a test needs two in common"):
        compare_points(one, third, layout)
    comparison = compare_with_best(make_leaderboard(scan(layout, ["a", "b"])), layout)
    (shared,) = comparison.differences.values()
    assert shared.test == f"{SPLITS_TEST}, of the 3 that both have" and shared.difference == pytest.approx(found.difference)
    two = {"whole": replace(shared, test=SPLITS_TEST), "part": shared}
    assert comparison.test == shared.test, "the one that was made"
    assert replace(comparison, differences=two).test == "tests over seeds or folds", "no one of unlike tests"
    untested = compare_with_best(make_leaderboard(scan(layout, ["a", "c"])), layout).untested
    assert list(untested.values()) == ["fewer than 2 splits in common"]
    alone = [replace(row, trials=row.trials[-1:]) for row in (one, replace(other, trials=other.trials[:3]))]
    assert compare_points(*alone, layout).networks  # one seed each, of the same split


def test_so_few_folds_that_they_tell_no_interval_are_said_to_be_too_few(tmp_path, monkeypatch):
    text = SPEC.replace("folds: {n: 3, repeats: 2}", "folds: 2").replace("[1, 9, 30]", "[1, 9]").replace("90", "40")
    layout = swept(Layout(tmp_path), text)
    (section,) = chosen_sections(layout, ["folded"], "")
    rows = section.board.measured
    for row in rows:
        assert row.score.too_few == (row.score.low is None)
    assert rows[0].score.too_few and "mean of 2 folds, too few to tell an interval" in best_text(section.board)
    assert any(note.startswith("So few folds tell no interval, for ") for note in caveats(section.pool, section.board))
    monkeypatch.setattr(
        "cifar_hpc.report.comparison_table.compare_points", lambda *asked: Difference(0.1, 0.5, "t", too_few=True)
    )
    assert all("(so few folds tell no interval)" in line for line in comparison_lines(*rows, layout))


def test_folds_that_a_filter_hides_are_not_said_to_be_missing(layout):
    (second,) = chosen_sections(layout, ["folded"], "fold=2")
    untested = compare_with_best(second.board, layout).untested
    assert set(untested.values()) == {"the filter leaves out some of its folds"}
    assert not any("measured by a part" in note for note in caveats(second.pool, second.board))
    first = second.board.rows[0]
    missing = replace(first, rounds=(), score=None)  # as if the one that is shown had diverged
    with pytest.raises(RecordError, match="not all folds have measured it"):
        point_predictions(missing, layout, "val")
    (whole,) = chosen_sections(layout, ["folded"], "")
    mixed = replace(whole.board, rows=(*whole.board.rows[:2], second.board.rows[-1]))
    assert any("measured by a part of the folds only" in note for note in caveats(whole.pool, mixed))
