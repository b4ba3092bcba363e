"""Limits, lost answers and refusals, on a scripted cluster."""

from __future__ import annotations

import re

import pytest

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm import sender as slurm
from cifar_hpc.executors.slurm.commands import SlurmError
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.profile import SiteClass, SlurmProfile
from cifar_hpc.executors.slurm.refusals import is_room, is_silence, keys_to_change
from cifar_hpc.executors.slurm.sender import RefusedError
from cifar_hpc.executors.slurm.site import read_limits
from cifar_hpc.executors.slurm.work import Work, root_of
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import Layout
from tests.helpers.scripted_slurm import ScriptedSlurm
from tests.helpers.training import digits_config


def _jobs(n: int) -> list[Job]:
    needs = Resources(gpus=1.0, minutes=60.0)
    return [
        Job(sweep="s", job_id=f"job-{i:04d}", cohorts=(Cohort(trials=(digits_config(seed=i),)),), resources=needs)
        for i in range(n)
    ]


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)

    def start(n: int, *, canary: bool = False, **profile) -> tuple[SlurmExecutor, dict[str, str]]:
        executor = SlurmExecutor(SlurmProfile(**profile), Layout(tmp_path / "results"), canary=canary)
        handles: dict[str, str] = {}
        executor.start(executor.layout, _jobs(n), lambda job, handle: handles.update({job.job_id: handle}))
        return executor, handles

    return start


def test_five_thousand_trials_under_the_default_array_size_are_five_sbatch_calls_and_a_canary(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    executor, handles = start(5000, canary=True)
    assert cluster.arrays() == [1, *[1000] * 5] and cluster.calls("sbatch") == 6
    assert len(handles) == 5001 and len(set(handles.values())) == 6, "a job is any task's of its array"
    assert set(executor.states(list(handles.values())[1:]).values()) == {JobState.QUEUED}
    assert "#SBATCH --dependency=afterany:1000\n" in (tmp_path / "bin/1001.sh").read_text()
    assert "dependency" not in (tmp_path / "bin/1000.sh").read_text()
    logs = tmp_path / "results/s/logs"
    assert len(list(logs.iterdir())) == 6 and not list(logs.rglob("*.pkl")), "JSON in a folder for each array"
    works = [Work.read(path) for path in logs.glob("*/work.json")]
    assert sorted(len(work.tasks) for work in works) == [1, *[1000] * 5]


def test_what_is_handed_over_is_what_was_planned(start, tmp_path, monkeypatch):
    ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    start(3)
    (path,) = (tmp_path / "results/s/logs").glob("*/work.json")
    assert [task.job("s") for task in Work.read(path).tasks] == _jobs(3)
    assert root_of(path) == Layout(tmp_path / "results")


def test_a_qos_limit_is_read_and_kept_and_fewer_workers_share_all_trials(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin", submit=30, told="30").install(monkeypatch)
    executor, handles = start(50)
    assert sum(cluster.arrays()) == 30 and len(handles) == 50 and not executor.waiting


def test_what_is_in_the_queue_already_counts_and_a_full_queue_leaves_the_rest_waiting(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    start(25, max_submit=40)
    executor, handles = start(25, max_submit=40)
    assert sum(cluster.arrays()) == 40 and len(handles) == 25 and not executor.waiting
    executor, handles = start(25, max_submit=40)
    assert not handles and len(executor.waiting) == 25
    assert "25 trials wait" in executor.notes[0] and "max_submit of the profile" in executor.notes[0]


def test_a_limit_that_nobody_told_of_leaves_the_rest_waiting_not_lost(start, tmp_path, monkeypatch):
    ScriptedSlurm(tmp_path / "bin", submit=1500).install(monkeypatch)
    executor, handles = start(2500)
    assert len(handles) + len(executor.waiting) == 2500
    assert executor.waiting and "QOSMaxSubmitJobPerUserLimit" in executor.notes[0]


def test_with_room_for_one_job_that_nobody_told_of_one_worker_takes_all(start, tmp_path, monkeypatch):
    """As a debug QOS has it: the canary has the only place, and gives way."""
    cluster = ScriptedSlurm(tmp_path / "bin", submit=1).install(monkeypatch)
    executor, handles = start(20, canary=True, max_submit=1)
    assert cluster.arrays() == [1] and len(handles) == 20 and not executor.waiting


def test_an_sbatch_that_was_heard_but_not_answered_is_not_sent_twice(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    cluster.modes("mute")
    _, handles = start(20)
    assert cluster.arrays() == [20] and cluster.calls("sbatch") == 1
    assert set(handles.values()) == {"1000@alps"} and len(handles) == 20


def test_an_sbatch_that_was_not_heard_is_sent_again(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    cluster.modes("deaf", "well")
    _, handles = start(20)
    assert cluster.arrays() == [20] and cluster.calls("sbatch") == 2 and len(handles) == 20


def test_a_controller_that_stays_silent_is_told_and_leaves_no_file(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    cluster.modes("deaf", "deaf", "deaf")
    with pytest.raises(SlurmError, match="Socket timed out"):
        start(20)
    assert not list((tmp_path / "results/s/logs").iterdir())


def test_a_machine_without_slurm_says_so(start, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CifarHpcError, match="no such command"):
        start(1)


def test_the_profile_stands_in_the_batch_script(start, tmp_path, monkeypatch):
    ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    start(
        2,
        gpu_partition="gpu",
        account="vision",
        qos="long",
        constraint="a100|h100",
        exclude="n[1-2]",
        gres="gpu:a100",
        setup=("module load cuda/12",),
        environment={"A": "b c"},
        container="apptainer exec --nv image.sif",
        python="python3",
        mail_user="me@here",
        mail_type="FAIL",
        parallel=2,
        requeue=False,
        signal_s=60,
        memory_gb=1.5,
        srun={"cpu-bind": "none"},
        sbatch={"nice": 100, "exclusive": True},
    )
    lines = (tmp_path / "bin/1000.sh").read_text().splitlines()
    flags = dict(re.fullmatch(r"#SBATCH --([a-z-]+)=?(.*)", line).groups() for line in lines if line.startswith("#SBATCH"))
    wanted = {
        "array": "0-1%2",
        "partition": "gpu",
        "account": "vision",
        "qos": "long",
        "constraint": "'a100|h100'",
        "exclude": "'n[1-2]'",
        "gres": "gpu:a100:1",
        "mail-user": "me@here",
        "mail-type": "FAIL",
        "no-requeue": "",
        "signal": "B:USR2@60",
        "mem": "1536M",
        "time": "65",
        "nice": "100",
        "exclusive": "",
    }
    assert {key: flags.get(key) for key in wanted} == wanted and "requeue" not in flags
    text = "\n".join(lines)
    for line in ("ulimit -c 0", "unset PYTHONDONTWRITEBYTECODE", "export A='b c'", "module load cuda/12"):
        assert f"\n{line}\n" in text
    results = tmp_path / "results"
    assert f"apptainer exec --bind {results} --nv image.sif python3 -u -m cifar_hpc.executors.slurm.task run " in text
    assert "--cpu-bind=none" in text and "wckey" not in text
    assert text.index("trap ") < text.index("module load") < text.index("srun "), "no signal is lost in slow set-up lines"


def test_a_user_edit_after_submission_does_not_reach_the_queued_jobs(start, tmp_path, monkeypatch):
    from cifar_hpc.executors.slurm.snapshot import snapshot_package

    package = tmp_path / "cifar_hpc"
    package.mkdir()
    (package / "loop.py").write_text("before = 1\n")
    files = Layout(tmp_path / "results").sweep("s")
    first = snapshot_package(files, package)
    (package / "loop.py").write_text("after = 1\n")
    second = snapshot_package(files, package)
    assert (first / "cifar_hpc/loop.py").read_text() == "before = 1\n" and first != second
    assert snapshot_package(files, package) == second and len(list(files.code.iterdir())) == 2


@pytest.mark.parametrize(
    ("profile", "wanted"),
    [
        ({}, "40 jobs (MaxSubmitJobs of account vision)"),  # the default one pays
        ({"account": "speech"}, "3 jobs (MaxSubmitJobs of account speech)"),
        ({"account": "vision", "gpu_partition": "debug"}, "2 jobs (MaxSubmitJobs of account vision)"),
        ({"account": "vision", "qos": "long"}, "7 jobs (MaxSubmitJobsPerUser of QOS long)"),
    ],
)
def test_the_limits_are_those_of_the_account_that_pays_on_this_cluster(tmp_path, monkeypatch, profile, wanted):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    rows = ["speech||3||normal|normal", "vision||40||normal|normal,long", "vision|debug|2||normal|normal"]
    monkeypatch.setenv("ASSOCIATIONS", "\n".join(rows))
    assert wanted in read_limits(SlurmProfile(**profile)).why
    assert " cluster=alps " in (cluster.folder / "calls").read_text()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("QOSMaxWallDurationPerJobLimit", "max_minutes"),
        ("AssocMaxWallDurationPerJobLimit", "max_minutes"),
        ("QOSMaxGRESPerJob", "gres"),
        ("QOSMinGRES", "gres"),
        ("QOSMaxCpuPerJobLimit", "cpus_per_gpu"),
        ("QOSMaxMemoryPerJob", "memory_gb"),
        ("QOSMaxNodePerJobLimit", "resources.nodes"),
    ],
)
def test_a_job_that_breaks_a_rule_of_the_site_is_an_error_with_slurms_line_and_the_key(start, tmp_path, monkeypatch, line, key):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    text = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    (cluster.folder / "refusal").write_text(f"sbatch: error: {line}\nsbatch: error: {text}\n")
    cluster.modes("refusal")
    with pytest.raises(RefusedError, match=line) as caught:
        start(3)
    assert key in str(caught.value) and cluster.arrays() == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("Invalid account or account/partition combination specified", "account"),
        ("Invalid qos specification", "qos of"),
        ("invalid partition specified: gpu", "gpu_partition"),
        ("Invalid feature specification", "constraint"),
        ("Requested reservation is invalid", "reservation"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "max_minutes"),
        ("Invalid generic resource (gres) specification", "gres"),
        ("Memory specification can not be satisfied", "memory_gb"),
        ("CPU count per node can not be satisfied", "cpus_per_gpu"),
        ("Requested node configuration is not available", "constraint"),
        ("Invalid wckey specification", "wckey"),
        ("Invalid license specification", "licenses"),
    ],
)
def test_every_refusal_names_what_answers_to_it(words, key):
    said = f"sbatch: error: Batch job submission failed: {words}"
    assert key in keys_to_change(said) and not is_room(said) and not is_silence(said)


@pytest.mark.parametrize(
    "line", ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "QOSGrpSubmitJobsLimit", "AssocGrpSubmitJobsLimit"]
)
def test_only_limits_on_submitted_jobs_are_room(line):
    assert is_room(f"sbatch: error: {line} sbatch: error: Batch job submission failed: Job violates accounting/QOS policy")


def test_a_disk_that_is_full_while_submitting_sends_nothing_and_leaves_the_trials_free(start, tmp_path, monkeypatch):
    cluster = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slurm, "append_records", full)
    with pytest.raises(OSError, match="No space left"):
        start(3)
    assert cluster.arrays() == [] and not list((tmp_path / "results/s/logs").iterdir())


def test_a_percent_sign_in_the_path_of_the_results_is_none_of_slurms_patterns(tmp_path, monkeypatch):
    ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    layout = Layout(tmp_path / "50%done")
    SlurmExecutor(SlurmProfile(), layout, canary=False).start(layout, _jobs(2), lambda job, handle: None)
    (output,) = re.findall(r"#SBATCH --output=(.*)", (tmp_path / "bin/1000.sh").read_text())
    assert "/50%%done/" in output and output.strip("'").endswith("/%A_%a_0_log.out")


def test_jobs_of_a_class_of_the_profile_have_its_partition_its_limit_and_shards(start, tmp_path, monkeypatch):
    ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    classes = {"short": SiteClass(up_to_minutes=60.0, partition="debug", qos="debug")}
    start(2, gpu_partition="gpu", classes=classes, minutes=60.0, cpus_per_gpu=16, memory_per_gpu_gb=60.0)
    text = (tmp_path / "bin/1000.sh").read_text()
    for line in ("partition=debug", "qos=debug", "time=60", "cpus-per-task=16", "mem=61440M", "gres=gpu:1"):
        assert f"#SBATCH --{line}\n" in text
