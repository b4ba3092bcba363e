"""A sweep in stages through the commands: parents before children, failures that are inherited, a sweep that goes on."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.train.member import Member
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of
from tests.test_cli_sweep import call, results

SPEC = """\
name: two
dataset: {name: digits, train_size: 200, val_frac: 0.2}
base: {arch: simple_cnn, epochs: 1, batch_size: 64}
seeds: 2
stages:
  pretrain: {base: {lr: 0.05}}
  finetune: {base: {weights: {stage: pretrain}, lr: 0.01}, grid: {freeze: [2, all]}}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "two.yaml"
    path.write_text(SPEC)
    return path


def rows(*terms: str) -> list[dict]:
    return json.loads(call("status", "two", *terms, "--format", "json").stdout)


def test_children_start_from_what_their_parents_learned_and_a_second_sweep_starts_nothing(spec):
    dry = call("sweep", spec, "--dry-run")
    assert "stage     pretrain: 2 planned" in dry.stdout and "stage     finetune: 4 planned" in dry.stdout
    done = call("sweep", spec, "--on", "inline")
    assert done.exit_code == 0 and "6 of 6 trials finished" in done.stderr, done.output
    assert "best configuration: stage=finetune" in done.stderr
    before = results()
    assert len(before) == 6
    layout = Layout(results_root())
    assert "pretrain" in {row["stage"] for row in rows() if layout.trial(row["trial_id"]).weights.exists()}
    again = call("sweep", spec, "--on", "inline")
    assert again.exit_code == 0 and "nothing to start" in again.stderr and results() == before
    assert len(rows("stage=finetune", "freeze=all")) == 2
    report = call("report", "two", "--format", "json")
    exported = call("report", "two", "--export", "tensorboard")
    assert "Stage pretrain, from which others start, is not among the rows" in " ".join(exported.stderr.split())
    told = (
        "Stage pretrain, from which others start, is not among the rows (2 of 2 trials finished), nor in the cost of these its"
    )
    assert f"{told} under 0.01 hours on CPU: stage=pretrain shows it." in report.stderr
    points = json.loads(report.stdout)
    assert [point["seeds"] for point in points] == [2] * 2, "each seed of a point has its own parent"
    told = [read_record(layout.trial(trial_id).result, TrialResult) for trial_id in before]
    parents = [result.train_s for result in told if result.config["weights"] is None]
    assert [point["before_s"] for point in points] == [pytest.approx(sum(parents) / 2)] * 2
    assert len(json.loads(call("report", "two", "stage=pretrain", "--format", "json").stdout)) == 1
    none = " ".join(call("report", "two", "lr=0.05").stderr.split())
    assert none.endswith("; stage pretrain, from which others start, is looked into with stage=pretrain")


def test_a_child_that_was_trained_before_by_its_parents_id_is_in_the_point_of_its_seeds(spec):
    layout, trials = Layout(results_root()), [trial.config for trial in load_spec(spec).trials]
    parent = next(config for config in trials if config.weights is None)
    child = next(config for config in trials if config.weights == f"trial/{parent.trial_id}")
    assert child.weights_point is not None
    run_job(job_of(parent, dataclasses.replace(child, weights_point=None)), layout, executor="inline")
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    assert [point["seeds"] for point in json.loads(call("report", "two", "--format", "json").stdout)] == [2] * 2


def test_children_of_a_failed_parent_fail_with_its_reason_until_that_is_mended_and_the_rest_go_on(spec, monkeypatch):
    end_epoch = Member.end_epoch

    def broken(member, *rest):
        if member.config.weights is None and member.config.seed == 1:
            raise RuntimeError("no such luck")
        return end_epoch(member, *rest)

    monkeypatch.setattr(Member, "end_epoch", broken)
    assert call("sweep", spec, "--on", "inline").exit_code == 1
    assert [row["status"] for row in rows("seed=0")] == ["completed"] * 3
    assert [row["status"] for row in rows("seed=1")] == ["failed"] * 3
    assert all("from which this one starts, failed: RuntimeError: no such luck" in r["reason"] for r in rows("seed=1")[1:])
    assert call("sweep", spec, "--on", "inline").exit_code == 1, "a failure stays one"
    for child in rows("seed=1")[1:]:  # as where the spec has grown since
        Layout(results_root()).trial(child["trial_id"]).error.unlink()
    assert "to start  none" in call("sweep", spec, "--dry-run").stdout
    assert call("sweep", spec, "--on", "inline").exit_code == 1
    monkeypatch.setattr(Member, "end_epoch", end_epoch)
    child = rows("seed=1", "freeze=2")[0]["trial_id"]
    retried = call("retry", "two", child, "--on", "inline")  # its parent has to be tried again for it
    assert retried.exit_code == 1 and "to go on: cifar-hpc sweep" in retried.stderr, retried.output
    assert [row["status"] for row in rows("seed=1")] == ["completed", "completed", "planned"], "what was not meant can go on"
    assert call("sweep", spec, "--on", "inline").exit_code == 0


def test_a_parent_of_an_earlier_sweep_that_kept_no_weights_is_told_before_anything_starts(spec):
    alone = spec.with_name("alone.yaml")
    text = SPEC[: SPEC.index("stages:")].replace("two", "alone").replace("epochs: 1", "lr: 0.05, epochs: 1")
    alone.write_text(f"{text}keep: null\n")
    assert call("sweep", alone, "--on", "inline").exit_code == 0
    told = call("sweep", spec, "--on", "inline")
    assert told.exit_code == 2 and "kept no weights; `cifar-hpc reproduce" in told.stderr
    for parent in results():
        assert call("reproduce", parent).exit_code == 0
    assert call("sweep", spec, "--on", "inline").exit_code == 0
