"""What a trial leaves for its page besides its logits: right, small, and no condition for reading older trials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from benchmarks.pool import Images, configs, write_trial
from cifar_hpc.collect import insight
from cifar_hpc.collect.insight import LAYERS, embed, read_insight
from cifar_hpc.collect.scan import scan
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.errors import RecordError
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.report.trial_page import diagnose_trial, write_trial_page
from cifar_hpc.train.inspection import pooled, principal_components
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of


@pytest.fixture
def layout():
    return Layout(results_root())


@pytest.mark.parametrize("shape", [(40, 90), (90, 12)])
def test_principal_components_are_those_of_scikit_learn(shape):
    x = np.random.default_rng(0).standard_normal(shape) * np.linspace(3, 1, shape[1])
    found, count = principal_components(torch.from_numpy(x)).astype(float), min(8, shape[1])
    expected = PCA(count).fit_transform(x)
    expected /= expected[:, 0].std(ddof=1)
    assert np.abs(found[:, :count]) == pytest.approx(np.abs(expected), abs=0.01)


@pytest.mark.parametrize("arch", ["resnet18", "swin_t", "vit_b_16"])
def test_maps_of_either_layout_and_sequences_are_averaged_over_positions(arch):
    model = build_model(digits_config(arch=arch, image_size=32), 10, 3).eval()
    with torch.no_grad():
        x = model.forward_blocks(torch.zeros(2, 3, 32, 32), 0, len(model.blocks) // 2)
    assert pooled(x).shape == (2, {"resnet18": 128, "swin_t": 384, "vit_b_16": 768}[arch])


def test_what_does_not_vary_or_is_not_finite_has_no_components():
    assert principal_components(torch.ones(5, 3)) is None
    assert principal_components(torch.full((5, 3), torch.inf)) is None


def test_a_matrix_that_no_solver_likes_costs_the_trial_a_picture_and_no_more(layout, monkeypatch):
    def give_up(matrix):
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", give_up)
    config = digits_config(epochs=1)
    run_job(job_of(config), layout, executor="inline")
    saved = np.load(layout.trial(config.trial_id).predictions)
    assert "test_errors" in saved and "features_last" not in saved


def test_the_map_keeps_far_groups_apart():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 30)
    place = embed(rng.standard_normal((60, 8)) + 40 * groups[:, None])
    middle = [place[groups == k].mean(0) for k in (0, 1)]
    nearest = np.argmin([np.linalg.norm(place - m, axis=1) for m in middle], axis=0)
    assert (nearest == groups).all()


def test_a_trial_leaves_its_worst_errors_filters_and_layers_in_little_room(layout, monkeypatch):
    config = digits_config(epochs=2)
    run_job(job_of(config), layout, executor="inline")
    files = layout.trial(config.trial_id)
    saved = np.load(files.predictions)
    logits, labels = saved["test_logits"].astype(float), saved["test_labels"]
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    assert set(saved["test_errors"][:3]) <= set(wrong[np.argsort(-share[wrong].max(1))][:6])
    test = load_dataset(config.dataset, 8, data_root()).test
    assert np.array_equal(saved["test_errors_pixels"], test.images_NCHW[saved["test_errors"]].numpy())
    found = read_insight(files, "test")
    assert {words: len(place) for words, place in found.maps.items()} == dict.fromkeys(LAYERS.values(), len(found.labels))
    monkeypatch.setattr(insight, "_FEWEST", len(found.labels) + 1)
    assert read_insight(files, "test").maps == {}  # too few to be drawn as a map
    assert found.filters.shape[1:] == (1, 3, 3)
    assert found.wrong[0].confidence == pytest.approx(share[saved["test_errors"][0]].max(), abs=0.01)
    extra = sum(
        saved[key].nbytes for key in saved if "logits" not in key and "labels" not in key and not key.endswith("_index")
    )
    assert extra < 200_000
    page = write_trial_page(*_page_arguments(layout, config), layout).read_text()
    assert "Most confidently wrong" in page
    assert not any(title in page for title in ("First-layer filters", "How layers tell"))  # 3 x 3 pixels; 144 images


def test_members_of_a_cohort_leave_what_each_alone_leaves(layout, tmp_path):
    cohort = [digits_config(epochs=2, freeze=freeze, lr=lr) for freeze, lr in ((0, 0.1), (1, 0.1), ("all", 0.1), ("all", 0.02))]
    run_job(job_of(*cohort, together=True), layout, executor="inline")
    for config in cohort:
        run_job(job_of(config), Layout(tmp_path), executor="inline")
        together, alone = (np.load(one.trial(config.trial_id).predictions) for one in (layout, Layout(tmp_path)))
        assert set(together) == set(alone)
        assert all(np.array_equal(together[key], alone[key]) for key in alone)


def test_a_trial_of_an_older_version_has_a_page_without_them_and_a_corrupt_one_is_named(layout):
    (config,) = configs(1, 1, 2)
    write_trial(layout, config, Images.draw(60, 20))
    found = read_insight(layout.trial(config.trial_id), "test")
    assert (found.filters, found.maps, found.wrong) == (None, {}, ())
    page = write_trial_page(*_page_arguments(layout, config), layout).read_text()
    assert "Confusion matrix" in page and "First-layer filters" not in page
    path = layout.trial(config.trial_id).predictions
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RecordError, match=r"predictions\.npz"):
        read_insight(layout.trial(config.trial_id), "test")


def _page_arguments(layout, config):
    pool = scan(layout)
    return pool, *diagnose_trial(pool, config.trial_id, layout)
