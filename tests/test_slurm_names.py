"""Nothing is sent that is not written down, and nothing of another cluster is taken for gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.executors.slurm import sender
from cifar_hpc.executors.slurm.commands import SlurmError
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.planning.plan import Cohort, Job, Resources, make_plan, plan_record
from cifar_hpc.records.jobs import JobEvent, JobState, open_jobs
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import write_plan
from cifar_hpc.records.schema import Status
from cifar_hpc.records.store import read_records
from cifar_hpc.spec.load import spec_of
from cifar_hpc.sweep.holding import held
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.submit import submit
from cifar_hpc.sweep.where import reader_of
from tests.helpers.scripted_slurm import ScriptedSlurm

SPEC = "name: s\ndataset: {name: digits, train_size: 200}\nbase: {arch: linear, epochs: 1}\ngrid: {lr: [0.1, 0.2, 0.3]}\n"
PROFILE = SlurmProfile(gres=None, parallel=3)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> ScriptedSlurm:
    monkeypatch.setattr(sender.time, "sleep", lambda seconds: None)
    return ScriptedSlurm(tmp_path / "bin").install(monkeypatch)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "results")


def _plan(layout: Layout):
    plan = make_plan(spec_of(SPEC, Path("s.yaml")), share=False)
    write_plan(layout, plan_record(plan))
    return plan


def _submit(layout: Layout, listener: Silent | None = None) -> None:
    plan = _plan(layout)
    submit(layout, plan, {trial.trial_id for trial in plan.trials}, PROFILE, listener or Silent(), canary=False)


def _statuses(layout: Layout) -> set[Status]:
    return {state.status for state in reader_of(layout, plan_record(_plan(layout))).read().values()}


def _events(layout: Layout) -> list[JobEvent]:
    return [event for event in read_records(layout.sweep("s").jobs, JobEvent) if event.event != "reserved"]


def test_an_array_stands_in_the_list_of_jobs_before_and_after_it_is_sent(cluster, layout):
    _submit(layout)
    assert [event.event for event in _events(layout)] == ["sending"] * 3 + ["submitted"] * 3
    assert [event.handle for event in _events(layout)[3:]] == ["1000@alps"] * 3
    assert len(open_jobs(layout.sweep("s"))) == 3


def test_jobs_whose_sender_was_killed_are_found_by_their_name_and_cancelled(cluster, layout):
    cluster.modes("murder")
    code = (
        f"from tests.test_slurm_names import _submit; from cifar_hpc.records.layout import *; _submit(Layout({layout.root!r}))"
    )
    code = code.replace("PosixPath", "__import__('pathlib').Path")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert [event.event for event in _events(layout)] == ["sending"] * 3
    assert _statuses(layout) == {Status.QUEUED}
    assert [event.handle for event in _events(layout)[3:]] == ["1000@alps"] * 3
    told = CliRunner().invoke(app, ["cancel", "s"])
    assert "3 trials asked to stop" in told.output


def test_what_slurm_never_heard_of_is_free_again_and_what_it_does_not_answer_to_stays_open(cluster, layout):
    cluster.modes("deaf", "deaf", "deaf")
    cluster.goes_down()
    plan = _plan(layout)
    executor = SlurmExecutor(PROFILE, layout, canary=False)
    job = Job(sweep="s", job_id="job-0001", cohorts=(Cohort(trials=plan.trials[:1]),), resources=Resources(gpus=0))
    cluster.comes_up()
    executor.queue.cluster  # noqa: B018 - known from before
    sending = sender.Sender(layout, "s", PROFILE, executor.queue)
    cluster.goes_down()
    with pytest.raises(SlurmError, match="do not answer"):
        sending.send(executor.plan([job], _no_limits()).arrays[0], None, sender.Start("run"))
    assert _statuses(layout) == {Status.QUEUED, Status.PLANNED}
    told = CliRunner().invoke(app, ["cancel", "s"])
    assert told.exit_code == 2 and "1 job could not be asked to stop: " in told.output and "meant runs" not in told.output
    cluster.comes_up()
    lines = [event.event for event in _events(layout)]
    assert lines == ["sending"], "this process, which lives, may still be at it"


def _no_limits():
    from cifar_hpc.executors.slurm.site import Limits

    return Limits(1001, None)


def test_jobs_of_another_cluster_are_not_taken_for_gone(cluster, layout, tmp_path, monkeypatch):
    _submit(layout)
    other = ScriptedSlurm(tmp_path / "other", cluster="piz").install(monkeypatch)
    monkeypatch.setenv("SLURM_CONF", "another login")
    states = reader_of(layout, plan_record(_plan(layout))).read()
    assert {state.status for state in states.values()} == {Status.QUEUED}
    assert "on the cluster alps" in next(iter(states.values())).reason
    told = CliRunner().invoke(app, ["cancel", "s"])
    assert told.exit_code == 2 and "3 jobs could not be asked to stop: its job is on the cluster alps" in told.output
    assert "this machine belongs to piz" in told.output and other.calls("squeue") == 0


def test_a_second_shell_waits_for_the_first_and_submits_nothing_twice(cluster, layout, monkeypatch):
    notes: list[str] = []

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)
            if "waiting for process" in text:  # the first one goes on and ends
                first.close()

    def run_first():
        with held(layout.sweep("s"), "submits this sweep"):
            yield

    first = run_first()
    next(first)
    _submit(layout, Told())
    _submit(layout, Told())
    assert cluster.arrays() == [3] and notes[0].endswith("which submits this sweep") and notes[-1] == "s: nothing to submit"


def test_a_state_that_nobody_knows_is_unknown_in_one_query(cluster, layout):
    queue = SlurmExecutor(PROFILE, layout).queue
    assert queue.states(["s-12345678#@alps", "7_1@piz", "9_1"]) == {
        "s-12345678#@alps": JobState.UNKNOWN,
        "7_1@piz": JobState.UNKNOWN,
        "9_1": JobState.GONE,
    }
    assert cluster.calls("squeue") == 1


def test_wishes_of_the_shell_change_no_job(cluster, layout, monkeypatch):
    for key in ("SBATCH_TIMELIMIT", "SBATCH_EXPORT", "SLURM_MEM_PER_CPU", "SRUN_CPUS_PER_TASK", "SLURM_JOB_ID"):
        monkeypatch.setenv(key, "7")
    monkeypatch.setenv("MINE", "stays")
    _submit(layout)
    environment = (cluster.folder / "1000.env").read_text()
    assert "MINE=stays" in environment and not {"SLURM_", "SBATCH_", "SRUN_"} & {
        line[: line.index("_") + 1] for line in environment.splitlines() if "_" in line
    }
    assert "\nexport SLURM_EXPORT_ENV=ALL\n" in (cluster.folder / "1000.sh").read_text()
