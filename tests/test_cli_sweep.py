"""`sweep` and the commands around it, on real trials of a second each."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.owners import boot_id, pid_started
from cifar_hpc.records.schema import Claim, ErrorRecord
from cifar_hpc.records.store import append_records, utc_now, write_record
from cifar_hpc.spec.load import load_spec

SPEC = """\
name: small
dataset: {name: digits, train_size: 200}
base: {arch: linear, epochs: 1, batch_size: 64}
grid: {lr: [0.01, 0.1]}
"""
PACKAGE = str(Path(__file__).parents[1])


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path / "data"))
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


def call(*arguments: str):
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)


def results() -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in results_root().glob("trials/*/result.json")}


def test_a_finished_sweep_starts_nothing_and_a_grown_one_only_what_is_new(spec):
    first = call("sweep", spec, "--on", "inline")
    assert first.exit_code == 0, first.output
    assert "2 of 2 trials finished" in first.stderr
    before = results()
    again = call("sweep", spec, "--on", "inline")
    assert again.exit_code == 0
    assert "nothing to start" in again.stderr
    assert "best configuration: lr=" in again.stderr
    assert "cifar-hpc report small" in again.stderr
    assert results() == before
    spec.write_text(SPEC.replace("[0.01, 0.1]", "[0.1, 0.5]"))
    dry = call("sweep", spec, "--dry-run")
    assert "to start  1 trial in 1 job," in dry.stdout
    assert "no longer in the spec: 1 trial " in dry.stderr
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    assert len(results()) == 3
    assert before.items() <= results().items()


def test_what_a_dry_run_says_of_sharing_is_of_what_would_start(spec):
    text = SPEC.replace("arch: linear", "arch: simple_cnn, freeze: all")
    spec.write_text(text.replace("[0.01, 0.1]", "[0.01, 0.1, 0.5]"))
    assert "see the images 1 time instead of 3" in call("sweep", spec, "--dry-run").stdout
    spec.write_text(text)
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    spec.write_text(text.replace("[0.01, 0.1]", "[0.01, 0.1, 0.5]"))
    assert "see the images" not in call("sweep", spec, "--dry-run").stdout


def test_a_finished_sweep_again_writes_no_file(spec):
    spec.write_text(SPEC.replace("grid: {", "grid: {augment: [none, [flip]], "))

    def files():
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in results_root().rglob("*")}

    assert call("sweep", spec, "--on", "inline").exit_code == 0
    before = files()
    again = call("sweep", spec, "--on", "inline")
    assert again.exit_code == 0 and "nothing to start" in again.stderr
    assert files() == before
    spec.write_text(f"# why\n{spec.read_text()}")
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    assert (results_root() / "small" / "spec.yaml").read_text() == spec.read_text()


def test_a_dry_run_writes_nothing(spec):
    assert call("sweep", spec, "--dry-run").exit_code == 0
    assert not results_root().exists()


def test_missing_data_is_told_with_the_fetch_line_before_anything_starts(spec):
    spec.write_text(SPEC.replace("digits", "cifar10"))
    told = call("sweep", spec)
    assert told.exit_code == 2
    assert "cifar-hpc fetch cifar10" in told.stderr
    assert not results_root().exists()


def test_a_failed_trial_stays_failed_until_it_is_retried(spec, monkeypatch):
    from cifar_hpc.worker import trainer

    build = trainer.build_member

    def broken(config, *rest):
        if config.lr == 0.1:
            raise RuntimeError("no such luck")
        return build(config, *rest)

    monkeypatch.setattr(trainer, "build_member", broken)
    assert call("sweep", spec, "--on", "inline").exit_code == 1
    monkeypatch.setattr(trainer, "build_member", build)
    again = call("sweep", spec, "--on", "inline")
    assert again.exit_code == 1
    assert "1 failed: RuntimeError: no such luck" in again.stderr
    assert "cifar-hpc retry small" in again.stderr
    status = call("status", "small")
    assert "1 completed, 1 failed" in status.stdout
    assert "1 x RuntimeError: no such luck" in status.stdout
    logs = call("logs", "small")
    assert "Traceback" in logs.stdout
    assert call("retry", "small", "lr=0.1", "--on", "inline").exit_code == 0
    assert "2 completed" in call("status", "small").stdout
    assert [json.loads(p.read_text())["attempts"] for p in results_root().glob("trials/*/result.json")].count(2) == 1
    assert (results_root() / "small" / "spec.yaml").read_text() == SPEC


@pytest.mark.parametrize("terms", [(), ("lr=0.1",)])
def test_retry_starts_what_failed_and_leaves_what_was_cancelled_or_never_begun(spec, monkeypatch, terms):
    spec.write_text(SPEC.replace("0.01", "0.01, 0.02"))
    plan, sweep = plan_record(make_plan(load_spec(spec))), Layout(results_root()).sweep("small")
    write_record(sweep.plan, plan)
    sweep.spec.write_text(spec.read_text())
    cancelled, _, failed = (trial.trial_id for trial in plan.trials)
    write_record(
        Layout(results_root()).trial(failed).error,
        ErrorRecord(
            trial_id=failed,
            attempt=0,
            kind="OSError",
            message="no such luck",
            traceback="",
            host="",
            job="",
            failed_at=utc_now(),
        ),
    )
    event = JobEvent(
        at=utc_now(), event="cancelled", job_id="job-0001", trial_ids=(cancelled,), executor="slurm", handle="7@alps"
    )
    append_records(sweep.jobs, [event])
    assert "1 planned, 1 failed, 1 cancelled" in call("status", "small").stdout
    again = call("retry", "small", *terms, "--on", "inline")
    assert "trains 1 of 3 trials" in again.stderr and again.exit_code == 1, again.output
    assert "1 planned, 1 completed, 1 cancelled" in call("status", "small").stdout
    assert "to go on: cifar-hpc sweep" in again.stderr
    assert call("sweep", spec, "--on", "inline").exit_code == 0


def test_status_gives_rows_for_programs_and_takes_filters_and_the_beginning_of_an_id(spec):
    call("sweep", spec, "--on", "inline")
    rows = json.loads(call("status", "small", "--format", "json").stdout)
    assert [row["lr"] for row in rows] == [0.01, 0.1]
    assert {row["status"] for row in rows} == {"completed"}
    assert json.loads(call("status", "small", "lr>0.05", "--format", "json").stdout) == rows[1:]
    assert json.loads(call("status", "small", rows[0]["trial_id"][:6], "--format", "json").stdout) == rows[:1]
    assert call("status", "small", "--format", "csv").stdout.splitlines()[0].startswith("trial_id,lr,status")
    wrong = call("status", "smal")
    assert wrong.exit_code == 2
    assert "Did you mean 'small'?" in wrong.stderr


@pytest.mark.parametrize("name", ["trials", "published", "report"])
def test_a_sweep_may_not_bear_the_name_of_a_folder_that_is_none(spec, name):
    spec.write_text(SPEC.replace("small", name))
    told = call("sweep", spec, "--dry-run")
    assert told.exit_code == 2
    assert f"name: '{name}'" in told.stderr


def test_another_spec_may_not_take_the_name_of_a_sweep_with_other_trials(spec, tmp_path):
    call("sweep", spec, "--on", "inline")
    other = tmp_path / "other.yaml"
    other.write_text(SPEC.replace("epochs: 1", "epochs: 2"))
    told = call("sweep", other, "--on", "inline")
    assert told.exit_code == 2
    assert "is taken by" in told.stderr


def test_cancel_stops_a_running_sweep_and_sweep_goes_on_where_it_was(spec):
    spec.write_text(SPEC.replace("epochs: 1", "epochs: 300").replace("[0.01, 0.1]", "[0.01]"))
    program = [sys.executable, "-m", "cifar_hpc", "sweep", str(spec), "--on", "inline"]
    with subprocess.Popen(program, env={**os.environ, "PYTHONPATH": PACKAGE}, stderr=subprocess.PIPE, text=True) as process:
        while not list(results_root().glob("trials/*/metrics.jsonl")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        assert "1 trial asked to stop" in call("cancel", "small").stderr
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert f"To go on: cifar-hpc sweep {spec} --on inline" in told, "where it ran, as it was typed"
    folder = Layout(results_root()).trial(Layout(results_root()).trial_ids()[0])
    assert folder.checkpoint.exists()
    before = len(folder.metrics.read_text().splitlines())
    assert "1 cancelled" in call("status", "small").stdout
    ended = call("sweep", spec, "--on", "inline")
    assert ended.exit_code == 0, ended.output
    record = json.loads(folder.result.read_text())
    assert record["attempts"] == 2
    assert len(record["curves"]) == 300 > before


@pytest.mark.parametrize("unwritable", [(".predictions.npz.", ".error.json."), (".predictions.npz.", ".claim-")])
def test_a_sweep_on_a_full_disk_ends_and_waits_for_nobody(spec, monkeypatch, unwritable):
    """Some files cannot be opened for writing, by the process that would wait for itself."""
    original = os.open

    def full(path, flags, *args, **more):
        if flags & os.O_CREAT and Path(path).name.startswith(unwritable):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return original(path, flags, *args, **more)

    spec.write_text(SPEC.replace("[0.01, 0.1]", "[0.01]"))
    monkeypatch.setattr(os, "open", full)
    done = call("sweep", spec, "--on", "inline")
    assert done.exit_code == 1, done.output
    assert "0 of 1 trial finished" in done.stderr


def test_what_a_kill_right_after_the_result_left_goes_with_the_next_sweep(spec):
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    layout = Layout(results_root())
    files = layout.trial(layout.trial_ids()[0])
    kept = sorted(files.folder.iterdir())
    for path in (files.metrics, files.checkpoint):
        path.write_bytes(b"left")
    owner = subprocess.Popen(["sleep", "100"])
    try:
        started = pid_started(owner.pid)
        assert started is not None
        claim = Claim(
            trial_id=files.folder.name, attempt=1, host=socket.gethostname(), boot_id=boot_id(), pid=owner.pid,
            pid_started=started, job="small/job-0001", claimed_at="2026-01-01T00:00:00Z",
        )  # fmt: skip
        write_record(files.claim(1), claim)
        assert call("sweep", spec, "--on", "inline").exit_code == 0
        assert files.checkpoint.exists() and files.claims()  # the owner lives, and does it itself
    finally:
        owner.kill()
        owner.wait()
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    assert sorted(files.folder.iterdir()) == kept
