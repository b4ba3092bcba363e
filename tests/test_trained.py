"""What is done with a finished trial: its kept weights label images as it did, go out checked, and it repeats itself."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cifar_hpc
from benchmarks import pool
from cifar_hpc.cli import app
from cifar_hpc.config.trial import StopConfig
from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.models.loading import read_weights
from cifar_hpc.models.zoo import make_network
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import Outcome
from cifar_hpc.records.store import write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.reproduce import compare_results
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of
from tests.test_train_loop import result_of


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def layout():
    return Layout(results_root())


@pytest.fixture
def pictures(tmp_path):
    """The digits' test images as files, named by their place in the test split."""
    test = load_dataset(digits_config().dataset, 8, data_root()).test
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(test.images_NCHW[:40]):
        Image.fromarray(image[0].numpy()).save(tmp_path / "pictures" / f"{i:03d}.png")
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def trained_seeds(tmp_path_factory):
    configs, root = [digits_config(keep="weights", seed=seed) for seed in (0, 1)], tmp_path_factory.mktemp("seeds") / "results"
    run_job(job_of(*configs), Layout(root), executor="inline")
    return configs, root


@pytest.fixture
def seeds(trained_seeds, layout):
    """Two seeds of one configuration that kept their weights."""
    configs, root = trained_seeds
    shutil.copytree(root, layout.root)
    return configs


def softmax(logits):
    return torch.from_numpy(logits.astype(np.float32)).softmax(1).numpy()


@pytest.mark.parametrize("changes", [{"freeze": 1, "ema": 0.7}, {"classifier": "svm"}, {"arch": "linear"}])
def test_predict_labels_files_as_the_trial_labelled_its_test_split(layout, pictures, changes):
    config = digits_config(keep="weights", epochs=4, **changes)
    run_job(job_of(config), layout, executor="inline")
    answer = run("predict", config.trial_id, pictures)
    assert answer.exit_code == 0, answer.output
    rows = list(csv.DictReader(io.StringIO(answer.stdout)))
    share = softmax(np.load(layout.trial(config.trial_id).predictions)["test_logits"][:40])
    assert [row["id"] for row in rows] == [f"{i:03d}.png" for i in range(40)]
    sure = np.sort(share)[:, -1] - np.sort(share)[:, -2] > 0.02
    labels = np.array([int(row["label"]) for row in rows])
    assert (labels == share.argmax(1))[sure].all() and sure.mean() > 0.5
    if "classifier" in changes:  # the softmax of margins is no probability
        assert {row["probability"] for row in rows} == {""}
        found = cifar_hpc.read_results(layout.root).best(config.trial_id).predict(pictures)
        assert list(found["label"]) == [row["label"] for row in rows] and found.filter(regex="p_|prob").isna().all(axis=None)
    else:
        assert np.allclose([float(row["probability"]) for row in rows], share.max(1), atol=5e-3)


@pytest.mark.parametrize("whole", [False, True])
def test_a_seed_of_a_point_whose_result_is_corrupt_or_contradicted_is_named(layout, seeds, pictures, whole):
    configs, point = seeds, seeds[0].point_id
    assert run("predict", point, pictures).exit_code == 0
    files = layout.trial(configs[1].trial_id)
    if whole:
        told = dict(np.load(files.predictions))
        np.savez(files.predictions, **told | {"val_logits": -told["val_logits"]})
    else:
        files.result.write_text("{")
    answer = run("predict", point, pictures)
    assert answer.exit_code == 1
    assert configs[1].trial_id in answer.stderr and "not in the mean over 1 network" in answer.stderr
    assert run("predict", configs[0].trial_id, pictures).exit_code == 0


def test_a_point_answers_with_the_mean_over_its_seeds_and_an_ensemble_file_with_its_weights(layout, seeds, pictures, tmp_path):
    configs = seeds
    shares = [softmax(np.load(layout.trial(c.trial_id).predictions)["test_logits"][:40]) for c in configs]
    rows = list(csv.DictReader(io.StringIO(run("predict", configs[0].point_id, pictures).stdout)))
    assert np.allclose([float(row["probability"]) for row in rows], ((shares[0] + shares[1]) / 2).max(1), atol=5e-3)
    record = {
        "method": "greedy",
        "created_at": "",
        "classes": list(result_of(layout, configs[0]).classes),
        "members": [
            {"trial_id": c.trial_id, "weight": w, "temperature": 1.0} for c, w in zip(configs, (0.25, 0.75), strict=True)
        ],
        **{"coefficients": None, "intercept": None, "val_acc": 0.5, "val_n": 80, "test_acc": None, "test_n": None},
    }
    (tmp_path / "greedy.json").write_text(json.dumps(record))
    rows = list(csv.DictReader(io.StringIO(run("predict", tmp_path / "greedy.json", pictures).stdout)))
    assert np.allclose([float(row["probability"]) for row in rows], (shares[0] * 0.25 + shares[1] * 0.75).max(1), atol=5e-3)


def test_a_trial_without_weights_says_how_to_keep_them_and_reproduce_brings_them_back(layout, pictures):
    config = digits_config(freeze=1)
    run_job(job_of(config), layout, executor="inline")
    assert not layout.trial(config.trial_id).weights.exists()
    refused = run("predict", config.trial_id, pictures)
    assert refused.exit_code == 2 and f"cifar-hpc reproduce {config.trial_id}" in refused.stderr
    again = run("reproduce", config.trial_id)
    assert again.exit_code == 0 and "the same numbers to the last bit" in again.stdout, again.output
    assert run("predict", config.trial_id, pictures).exit_code == 0
    assert run("predict", "nosuchtrial1", pictures).exit_code == 2


def test_reproduce_tells_what_differs_from_a_record_that_was_edited(layout, seeds):
    config, _ = seeds
    layout.trial(config.trial_id).weights.unlink()
    path = layout.trial(config.trial_id).result
    record = json.loads(path.read_text())
    record["curves"][1]["val_loss"] += 1e-6
    path.write_text(json.dumps(record))
    assert "was edited by hand" in run("reproduce", config.trial_id).stderr
    del record["digest"]  # as an older record
    path.write_text(json.dumps(record))
    answer = run("reproduce", config.trial_id)
    assert answer.exit_code == 1 and answer.stdout.startswith(f"{config.trial_id}: val_loss differs first in epoch 2:")
    assert not layout.trial(config.trial_id).weights.exists()


@pytest.mark.parametrize("ended_by", [Outcome.PRUNED, Outcome.OUT_OF_TIME])
def test_reproduce_trains_a_trial_that_was_ended_from_outside_as_far_as_its_record_goes(layout, ended_by):
    late = ended_by is Outcome.OUT_OF_TIME
    config = digits_config(epochs=4, stop=StopConfig(max_minutes=1e-9 if late else None))
    run_job(job_of(config), layout, executor="inline", on_epoch=lambda trial_id, epoch: epoch.epoch < 2 or "enough")
    recorded = result_of(layout, config)
    assert recorded.outcome is ended_by and len(recorded.curves) == (1 if late else 2)
    answer = run("reproduce", config.trial_id)
    assert answer.exit_code == 0, answer.output
    told = f"{len(recorded.curves)} of 4 epochs, as far as its newest record goes ({recorded.reason})"
    assert told in answer.stdout and layout.trial(config.trial_id).weights.exists()


def test_of_a_diverged_trial_there_is_no_network_to_bring_back(layout, pictures):
    config = digits_config(arch="simple_cnn", lr=1e20, keep="weights")
    run_job(job_of(config), layout, executor="inline")
    for command in (
        ["predict", config.trial_id, pictures],
        ["predict", config.point_id, pictures],
        ["export", config.trial_id],
    ):
        refused = run(*command)
        assert refused.exit_code == 2 and "has a network: training loss" in refused.stderr.replace("has no", "has a"), command
        assert "reproduce" not in refused.stderr


def test_of_a_configuration_reproduce_takes_the_seeds_that_have_finished(tmp_path):
    text = "name: s\ndataset: {name: digits}\nbase: {arch: linear, epochs: 1}\ngrid: {lr: [0.1]}\nseeds: 1\n"
    (tmp_path / "s.yaml").write_text(text)
    assert run("sweep", tmp_path / "s.yaml", "--on", "inline").exit_code == 0
    (tmp_path / "s.yaml").write_text(text.replace("seeds: 1", "seeds: 3"))
    layout, plan = Layout(results_root()), make_plan(load_spec(tmp_path / "s.yaml"))
    write_record(layout.sweep("s").plan, plan_record(plan))
    answer = run("reproduce", "s#1")
    assert answer.exit_code == 0 and answer.stdout.count("the same numbers") == 1, answer.output


def test_of_numbers_that_differ_reproduce_says_where_another_version_made_the_record(tmp_path):
    (config,) = pool.configs(1, 1, 2)
    found = pool.write_trial(Layout(tmp_path), config, pool.Images.draw(20, 0))
    other = replace(found, curves=(replace(found.curves[0], lr=9.0), *found.curves[1:]))
    older = replace(found, provenance=replace(found.provenance, cifar_hpc="0.0.1"))
    assert compare_results(found, other) and "another version" not in compare_results(found, other)[-1]
    assert "the record is of another version" in compare_results(older, other)[-1]
    assert compare_results(older, found) == []
    before, one, other = (replace(found, val=replace(found.val, more=more)) for more in ({}, {"f1": 0.5}, {"f1": 0.25}))
    assert compare_results(before, one) == [] and compare_results(other, one)[0].startswith("val differs: ")


def test_an_exported_network_is_loaded_by_a_plain_network_of_that_architecture(layout, seeds, tmp_path, monkeypatch):
    config, _ = seeds
    path = tmp_path / "out.safetensors"
    answer = run("export", config.trial_id, "-o", path)
    assert answer.exit_code == 0 and answer.stdout.strip() == str(path), answer.output
    weights = read_weights(path)
    make_network("simple_cnn", 10, 1, 8, "imagenet").load_state_dict(weights.state)
    assert weights.normalisation == ((0.3053,), (0.376,))
    path.unlink()
    assert run("export", config.trial_id).stdout.strip() == str(layout.report / f"{config.trial_id}.safetensors")
    monkeypatch.setattr("cifar_hpc.deploy.trained.TOLERANCE", -1.0)
    wrong = run("export", config.trial_id, "-o", path)
    assert wrong.exit_code == 2 and "logits differ by" in wrong.stderr and not path.exists()


def test_an_exported_onnx_network_answers_as_the_trial_did_for_any_number_of_images(layout, tmp_path):
    config = digits_config(arch="resnet18", image_size=32, keep="weights", epochs=1, freeze="layer4")
    run_job(job_of(config), layout, executor="inline")
    path = tmp_path / "out.onnx"
    answer = run("export", config.trial_id, "--to", "onnx", "-o", path)
    assert answer.exit_code == 0, answer.output
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    test = load_dataset(config.dataset, 32, data_root()).test
    split = Batches(
        test,
        image_size=32,
        in_channels=3,
        num_classes=10,
        device=torch.device("cpu"),
        augment="none",
        mean=json.loads(notes["mean"]),
        std=json.loads(notes["std"]),
    )
    logits = [session.run(None, {"x_NCHW": split.eval_batch(torch.arange(*span))[0].numpy()})[0] for span in ((0, 1), (1, 40))]
    saved = np.load(layout.trial(config.trial_id).predictions)["test_logits"][:40]
    np.testing.assert_allclose(np.concatenate(logits), saved, rtol=1e-2, atol=1e-2)


def test_neighbours_keep_no_weights(layout, pictures):
    config = digits_config(keep="weights", classifier="knn")
    run_job(job_of(config), layout, executor="inline")
    assert not layout.trial(config.trial_id).weights.exists()
    assert "keeps no weights" in run("predict", config.trial_id, pictures).stderr


def test_keep_is_written_at_the_top_of_a_spec_and_is_no_part_of_an_id(tmp_path):
    text = "name: a\ndataset: digits\nbase: {arch: linear}\n"
    path = tmp_path / "a.yaml"
    path.write_text(text)
    plain = load_spec(path).trials[0].config
    path.write_text(text + "keep: weights\n")
    kept = load_spec(path).trials[0].config
    assert (plain.keep, kept.keep) == ("best", "weights") and plain.trial_id == kept.trial_id
