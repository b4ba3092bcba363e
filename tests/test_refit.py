"""The best points again on training and validation images together: real trials that no validation figure ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.trial import DatasetConfig, refitted
from tests.test_cli_sweep import call, results
from tests.training import digits_config

SPEC = """\
name: small
dataset: {name: digits, train_size: 300, val_frac: 0.2}
base: {arch: simple_cnn, epochs: 4, batch_size: 64, warmup_epochs: 2}
grid: {lr: [0.001, 0.1]}
seeds: 2
stop: {patience: 2}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


def test_the_best_point_trains_again_on_all_labelled_images_and_labels_new_ones(spec, tmp_path):
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    before = set(results())
    done = call("refit", "small", "--on", "inline")
    assert done.exit_code == 0, done.output
    layout = Layout(results_root())
    new = [read_record(layout.trial(i).result, TrialResult) for i in set(results()) - before]
    old = [read_record(layout.trial(i).result, TrialResult) for i in before]
    best = [result for result in old if result.config["lr"] == 0.1]
    assert len(new) == 2 and {result.train_n for result in new} == {300}
    epochs = round(np.mean([result.best_epoch for result in best]))
    for result in new:
        assert (result.config["lr"], len(result.curves), result.best_epoch) == (0.1, epochs, epochs)
        assert result.val is None and result.test is not None and result.test.n == best[0].test.n
        assert {(epoch.val_acc, epoch.val_loss) for epoch in result.curves} == {(None, None)}
    assert len({result.point_id for result in new}) == 1
    board = json.loads(call("report", "small-refit", "--format", "json").stdout)
    assert len(board) == 1 and board[0]["place"] is None and board[0]["test_acc"] > 0.3
    assert "1 point trained on the validation images too: nothing ranks them." in call("report", "small-refit").stderr
    assert "test acc" in done.stderr and "diverged" not in done.stderr
    assert "nothing to start" in call("refit", "small", "--on", "inline").stderr
    (tmp_path / "new").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "new" / "a.png")
    labelled = call("predict", new[0].point_id, tmp_path / "new")
    assert labelled.exit_code == 0 and labelled.stdout.startswith("id,label,probability\na.png,"), labelled.output
    assert (
        "val acc" not in call("report").stdout.splitlines()[0]
        or len(json.loads(call("report", "--format", "json").stdout)) == 3
    )


def test_a_refit_holds_out_nothing_stops_early_at_nothing_and_keeps_the_share_of_its_warm_up():
    config = refitted(digits_config(epochs=10, warmup_epochs=5.0, objective="val_loss", patience=3), 4)
    assert (config.epochs, config.warmup_epochs, config.stop.patience, config.objective) == (4, 2.0, None, "val_acc")
    assert (config.dataset.val_frac, config.dataset.train_size, config.keep) == (0.0, 400, "weights")
    assert config.trial_id != digits_config(epochs=4).trial_id


def test_without_validation_every_labelled_image_is_trained_on_once(tmp_path):
    data = load_dataset(DatasetConfig(name="digits", val_frac=0.0), 8, tmp_path)
    halves = load_dataset(DatasetConfig(name="digits", val_frac=0.5), 8, tmp_path)
    assert sorted(data.train.index_N.tolist()) == sorted([*halves.train.index_N.tolist(), *halves.val.index_N.tolist()])
    assert len(data.val.labels_N) == 0 and data.val.images_NCHW.shape[1:] == data.train.images_NCHW.shape[1:]
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "own" / split / label).mkdir(parents=True)
            for n in range(3):
                Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / "own" / split / label / f"{n}.png")
    own = DatasetConfig(name="folder", folder=str(tmp_path / "own"), val_frac=0.0)
    whole = load_dataset(own, 8, tmp_path)
    assert len(whole.train.labels_N) == 12 == len(set(whole.train.index_N.tolist())) and len(whole.val.labels_N) == 0
