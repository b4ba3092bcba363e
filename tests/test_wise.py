"""`soup --wise`: the curve between a start and what came of it, its best point by validation, test measured there alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.deploy.soup import nested_accuracy
from cifar_hpc.deploy.trained import load_trained
from cifar_hpc.deploy.wise import ALPHAS, between, choose
from cifar_hpc.models.zoo import network_of
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of


def test_of_equal_points_the_one_nearest_to_the_tuned_network_is_chosen_and_judged_on_other_images():
    right = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, 1]], bool)
    assert choose(right) == 2
    assert nested_accuracy(lambda seen: right[choose(right[:, seen])], 4) == 1 / 4  # even images choose 2, odd ones 3
    begun, tuned = ({"w": torch.tensor([w]), "n": torch.tensor(n)} for w, n in ((1.0, 3), (2.0, 9)))
    assert between(begun, tuned, 0.25) == {"w": torch.tensor([1.25]), "n": torch.tensor(9)}


def test_the_curve_is_that_of_plain_networks_and_test_is_measured_at_one_point_of_it():
    layout = Layout(results_root())
    parent = digits_config(keep="weights", epochs=2)
    child = digits_config(keep="weights", weights=f"trial/{parent.trial_id}", lr=0.1, epochs=2, seed=3)
    run_job(job_of(parent, child), layout, executor="inline")
    made = CliRunner().invoke(app, ["soup", "--wise", "--format", "json"])
    assert made.exit_code == 0, made.output
    rows = json.loads(made.stdout)
    assert [row["alpha"] for row in rows] == list(ALPHAS) and {row["trial"] for row in rows} == {child.trial_id}
    (chosen,) = (row for row in rows if row["file"])
    assert chosen["val_acc"] == max(row["val_acc"] for row in rows)

    data, net = load_dataset_of(child, data_root()), network_of(child, 10, 1).eval()
    ends = [load_trained(layout.trial(one.trial_id)).model.state_dict() for one in (parent, child)]
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (data.mean, data.std))
    told = []
    for alpha in ALPHAS:
        net.load_state_dict({k: v if "num" in k else torch.lerp(ends[0][k], v, alpha) for k, v in ends[1].items()})
        accs = []
        for split in (data.val, data.test):
            with torch.no_grad():
                accs.append((net((split.images_NCHW / 255 - mean) / std).argmax(1) == split.labels_N).float().mean().item())
        told.append(accs)
    assert [row["val_acc"] for row in rows] == pytest.approx([acc for acc, _ in told], abs=0.013)  # one image of 80
    assert chosen["test_acc"] == pytest.approx(told[rows.index(chosen)][1], abs=0.006)
    folder = layout.report / "wise"
    assert {path.name for path in folder.iterdir()} == {"wise", "wise.json"} and chosen["file"] == str(folder / "wise.json")
    table = CliRunner().invoke(app, ["soup", "--wise"])
    assert table.exit_code == 0 and "nested" in table.stdout
    missing = CliRunner().invoke(app, ["soup", "--wise", f"seed={parent.seed}"])
    assert (
        missing.exit_code == 2
        and "none of these trials has a figure on validation, a pretrained start and kept weights" in missing.stderr
    )
