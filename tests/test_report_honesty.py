"""What a report's numbers and sentences may claim: digits that the images can tell, what a comparison is of."""

from __future__ import annotations

import dataclasses
import re
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.cli import app
from cifar_hpc.collect.curves import make_curve_grid
from cifar_hpc.collect.diagnosis import diagnose
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.ledger import UNFINISHED, Entry, Ledger, make_ledger
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.distributed.rendezvous import Team
from cifar_hpc.errors import Interrupted, RecordError
from cifar_hpc.planning.plan import Resources
from cifar_hpc.records.claims import newest_claim
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import EpochRecord, TrialResult
from cifar_hpc.records.store import read_record, read_records, write_record
from cifar_hpc.report.caveats import caveats, covers_text
from cifar_hpc.report.comparison_table import TABLE_TITLES, comparison_lines
from cifar_hpc.report.figures_curves import draw_curves
from cifar_hpc.report.figures_trial import draw_confusion
from cifar_hpc.report.findings import find
from cifar_hpc.report.next_seed import _asks_for_seeds, next_seed
from cifar_hpc.report.summary import certainty_text, cost_text
from cifar_hpc.report.tables import leaderboard_columns, leaderboard_records
from cifar_hpc.report.trial_page import diagnose_trial, trial_summary
from cifar_hpc.status.words import digits_of, duration_text, points_text, score_text
from cifar_hpc.worker.environment import describe_hardware
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two configurations of three seeds, trained for a low loss, on 60 validation images and 200 of test."""
    layout = Layout(tmp_path_factory.mktemp("results"))
    for config in configs(6, seeds=3, epochs=2):
        write_trial(layout, dataclasses.replace(config, objective="val_loss"), Images.draw(60, 200))
    return layout


def test_a_percentage_has_the_digits_that_its_images_can_tell() -> None:
    assert [digits_of(images) for images in (60, 100, 999, 1000, None)] == [0, 1, 1, 2, 2]
    assert (score_text(5 / 6, 60), score_text(5 / 6, 600), score_text(5 / 6, 6000)) == ("83", "83.3", "83.33")
    assert (points_text(0.034, 60), points_text(-0.034, 600), points_text(-0.002, 60)) == ("+3", "-3.4", "0")


def test_a_trials_page_tells_no_more_digits_of_training_than_of_validation(layout: Layout) -> None:
    pool = scan(layout)
    trial, found, split = diagnose_trial(pool, pool.trials[0].trial_id, layout)
    few = dataclasses.replace(trial, train_acc=5 / 6, train_n=60)
    assert "training 83 % of 60 images (while it learned" in trial_summary(few, found, split)[0]
    solved = dataclasses.replace(trial, config={**trial.config, "classifier": "svm", "epochs": None})
    assert trial_summary(solved, found, split)[0].startswith("training "), "one that is solved has no best epoch"
    beside = dataclasses.replace(trial, trunk_shared_by=4)
    assert "its part of the time of 4 trials side by side, on " in " ".join(trial_summary(beside, found, split))


def test_compare_names_the_split_and_the_objective_that_was_sought(layout: Layout) -> None:
    first, second = (row.point_id for row in make_leaderboard(scan(layout)).rows)
    found = CliRunner().invoke(app, ["compare", first, second], env={RESULTS_VARIABLE: str(layout.root), "COLUMNS": "150"})
    assert found.exit_code == 0
    lines = [line for line in found.stderr.splitlines() if " p " in line]
    assert [line.partition(":")[0] for line in lines] == [
        "validation loss",
        "test loss",
        "validation accuracy",
        "test accuracy",
    ]
    assert " lower than " in lines[0]  # the rows are in the order of the loss
    assert "Validation accuracy of each class" in found.stderr


def test_of_two_that_measured_the_same_none_is_said_to_be_higher_or_lower(layout: Layout) -> None:
    first = make_leaderboard(scan(layout)).rows[0]
    loss, *_, accuracy = comparison_lines(first, first, layout)
    assert f"{first.label} is as high as {first.label}" in loss and f"{first.label} is 0.0 pp against" in accuracy
    assert "higher" not in loss and "lower" not in loss


def test_compare_says_which_number_cannot_be_tested_and_tests_the_others(tmp_path) -> None:
    layout = Layout(tmp_path)
    for config in configs(6, seeds=3, epochs=2):
        write_trial(layout, config, Images.draw(60, 20))
    place = layout.trial(scan(layout).trials[0].trial_id).predictions
    with np.load(place) as file:
        np.savez(place, **{key: array[:5] if key.startswith("test_") else array for key, array in file.items()})
    lines = comparison_lines(*make_leaderboard(scan(layout)).measured, layout)
    assert " p " in lines[0] and lines[0].startswith("validation accuracy: ")
    assert lines[1].startswith("test accuracy: ") and lines[1].endswith("no paired test is possible.") and len(lines) == 2


def test_a_matrix_without_errors_has_no_scale_of_errors() -> None:
    logits = np.eye(3, dtype=np.float32)
    right = diagnose(SplitPredictions(logits, np.arange(3), None), ("a", "b", "c"))
    wrong = diagnose(SplitPredictions(logits, np.array([0, 1, 1]), None), ("a", "b", "c"))
    assert len(draw_confusion(right, "test").figure.axes) == 1
    assert len(draw_confusion(wrong, "test").figure.axes) == 2
    assert "no image is taken for another class" in draw_confusion(right, "test").caption


def test_a_band_of_curves_says_that_it_covers_the_luck_of_seeds_alone_and_is_drawn_whole(layout: Layout) -> None:
    pool = scan(layout)
    board = make_leaderboard(pool)
    drawing = next(draw_curves(make_curve_grid(pool, board, None, None, None), board, "acc"))
    assert "which counts the luck of the seeds and not that of the images" in drawing.caption
    panel = drawing.figure.axes[0]
    ends = [end for band in panel.collections for end in band.get_datalim(panel.transData).intervaly]
    assert ends and panel.get_ylim()[0] <= min(ends) and max(ends) <= panel.get_ylim()[1]


def test_a_curve_says_where_it_goes_on_as_the_mean_of_fewer_seeds(tmp_path) -> None:
    layout = Layout(tmp_path)
    for number, trial in enumerate(configs(3, seeds=3, epochs=4)):
        ended = write_trial(layout, trial, Images.draw(60, 20))
        if number == 0:  # two epochs more, which bring nothing
            longer = [dataclasses.replace(ended.curves[-1], epoch=epoch) for epoch in (5, 6)]
            write_record(layout.trial(ended.trial_id).result, dataclasses.replace(ended, curves=(*ended.curves, *longer)))
    pool = scan(layout)
    board = make_leaderboard(pool)
    drawing = next(draw_curves(make_curve_grid(pool, board, None, None, None), board, "acc"))
    assert "Where seeds end at different epochs, a curve goes on as the mean of the others" in drawing.caption


def test_a_picture_of_losses_says_where_some_are_beyond_it(tmp_path) -> None:
    layout = Layout(tmp_path)
    for number, trial in enumerate(configs(24, seeds=1, epochs=4, archs=("resnet18",))):
        ended = write_trial(layout, trial, Images.draw(60, 20))
        if number == 0:
            first = dataclasses.replace(ended.curves[0], train_loss=468.0)
            write_record(layout.trial(ended.trial_id).result, dataclasses.replace(ended, curves=(first, *ended.curves[1:])))
    board = make_leaderboard(pool := scan(layout))
    for kind in ("acc", "loss"):
        caption = next(draw_curves(make_curve_grid(pool, board, "augment", None, "freeze"), board, kind)).caption
        assert ("are beyond the panels" in caption) is (kind == "loss")


def test_compare_says_of_a_refit_that_it_trained_on_the_validation_images(tmp_path) -> None:
    one, other = configs(2, seeds=1, epochs=2)
    refit = dataclasses.replace(other, dataset=dataclasses.replace(other.dataset, val_frac=0.0))
    write_trial(Layout(tmp_path), one, Images.draw(60, 20))
    result = write_trial(Layout(tmp_path), refit, Images.draw(60, 20))
    write_record(Layout(tmp_path).trial(result.trial_id).result, dataclasses.replace(result, val=None))
    found = CliRunner().invoke(app, ["compare", one.point_id, refit.point_id], env={RESULTS_VARIABLE: str(tmp_path)})
    assert found.exit_code == 2 and "held out no validation images" in " ".join(found.stderr.split())


def test_what_still_runs_is_no_waste() -> None:
    spent = {("cpu", "finished"): Entry(1, 1.0), ("cpu", UNFINISHED): Entry(1, 0.5)}
    assert cost_text(Ledger(spent, {}, {}, {}, {})) == "Training took 1.5 hours on CPU."


def test_compare_prints_nothing_before_it_refuses(tmp_path) -> None:
    one, other = configs(2, seeds=1, epochs=2)
    write_trial(Layout(tmp_path), one, Images.draw(60, 20))
    write_trial(Layout(tmp_path), other, Images.draw(80, 20))
    found = CliRunner().invoke(app, ["compare", one.point_id, other.point_id], env={RESULTS_VARIABLE: str(tmp_path)})
    assert found.exit_code == 2 and "did not classify the same val images" in " ".join(found.stderr.split())
    assert found.stdout == "" and TABLE_TITLES["val"].format(runs="seeds") not in found.stderr


def test_what_was_validated_on_other_images_is_compared_on_the_test_images_that_it_shares(tmp_path) -> None:
    """Said of trials of 1,000 and of all training images was that they had not classified the same test images."""
    one, other = configs(2, seeds=1, epochs=2)
    other = dataclasses.replace(other, dataset=dataclasses.replace(other.dataset, train_size=1000))
    all_of_them = Images.draw(60, 20)
    write_trial(Layout(tmp_path), one, all_of_them)
    write_trial(Layout(tmp_path), other, Images(all_of_them.labels[20:], all_of_them.hardness[20:], 40))
    found = CliRunner().invoke(app, ["compare", one.point_id, other.point_id], env={RESULTS_VARIABLE: str(tmp_path)})
    said = " ".join(found.stderr.split())
    assert found.exit_code == 0 and "(their validation splits are not the same)" in said and "test images" in found.stdout
    assert "did not classify the same val images" in said and "the same test images" not in said
    assert re.search("test accuracy: .* p [=<] [0-9.]+", said)


def test_compare_names_what_trains_by_all_that_tells_it_apart_though_the_other_does_not_train(tmp_path) -> None:
    base = next(configs(1, seeds=1, epochs=2))
    trials = [*(dataclasses.replace(base, lr=lr) for lr in (0.01, 0.1)), dataclasses.replace(base, classifier="logreg")]
    for config in trials:
        write_trial(Layout(tmp_path), config, Images.draw(60, 20), sweep="s")
    write_plan(Layout(tmp_path), trials, "s")
    told = [
        CliRunner().invoke(app, ["compare", one.point_id, trials[2].point_id], env={RESULTS_VARIABLE: str(tmp_path)})
        for one in trials[:2]
    ]
    assert all(f"lr={lr:g}" in done.stderr for lr, done in zip((0.01, 0.1), told, strict=True)), told[0].output


def test_compare_names_a_configuration_that_has_no_number_yet(tmp_path) -> None:
    trials = list(configs(2, seeds=1, epochs=2))
    write_trial(Layout(tmp_path), trials[0], Images.draw(60, 20), sweep="s")
    write_plan(Layout(tmp_path), trials, "s")
    found = CliRunner().invoke(app, ["compare", "s#1", "s#2"], env={RESULTS_VARIABLE: str(tmp_path)})
    assert found.exit_code == 2 and "compare: s#2 has no figure on validation that counts" in " ".join(found.stderr.split())


def test_what_ranks_has_an_interval_as_accuracy_has(layout: Layout) -> None:
    board = make_leaderboard(scan(layout))
    first, titles = board.rows[0], ("val loss", "val acc %")
    told = {column.title: column.under(first) for column in leaderboard_columns(board) if column.title in titles}
    assert told["val loss"] == f"{first.score.low:.2f} to {first.score.high:.2f}" and " to " in told["val acc %"]
    record = leaderboard_records(board)[0]
    assert (record["val_loss_low"], record["val_loss_high"]) == (first.score.low, first.score.high)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"difference": 0.0}, "measure the same: that does not tell how many seeds would part them."),
        (
            {"difference": 0.02, "error": 1 / 60, "of_images": 1 / 60**2},
            "tell them apart: the seeds of each measure the same. Take either.",
        ),
        ({"difference": 0.01, "error": 0.03, "of_images": 0.029**2}, "these validation images are too few"),
        ({"difference": 0.05, "error": 0.03, "of_images": 0.0}, "seeds of each would tell them apart"),
    ],
)
def test_what_more_seeds_would_change_is_said_as_it_is(layout: Layout, changed: dict[str, float], said: str) -> None:
    """Where all seeds measure alike, one seed more was said to tell them apart; where both do, the images were to blame."""
    found = find(make_sections(scan(layout), layout)[0], layout)
    assert found.comparison is not None
    second = found.board.measured[1].point_id
    tied = dataclasses.replace(found.comparison.differences[second], p_value=0.5, freedom=4.0, **changed)
    told = next_seed(
        dataclasses.replace(found, comparison=dataclasses.replace(found.comparison, differences={second: tied})), layout
    )
    assert told is not None and said in told.sentences[-1]


def test_more_seeds_cost_what_the_printed_command_trains(tmp_path) -> None:
    """Seeds of a solved classifier are one trial, those of what diverged at once are trained too, and a start is there."""
    layout, trials = Layout(tmp_path), list(configs(9, seeds=3, epochs=2, archs=("resnet18", "vgg11_bn", "densenet121")))
    trials.append(dataclasses.replace(trials[0], classifier="svm", freeze="all"))
    for config in trials:
        result = write_trial(layout, config, Images.draw(60, 20), sweep="s")
        if config.arch == "densenet121":
            lost = dataclasses.replace(result, outcome="diverged", best_epoch=None, train=None, val=None, test=None)
            write_record(layout.trial(config.trial_id).result, lost)
    write_plan(layout, trials, "s")
    found = find(make_sections(scan(layout, ["s"]), layout)[0], layout)
    board = found.board
    board = dataclasses.replace(board, rows=tuple(dataclasses.replace(row, begun=True, before_s=1e4) for row in board.rows))
    second, solved = board.measured[1], next(row for row in board.rows if row.draws_nothing)
    assert (len(board.rows), len(board.measured), solved.runs_n) == (4, 3, 1) and second.seeds == 3
    assert (solved.best_epoch, solved.epochs, solved.gap) == (None, None, None) and second.epochs and second.gap is not None
    assert found.comparison is not None
    difference = dataclasses.replace(
        found.comparison.differences[second.point_id], p_value=0.5, freedom=4.0, difference=0.05, error=0.03, of_images=0.0
    )
    tied = dataclasses.replace(found.comparison, differences={second.point_id: difference})
    told = next_seed(dataclasses.replace(found, board=board, comparison=tied), layout)
    assert told is not None and told.command is not None
    seeds = int(told.command.rpartition("seeds=")[2].split()[0])
    cost = duration_text(3 * (seeds - 3) * 20.0)
    drawn = f"for the 3 configurations of which a seed draws anything that is {cost} of training, less what the pool has of it."
    assert drawn in told.sentences[-1]
    rows = tuple(dataclasses.replace(row, contradicted=row.trials * seeds) for row in board.rows)
    none = next_seed(dataclasses.replace(found, board=dataclasses.replace(board, rows=rows), comparison=tied), layout)
    assert none is not None and none.command is None and "training" not in none.sentences[-1]


def test_what_differs_by_rounding_alone_is_not_behind(layout: Layout) -> None:
    """Folds weighted by their images left 1.5e-17 between two that were equal: 'less than 0.1 pp behind'."""
    found = find(make_sections(scan(layout), layout)[0], layout)
    assert found.comparison is not None
    second = found.board.measured[1].point_id
    equal = dataclasses.replace(found.comparison.differences[second], difference=1.5e-17)
    told = certainty_text(found.board, dataclasses.replace(found.comparison, differences={second: equal}))
    assert "measures the same (p " in told and "behind" not in told


def test_the_command_for_more_seeds_is_given_where_it_asks_for_nothing_else(tmp_path) -> None:
    """A sweep of several data sets, or of stages, or with seeds of one's own was to be typed with more seeds of all of it."""
    layout, trials = Layout(tmp_path), list(configs(6, seeds=3, epochs=2))
    for config in trials:
        write_trial(layout, config, Images.draw(60, 20), sweep="s")
    write_plan(layout, trials, "s")
    board, plan = make_leaderboard(scan(layout)), read_plan(layout, "s")
    assert _asks_for_seeds(plan, board)
    first, *rest = plan.trials
    for other in (
        dataclasses.replace(first, point_id="another"),
        dataclasses.replace(first, config={**first.config, "seed": 9}),
        dataclasses.replace(first, axes={**first.axes, "stage": "pre"}),
    ):
        assert not _asks_for_seeds(dataclasses.replace(plan, trials=(other, *rest)), board)


def test_in_folds_an_interval_on_test_that_leaves_out_the_luck_of_images_says_so(layout: Layout) -> None:
    trials = [dataclasses.replace(trial, fold=fold) for fold, trial in enumerate(scan(layout).trials[:3], 1)]
    said = "On test those of other objectives than accuracy do not count that of the images."
    for objective, told in (("val_acc", False), ("macro_f1", True)):
        asked = [dataclasses.replace(one, config={**one.config, "objective": objective}) for one in trials]
        assert (said in covers_text(asked)) is told
    alone = [dataclasses.replace(trial, fold=1) for trial in trials]  # of a filter
    assert "All trials share one split" in covers_text(alone) and "luck of split" not in covers_text(alone)


def test_a_mean_over_images_that_an_older_version_did_not_record_says_so(layout: Layout) -> None:
    pool = scan(layout)

    def told(**changed: object) -> str:
        trials = tuple(dataclasses.replace(trial, config={**trial.config, **changed}) for trial in pool.trials)
        return " ".join(caveats(dataclasses.replace(pool, trials=trials), make_leaderboard(pool)))

    said = "Which images mydata.py:load had when these trials trained, an older version did not record: a mean over seeds"
    assert said in told(dataset="mydata.py:load")
    assert "did not record" not in told(dataset="mydata.py:load", **{"dataset.fingerprint": "0123"}) + told()


def test_hours_on_a_gpu_that_jobs_share_are_their_part_of_it(tmp_path, monkeypatch) -> None:
    """Four jobs side by side on one GPU told four times its hours."""
    layout, (config,) = Layout(tmp_path), configs(1, seeds=1, epochs=3)
    result = write_trial(layout, config, Images.draw(60, 20))
    shared = dataclasses.replace(result.hardware, gpu_share=0.25)
    write_record(layout.trial(config.trial_id).result, dataclasses.replace(result, hardware=shared, lost_s=3600.0))
    pool = scan(layout)
    ledger = make_ledger(pool, make_leaderboard(pool))
    assert ledger.hours("cuda") == pytest.approx((result.train_s + 3600) / 4 / 3600)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    told = [describe_hardware(torch.device("cuda"), torch.bfloat16, 1, "", gpus).gpu_share for gpus in (0.25, 1, 2, None)]
    assert told == [0.25, None, None, None]


def _cost(layout: Layout) -> str:
    pool = scan(layout)
    return cost_text(make_ledger(pool, make_leaderboard(pool)))


def test_hours_of_a_trial_that_has_not_finished_are_of_the_devices_that_it_was_tried_on(tmp_path, monkeypatch) -> None:
    """One hour of two GPUs was told as one, and that of a shared GPU as a whole one."""
    layout, config = Layout(tmp_path), digits_config(arch="linear", epochs=3)
    monkeypatch.setattr(Team, "here", lambda *_: Team(on_gpus=True))
    job = dataclasses.replace(job_of(config), resources=Resources(gpus=0.25))
    with pytest.raises(Interrupted):
        run_job(job, layout, executor="inline", interrupted=lambda: layout.trial(config.trial_id).metrics.exists())
    files = layout.trial(config.trial_id)
    spent_s = sum(epoch.train_s + epoch.val_s for epoch in read_records(files.metrics, EpochRecord))
    for devices in (0.25, 2.0):
        pool = scan(layout)
        assert make_ledger(pool, make_leaderboard(pool)).hours("cuda") == pytest.approx(spent_s * devices / 3600) != 0
        claim = newest_claim(files)
        assert claim is not None
        write_record(files.claim(claim.attempt), dataclasses.replace(claim, devices=2.0))
    write_record(files.claim(claim.attempt), dataclasses.replace(claim, devices=2.0, lost_s=3600.0))
    files.metrics.unlink()  # tried again, and not yet through its first epoch: what it lost before does not go until it ends
    assert _cost(layout) == "Training took 2.0 GPU-hours, 2.0 of them lost with attempts that failed or were killed."


def test_the_hours_of_trials_stepped_side_by_side_are_no_more_than_the_clocks(tmp_path) -> None:
    layout = Layout(tmp_path)
    trials = [digits_config(arch="linear", lr=lr, epochs=3) for lr in (0.01, 0.02, 0.03, 0.04)]
    began = time.perf_counter()
    run_job(job_of(*trials, together=True), layout, executor="inline")
    passed_s = time.perf_counter() - began
    results = [read_record(layout.trial(config.trial_id).result, TrialResult) for config in trials]
    assert {result.trunk_shared_by for result in results} == {4}
    assert 0 < sum(result.train_s for result in results) <= passed_s + 0.001 * len(results)


def test_a_trial_whose_test_predictions_cannot_be_read_is_diagnosed_on_validation_and_says_why(tmp_path) -> None:
    layout = Layout(tmp_path)
    config = next(iter(configs(1, seeds=1, epochs=2)))
    write_trial(layout, config, Images.draw(60, 20))
    path = layout.trial(config.trial_id).predictions
    with np.load(path) as arrays:
        whole = dict(arrays.items())

    def told() -> str:
        trial, found, split = diagnose_trial(scan(layout), config.trial_id, layout)
        assert split == "val" and found.totals.sum() == 60
        (line,) = (line for line in trial_summary(trial, found, split) if "What follows" in line)
        return line.removeprefix("What follows is of validation, not of test: predictions.npz: ")

    kept = {name: values for name, values in whole.items() if not name.startswith("test_")}
    np.savez(path, **kept)
    assert told() == "has no predictions of the test images that result.json tells of."
    np.savez(path, **{**whole, "test_labels": whole["test_labels"][:-1]})
    assert told().startswith("test has logits (20, ")
    np.savez(path, **whole)
    at = path.read_bytes().index(whole["test_logits"].tobytes())
    path.write_bytes(path.read_bytes()[:at] + b"\xff\xff" + path.read_bytes()[at + 2 :])
    assert told().startswith("corrupt, or no file of ours: Bad CRC-32")
    np.savez(path, **{name: values for name, values in kept.items() if not name.startswith("val_")})
    with pytest.raises(RecordError, match="has no predictions of the test images"):
        diagnose_trial(scan(layout), config.trial_id, layout)
