"""Validation images that trained what a trial starts from: said before it trains and wherever it is ranked."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cifar_hpc.collect.ensemble_pool import make_ensembles
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.preflight import seen_before
from tests.test_cli_sweep import call

STAGES = """\
name: two
dataset: {name: digits, train_size: 300}
base: {arch: simple_cnn, epochs: 1, batch_size: 64}
seeds: 3
stages:
  pre: {dataset: {name: digits, train_size: 300, split_seed: 1}, base: {lr: 0.1, epochs: 3}}
  tune: {base: {lr: 0.001}, grid: {weights: [{stage: pre}, null]}}
"""
BY_ID = """\
name: by_id
dataset: {name: digits, train_size: 300}
base: {arch: simple_cnn, epochs: 1, batch_size: 64, lr: 0.001}
grid: {weights: [{trial: ID}, null]}
folds: 3
"""
FLATTERS = "3 of 6 trials may validate with images that a parent trained on, which flatters them"
TOLD = "1 configuration is validated with images that a network from which it starts may have trained on"


def trained(name: str, text: str) -> tuple[str, str]:
    """What the dry run, and what the sweep says."""
    path = results_root().parent / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    dry, done = call("sweep", path, "--dry-run"), call("sweep", path, "--on", "inline")
    assert dry.exit_code == done.exit_code == 0, done.output
    return " ".join(dry.stderr.split()), " ".join(done.stderr.split())


def check(name: str) -> None:
    """No best, no better, no place; on the page, in the table, in CSV and JSON."""
    shown = call("report", name)
    said = " ".join(shown.stderr.split())
    assert TOLD in said and "Best: " not in said and "Better than" not in said
    assert "3 on images seen before" in call("report", name, "--format", "md").stdout  # which no width folds
    assert "was not tested against it: validated with images that what it starts from may have trained on" in said
    rows = {row["weights"]: row for row in json.loads(call("report", name, "--format", "json").stdout)}
    assert [row["val_seen"] for row in rows.values() if row["weights"]] == [3]
    assert [row["place"] for row in rows.values() if row["weights"]] == [None]
    assert rows[None]["val_seen"] == 0
    page = (results_root() / name / "report" / "index.html").read_text()
    assert TOLD in page and "3 on images seen before" in page and "Better than" not in page


def test_who_starts_from_a_network_that_saw_its_validation_images_is_called_neither_best_nor_better() -> None:
    """Of a stage of the sweep, and of a trial of the pool, which folds never spare."""
    dry, said = trained("two", STAGES)
    assert FLATTERS in dry and FLATTERS in said
    assert "best configuration: stage=tune weights=none given" in said
    check("two")
    assert "3 trials (validated with images that what it starts from" in " ".join(call("soup", "two").stderr.split())
    results = [
        read_record(Layout(results_root()).trial(trial_id).result, TrialResult)
        for trial_id in Layout(results_root()).trial_ids()
    ]
    parent = next(result.trial_id for result in results if result.config["dataset"]["split_seed"] == 1)
    dry, said = trained("by_id", BY_ID.replace("ID", parent))
    assert FLATTERS in dry and FLATTERS in said
    check("by_id")
    compared = call("compare", "two#1", "two#2")
    assert "no paired test" in " ".join(compared.stderr.split()) and "test accuracy: " in compared.stderr


def test_who_saw_its_validation_images_is_in_no_ensemble_and_its_refit_says_that_its_number_is_flattered() -> None:
    trained("two", STAGES)
    layout = Layout(results_root())
    (section,) = chosen_sections(layout, ["two"], "")
    seen = {trial_id for row in section.board.rows if row.seen for trial_id in row.trial_ids}
    found = make_ensembles(section.board, layout)
    assert found is not None and found.left_out[0].startswith("3 trials (validated with images that what it starts from")
    members = {member.trial_id for one in found.measured for member in one.record.members}
    assert len(seen) == 3 and members and seen.isdisjoint(members)
    refit = " ".join(call("refit", "two weights=pre", "--on", "inline").stderr.split())
    assert "the number by which it is the best is flattered" in refit and "fewer than three seeds" not in refit


def test_stages_of_one_split_and_of_the_same_folds_are_measured_on_new_images(tmp_path) -> None:
    path, one_split = tmp_path / "two.yaml", STAGES.replace(", split_seed: 1", "")
    for text in (one_split, one_split.replace("seeds: 3", "folds: 3")):
        path.write_text(text)
        assert not seen_before(Layout(results_root()), load_spec(path))


@pytest.mark.parametrize(
    ("own", "other", "may"),
    [
        ({}, {}, False),
        ({}, {"split_seed": 1}, True),
        ({"folds": 3, "fold": 1}, {}, True),
        ({"folds": 3, "fold": 1}, {"folds": 3, "fold": 1}, False),
        ({"folds": 3, "fold": 1}, {"folds": 3, "fold": 2}, True),
        ({"val_frac": 0.0}, {}, False),  # a refit is validated with nothing
        ({}, {"val_frac": 0.0}, True),  # and trained on what others hold out
        ({"classes": ("1",)}, {"classes": ("2",)}, False),
        ({"classes": ("1", "2")}, {"classes": ("2",)}, True),
        ({}, {"name": "mnist"}, False),
        ({"folder": "a", "fingerprint": "1"}, {"folder": "a", "fingerprint": "2"}, True),  # one photo more
        ({"folder": "a", "fingerprint": "1"}, {"folder": "b", "fingerprint": "2"}, False),
        ({"folder": "a", "fingerprint": "1"}, {"folder": "b", "fingerprint": "1", "split_seed": 1}, True),  # moved
        ({"fingerprint": "a", "own_val": 9, "train_size": 5}, {"fingerprint": "a", "own_val": 9}, False),
        ({"fingerprint": "a", "own_val": 9}, {"fingerprint": "a", "own_val": 9, "folds": 3, "fold": 1}, True),
    ],
)
def test_what_one_split_holds_out_another_may_have_trained_on(own: dict, other: dict, may: bool) -> None:
    base = DatasetConfig(name="digits")
    one, two = (dataclasses.replace(base, **keys) for keys in (own, other))
    assert one.may_validate_with_images_of(two) is may
