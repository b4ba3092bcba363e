"""Support vectors and neighbours are trials: the same records, alone or beside others, and scikit-learn's own answers."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from cifar_hpc.config.architecture import known_architecture
from cifar_hpc.config.plugins import objective_of
from cifar_hpc.config.sources import find_source
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Outcome, Status
from cifar_hpc.train.classifiers import LogregMember
from cifar_hpc.train.features import Trunk
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "results")


def features_of(config):
    data = load_dataset(config.dataset, 8, data_root())
    model = build_model(config, 10, 1).eval()
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (data.mean, data.std))

    def features(split):
        with torch.no_grad():
            x = (split.images_NCHW / 255 - mean) / std
            return model.forward_blocks(x, 0, len(model.blocks) - 1).flatten(1).numpy(), split.labels_N.numpy()

    return [features(split) for split in (data.train, data.val, data.test)]


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (digits_config(classifier="svm", svm_c=0.01), LinearSVC(C=0.01, dual="auto", random_state=0, max_iter=5000)),
        (digits_config(classifier="logreg", logreg_c=0.01), LogisticRegression(C=0.01, max_iter=5000)),
        (digits_config(classifier="knn", knn_k=3), KNeighborsClassifier(3)),
        (digits_config(classifier="knn", arch="linear"), KNeighborsClassifier(5)),
    ],
)
def test_a_classifier_of_scikit_learn_is_a_trial_with_the_answers_of_scikit_learn(layout, config, reference):
    run_job(job_of(config), layout, executor="inline")
    result, files = result_of(layout, config), layout.trial(config.trial_id)
    assert sorted(path.name for path in files.folder.iterdir()) == ["predictions.npz", "result.json", "trial.json"]
    assert result.outcome is Outcome.FINISHED and result.best_epoch == len(result.curves) == 1
    (train_x, train_y), (val_x, val_y), (test_x, test_y) = features_of(config)
    scaler = StandardScaler().fit(train_x)
    reference.fit(scaler.transform(train_x), train_y)
    assert result.train.acc == pytest.approx(reference.score(scaler.transform(train_x), train_y), abs=0.005)
    assert result.val.acc == pytest.approx(reference.score(scaler.transform(val_x), val_y), abs=0.02)
    assert result.test.acc == pytest.approx(reference.score(scaler.transform(test_x), test_y), abs=0.005)
    assert result.test.acc > 0.8
    assert (result.params_trained == 0) == (config.classifier == "knn")
    saved = np.load(files.predictions)
    assert (saved["test_labels"] == test_y).all()
    if config.classifier != "knn":
        assert np.allclose(saved["test_logits"], reference.decision_function(scaler.transform(test_x)), rtol=5e-3, atol=5e-3)
    else:
        assert np.allclose(np.exp(saved["test_logits"].astype(float)).sum(1), 1, atol=2e-3)


@pytest.fixture
def few(monkeypatch):
    """A shorter path of C."""
    path = (1e-4, 1e-2, 1.0)
    monkeypatch.setattr("cifar_hpc.train.classifiers.C_PATH", path)
    return path


@pytest.mark.parametrize(
    ("name", "objective", "reference"),
    [
        ("logreg", "val_loss", lambda c: LogisticRegression(C=c, max_iter=5000)),
        ("svm", "val_acc", lambda c: LinearSVC(C=c, dual="auto", random_state=0, max_iter=5000)),
    ],
)
def test_an_automatic_c_is_the_one_of_its_path_that_is_best_on_validation(layout, few, name, objective, reference):
    config = digits_config(classifier=name, objective=objective, **{f"{name}_c": "auto"})
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    (train_x, train_y), (val_x, val_y), _ = features_of(config)
    scaler = StandardScaler().fit(train_x)
    train_x, val_x = scaler.transform(train_x), scaler.transform(val_x)
    values = {}
    for c in few:
        logits = torch.from_numpy(reference(c).fit(train_x, train_y).decision_function(val_x))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(val_y).long()).item()
        values[c] = -loss if objective == "val_loss" else (logits.argmax(1).numpy() == val_y).mean()
    assert values[result.c_found] >= max(values.values()) - 0.02
    reached = -result.val.loss if objective == "val_loss" else result.val.acc
    assert reached == pytest.approx(values[result.c_found], abs=0.02)


def test_without_validation_images_an_automatic_c_is_found_by_leaving_out_training_images_in_turn(layout, few):
    dataset = dataclasses.replace(digits_config().dataset, val_frac=0.0)
    config = digits_config(classifier="logreg", dataset=dataset)
    assert config.logreg_c == "auto"
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    assert result.c_found in few and result.val is None and result.test.acc > 0.8


def test_classifiers_have_the_same_bits_beside_trained_members(layout, few, tmp_path):
    configs = [
        digits_config(classifier="svm"),
        digits_config(classifier="logreg"),
        digits_config(classifier="knn"),
        digits_config(freeze="all", lr=0.02, batch_size=128),
        digits_config(freeze=1, batch_size=128),
    ]
    run_job(job_of(*configs, together=True), layout, executor="inline")
    for config in configs:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config)), config.classifier


def test_two_classes_have_two_decision_values_of_one_size(layout):
    config = digits_config(classifier="svm", dataset=digits_config().dataset.__class__(name="digits", classes=("3", "8")))
    run_job(job_of(config), layout, executor="inline")
    logits = np.load(layout.trial(config.trial_id).predictions)["test_logits"]
    assert np.allclose(logits[:, 0], -logits[:, 1], atol=1e-2) and result_of(layout, config).test.acc > 0.85


def test_a_network_whose_classifier_is_no_linear_layer_refuses_an_svm_and_takes_neighbours(layout):
    svm, knn = (digits_config(classifier=name, arch="squeezenet1_1", image_size=32) for name in ("svm", "knn"))
    run_job(job_of(svm, knn, together=True), layout, executor="inline")
    state = read_state(layout.trial(svm.trial_id), svm.trial_id)
    assert state.status is Status.FAILED and "is not just one linear layer with a bias; allowed: linear, knn" in state.reason
    assert result_of(layout, knn).outcome is Outcome.FINISHED


_HEADS = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels, before):
        super().__init__()
        self.body = nn.Conv2d(in_channels, 8, 3, padding=1)
        between = nn.ReLU() if before == "relu" else nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(between, nn.Flatten(), nn.Linear(512 if before == "relu" else 8, num_classes))
    def blocks(self):
        return {"body": self.body, "head": self.head}
    def forward(self, x):
        return self.head(self.body(x))
"""


@pytest.mark.parametrize("before", ["relu", "pool"])
def test_a_solution_never_becomes_a_layer_that_sees_other_features_than_it_was_fitted_to(layout, tmp_path, before):
    (tmp_path / "heads.py").write_text(_HEADS)
    sources = (find_source("arch", "heads.py:Net", tmp_path),)
    config = digits_config(classifier="svm", arch="heads.py:Net", arch_args=(("before", before),), sources=sources)
    info = known_architecture(config.network)
    assert info is not None and not info.linear_head  # of which a spec is refused
    run_job(job_of(config), layout, executor="inline")
    state = read_state(layout.trial(config.trial_id), config.trial_id)
    assert state.status is Status.FAILED and "whose block 'head' is not just one linear layer with a bias" in state.reason


def test_an_svm_that_did_not_converge_says_so(layout, monkeypatch):
    monkeypatch.setattr("cifar_hpc.train.classifiers.MAX_ITERATIONS", 1)
    config = digits_config(classifier="svm", svm_c=100.0)
    run_job(job_of(config), layout, executor="inline")
    assert result_of(layout, config).warnings == ("the SVM did not converge within 1 iterations",)


def test_features_that_broke_off_half_way_are_not_used_by_the_next_trial(layout, tmp_path, monkeypatch):
    """The first of two loses its training features in the third batch of five; what was kept of them is not whole."""
    first, second = (digits_config(classifier="svm", svm_c=c) for c in (0.5, 1.0))
    run_job(job_of(second), Layout(tmp_path), executor="inline")
    expected = Layout(tmp_path).trial(second.trial_id)
    whole, calls = Trunk.features, itertools.count(1)

    def broken(trunk, x_NCHW, depths):
        if next(calls) == 3:
            raise RuntimeError("can't allocate memory")
        return whole(trunk, x_NCHW, depths)

    monkeypatch.setattr(Trunk, "features", broken)
    monkeypatch.setattr("cifar_hpc.train.features._allocate", lambda shape, *_, **__: torch.full(shape, 7.0))
    run_job(job_of(first, second, together=True), layout, executor="inline")
    assert "can't allocate" in read_state(layout.trial(first.trial_id), first.trial_id).reason
    one, other = (np.load(files.predictions)["test_logits"] for files in (layout.trial(second.trial_id), expected))
    assert np.allclose(one, other, atol=0.02)


def test_another_warning_of_a_solver_does_not_say_that_it_did_not_converge(layout, monkeypatch):
    fit = LinearSVC.fit
    monkeypatch.setattr(LinearSVC, "fit", lambda *data: (warnings.warn("overflow", RuntimeWarning, 2), fit(*data))[1])
    config = digits_config(classifier="svm", svm_c=0.01)
    run_job(job_of(config), layout, executor="inline")
    assert result_of(layout, config).warnings == ()


@pytest.mark.parametrize("counts", [(1, 20, 20), (1, 1, 20), (1, 9), (1, 1)])
def test_the_only_image_of_a_class_is_never_left_out(counts):
    labels_N = np.repeat(np.arange(len(counts)), counts)
    features_ND = np.eye(len(counts))[labels_N] + 0.01 * np.random.default_rng(0).standard_normal((len(labels_N), len(counts)))
    member = LogregMember.__new__(LogregMember)
    member.objective = objective_of(digits_config())
    value = member._judged_in_turn(LogisticRegression(C=100.0), (), features_ND, labels_N, None)
    assert value == (1.0 if max(counts) > 1 else 0.0)
