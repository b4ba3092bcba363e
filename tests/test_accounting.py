"""GPU-hours and efficiency of a sweep by the cluster's own accounting, from a scripted sacct."""

from __future__ import annotations

import dataclasses
import re

import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc.cli import app
from cifar_hpc.executors.slurm.accounting import Allocation, parse_allocations
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import append_records, read_record, utc_now, write_record
from cifar_hpc.records.usage import Usage
from cifar_hpc.spec.load import load_spec
from tests.helpers.scripted_slurm import ScriptedSlurm

LINES = """\
1000|COMPLETED|3600|4|billing=4,cpu=4,gres/gpu:a100=2,gres/gpu=2,mem=8G,node=1
1001_3|REQUEUED|1800|4|billing=4,cpu=4,gres/gpu:a100=1,mem=8G,node=1
1002|CANCELLED by 0|0|0|
no line of sacct
1003|RUNNING|0|4|cpu=4,gres/gpu=1
1004_[0-3%2]|FAILED|60|4|cpu=4
"""


def test_every_start_counts_with_its_gpus_and_what_never_began_does_not():
    assert parse_allocations(LINES) == [
        Allocation("1000", "COMPLETED", 3600, 4, 2),
        Allocation("1001", "REQUEUED", 1800, 4, 1),
        Allocation("1003", "RUNNING", 0, 4, 1),
        Allocation("1004", "FAILED", 60, 4, None),
    ]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A sweep of one finished trial that a scripted cluster ran; how often its sacct was called."""
    slurm = ScriptedSlurm(tmp_path / "slurm").install(monkeypatch)
    _sacct(slurm, LINES.splitlines()[0])
    (tmp_path / "s.yaml").write_text("name: s\ndataset: digits\nbase: {arch: linear}\n")
    plan = make_plan(load_spec(tmp_path / "s.yaml"))
    layout, (trial,) = Layout(results_root()), plan.trials
    write_trial(layout, trial, Images.draw(50, 10))
    files = layout.trial(trial.trial_id)
    result = dataclasses.replace(read_record(files.result, TrialResult), executor="slurm", train_s=900.0, job="s/job-0001")
    write_record(files.result, result)
    write_record(layout.sweep("s").plan, plan_record(plan))
    event = JobEvent(
        at=utc_now(), event="submitted", job_id="job-0001", trial_ids=(trial.trial_id,), executor="slurm", handle="1000_0@alps"
    )
    append_records(layout.sweep("s").jobs, [event])
    return slurm


def _sacct(slurm: ScriptedSlurm, text: str, status: int = 0) -> None:
    script = f'#!/bin/bash\necho "sacct $*" >> {slurm.folder}/calls\ncat <<"END"\n{text}\nEND\nexit {status}\n'
    (slurm.folder / "sacct").write_text(script)
    (slurm.folder / "sacct").chmod(0o755)


def _run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_status_tells_gpu_hours_and_efficiency_and_asks_once_after_all_has_ended(asked):
    for _ in range(2):
        assert "cluster    2.0 GPU-hours and 4.0 CPU-hours in 1 start of jobs, 25 % of that time in training" in _run(
            "status", "s"
        )
    assert asked.calls("sacct") == 1
    assert "-j 1000 " in (asked.folder / "calls").read_text()


def test_where_the_accounts_leave_gpus_out_the_workers_own_word_counts(asked):
    _sacct(asked, "1000_0|COMPLETED|3600|4|billing=4,cpu=4,mem=8G,node=1")
    usage = Usage(task="1000_0@alps", restarts=0, seconds=3500.0, gpus=2, cpus=4)
    append_records(Layout(results_root()).sweep("s").usage, [usage])
    assert "cluster    2.0 GPU-hours and 4.0 CPU-hours in 1 start of jobs" in _run("status", "s")


def test_what_another_sweeps_job_trained_is_none_of_this_ones_efficiency(asked):
    (trial_id,) = Layout(results_root()).trial_ids()
    path = Layout(results_root()).trial(trial_id).result
    write_record(path, dataclasses.replace(read_record(path, TrialResult), job="other/job-0001"))
    assert "in 1 start of jobs, 0 % of that time in training" in _run("status", "s")


def test_what_jobs_trained_counts_though_it_left_the_spec_since(asked, tmp_path):
    (tmp_path / "s.yaml").write_text("name: s\ndataset: digits\nbase: {arch: linear, lr: 0.123}\n")
    write_record(Layout(results_root()).sweep("s").plan, plan_record(make_plan(load_spec(tmp_path / "s.yaml"))))
    assert "in 1 start of jobs, 25 % of that time in training" in _run("status", "s")


def test_where_trials_train_at_the_same_time_in_a_job_no_share_of_its_time_is_claimed(asked):
    (trial_id,) = Layout(results_root()).trial_ids()
    path = Layout(results_root()).trial(trial_id).result
    write_record(path, dataclasses.replace(read_record(path, TrialResult), task="slurm/1000_0@alps/1"))
    assert "cluster    2.0 GPU-hours and 4.0 CPU-hours in 1 start of jobs\n" in _run("status", "s")


def test_the_report_tells_them_too(asked):
    assert "The cluster counted for s: 2.0 GPU-hours and 4.0 CPU-hours in 1 start of jobs" in _run("report", "s")


def test_once_no_trial_goes_on_what_was_counted_while_one_did_is_not_the_last_word(asked):
    _sacct(asked, LINES.splitlines()[0].replace("COMPLETED", "RUNNING").replace("3600", "1200"))
    assert "and 1.3 CPU-hours in 1 start of jobs, 75 % of that time in training, as of " in _run("status", "s")
    _sacct(asked, LINES.splitlines()[0])
    assert "and 4.0 CPU-hours in 1 start of jobs, 25 % of that time in training\n" in _run("status", "s")


def test_the_page_that_watch_leaves_tells_what_the_cluster_counted_in_the_end(asked):
    assert "2.0 GPU-hours and 4.0 CPU-hours in 1 start" in _run("report", "s", "--watch")


def test_while_jobs_run_the_cluster_is_asked_once_a_minute(asked):
    (trial_id,) = Layout(results_root()).trial_ids()
    Layout(results_root()).trial(trial_id).result.unlink()
    (asked.folder / "jobs").write_text("1000 0 1 s\n")
    _sacct(asked, LINES.splitlines()[0].replace("COMPLETED", "RUNNING"))
    for _ in range(3):
        assert re.search(r" of that time in training, as of [-0-9]{10} [:0-9]{8} UTC\n", _run("status", "s"))
    assert asked.calls("sacct") == 1


def test_what_waits_for_its_first_start_is_no_start(asked):
    _sacct(asked, "1000|PENDING|0|4|cpu=4")
    assert "cluster" not in _run("status", "s")
    _sacct(asked, "1000|RUNNING|1|4|cpu=4\n1000_[1-3%2]|PENDING|0|4|cpu=4")
    assert "cluster    under 0.01 CPU-hours in 1 start of jobs" in _run("status", "s")


def test_a_cluster_without_accounting_says_nothing(asked):
    _sacct(asked, "Slurm accounting storage is disabled", status=1)
    assert "cluster" not in _run("status", "s") and "s: " in _run("status", "s")
