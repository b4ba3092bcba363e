"""`logs -f`: what it says of trials as they go on."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc.cli import app
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.claims import claim_trial, release_claim
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EpochRecord, ErrorRecord
from cifar_hpc.records.store import append_records, write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.logs import Told
from cifar_hpc.status.progress import Counts
from cifar_hpc.status.state import SweepReader, read_states

SPEC = "name: s\ndataset: {name: digits, train_size: 200}\nbase: {arch: linear, epochs: 3}\ngrid: {lr: [0.1, 0.2, 0.3]}\n"


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "s.yaml").write_text(SPEC)
    plan = plan_record(make_plan(load_spec(tmp_path / "s.yaml")))
    layout = Layout(results_root())
    write_record(layout.sweep("s").plan, plan)
    return layout, SweepReader(layout, plan)


def _error(trial_id: str) -> ErrorRecord:
    about = {"attempt": 1, "kind": "ValueError", "traceback": "", "host": "n1", "job": "s/job-0001"}
    return ErrorRecord(trial_id=trial_id, message="no such luck", failed_at="2026-01-01T00:00:00Z", **about)


def test_following_says_each_epoch_each_printed_line_and_the_end_once(sweep):
    layout, reader = sweep
    _, runs, failed = reader.plan.trials
    write_record(layout.trial(failed.trial_id).error, _error(failed.trial_id))
    event = {"at": "2026-01-01T00:00:00Z", "event": "submitted", "job_id": "job-0001", "executor": "slurm", "handle": "77_1"}
    append_records(layout.sweep("s").jobs, [JobEvent(trial_ids=(runs.trial_id,), **event)])
    files, log = layout.trial(runs.trial_id), layout.sweep("s").array("s-1").folder / "77_1_0_log.out"
    log.parent.mkdir(parents=True)
    log.write_text("printed before anybody looked\n")
    claim = claim_trial(files, runs.trial_id, "s/job-0001")
    told = Told(layout, reader.plan.trials)

    def news(*epochs: int) -> list[str]:
        numbers = {
            "lr": 0.1,
            "train_loss": 1.0,
            "train_acc": 0.5,
            "val_loss": 0.25,
            "val_acc": 0.5,
            "train_s": 3.0,
            "val_s": 1.0,
        }
        append_records(files.metrics, [EpochRecord(epoch=epoch, **numbers) for epoch in epochs])
        return list(told.news(reader.read()))

    (line,) = news(1, 2)
    assert line.endswith("lr=0.2  epoch 2/3  train loss 1.0000  val loss 0.2500  val acc 50.00 %")
    assert news() == []
    with log.open("a") as stream:
        stream.write("a warning\nhalf a li")
    assert [line.split("  ", 3)[-1] for line in news(3)][1:] == ["77_1_0_log.out: a warning"]
    write_record(files.error, _error(runs.trial_id))
    release_claim(files, claim)
    (line,) = news()
    assert line.endswith("lr=0.2  failed: ValueError: no such luck")
    assert news() == []


def test_following_ends_where_nothing_runs_and_a_trial_of_no_sweep_is_not_followed(sweep):
    assert CliRunner().invoke(app, ["logs", "s", "-f"]).exit_code == 0
    trial_id = sweep[1].plan.trials[0].trial_id
    assert CliRunner().invoke(app, ["logs", trial_id[:9], "-f"]).exit_code == 0  # its sweep is known
    sweep[0].trial("nosweephasit").folder.mkdir(parents=True)
    refused = CliRunner().invoke(app, ["logs", "nosweephasit", "-f"])
    assert refused.exit_code == 2 and "no sweep has the trial" in refused.output


def test_a_classifier_that_is_fitted_counts_with_no_epoch(tmp_path):
    text = "name: f\ndataset: {name: digits, train_size: 200}\nbase: {arch: linear, epochs: 3}\n"
    (tmp_path / "f.yaml").write_text(text + "grid: {classifier: [linear, logreg]}\n")
    layout, plan = Layout(results_root()), make_plan(load_spec(tmp_path / "f.yaml"))
    shown = CliRunner().invoke(app, ["sweep", str(tmp_path / "f.yaml"), "--dry-run", "--on", "inline"]).stdout
    assert "to start  2 trials in 1 job, at most 3 epochs" in shown
    record = plan_record(plan)
    write_record(layout.sweep("f").plan, record)
    for config in plan.trials:
        write_trial(layout, config, Images.draw(20, 10), sweep="f")
    states = read_states(layout, [trial.trial_id for trial in record.trials], [record])
    assert str(Counts.of(record, states)) == "2/2 trials, 3/3 epochs"
    alone = dataclasses.replace(record, trials=record.trials[1:])
    assert str(Counts.of(alone, {alone.trials[0].trial_id: states[alone.trials[0].trial_id]})) == "1/1 trials"
    rows = json.loads(CliRunner().invoke(app, ["status", "f", "--format", "json"]).stdout)
    assert [row["epochs_done"] for row in rows] == [3, None]
    assert "finished on" in CliRunner().invoke(app, ["logs", record.trials[1].trial_id]).stdout
