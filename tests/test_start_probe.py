"""`start: probe`: the classifier begins as scikit-learn's solution on the frozen features, solved once for all who ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.errors import SpecError
from cifar_hpc.models.loading import pack_state
from cifar_hpc.models.zoo import build_model, network_of
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import spec_of
from cifar_hpc.status.query import config_text, flat_config, said_by_spec, starts_of
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of
from tests.test_what_trains import twenty_lines

SPEC = """\
name: x
dataset: {name: digits, train_size: 400, val_frac: 0.2}
base: {arch: simple_cnn, weights: start.safetensors, epochs: 2, batch_size: 64, logreg_c: 0.1}
grid: {start: [null, probe], lr: [0.01, 0.02]}
seeds: 2
"""


def images(split) -> torch.Tensor:
    return (split.images_NCHW / 255 - 0.3) / 0.4


@pytest.fixture(scope="module")
def start():
    """A network that has seen the images, as its BatchNorms know, and learned nothing."""
    config = digits_config(seed=5)
    model, x = build_model(config, 10, 1).train(), images(load_dataset_of(config, data_root()).train)
    with torch.no_grad():
        for _ in range(40):
            model(x)
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture
def folder(tmp_path, monkeypatch, start):
    """With start.safetensors, the weights that the spec's trials start from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.safetensors").write_bytes(pack_state(start, {"mean": "[0.3]", "std": "[0.4]"}))
    return tmp_path


def test_one_probe_is_planned_for_all_seeds_and_rates_before_those_that_start_from_it(folder):
    plan = make_plan(spec_of(SPEC, folder / "x.yaml"))
    (probe,) = (config for config in plan.trials if config.classifier == "logreg")
    children = [config for config in plan.trials if config.start == "probe"]
    assert (probe.freeze, probe.seed, probe.keep, probe.logreg_c, probe.start) == ("all", 0, "weights", 0.1, None)
    assert len(plan.trials) == 9 and len(children) == 4
    assert {config.weights for config in children} == {f"{PARENT_PREFIX}{probe.trial_id}"}
    assert len({config.point_id for config in children}) == 2  # a point has both seeds
    assert probe.trial_id in plan.levels[0] and set(plan.levels[1]) == {config.trial_id for config in children}
    assert not plan.spec.warnings
    axes = [trial.axes for trial in plan.spec.trials if trial.config in (probe, children[0])]
    assert axes[0] == {"start": None, "lr": None, "classifier": "logreg", "seed": 0}
    assert axes[1] == {"start": "probe", "lr": 0.01, "classifier": "linear", "seed": 0}
    assert flat_config(config_text(children[0].to_json()))["start"] == "probe"
    by_hand = spec_of(
        SPEC.replace("start: [null, probe]", f"weights: [{{trial: {probe.trial_id}}}]").replace(
            "weights: start.safetensors, ", ""
        ),
        folder / "x.yaml",
    )
    assert {t.config.trial_id for t in by_hand.trials} == {config.trial_id for config in children}  # only what acts is in an id


def test_who_starts_from_a_probe_is_told_by_the_weights_of_the_probe(folder):
    """In reports and filters as in the list of a dry run, which does not know the probe's id."""
    swept = SPEC.replace("weights: start.safetensors, ", "").replace("grid: {", "grid: {weights: [start.safetensors, null], ")
    record = plan_record(make_plan(spec_of(swept, folder / "x.yaml")))
    told = {
        said_by_spec(trial, (), starts_of(record.trials)).get("weights") for trial in record.trials if trial.config["start"]
    }
    assert {one and Path(one).name for one in told} == {"start.safetensors", None}
    several = make_plan(
        spec_of(SPEC.replace("lr: [0.01", "logreg_c: [0.1, 1], lr: [0.01").replace(", logreg_c: 0.1}", "}"), folder / "x.yaml")
    )
    assert not starts_of(plan_record(several).trials)  # the C of their probes tells them apart, which only the probes have


def test_the_head_begins_as_the_solution_and_all_that_follows_is_twenty_lines_of_torch(folder, start):
    plan, layout = make_plan(spec_of(SPEC.replace("seeds: 2\n", ""), folder / "x.yaml")), Layout(folder / "results")
    (probe,) = (config for config in plan.trials if config.classifier == "logreg")
    child = next(config for config in plan.trials if config.start == "probe")
    run_job(job_of(probe, child), layout, executor="inline")
    result = read_record(layout.trial(child.trial_id).result, TrialResult)

    data, net = load_dataset_of(child, data_root()), network_of(child, 10, 1)
    net.load_state_dict(start)
    x = images(data.train)
    with torch.no_grad():
        features = nn.Sequential(*list(net.children())[:-1]).eval()(x).flatten(1).double().numpy()
    scaler = StandardScaler().fit(features)
    solved = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit(scaler.transform(features), data.train.labels_N.numpy())
    weight = solved.coef_ / scaler.scale_
    net.classifier.weight.data = torch.from_numpy(weight).float()
    net.classifier.bias.data = torch.from_numpy(solved.intercept_ - weight @ scaler.mean_).float()

    told = twenty_lines(child, lambda name, epoch: True, net.state_dict(), normalisation=((0.3,), (0.4,)))
    assert [record.train_loss for record in result.curves] == pytest.approx(told, rel=1e-2)  # the solver stops at a tolerance
    fresh = twenty_lines(child, lambda name, epoch: True, start, normalisation=((0.3,), (0.4,)))
    assert np.abs(np.subtract(fresh, told)).max() > 0.05  # and it matters


def test_a_probe_has_no_place_in_a_search_and_none_beside_a_fitted_classifier(folder):
    search = SPEC.replace("seeds: 2", "search: {num_points: 2}")
    with pytest.raises(SpecError, match="start: probe in a search; a search samples trials that wait for no other"):
        spec_of(search, folder / "x.yaml")
    fitted = spec_of(
        SPEC.replace("base: {", "base: {classifier: knn, freeze: all, ").replace("lr: [0.01, 0.02]", "knn_k: [1, 5]"),
        folder / "x.yaml",
    )
    assert len(fitted.trials) == 2 and any("start has no effect" in warning for warning in fitted.warnings)
