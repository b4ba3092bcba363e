"""Soups: who may go in, what comes out, and that it answers as a network of its own."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.pool import write_plan
from cifar_hpc.cli import app
from cifar_hpc.collect.ensemble_pool import make_ensembles
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root
from cifar_hpc.deploy.soup import choose_greedily, kin_of, mean_state, nested_accuracy
from cifar_hpc.models.loading import read_weights
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of

MEMBERS = {  # which of eight images the mean of these members has right
    (0,): "11110000",
    (1,): "11100000",
    (2,): "11000000",
    (3,): "10000001",
    (0, 1): "11110001",
    (0, 2): "11110000",
    (0, 1, 2): "00000000",
    (0, 1, 3): "11110011",
}


def right(chosen):
    return np.array([letter == "1" for letter in MEMBERS[chosen]])


def test_a_member_joins_where_accuracy_on_the_seen_images_does_not_fall():
    everything = np.ones(8, bool)
    assert choose_greedily(right, 4, everything) == (0, 1, 3)  # 2 would lose all
    assert choose_greedily(lambda chosen: np.ones(8, bool), 3, everything) == (0, 1, 2)


def test_greedys_accuracy_is_of_images_that_did_not_choose_it():
    """Thirty members that have 70 % each, and no soup of which is any good: the best one of the seen images is of no use."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        alone = rng.random((30, 200)) < 0.7
        alone = alone[np.argsort(-alone.mean(1), kind="stable")]  # the best of all images first, as members come

        def right_of(chosen, alone=alone):
            return alone[chosen[0]] & (len(chosen) == 1)

        found.append(nested_accuracy(lambda seen, right=right_of: right(choose_greedily(right, 30, seen)), 200))
    assert np.mean(found) == pytest.approx(0.7, abs=0.01)


def test_the_best_on_the_seen_images_is_the_first_to_go_in():
    last_four = np.arange(8) >= 4
    assert choose_greedily(lambda chosen: right(chosen) if len(chosen) == 1 else right((2,)), 4, last_four) == (3,)


def test_weights_are_averaged_and_counters_kept():
    states = [{"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(5)}, {"w": torch.tensor([2.0, 5.0]), "n": torch.tensor(7)}]
    mean = mean_state(states)
    assert mean["w"].tolist() == [1.5, 4.0] and mean["n"].item() == 5


def test_trials_are_kin_only_with_one_start():
    start = digits_config(weights="trial/aaaaaaaaaaaa")
    assert kin_of(start) == kin_of(digits_config(weights="trial/aaaaaaaaaaaa", lr=0.5, freeze=1, seed=3))
    assert kin_of(start) != kin_of(digits_config(weights="trial/bbbbbbbbbbbb"))
    assert kin_of(digits_config()) is None
    files = [digits_config(weights="/here/w.pt", weights_fingerprint=digest) for digest in "ab"]
    assert kin_of(files[0]) != kin_of(files[1])  # another file under the same name
    others = [dataclasses.replace(files[0], arch="net.py:Net", arch_args=(("act", act),)) for act in ("relu", "sin")]
    assert kin_of(others[0]) != kin_of(others[1])  # weights of one would be read by the other's function


@pytest.fixture(scope="module")
def trained_family(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("family") / "results")
    parent = digits_config(keep="weights", epochs=3)
    run_job(job_of(parent), layout, executor="inline")
    children = [digits_config(keep="weights", weights=f"trial/{parent.trial_id}", lr=lr, epochs=2) for lr in (0.02, 0.05)]
    for config in (*children, digits_config(keep="weights", seed=5)):
        run_job(job_of(config), layout, executor="inline")
    return layout, children


@pytest.fixture
def family(trained_family):
    """Two children of one parent that kept their weights, and a stranger."""
    layout, children = trained_family
    shutil.copytree(layout.root, results_root())
    return Layout(results_root()), children


def test_soups_of_a_family_are_measured_kept_and_label_images(family, tmp_path):
    layout, children = family
    run = CliRunner()
    made = run.invoke(app, ["soup", "--format", "csv"])
    assert made.exit_code == 0, made.output
    folder = layout.report / "soups"
    states = [read_weights(layout.trial(child.trial_id).weights).state for child in children]
    soup = read_weights(folder / "uniform" / "weights.safetensors").state
    for key in soup:
        assert torch.allclose(soup[key].float(), (states[0][key].float() + states[1][key].float()) / 2, atol=1e-6)
    record = json.loads((folder / "uniform.json").read_text())
    assert {member["trial_id"] for member in record["members"]} == {child.trial_id for child in children}
    saved = np.load(folder / "uniform" / "predictions.npz")
    assert (saved["test_logits"].argmax(1) == saved["test_labels"]).mean() == record["test_acc"] > 0.5
    told = {row["soup"]: row for row in csv.DictReader(io.StringIO(made.stdout))}
    assert {row["most_accurate"] for row in told.values()} < {child.trial_id for child in children}, "whose soup it is"
    assert float(told["uniform"]["test_acc"]) == record["test_acc"] and told["most accurate member"]["file"] == ""
    (tmp_path / "pictures").mkdir()
    test = load_dataset(children[0].dataset, 8, data_root()).test
    for i, image in enumerate(test.images_NCHW[:20]):
        Image.fromarray(image[0].numpy()).save(tmp_path / "pictures" / f"{i:02d}.png")
    rows = list(
        csv.DictReader(
            io.StringIO(run.invoke(app, ["predict", str(folder / "uniform.json"), str(tmp_path / "pictures")]).stdout)
        )
    )
    assert [int(row["label"]) for row in rows] == saved["test_logits"][:20].argmax(1).tolist()
    assert run.invoke(app, ["report"]).exit_code == 0
    assert "uniform soup" in (layout.report / "tables" / "ensembles.csv").read_text()


def test_each_soup_of_several_starts_has_a_name_that_predict_and_export_take_and_says_whose_it_is(family, tmp_path):
    layout, children = family
    parent = digits_config(keep="weights", epochs=2, seed=7)
    others = [digits_config(keep="weights", weights=f"trial/{parent.trial_id}", lr=lr, epochs=1) for lr in (0.02, 0.05)]
    for config in (parent, *others):
        run_job(job_of(config), layout, executor="inline")
    write_plan(layout, [*children, *others], "photos")
    (tmp_path / "pictures").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "1.png")
    run, written = CliRunner(), tmp_path / "written.safetensors"
    for flags, many in (([], 4), (["--wise"], 2)):
        made = run.invoke(app, ["soup", "photos", "--format", "json", *flags])
        files = {row["name"]: Path(row["file"]) for row in json.loads(made.stdout) if row["name"]}
        assert len(files) == many and all(name.startswith("photos/") for name in files)
        for name, file in files.items():
            labelled = run.invoke(app, ["predict", name, str(tmp_path / "pictures")])
            assert labelled.exit_code == 0 and labelled.stdout.startswith("id,label"), labelled.output
            exported = run.invoke(app, ["export", name, "-o", str(written)])
            assert exported.exit_code == 0, exported.output
            soup = read_weights(file.with_suffix("") / "weights.safetensors").state
            assert all(torch.equal(value, soup[key]) for key, value in read_weights(written).state.items())
    assert run.invoke(app, ["export", "photos/wise-1"]).stdout.strip() == str(layout.root / "photos" / "wise-1.safetensors")
    assert run.invoke(app, ["soup", "photos"]).stdout.count("photos/soup-uniform-") == 2
    assert run.invoke(app, ["report", "photos"]).exit_code == 0
    table = (layout.sweep("photos").report / "tables" / "ensembles.csv").read_text()
    assert len(set(re.findall(r"uniform soup \(best member: #\d, seed 0\)", table))) == 2
    several = run.invoke(app, ["export", "photos/uniform"])
    assert several.exit_code == 2 and "export its networks one by one (" in several.stderr


def test_a_soup_of_trials_that_left_the_table_is_not_in_its_report(family):
    layout, children = family
    assert CliRunner().invoke(app, ["soup"]).exit_code == 0
    board = make_leaderboard(scan(layout))
    assert len(make_ensembles(board, layout, soups=layout.report / "soups").soups) == 2
    seen = tuple(dataclasses.replace(row, seen=row.point_id == children[-1].point_id) for row in board.rows)
    assert not make_ensembles(dataclasses.replace(board, rows=seen), layout, soups=layout.report / "soups").soups
    gone = {children[-1].point_id}
    fewer = dataclasses.replace(board, rows=tuple(row for row in board.rows if row.point_id not in gone))
    left = make_ensembles(fewer, layout, soups=layout.report / "soups")
    if left is not None:
        assert not left.soups and any("trial not in this table;" in reason for reason in left.left_out)


def test_a_trial_whose_predictions_contradict_its_result_is_in_no_soup(family):
    layout, children = family
    path = layout.trial(children[0].trial_id).predictions
    with np.load(path) as saved:
        turned = {key: np.roll(saved[key], 1, axis=1) if key == "val_logits" else saved[key] for key in saved}
    np.savez(path, **turned)
    told = CliRunner().invoke(app, ["soup"])
    assert told.exit_code == 2 and "left out: 1 trial whose predictions contradict the result" in told.stderr


def test_soups_made_again_take_the_place_of_all_that_were_there(family, monkeypatch):
    layout, _ = family
    folder = layout.report / "soups"
    folder.mkdir(parents=True)
    (folder / "uniform-7.json").write_text("{}")  # of seven families, once
    with monkeypatch.context() as patched:
        patched.setattr("cifar_hpc.deploy.soup.make_soups", lambda _: 1 / 0)
        assert CliRunner().invoke(app, ["soup"]).exit_code != 0
    assert [path.name for path in folder.parent.iterdir()] == ["soups"] and (folder / "uniform-7.json").exists()
    assert CliRunner().invoke(app, ["soup"]).exit_code == 0
    assert {path.name for path in folder.iterdir()} == {"uniform", "uniform.json", "greedy", "greedy.json"}


def test_without_kin_that_kept_their_weights_it_says_what_to_do():
    run_job(job_of(digits_config(keep="weights")), Layout(results_root()), executor="inline")
    answer = CliRunner().invoke(app, ["soup"])
    assert answer.exit_code == 2 and "kept weights, one pretrained start and the same images: `keep: weights`" in answer.stderr
