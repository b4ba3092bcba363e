"""What the collector takes from the records, and what it names and leaves out."""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect import scan as scan_module
from cifar_hpc.collect.chosen import chosen_pool
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import Pool, scan, varying_axes
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.collect.trials import short_paths
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import canonical_freeze
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import EpochRecord, ErrorRecord, PlanRecord, Status, TrialResult
from cifar_hpc.records.store import append_records, read_record, write_record
from cifar_hpc.records.ties import read_valid
from cifar_hpc.report.trial_page import trial_title
from cifar_hpc.report.words import words_of
from cifar_hpc.status.axes import keys_that_differ

IMAGES = Images.draw(50, 20)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "results")


@pytest.fixture
def trials(layout: Layout) -> list[TrialConfig]:
    """Four points of two seeds, 3 epochs, all finished, in the sweep 'small'."""
    trials = list(configs(8, seeds=2, epochs=3))
    for config in trials:
        write_trial(layout, config, IMAGES, sweep="small")
    write_plan(layout, trials, "small")
    return trials


def edit(layout: Layout, trial: TrialConfig, /, **values: object) -> None:
    path = layout.trial(trial.trial_id).result
    record = json.loads(path.read_text()) | values
    record.pop("digest", None)
    path.write_text(json.dumps(record))


def assert_same(one: Pool, other: Pool) -> None:
    assert one.trials == other.trials
    assert one.unfinished == other.unfinished
    assert {name: values.tolist() for name, values in one.curves.values.items()} == {
        name: values.tolist() for name, values in other.curves.values.items()
    }


def test_a_trial_and_its_curves_are_what_its_record_says(layout: Layout, trials: list[TrialConfig]) -> None:
    pool = scan(layout, ["small"])
    assert [trial.trial_id for trial in pool.trials] == [config.trial_id for config in trials]
    for row, config in enumerate(trials):
        result, _ = read_valid(layout.trial(config.trial_id), config.trial_id)
        trial = pool.trials[row]
        assert result.val and result.test
        assert (trial.val_acc, trial.test_acc, trial.seed) == (result.val.acc, result.test.acc, config.seed)
        assert trial.point_id == config.point_id
        assert pool.curves.of("val_acc", row).tolist() == pytest.approx([e.val_acc for e in result.curves], abs=1e-6)


def test_what_tells_configs_apart_is_no_fingerprint_and_begins_with_the_network() -> None:
    files = [{"lr": k, "weights": f"{k}.pt", "weights_fingerprint": str(k), "arch": f"net{k}", "seed": 0} for k in range(2)]
    assert keys_that_differ(files) == ("arch", "weights", "lr")


def test_the_second_scan_reads_no_result_again(
    layout: Layout, trials: list[TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(layout)

    def refuse(*_: object) -> None:
        raise AssertionError("a finished trial was read twice")

    monkeypatch.setattr("cifar_hpc.collect.index.read_valid", refuse)
    assert_same(scan(layout), first)


def test_a_new_trial_joins_the_index_and_a_pruned_one_leaves_it(layout: Layout, trials: list[TrialConfig]) -> None:
    scan(layout)
    layout.trial(trials[0].trial_id).result.unlink()
    new = dataclasses.replace(trials[0], seed=7)
    write_trial(layout, new, IMAGES)
    assert {trial.trial_id for trial in scan(layout).trials} == {config.trial_id for config in [*trials[1:], new]}


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_index_is_rebuilt(layout: Layout, trials: list[TrialConfig], damage: str) -> None:
    first = scan(layout)
    good = layout.index.read_bytes()
    broken = bytearray(good)
    broken[60:64] = bytes(255 - byte for byte in broken[60:64])
    layout.index.write_bytes({"cut": good[: len(good) // 2], "flipped": bytes(broken), "foreign": b"not Parquet"}[damage])
    assert_same(scan(layout), first)
    assert_same(scan(layout), first)


def test_collectors_at_the_same_time_agree_and_leave_a_whole_index(layout: Layout, trials: list[TrialConfig]) -> None:
    with ThreadPoolExecutor(4) as threads:
        pools = list(threads.map(lambda _: scan(layout), range(8)))
    for pool in (*pools, scan(layout)):
        assert_same(pool, pools[0])
    assert [path.name for path in layout.root.iterdir() if path.name.startswith(".")] == []


def test_a_pool_that_may_only_be_read_is_still_collected(layout: Layout, trials: list[TrialConfig], tmp_path: Path) -> None:
    layout.index.mkdir()  # stands in the index's way for root too
    assert len(scan(layout).trials) == 8


def test_a_result_edited_by_hand_is_named_and_left_out(layout: Layout, trials: list[TrialConfig]) -> None:
    scan(layout)
    good = json.loads(layout.trial(trials[0].trial_id).result.read_text())
    edit(layout, trials[0], val={**good["val"], "acc": 0.999})
    edit(layout, trials[1], config={**good["config"], "lr": 77.0})
    edit(layout, trials[2], test={**good["test"], "acc": 95.0})
    edit(layout, trials[3], best_epoch=9)
    pool = scan(layout)
    reasons = {Path(rejected.path).parent.name: rejected.reason for rejected in pool.rejected}
    assert "val.acc 0.9990 is not the curve's" in reasons[trials[0].trial_id]
    assert "does not hash to its id" in reasons[trials[1].trial_id]
    assert "found 95.0" in reasons[trials[2].trial_id]
    assert "best_epoch 9" in reasons[trials[3].trial_id]
    assert {trial.trial_id for trial in pool.trials} == {config.trial_id for config in trials[4:]}
    assert {trial.status for trial in pool.unfinished} == {Status.FAILED}


def test_corrupt_and_foreign_records_are_named_and_hide_nothing_else(layout: Layout, trials: list[TrialConfig]) -> None:
    corrupt, copied = (layout.trial(config.trial_id) for config in trials[:2])
    corrupt.result.write_bytes(corrupt.result.read_bytes()[:300])
    copied.result.write_bytes(layout.trial(trials[2].trial_id).result.read_bytes())
    (layout.pool / "lost+found").mkdir()
    (layout.pool / "aaaaaaaaaaaa").mkdir()
    pool = scan(layout)
    reasons = {rejected.path: rejected.reason for rejected in pool.rejected}
    assert "not JSON" in reasons[str(corrupt.result)]
    assert reasons[str(copied.result)] == f"bears the id {trials[2].trial_id}"
    assert "not a trial's id" in reasons[str(layout.pool / "lost+found")]
    assert "no trial.json" in reasons[str(layout.pool / "aaaaaaaaaaaa")]
    assert len(pool.trials) == 6


def test_trials_without_a_result_keep_their_status_reason_and_time_spent(layout: Layout, trials: list[TrialConfig]) -> None:
    more = [dataclasses.replace(config, seed=9) for config in trials[::2]]
    write_plan(layout, [*trials, *more], "small")
    failed = layout.trial(more[0].trial_id)
    line = EpochRecord(epoch=1, lr=0.1, train_loss=1.0, train_acc=0.5, val_loss=1.0, val_acc=0.5, train_s=8.0, val_s=2.0)
    append_records(failed.metrics, [line])
    error = ErrorRecord(
        trial_id=more[0].trial_id, attempt=1, kind="OutOfMemoryError", message="no room", traceback="", host="h", job="j",
        failed_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    write_record(failed.error, error)
    waiting = {trial.trial_id: trial for trial in scan(layout, ["small"]).unfinished}
    assert waiting[more[0].trial_id].status is Status.FAILED
    assert waiting[more[0].trial_id].reason == "OutOfMemoryError: no room"
    assert (waiting[more[0].trial_id].epochs, waiting[more[0].trial_id].spent_s) == (1, 10.0)
    assert [waiting[config.trial_id].status for config in more[1:]] == [Status.PLANNED] * 3


def test_only_swept_keys_of_a_sweep_are_axes_and_all_varying_ones_of_the_pool(
    layout: Layout, trials: list[TrialConfig]
) -> None:
    assert varying_axes(scan(layout, ["small"])) == ("arch",)
    assert varying_axes(scan(layout)) == ("arch", "weights")  # weights follow arch in this grid: not an axis of the sweep


def test_a_result_that_changed_on_disk_is_read_again(layout: Layout, trials: list[TrialConfig]) -> None:
    before = scan(layout).trials[0]
    path = layout.trial(before.trial_id).result
    edit(layout, next(trial for trial in trials if trial.trial_id == before.trial_id), reason=f"again {before.reason}")
    os.utime(path, ns=(1, 1))
    assert scan(layout).trials[0].reason == f"again {before.reason}"


def test_an_unknown_sweep_is_answered_with_the_nearest_one(layout: Layout, trials: list[TrialConfig]) -> None:
    with pytest.raises(CifarHpcError, match="Did you mean 'small'"):
        scan(layout, ["smal"])


def test_an_empty_results_folder_is_an_empty_pool(layout: Layout) -> None:
    pool = scan(layout)
    assert (pool.trials, pool.unfinished, pool.rejected) == ((), (), ())


def test_a_sweep_shows_depths_as_its_spec_has_them_and_no_axis_that_only_a_fitted_classifier_lacks(layout: Layout) -> None:
    (config,) = configs(1, 1, 2)
    deep = dataclasses.replace(config, freeze=canonical_freeze(config.arch, 0.5))
    fitted = dataclasses.replace(config, classifier="svm", epochs=1, freeze="all")
    for one in (deep, fitted, dataclasses.replace(deep, lr=0.5)):
        write_trial(layout, one, Images.draw(50, 20))
    plan = [deep, fitted, dataclasses.replace(deep, lr=0.5)]
    write_plan(layout, plan, "spelled")
    path = layout.sweep("spelled").plan
    record = json.loads(path.read_text())
    del record["digest"]
    for trial in record["trials"]:
        trial["axes"] |= {
            "freeze": {deep.freeze: 0.5}.get(trial["config"]["freeze"], "all"),
            "epochs": 2,
            "classifier": "linear",
        }
    path.write_text(json.dumps(record))
    pool = scan(layout, ["spelled"])
    assert sorted(str(trial.config["freeze"]) for trial in pool.trials) == ["0.5", "0.5", "all"]
    assert set(varying_axes(pool)) == {"freeze", "lr", "classifier"}
    assert {trial.config["freeze"] for trial in scan(layout).trials} == {0.5, "all"}  # as the only sweep spells it


def test_a_refit_has_no_best_epoch_since_no_validation_chose_one(layout: Layout) -> None:
    (config,) = configs(1, 1, 2)
    write_trial(layout, config, IMAGES)
    files = layout.trial(config.trial_id)
    write_record(files.result, dataclasses.replace(read_record(files.result, TrialResult), val=None))
    assert make_leaderboard(scan(layout)).rows[0].best_epoch is None


def test_what_one_of_two_sweeps_knows_of_its_images_is_said_to_be_that_sweeps(
    layout: Layout, trials: list[TrialConfig]
) -> None:
    """A report of both has a section of folds, of which `no val/: val_frac 0.25 holds out that share` is not true."""
    for sweep, findings in (("small", ("no val/", "uneven")), ("other", ("uneven",))):
        write_plan(layout, trials, sweep)
        plan = read_record(layout.sweep(sweep).plan, PlanRecord)
        write_record(layout.sweep(sweep).plan, dataclasses.replace(plan, findings=findings))
    assert [one.sentence for one in scan(layout, ["small", "other"]).findings] == ["small: no val/", "uneven"]
    assert [one.sentence for one in scan(layout, ["small"]).findings] == ["no val/", "uneven"]


def test_a_search_that_has_sampled_nothing_yet_is_not_told_as_an_empty_pool(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (config,) = configs(1, 1, 2)
    write_trial(layout, config, Images.draw(20, 10))
    write_plan(layout, [], "search")
    with pytest.raises(CifarHpcError, match=r"^search: no trial is planned yet$"):
        chosen_pool(layout, ["search"], "")


def test_a_trial_that_ends_between_two_looks_stands_among_those_that_finished(
    layout: Layout, trials: list[TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = layout.trial(trials[0].trial_id).result
    text, look = result.read_bytes(), scan_module.read_states
    result.unlink()

    def ends(*args: Any) -> dict[str, TrialState]:
        result.write_bytes(text)
        return look(*args)

    monkeypatch.setattr(scan_module, "read_states", ends)
    pool = scan(layout, ["small"])
    assert (len(pool.trials), pool.unfinished) == (8, ())


def test_a_trial_that_the_pool_does_not_list_yet_stands_among_those_that_finished(
    layout: Layout, trials: list[TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may list a folder as it was a minute ago, and read what lies in it."""
    monkeypatch.setattr(Layout, "trial_ids", lambda self: [trial.trial_id for trial in trials[1:]])
    pool = scan(layout, ["small"])
    assert (len(pool.trials), pool.unfinished) == (8, ())


def test_weights_files_are_shown_by_the_ends_of_their_paths_that_tell_them_apart(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for n, path in enumerate(("/of/ann/run1/best.pt", "/of/ann/run2/best.pt", None)):
        config = TrialConfig(dataset=DatasetConfig(name="cifar10"), arch="resnet18", weights=path, seed=0, lr=0.1 + n)
        write_trial(layout, config, Images.draw(50, 20))
    board = make_leaderboard(scan(layout))
    assert set(board.values("weights")) == {"run1/best.pt", "run2/best.pt", None}
    assert set(short_paths(["/of/best.pt", "/of//best.pt"]).values()) == {"best.pt"}  # one file, of which no end tells two


def test_the_only_configuration_of_a_data_set_has_its_weights_file_as_tables_name_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for n, path in enumerate(("/of/ann/run1/best.pt", "/of/ann/run2/best.pt")):
        dataset = DatasetConfig(name="cifar10", train_size=(500, 1000)[n])
        config = TrialConfig(dataset=dataset, arch="resnet18", weights=path, seed=0, lr=0.1)
        write_trial(layout, config, Images.draw(50, 20))
    sections = chosen_sections(layout, (), "")
    rows = [row for section in sections for row in section.board.rows]
    assert {row.label for row in rows} == {
        f"weights=run{n}/best.pt dataset.train_size={size}" for n, size in ((1, 500), (2, 1000))
    }
    assert all("/of/" not in words_of(row) and "/of/" not in trial_title(row.trials[0]) for row in rows)
