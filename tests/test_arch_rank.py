"""`arch --rank`: promise without training, equal to scikit-learn's ridge and to its Bayesian evidence."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.config.features import features_id
from cifar_hpc.data.dataset import load_dataset_of, trainval_of
from cifar_hpc.data.splits import deal
from cifar_hpc.errors import CifarHpcError, SpecError
from cifar_hpc.models.zoo import build_model
from cifar_hpc.planning.plan import jobs_for, make_plan, plan_record, recorded_plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import write_plan
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.rank import with_promise
from cifar_hpc.sweep.where import On, Where
from cifar_hpc.train.transferability import ALPHAS, log_evidence, measure_promise, ridge_right
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of


def features(n: int = 90, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, d)) + 0.7 * np.eye(d)[labels], labels


def test_the_ridge_is_scikit_learns_in_the_same_folds():
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = features()
    pipeline = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS))
    assert np.array_equal(ridge_right(x, y, 0), cross_val_predict(pipeline, x, y, cv=PredefinedSplit(deal(y, 5, 0, 0))) == y)


@pytest.mark.parametrize("shape", [(90, 12), (30, 60)])
def test_logme_is_the_evidence_of_scikit_learns_bayesian_ridge(shape):
    from sklearn.linear_model import BayesianRidge

    x, y = features(*shape)
    theirs = []
    for label in range(3):
        flat = {"alpha_1": 0, "alpha_2": 0, "lambda_1": 0, "lambda_2": 0}
        model = BayesianRidge(max_iter=5000, tol=1e-12, fit_intercept=False, compute_score=True, **flat)
        theirs.append(model.fit(x, (y == label).astype(float)).scores_[-1] / len(y))
    assert log_evidence(x, y) == pytest.approx(np.mean(theirs), rel=1e-3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> list[str]:
    """Files of a network that was trained, and of one that was not."""
    layout, files = Layout(tmp_path_factory.mktemp("parent")), []
    for lr in (0.05, 1e-9):
        config = digits_config(keep="weights", epochs=4, lr=lr)
        run_job(job_of(config), layout, executor="inline")
        files.append(str(layout.trial(config.trial_id).weights))
    return files


def test_features_of_a_trained_network_promise_more_than_of_a_random_one(weights, tmp_path):
    found = []
    for path in weights:
        config = dataclasses.replace(digits_config(), weights=path, weights_fingerprint="f" * 64)
        found.append(measure_promise(config, load_dataset_of(trainval_of(config), tmp_path), torch.device("cpu")))
    assert found[0].images == 400 and found[0].acc > found[1].acc and found[0].logme > found[1].logme


def test_the_command_prints_the_promising_first_and_what_it_cost(weights, tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(
        "name: x\ndataset: {name: digits, train_size: 200}\nbase: {arch: simple_cnn}\n"
        f"grid: {{weights: [{weights[1]}, {weights[0]}], lr: [0.1, 0.2]}}\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "x.yaml").rename(tmp_path / "sweeps/x.yaml")
    found = CliRunner().invoke(app, ["arch", "--rank", "x", "--format", "json"])  # by its name, as every command takes it
    records = json.loads(found.stdout)
    assert [record["weights"] for record in records] == weights and records[0]["standing"] == ""
    assert records[0]["low"] < records[0]["ridge_acc"] < records[0]["high"] and records[0]["seconds"] > 0
    macs = 9 * (32 * 8 * 8 + 32 * 64 * 4 * 4 + 64 * 128 * 2 * 2) + 128 * 10
    assert records[0]["macs"] == macs, "counted, of gray images of this size and ten classes"


def test_a_network_that_starts_from_its_probe_is_none_without_weights(weights, tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(
        "name: x\ndataset: {name: digits, train_size: 200}\nbase: {arch: simple_cnn}\n"
        f"grid: {{weights: [{weights[1]}, {weights[0]}, null], start: [null, probe]}}\n"
        "exclude: [{weights: null, start: probe}]\n"
    )
    said = CliRunner().invoke(app, ["arch", "--rank", str(tmp_path / "x.yaml")], env={"COLUMNS": "200"}).output
    assert "1 network without such weights is not among them." in said


def test_missing_weights_are_told_before_any_network_passes_its_images(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    spec = tmp_path / "x.yaml"
    spec.write_text(
        "name: x\ndataset: {name: digits, train_size: 200}\nsearch: {order: rank}\n"
        f"zip: {{arch: [simple_cnn, resnet18], weights: [{weights[0]}, imagenet]}}\n"
    )
    monkeypatch.setattr("cifar_hpc.train.transferability.promise_of", lambda config: pytest.fail("measured"))
    told = CliRunner().invoke(app, ["arch", "--rank", str(spec)])
    for other in (["resnet18"], ["--image-size", "9"], ["--plan", str(spec)]):
        refused = CliRunner().invoke(app, ["arch", "--rank", str(spec), *other])
        assert refused.exit_code == 2 and "without NAME, --image-size and --plan" in refused.stderr
    assert told.exit_code == 2 and "resnet18-f37072fd.pth" in told.output and "simple_cnn ..." not in told.output
    with pytest.raises(CifarHpcError, match=r"resnet18-f37072fd\.pth"):
        with_promise(Layout(tmp_path / "results"), make_plan(load_spec(spec)), Where(On.INLINE), Silent())


def test_a_grid_in_the_order_of_rank_starts_the_promising_first_and_drops_none(weights, tmp_path):
    text = (
        "name: x\ndataset: {name: digits, train_size: 200}\nbase: {arch: simple_cnn, epochs: 1, batch_size: 64}\n"
        f"grid: {{weights: [{weights[1]}, {weights[0]}, null]}}\nsearch: {{order: rank}}\n"
    )
    (tmp_path / "x.yaml").write_text(text)
    spec, layout = load_spec(tmp_path / "x.yaml"), Layout(tmp_path / "results")
    plan = with_promise(layout, make_plan(spec), Where(On.INLINE), Silent())
    jobs = jobs_for(plan, [config.trial_id for config in plan.trials], 1)
    order = [job.cohorts[0].trials[0].weights for job in jobs]
    assert order == [weights[0], weights[1], None]
    write_plan(layout, plan_record(plan))
    assert recorded_plan(plan_record(plan)).promise == plan.promise
    (tmp_path / "y.yaml").write_text(text.replace("{order: rank}", "{order: rank, num_points: 3}"))
    with pytest.raises(SpecError, match="num_points beside order: rank"):
        load_spec(tmp_path / "y.yaml")


def test_what_a_plan_knows_of_its_networks_is_not_measured_again(weights, tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(
        "name: x\ndataset: {name: digits, train_size: 200}\nbase: {arch: simple_cnn}\n"
        f"grid: {{weights: [{weights[1]}, {weights[0]}]}}\nsearch: {{order: rank}}\n"
    )
    layout, plan = Layout(tmp_path / "results"), make_plan(load_spec(tmp_path / "x.yaml"))
    known = {features_id(config): 0.1 * n for n, config in enumerate(plan.trials)}
    write_plan(layout, plan_record(dataclasses.replace(plan, promise=known)))
    monkeypatch.setattr("cifar_hpc.sweep.rank.promises_on_node", lambda configs: pytest.fail("measured again"))
    assert with_promise(layout, plan, Where(On.INLINE), Silent()).promise == known


def test_what_the_features_depend_on_makes_a_row_each_and_is_told_in_it(weights, tmp_path):
    for number in range(24):
        (tmp_path / f"in/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{'ab'[number % 2]}/{number}.png")
    config = digits_config(arch="simple_cnn", keep="weights")
    torch.save(build_model(config, 2, 3).state_dict(), tmp_path / "w.pt")
    (tmp_path / "x.yaml").write_text(
        "name: x\ndataset: {folder: in}\nbase: {arch: simple_cnn, weights: w.pt}\n"
        "grid: {image_size: [8, 9], resize: [crop, pad], crop_frac: [1, 0.5], lr: [0.1, 0.2], dataset.train_size: [24, 20]}\n"
    )
    found = CliRunner().invoke(app, ["arch", "--rank", str(tmp_path / "x.yaml"), "--format", "json"])
    rows = json.loads(found.stdout)
    told = [(row["dataset.train_size"], row["image_size"], row["resize"], row["crop_frac"]) for row in rows]
    fits = [("crop", 1.0), ("crop", 0.5), ("pad", 1.0)]
    assert sorted(told) == sorted((n, side, *fit) for n in (24, 20) for side in (8, 9) for fit in fits)
    assert [row["images"] for row in rows] == [24] * 6 + [20] * 6, "each set of images by itself"
    assert [number for number, row in enumerate(rows) if row["p_value"] is None] == [0, 6]
    shown = CliRunner().invoke(app, ["arch", "--rank", str(tmp_path / "x.yaml")], env={"COLUMNS": "200"}).output
    assert "image_size  resize  crop_frac" in " ".join(shown.splitlines()), shown
    assert "Each set of images has a first of its own" in shown and "weights  " not in shown and "lr" not in shown.split()


@pytest.mark.parametrize(
    "changes, same",
    [
        ({"lr": 0.3, "freeze": 2, "augment": "flip", "epochs": 9, "batch_size": 7, "seed": 5, "classifier": "knn"}, True),
        ({"dataset": {"val_frac": 0.2}}, True),
        ({"dataset": {"folds": 3, "fold": 2}}, True),
        ({"dataset": {"train_size": 100}}, False),
        ({"arch_args": (("width", 4),)}, False),
        ({"precision": "bf16"}, False),
        ({"stem": "cifar"}, False),
        ({"crop_frac": 0.5}, False),
        ({"weights_fingerprint": "e" * 64}, False),
    ],
)
def test_features_are_the_same_unless_what_they_are_made_of_differs(changes, same):
    one = dataclasses.replace(digits_config(), weights="w.pt", weights_fingerprint="f" * 64)
    dataset = dataclasses.replace(one.dataset, **changes.get("dataset", {}))
    other = dataclasses.replace(one, **{**changes, "dataset": dataset})
    assert (features_id(one) == features_id(other)) is same


def test_few_images_are_ranked_in_as_many_folds_as_can_be_dealt():
    assert len(ridge_right(features(4, 3)[0], np.arange(4) % 2, 0)) == 4
