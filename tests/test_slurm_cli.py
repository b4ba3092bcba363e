"""Sweeps on Slurm from the command line, held in the queue so that nothing trains."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc.cli import app
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import Status, TrialResult
from cifar_hpc.records.store import append_records, read_record, read_records, write_record
from cifar_hpc.records.usage import Usage
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep import driver
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.rounds import GridRounds
from cifar_hpc.sweep.where import On, Where, reader_of
from slurm.local.cluster import Cluster

SPEC = "name: s\ndataset: {name: digits, train_size: 200}\nbase: {arch: linear, epochs: 1}\n"


@pytest.fixture
def run(cluster: Cluster, tmp_path, monkeypatch):
    """Runs a command in a folder with one profile whose jobs are held; raises nothing by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/site.yaml").write_text("sbatch: {hold: true}\nparallel: 4\nmemory_gb: 1\n")

    def run(*arguments: str, grid: str | None = None, status: int = 0) -> str:
        if grid is not None:
            spec = SPEC.replace("arch: linear, ", "") if "arch" in grid else SPEC  # fixed or swept, not both
            (tmp_path / "s.yaml").write_text(spec + f"grid: {grid}\n")
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == status, (done.output, done.exception)
        return done.output

    return run


def _statuses(run) -> list[str]:
    Layout(results_root()).queue.unlink(missing_ok=True)
    return [row["status"] for row in json.loads(run("status", "s", "--format", "json"))]


def test_a_sweep_is_submitted_once_grows_is_pruned_and_cancelled(run, cluster: Cluster):
    assert "3 trials submitted" in run("sweep", "s.yaml", grid="{batch_size: [16, 32, 48]}")
    assert _statuses(run) == ["queued"] * 3
    assert "nothing to submit" in run("sweep", "s.yaml")
    assert "1 trial submitted" in run("sweep", "s.yaml", grid="{batch_size: [16, 32, 48, 64]}")
    told = run("sweep", "s.yaml", "--prune", grid="{batch_size: [16, 32, 48]}")
    assert "no longer in the spec: 1 trial (" in told and "pruned: 1 trial asked to stop" in told
    run("cancel", "s")
    assert _statuses(run) == ["cancelled"] * 3
    assert not cluster.run("squeue", "-h").strip(), "the canary ended too"
    assert "3 trials submitted" in run("sweep", "s.yaml")


def test_what_the_spec_dropped_and_still_waits_is_told_of_and_can_be_pruned_at_any_time(run):
    run("sweep", "s.yaml", grid="{batch_size: [16, 32, 48]}")
    line = "1 trial that the spec no longer has still waits or trains; to end that: cifar-hpc sweep s.yaml --prune\n"
    assert line not in run("status", "s")
    assert line in run("sweep", "s.yaml", grid="{batch_size: [16, 32]}")
    assert line in run("sweep", "s.yaml", "--dry-run") and line in run("status", "s")
    told = run("sweep", "s.yaml", "--prune")
    assert "pruned: 1 trial asked to stop" in told and line not in told
    assert line not in run("status", "s") and _statuses(run) == ["queued"] * 2


def test_a_filter_cancels_single_trials_also_where_the_array_goes_on_with_others(run, cluster: Cluster, tmp_path):
    run("sweep", "s.yaml", grid="{batch_size: [16, 32, 48, 64]}")
    events = read_records(Layout(results_root()).sweep("s").jobs, JobEvent)
    first = next(e.trial_ids[0] for e in events if e.event == "submitted" and e.job_id == "job-0002")
    assert "1 trial asked to stop" in run("cancel", "s", first)
    assert sorted(_statuses(run)) == ["cancelled"] + ["queued"] * 3
    assert len(cluster.run("squeue", "-h", "-r").splitlines()) == 5, "four workers, who claim it no more, and the canary"
    assert "3 trials asked to stop" in run("cancel", "s", "batch_size>0")
    assert not cluster.run("squeue", "-h").strip()


def test_a_sweep_that_waits_for_jobs_that_were_there_before_does_not_submit_them_again_once_they_are_cancelled(run, tmp_path):
    run("sweep", "s.yaml", grid="{batch_size: [16, 32]}")
    layout, plan = Layout(results_root()), make_plan(load_spec(tmp_path / "s.yaml"))
    rounds = GridRounds(layout, plan, reader_of(layout, plan_record(plan)), Where(On.SLURM, wait=True))
    states = rounds.prepare(Silent())
    assert not rounds.ready(states) and len(rounds.elsewhere(states)) == 2
    run("cancel", "s")
    states = rounds.settle()
    assert not rounds.ready(states) and not rounds.elsewhere(states)
    assert {state.status for state in states.values()} == {Status.CANCELLED}


def test_who_no_longer_waits_is_told_that_slurms_jobs_go_on_and_what_stops_them(run, cluster: Cluster, monkeypatch):
    def ctrl_c(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "time", SimpleNamespace(sleep=ctrl_c, perf_counter=time.perf_counter))
    told = run("sweep", "s.yaml", "--wait", grid="{batch_size: [16, 32]}", status=130)
    assert "waiting for 2 trials that jobs of Slurm train" in told and "interrupted" not in told
    assert "what goes on: 2 trials: cifar-hpc status s\n" in told and "cifar-hpc cancel s\n" in told
    run("cancel", "s")
    assert not cluster.run("squeue", "-h").strip()


def test_what_is_to_be_typed_next_names_the_profile_that_the_sweep_was_typed_with(run, tmp_path):
    profile = next((tmp_path / "slurm").glob("*.yaml"))
    run("sweep", "s.yaml", "--profile", str(profile), grid="{batch_size: [16]}")
    run("cancel", "s")
    assert f"next: cifar-hpc sweep s.yaml --profile {profile}" in run("status", "s")


def test_a_dry_run_shows_arrays_and_script_and_submits_nothing(run, cluster: Cluster):
    shown = run("sweep", "s.yaml", "--dry-run", "-v", grid="{batch_size: [16, 32]}")
    assert "2 jobs, 2 trials" in shown and "#SBATCH --array=0-1%2" in shown
    assert "expected  2.0 GPU-hours" in shown and "a guess: the minutes" in shown and "size not known" in shown
    assert "asked     2." in shown and "files     6 of results" in shown
    assert "files     8 of results" in run("sweep", "s.yaml", "--dry-run", "--set", "keep=weights"), "the networks too"
    assert not cluster.run("squeue", "-h").strip()


def test_a_dry_run_counts_what_sweep_would_submit_and_not_what_stands_in_the_queue(run):
    run("sweep", "s.yaml", grid="{batch_size: [16, 32]}")
    shown = run("sweep", "s.yaml", "--dry-run")
    assert "  to start  none\n" in shown and "  queued    2\n" in shown and "files" not in shown and "jobs" not in shown
    shown = run("sweep", "s.yaml", "--dry-run", grid="{batch_size: [16, 32, 48]}")
    assert "  to start  1 trial in 1 job, at most 1 epoch\n" in shown and "1 job, 1 trial:" in shown


def test_a_dry_run_counts_by_what_earlier_trials_of_the_cluster_measured(run, tmp_path):
    """None is like the one that took 90 s an epoch, but its speed is known; a time of this machine says nothing."""
    run("sweep", "s.yaml", "--no-canary", grid="{arch: [linear], batch_size: [16], weight_decay: [0.1]}")
    layout = Layout(results_root())
    (trial,) = make_plan(load_spec(tmp_path / "s.yaml")).trials
    write_trial(layout, trial, Images.draw(50, 10))
    result = read_record(layout.trial(trial.trial_id).result, TrialResult)
    curves = [replace(result.curves[0], epoch=epoch, train_s=80.0, val_s=10.0) for epoch in (1, 2, 3)]
    grid = "{arch: [linear, simple_cnn], batch_size: [16, 32], weight_decay: [0.1]}"
    for executor, words in (
        ("ray", "a guess: the minutes"),
        ("slurm", "a guess: by FLOPs, at the speed of other networks here"),
    ):
        write_record(layout.trial(trial.trial_id).result, replace(result, curves=tuple(curves), executor=executor))
        shown = run("sweep", "s.yaml", "--dry-run", grid=grid)
        assert words in shown and " kB; " in shown


def test_fewer_workers_share_the_work_where_the_queue_takes_no_more(run, cluster: Cluster, tmp_path):
    (tmp_path / "slurm/site.yaml").write_text("sbatch: {hold: true}\nmax_submit: 3\njob_minutes: 1\n")
    grid = "{batch_size: [16, 32, 48, 64, 80]}"
    assert "5 trials submitted, to 3 jobs that share them, 1 sbatch call" in run("sweep", "s.yaml", "--no-canary", grid=grid)
    assert _statuses(run) == ["queued"] * 5 and len(cluster.run("squeue", "-h", "-r").splitlines()) == 3


def test_what_waits_for_room_is_said_by_status(run, cluster: Cluster, tmp_path):
    (tmp_path / "slurm/site.yaml").write_text("sbatch: {hold: true}\nmax_submit: 1\n")
    cluster.run("sbatch", "--hold", "-o", "/dev/null", "--wrap", "true")
    told = run("sweep", "s.yaml", grid="{batch_size: [16, 32]}")
    assert "0 trials submitted" in told and "2 trials wait for room" in told
    rows = json.loads(run("status", "s", "--format", "json"))
    assert {row["status"] for row in rows} == {"planned"} and "max_submit of the profile" in rows[0]["reason"]


def test_what_had_no_room_is_submitted_by_a_job_of_the_queue_until_nothing_waits(run, cluster: Cluster, tmp_path):
    (tmp_path / "slurm/site.yaml").write_text("max_submit: 3\nminutes: 5\nmemory_gb: 1\n")
    names = ["a", "b", "c", "d"]
    stages = [
        f"  {name}:\n    base: {{arch: simple_cnn, epochs: 1{f', weights: {{stage: {before}}}' if before else ''}}}\n"
        for name, before in zip(names, ["", *names], strict=False)
    ]
    head = "name: s\ndataset: {name: digits, train_size: 200}\nresources: {gpus: 0}\nstages:\n"
    (tmp_path / "s.yaml").write_text(head + "".join(stages))
    told = run("sweep", "s.yaml")
    assert "2 trials submitted" in told and "2 trials wait for room" in told and "submits them once others have ended" in told
    until = time.monotonic() + 240
    while set(_statuses(run)) != {"completed"}:
        assert time.monotonic() < until, cluster.run("squeue")
        time.sleep(1)


def test_a_budget_is_shown_bounds_submissions_and_is_refused_where_nothing_obeys_it(run):
    grid = "{batch_size: [16, 32]}"
    run("sweep", "s.yaml", "--budget", "20gpuh", grid=grid)
    assert "budget     0 of 20 GPU-hours are spent" in run("status", "s")
    files = Layout(results_root()).sweep("s")
    append_records(files.usage, [Usage(task="1_0", restarts=0, seconds=3600.0 * n, gpus=4, cpus=4) for n in (1, 6)])
    assert re.search(r"  budget     24 of 20 GPU-hours are spent, as of [-0-9]{10} [:0-9]{8} UTC\n", run("status", "s"))
    run("cancel", "s")
    assert "  budget     24 of 20 GPU-hours are spent\n" in run("status", "s")
    assert "nothing is submitted" in run("sweep", "s.yaml", status=2)
    assert "2 trials submitted" in run("sweep", "s.yaml", "--budget", "none")
    assert "budget" not in run("status", "s")
    assert "such as 20gpuh" in run("sweep", "s.yaml", "--budget", "20", status=2)
    assert "bounds the workers of a grid on Slurm" in run("sweep", "s.yaml", "--on", "inline", "--budget", "1gpuh", status=2)


def test_where_the_budget_is_spent_status_dry_run_and_sweep_name_a_larger_one_and_that_goes_on(run):
    run("sweep", "s.yaml", "--budget", "20gpuh", grid="{batch_size: [16, 32]}")
    usage = Usage(task="1_0", restarts=0, seconds=6 * 3600.0, gpus=4, cpus=4)
    append_records(Layout(results_root()).sweep("s").usage, [usage])
    run("cancel", "s")
    command = "cifar-hpc sweep s.yaml --budget 48gpuh   (its budget is spent: 24 of 20 GPU-hours; "
    assert f"next: {command}" in run("status", "s")
    shown = run("sweep", "s.yaml", "--dry-run")
    assert (
        "  to start  none\n" in shown
        and "24 of 20 GPU-hours are spent: --budget 48gpuh submits" in shown
        and "asked" not in shown
    )
    told = run("sweep", "s.yaml", status=2)
    assert "trains" not in told and command in told
    shown = run("sweep", "s.yaml", "--dry-run", "--budget", "48gpuh")
    assert "  to start  2 trials in 2 jobs" in shown and "24 of 48 GPU-hours are spent\n" in shown
    assert "2 trials submitted" in run("sweep", "s.yaml", "--budget", "48gpuh")


def test_a_profile_that_slurm_refuses_is_told_without_a_traceback(run, tmp_path):
    (tmp_path / "slurm/site.yaml").write_text("gpu_partition: nowhere\n")
    told = run("sweep", "s.yaml", grid="{lr: [0.1, 0.2]}", status=2)
    assert "invalid partition" in told.lower() and "Profile 'site'" in told
