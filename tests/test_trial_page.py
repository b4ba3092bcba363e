"""The page of one trial: of which result it is, and what its pictures and sentences say."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.api.predictor import members_of
from cifar_hpc.collect.diagnosis import diagnose
from cifar_hpc.collect.names import find_files
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.deploy.trained import load_trained
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import Outcome
from cifar_hpc.records.store import write_record
from cifar_hpc.report.asked import TrialReport, asked_report
from cifar_hpc.report.figures_trial import draw_confusion, draw_reliability
from cifar_hpc.report.page import _has_page
from cifar_hpc.report.places import trial_folder
from cifar_hpc.report.trial_page import diagnose_trial, most_confused, write_trial_page


def test_a_row_links_a_trials_page_only_where_that_is_of_its_result(tmp_path: Path) -> None:
    layout, (trial,) = Layout(tmp_path), list(configs(1, seeds=1, epochs=2))
    write_trial(layout, trial, Images.draw(50, 10))
    page = layout.report / trial.trial_id / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    (found,) = scan(layout).trials
    assert _has_page(layout, found)
    os.utime(page, (1e9, 1e9))  # of before it trained on
    assert not _has_page(layout, found)


def test_a_row_of_a_sweep_whose_search_stopped_the_trial_names_that_result_and_a_page_of_its_own(tmp_path: Path) -> None:
    layout, (trial,) = Layout(tmp_path), list(configs(1, seeds=1, epochs=2))
    whole, files = write_trial(layout, trial, Images.draw(50, 10)), layout.trial(trial.trial_id)
    aside = files.until_stopped("strict")
    shutil.copy(files.predictions, aside.predictions)
    for epochs, (sweep, its) in enumerate({"strict": aside, "lenient": files}.items(), 1):
        write_plan(layout, [trial], sweep)
        write_record(layout.sweep(sweep).plan, dataclasses.replace(read_plan(layout, sweep), halving={"first_job": 1}))
        curves = [dataclasses.replace(whole.curves[whole.best_epoch - 1], epoch=n + 1) for n in range(epochs)]
        stopped = {"outcome": Outcome.PRUNED, "job": f"{sweep}/job-0001", "curves": tuple(curves), "best_epoch": 1}
        write_record(its.result, dataclasses.replace(whole, **stopped))
    reports = [asked_report(layout, [name]) for name in ("strict#1", "lenient#1", trial.trial_id)]
    assert [report.trial.epochs for report in reports if isinstance(report, TrialReport)] == [1, 2, 2]
    pages = [trial_folder(layout, report.trial) for report in reports if isinstance(report, TrialReport)]
    assert pages[0] != pages[1] == pages[2] == layout.report / trial.trial_id
    for sweep, told in {"strict": "since the search of strict stopped it", "lenient": "reproduce"}.items():
        for asked in (lambda name: load_trained(find_files(layout, name)), lambda name: members_of(layout, name)):
            with pytest.raises(CifarHpcError, match=told):
                asked(f"{sweep}#1")


def test_a_row_of_which_one_network_is_gone_since_its_search_stopped_it_labels_with_the_others(tmp_path: Path) -> None:
    layout, trials = Layout(tmp_path), list(configs(2, seeds=2, epochs=2))
    results = [write_trial(layout, trial, Images.draw(50, 10)) for trial in trials]
    gone, kept = (layout.trial(trial.trial_id) for trial in trials)
    shutil.copy(gone.predictions, gone.until_stopped("strict").predictions)
    write_plan(layout, trials, "strict")
    write_record(layout.sweep("strict").plan, dataclasses.replace(read_plan(layout, "strict"), halving={"first_job": 1}))
    stopped = dataclasses.replace(results[0], outcome=Outcome.PRUNED, job="strict/job-0001")
    write_record(gone.until_stopped("strict").result, stopped)
    write_record(gone.result, dataclasses.replace(stopped, job="lenient/job-0001"))
    kept.weights.touch()
    found = members_of(layout, "strict#1")
    assert [member.trial_id for member in found.members] == [trials[1].trial_id]
    assert "since the search of strict stopped it" in found.unread[0]


def test_a_class_without_images_has_no_percentages_in_the_matrix() -> None:
    found = diagnose(SplitPredictions(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), None), ("a", "b", "c"))
    numbers = draw_confusion(found, "test").figure.axes[0].texts
    assert {round(text.get_position()[1]) for text in numbers} == {0, 1}


def test_a_page_of_one_fold_calls_it_no_part_and_an_svms_margins_no_confidence(tmp_path: Path) -> None:
    layout, (trial,) = Layout(tmp_path), list(configs(1, seeds=1, epochs=2))
    fold = dataclasses.replace(trial, dataset=dataclasses.replace(trial.dataset, folds=5, fold=2))
    write_trial(layout, fold, Images.draw(50, 0))
    pool, found, split = scan(layout), *diagnose_trial(scan(layout), fold.trial_id, layout)[1:]
    solved = dataclasses.replace(pool.trials[0], config={**pool.trials[0].config, "classifier": "svm"})
    text = write_trial_page(pool, solved, found, split, layout).read_text()
    assert "<h1>resnet18 on cifar10, weights imagenet, nothing frozen, svm, " in text
    assert "One trial." in text and "By a part of its folds" not in text
    assert "Confusion matrix" in text and "calibration error" not in text and "confidence" not in text


def test_confusions_that_are_as_frequent_as_the_second_are_named_too() -> None:
    assert most_confused([("4", "9", 5)]) == "4 for 9 (5)"
    assert most_confused([("4", "9", 5), ("7", "1", 4), ("3", "5", 3)]) == "4 for 9 (5) and 7 for 1 (4)"
    assert (
        most_confused([("4", "9", 5), ("7", "1", 5), ("9", "0", 5), ("6", "1", 4)])
        == "4 for 9 (5), 7 for 1 (5) and 9 for 0 (5)"
    )
    assert most_confused([("a", "b", 2), *[("c", "d", 1)] * 4]) == "a for b (2) and c for d (1); others as often"


def test_bars_of_a_reliability_diagram_stand_beside_one_another() -> None:
    """Those of two bins whose mean confidences were near lay over each other, with their numbers."""
    shares = np.array([2 / 15 - 0.001] * 5 + [2 / 15 + 0.001] * 9)
    rest = (1 - shares) / 9
    logits = np.log(np.concatenate([shares[:, None], np.repeat(rest[:, None], 9, axis=1)], axis=1)).astype(np.float32)
    found = diagnose(SplitPredictions(logits, np.zeros(14, np.int64), None), [str(k) for k in range(10)])
    _, below = draw_reliability(found, "test").figure.axes
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in below.patches)
    assert [height for _, _, height in bars] == [5, 9] and bars[0][1] < bars[1][0]
