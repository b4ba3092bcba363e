"""A result that its own predictions contradict is in no number, and is named; rounding contradicts nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pool import Images, configs, write_trial
from cifar_hpc.collect.comparison import compare_with_best
from cifar_hpc.collect.ensemble_pool import make_ensembles
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.ledger import make_ledger
from cifar_hpc.collect.names import find_named
from cifar_hpc.collect.predictions import read_predictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.config.metrics import macro_f1
from cifar_hpc.data.dataset import Split
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.caveats import caveats, progress_text
from cifar_hpc.report.comparison_table import comparison_lines
from cifar_hpc.report.tables import seeds_text
from cifar_hpc.train.measure import halved, split_arrays
from cifar_hpc.train.measure import measure as split_metrics

IMAGES = Images.draw(500, 100)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.mark.parametrize("damage", ["corrupt", "missing", "of another trial"])
def test_predictions_that_do_not_fit_the_record_are_named(layout: Layout, damage: str) -> None:
    config, other = list(configs(2, seeds=2, epochs=2))
    result = write_trial(layout, config, IMAGES, accuracy=0.9)
    write_trial(layout, other, IMAGES, accuracy=0.5)
    files = layout.trial(config.trial_id)
    if damage == "corrupt":
        files.predictions.write_bytes(files.predictions.read_bytes()[:500])
    elif damage == "missing":
        files.predictions.unlink()
    else:
        files.predictions.write_bytes(layout.trial(other.trial_id).predictions.read_bytes())
    assert result.val
    with pytest.raises(RecordError, match=r"predictions\.npz"):
        read_predictions(files, "val", result.val)
    board = make_leaderboard(scan(layout))
    found = compare_with_best(board, layout)
    assert found is not None
    assert any("predictions.npz" in why for why in found.untested.values())
    assert {found.decision(row.point_id) for row in board.measured} <= {"best", "not tested"}


def test_a_trial_without_the_predictions_of_a_split_that_it_measured_says_so_wherever_it_is_missed(layout: Layout) -> None:
    """As a trial of which the file of another copy was brought: it would drop out of the comparison without a word."""
    for config, accuracy in zip(configs(4, seeds=2, epochs=2), (0.9, 0.8, 0.5, 0.5), strict=True):
        write_trial(layout, config, IMAGES, accuracy=accuracy)
    one, other = make_leaderboard(scan(layout)).rows
    files = layout.trial(one.trials[0].trial_id)
    with np.load(files.predictions) as arrays:
        rest = {name: values for name, values in arrays.items() if not name.startswith("test_")}
    np.savez(files.predictions, allow_pickle=False, **rest)
    assert read_predictions(files, "test") is None
    why = f"{files.predictions}: has no predictions of the test images that result.json tells of"
    lines = comparison_lines(one, other, layout)
    assert lines[0].startswith("validation accuracy: ") and why not in lines[0]
    assert lines[1].startswith("test accuracy: ") and why in lines[1]
    (section,) = make_sections(scan(layout), layout)
    assert not section.pool.rejected  # it contradicts nothing
    found = make_ensembles(section.board, layout)
    assert found is not None and found.left_out == (f"test images ({why})",)


def test_a_number_that_its_own_predictions_contradict_is_left_out_and_named(layout: Layout) -> None:
    """result.json edited by hand: its trial stands in no row."""
    trials = list(configs(6, seeds=3, epochs=2))
    for config, accuracy in zip(trials, [0.7] * 3 + [0.6] * 3, strict=True):
        write_trial(layout, config, IMAGES, accuracy=accuracy)
    path = layout.trial(trials[-1].trial_id).result
    record = json.loads(path.read_text())
    del record["digest"]  # as an older record, which has none
    record["val"]["acc"] = record["curves"][record["best_epoch"] - 1]["val_acc"] = 0.99
    path.write_text(json.dumps(record))
    (section,) = make_sections(scan(layout), layout)
    assert trials[-1].trial_id not in {trial.trial_id for row in section.board.rows for trial in row.trials}
    assert "result.json says 0.9900" in section.pool.rejected[0].reason
    assert find_named(layout, trials[-1].trial_id).trial_ids == (trials[-1].trial_id,)  # and is still named by its id
    assert trials[-1].trial_id in find_named(layout, trials[-1].point_id).trial_ids


def test_a_number_that_was_edited_by_hand_leaves_its_trial_out_whatever_its_predictions_say(layout: Layout) -> None:
    trials = list(configs(2, seeds=2, epochs=2))
    for config in trials:
        write_trial(layout, config, IMAGES, accuracy=0.7)
    path = layout.trial(trials[-1].trial_id).result
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"train_s": 1.0}))
    (section,) = make_sections(scan(layout), layout)
    assert trials[-1].trial_id not in {trial.trial_id for row in section.board.rows for trial in row.trials}
    assert "edited by hand" in section.pool.rejected[0].reason


@pytest.mark.parametrize(
    ("split", "key", "value", "said"),
    [("val", "loss", 1e-9, "says 0.0000"), ("test", "loss", 9.0, "says 9.0000"), ("val", "n", 50_000, "images 500")],
)
def test_any_number_of_a_split_that_its_predictions_contradict_leaves_the_trial_out(
    layout: Layout, split: str, key: str, value: float, said: str
) -> None:
    trials = list(configs(2, seeds=3, epochs=2))
    for config in trials:
        write_trial(layout, config, IMAGES, accuracy=0.7)
    (section,) = make_sections(scan(layout), layout)
    assert not section.pool.rejected
    path = layout.trial(trials[-1].trial_id).result
    record = json.loads(path.read_text())
    del record["digest"]  # as an older record, which has none
    record[split][key] = value
    path.write_text(json.dumps(record))
    (section,) = make_sections(scan(layout), layout)
    assert trials[-1].trial_id not in {trial.trial_id for row in section.board.rows for trial in row.trials}
    assert said in section.pool.rejected[0].reason


def test_an_objective_that_its_predictions_contradict_leaves_the_trial_out_too(layout: Layout) -> None:
    trials = [dataclasses.replace(config, objective="macro_f1") for config in configs(2, seeds=2, epochs=2)]
    for config, edited in zip(trials, (0.0, 0.2), strict=True):
        write_trial(layout, config, IMAGES, accuracy=0.7)
        files = layout.trial(config.trial_id)
        record = json.loads(files.result.read_text())
        del record["digest"]
        found = read_predictions(files, "val")
        assert found is not None
        record["val"]["more"] = {"macro_f1": macro_f1(found.logits, found.labels) + edited}
        files.result.write_text(json.dumps(record))
    (section,) = make_sections(scan(layout), layout)
    assert [trial.trial_id for row in section.board.rows for trial in row.trials] == [trials[0].trial_id]
    assert "gives val macro F1" in section.pool.rejected[0].reason


def test_large_logits_that_float16_makes_equal_contradict_nothing(layout: Layout) -> None:
    """A trial with a far too high rate: its logits are cut off at the end of float16, and its accuracy was counted before."""
    (config,) = configs(1, seeds=1, epochs=2)
    files, rng = layout.trial(config.trial_id), np.random.default_rng(0)
    logits_NK, labels_N = torch.tensor(1e6 * rng.normal(size=(40, 10))), torch.tensor(rng.integers(0, 10, 40))
    split = Split(torch.zeros(40, 1, 1, 1, dtype=torch.uint8), labels_N, torch.arange(40))
    told = split_metrics(logits_NK, split, config)
    assert told.loss is not None
    files.folder.mkdir(parents=True)
    arrays = split_arrays("val", logits_NK, split)
    np.savez_compressed(files.predictions, allow_pickle=False, **arrays)
    found = read_predictions(files, "val", told)
    assert found is not None and found.right.mean() == told.acc
    arrays["val_logits"] = logits_NK.clamp(-65504, 65504).numpy().astype(np.float16)  # as earlier versions wrote them
    np.savez_compressed(files.predictions, allow_pickle=False, **arrays)
    found = read_predictions(files, "val", told)
    assert found is not None and found.cut_off and found.loss is None
    assert abs(found.right.mean() - told.acc) > 0.005
    with pytest.raises(RecordError, match=r"result\.json says 1\.0000"):
        read_predictions(files, "val", dataclasses.replace(told, acc=1.0))


def test_a_logit_that_is_cut_off_at_the_lower_end_alone_contradicts_nothing(layout: Layout) -> None:
    (config,) = configs(1, seeds=1, epochs=2)
    files = layout.trial(config.trial_id)
    logits_NK, labels_N = torch.tensor([[5.0, 1.0, -1e6]] * 10), torch.tensor([0] * 9 + [2])
    split = Split(torch.zeros(10, 1, 1, 1, dtype=torch.uint8), labels_N, torch.arange(10))
    files.folder.mkdir(parents=True)
    np.savez(files.predictions, allow_pickle=False, **split_arrays("val", logits_NK, split))
    found = read_predictions(files, "val", split_metrics(logits_NK, split, config))
    assert found is not None and found.cut_off and found.loss is None


def test_what_is_left_out_is_counted_where_trials_and_hours_are(layout: Layout) -> None:
    trials = list(configs(3, seeds=2, epochs=2))  # one seed of the second point stands alone
    hours = 0.0
    for config in trials:
        hours += write_trial(layout, config, IMAGES, accuracy=0.7).train_s / 3600
    path = layout.trial(trials[-1].trial_id).result
    record = json.loads(path.read_text())
    del record["digest"]  # as an older record, which has none
    record["val"]["n"] = 9
    path.write_text(json.dumps(record))
    (section,) = make_sections(scan(layout), layout)
    assert progress_text(section.pool, section.board) == (
        "3 of 3 trials finished, 1 of them in no number, 1 of 2 configurations measured."
    )
    assert make_ledger(section.pool, section.board).hours("cuda") == pytest.approx(hours)
    assert seeds_text(section.board.rows[-1]) == "1 left out (seed 0)"


def test_the_class_that_a_network_takes_is_still_the_largest_of_the_logits_that_are_kept() -> None:
    logits_NK = 3 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    logits_NK[:, 3] = logits_NK.max(1).values + 1e-5
    logits_NK[:3] = torch.tensor([[1e6, 2e6, 0.0], [-1e9, -1e8, -1e9], [5e4, 9e4, 9e4 + 1]]).repeat(1, 4)[:, :10]
    found = halved(logits_NK)
    assert np.array_equal(found.argmax(1), logits_NK.argmax(1).numpy())
    assert ((found == found.max(1, keepdims=True)).sum(1) == 1)[3:].all()
    assert np.isfinite(found).all() and np.abs(found[3:] - logits_NK[3:].numpy()).max() < 0.02


def test_a_diverged_trial_with_infinite_logits_is_not_contradicted_by_its_own_predictions(layout: Layout) -> None:
    logits_NK, labels_N = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 3
    logits_NK[torch.arange(100), labels_N] = torch.inf
    config = next(iter(configs(1, seeds=1, epochs=1)))
    split = Split(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), labels_N, torch.arange(100))
    found = split_metrics(logits_NK, split, config)
    assert (found.acc, found.loss) == (1.0, None)
    files = layout.trial(config.trial_id)
    files.folder.mkdir(parents=True)
    np.savez(files.predictions, **split_arrays("val", logits_NK, split))
    assert read_predictions(files, "val", found) is not None


def test_a_report_of_many_configurations_says_of_how_many_the_numbers_were_checked(layout: Layout) -> None:
    """Of the 21st none was, and nothing said so."""
    for n, config in enumerate(configs(22, seeds=1, epochs=1), 1):
        write_trial(layout, config, Images.draw(20, 5))
        (section,) = make_sections(scan(layout), layout) if n > 19 else (None,)
        if section is not None:
            notes = [note for note in caveats(section.pool, section.board) if "it was checked" in note]
            assert [note.partition(" configurations")[0] for note in notes] == ([] if n < 21 else [f"Of 20 of these {n}"])
