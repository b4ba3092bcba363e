"""What an array task does with its jobs and with signals, in this process with a scripted runner."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pool import Images, write_trial
from cifar_hpc.errors import Interrupted, RecordError
from cifar_hpc.executors.slurm.task import main, run_canary, run_worker
from cifar_hpc.executors.slurm.usage import Used, read_used
from cifar_hpc.executors.slurm.work import AGAIN, BROKEN, Task, Work
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.claims import claim_trial, read_state, release_claim, restartable
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Claim, EpochRecord, Status
from cifar_hpc.records.starts import TIME, fruitless_starts
from cifar_hpc.records.store import append_records, read_record, utc_now, write_record
from cifar_hpc.records.usage import Budget
from tests.helpers.training import digits_config

EPOCH = EpochRecord(epoch=1, lr=0.1, train_loss=1.0, train_acc=0.1, val_loss=1.0, val_acc=0.1, train_s=1.0, val_s=0.1)


@pytest.fixture
def hand_over(tmp_path, monkeypatch):
    """Writes work of n jobs of one trial each and the environment of array task 5 of job 77; gives the work file."""
    for key, value in {"ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "5", "JOB_ID": "82", "RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))

    def hand_over(n: int = 1, minutes: float = 1.0, **changes) -> Path:
        jobs = [_job(i) for i in range(n)]
        path = Layout(tmp_path / "results").sweep("s").array("s-1").work
        path.parent.mkdir(parents=True, exist_ok=True)
        Work(**{"sweep": "s", "tasks": tuple(Task.of(job, minutes) for job in jobs), **changes}).write(path)
        return path

    return hand_over


def _job(i: int, **resources) -> Job:
    cohort = Cohort(trials=(digits_config(seed=i),))
    return Job(sweep="s", job_id=f"job-{i:04d}", cohorts=(cohort,), resources=Resources(**resources))


def _layout(work_file: Path) -> Layout:
    return Layout(work_file.parents[3])


def _finish(layout: Layout, job: Job) -> None:
    """As the runner does where a trial ends; what matters here is that a result stands."""
    for trial_id in job.trial_ids:
        layout.trial(trial_id).folder.mkdir(parents=True, exist_ok=True)
        layout.trial(trial_id).result.write_text("{}")
    with (layout.root / "ran").open("a") as stream:
        stream.write(f"{job.job_id}\n")


def _ran(work_file: Path) -> list[str]:
    path = _layout(work_file).root / "ran"
    return path.read_text().split() if path.exists() else []


def _runner(*signals: int, epochs: int = 0):
    """Claims, trains `epochs`, gets the signals, and stops as the runner does."""

    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        files = layout.trial(job.trial_ids[0])
        claim = claim_trial(files, job.trial_ids[0], f"s/{job.job_id}")
        assert claim is not None
        for _ in range(epochs):
            on_epoch(job.trial_ids[0], EPOCH)
            files.checkpoint.write_bytes(b"state")
            os.utime(files.checkpoint, (time.time() + 1, time.time() + 1))
        for number in signals:
            os.kill(os.getpid(), number)
        if interrupted():
            release_claim(files, claim)
            raise Interrupted
        _finish(layout, job)

    return run


def test_a_worker_takes_job_after_job_its_own_share_first_then_those_of_the_others(hand_over):
    work = hand_over(7, workers=3)
    assert run_worker(work, _runner()) == 0
    assert _ran(work) == [f"job-{i:04d}" for i in (2, 5, 6, 4, 3, 1, 0)]


def test_what_another_worker_has_or_has_finished_is_left_alone(hand_over):
    work = hand_over(3, workers=3)
    layout = _layout(work)
    taken, done = _job(2), _job(0)
    with restartable("slurm/77_0"):
        assert claim_trial(layout.trial(taken.trial_ids[0]), taken.trial_ids[0], "s/job-0002")
    _finish(layout, done)
    assert run_worker(work, _runner()) == 0
    assert _ran(work) == ["job-0000", "job-0001"]


def test_a_task_that_slurm_starts_again_goes_on_with_what_it_had_claimed(hand_over):
    work = hand_over(4, workers=2)
    layout, mine = _layout(work), _job(2)
    with restartable("slurm/77_5"):
        assert claim_trial(layout.trial(mine.trial_ids[0]), mine.trial_ids[0], "s/job-0002")
    assert run_worker(work, _runner()) == 0
    assert _ran(work)[0] == "job-0002"


def test_jobs_that_no_longer_fit_the_time_are_left_and_the_task_asks_for_a_fresh_one(hand_over, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    work = hand_over(3, minutes=600.0)

    def slow(job, layout, **_):
        _finish(layout, job)

    monkeypatch.setattr("cifar_hpc.executors.slurm.pull.MARGIN", 1e9)  # as if each took all the time that it was thought to
    assert run_worker(work, slow) == AGAIN
    assert _ran(work) == ["job-0000"], "the first of a start always fits: no start has more time"


def test_the_signal_before_the_limit_saves_and_asks_to_be_started_again(hand_over):
    work = hand_over(2)
    assert run_worker(work, _runner(signal.SIGUSR2, epochs=1)) == AGAIN
    trial_id = _job(0).trial_ids[0]
    assert read_state(_layout(work).trial(trial_id), trial_id).status is Status.PLANNED


def test_sigterm_to_the_processes_alone_is_a_preemptions_notice_which_asks_for_another_start_too(hand_over):
    assert run_worker(hand_over(1), _runner(signal.SIGTERM, epochs=1)) == AGAIN


def _starts(work: Path, monkeypatch, n: int, ends_in_s: float, epochs: int = 0) -> list[int]:
    statuses = []
    for restart in range(n):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + ends_in_s)))
        statuses.append(run_worker(work, _runner(signal.SIGUSR2, epochs=epochs)))
    return statuses


def test_three_time_limits_without_a_newer_checkpoint_end_a_trials_starts(hand_over, monkeypatch, capsys):
    work = hand_over(1)
    assert _starts(work, monkeypatch, 3, ends_in_s=100) == [AGAIN, AGAIN, 0]
    assert "3 starts came to nothing" in capsys.readouterr().out
    assert fruitless_starts(_layout(work), _job(0).trial_ids[0]) == 3


def test_preemptions_count_nothing_however_many(hand_over, monkeypatch):
    work = hand_over(1)
    assert _starts(work, monkeypatch, 5, ends_in_s=3000) == [AGAIN] * 5
    assert fruitless_starts(_layout(work), _job(0).trial_ids[0]) == 0


def test_time_limits_with_progress_count_nothing(hand_over, monkeypatch):
    work = hand_over(1)
    assert _starts(work, monkeypatch, 4, ends_in_s=100, epochs=1) == [AGAIN] * 4


@pytest.mark.parametrize(("noted", "waits", "count"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_of_an_attempt_that_ended_without_a_word_only_what_its_batch_script_noted_is_its_own_doing(
    hand_over, noted, waits, count
):
    """A node that dies takes the script with it; one that waited for others of its cohort has done nothing."""
    work = hand_over(1)
    layout, trial_id = _layout(work), _job(0).trial_ids[0]
    files = layout.trial(trial_id)
    with restartable("slurm/77_5"):
        claim = claim_trial(files, trial_id, "s/job-0000", waits=waits)
    write_record(files.claim(1), replace(claim, pid_started=1.0))  # of a process that is gone
    if noted:
        (work.parent / "77_5.ends").write_text(f"{time.time():.0f} 137\n")
    assert fruitless_starts(layout, trial_id) == count


def test_a_claim_says_whether_the_time_limit_ended_it(hand_over, monkeypatch):
    work = hand_over(1)
    _starts(work, monkeypatch, 1, ends_in_s=100)
    assert read_record(_layout(work).trial(_job(0).trial_ids[0]).claims()[-1], Claim).ended == TIME


def test_a_trial_that_was_cancelled_meanwhile_is_not_claimed(hand_over):
    work = hand_over(2)
    event = JobEvent(
        at=utc_now(), event="cancelled", job_id="job-0000", trial_ids=_job(0).trial_ids, executor="slurm", handle="77"
    )
    append_records(_layout(work).sweep("s").jobs, [event])
    assert run_worker(work, _runner()) == 0
    assert _ran(work) == ["job-0001"]


def test_a_spent_budget_stops_the_claiming_and_says_so(hand_over, capsys):
    work = hand_over(3, gpus=8)
    write_record(_layout(work).sweep("s").budget, Budget(gpu_hours=1e-4))

    def run(job, layout, **_):
        time.sleep(0.1)
        _finish(layout, job)

    assert run_worker(work, run) == 0
    assert len(_ran(work)) < 3 and "the budget of s is spent" in capsys.readouterr().out
    assert Used(gpu_hours=19.96).words(Budget(gpu_hours=20)) == "19.96 of 20 GPU-hours", "not spent, and not said to be"
    assert Used(gpu_hours=140.25).words(Budget(gpu_hours=120)) == "140.2 of 120 GPU-hours"


def test_what_a_worker_takes_lasts_as_long_as_the_last_of_its_processes(hand_over):
    work = hand_over(2, at_once=2, gpus=1)

    def run(job, layout, **_):
        assert claim_trial(layout.trial(job.trial_ids[0]), job.trial_ids[0], f"s/{job.job_id}")
        time.sleep(0.8 if job.job_id == "job-0001" else 0.2)
        _finish(layout, job)

    assert run_worker(work, run) == 0
    assert read_used(_layout(work).sweep("s")).gpu_hours * 3600 > 0.6


def test_a_job_whose_runner_raises_is_recorded_and_the_next_one_runs(hand_over):
    work = hand_over(2)

    def run(job, layout, **_):
        if job.job_id == "job-0000":
            raise ValueError("no such file")
        _finish(layout, job)

    assert run_worker(work, run) == 0
    assert _ran(work) == ["job-0001"]
    trial_id = _job(0).trial_ids[0]
    assert read_state(_layout(work).trial(trial_id), trial_id).reason == "ValueError: no such file"


def test_a_process_that_dies_beside_others_is_recorded_and_the_others_go_on(hand_over):
    work = hand_over(4, at_once=3)

    def run(job, layout, **_):
        if job.job_id == "job-0000":
            assert claim_trial(layout.trial(job.trial_ids[0]), job.trial_ids[0], f"s/{job.job_id}")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        _finish(layout, job)

    assert run_worker(work, run) == 0
    trial_id = _job(0).trial_ids[0]
    assert sorted(set(_ran(work))) == ["job-0001", "job-0002", "job-0003"]
    assert "its process ended with -9" in read_state(_layout(work).trial(trial_id), trial_id).reason


def test_a_signal_reaches_all_that_share_a_gpu(hand_over):
    work = hand_over(2, at_once=2)

    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        end = time.monotonic() + 10
        if job.job_id == "job-0000":
            while not (layout.root / "second").exists() and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGUSR2)
        else:
            (layout.root / "second").touch()
        while not interrupted() and time.monotonic() < end:
            time.sleep(0.01)
        (layout.root / job.job_id).touch()
        raise Interrupted

    assert run_worker(work, run) == AGAIN
    assert (_layout(work).root / "job-0000").exists() and (_layout(work).root / "job-0001").exists()


def test_a_canary_stops_after_one_epoch_and_then_goes_on_from_its_checkpoint(hand_over, capsys):
    looks = []
    work = hand_over(1, mark="abc")

    def run(job, layout, *, executor, node=None, on_epoch=None, interrupted=lambda: False):
        looks.append(interrupted())  # before anything is claimed or read
        if len(looks) == 1:
            on_epoch(job.trial_ids[0], EPOCH)
            files = layout.trial(job.trial_ids[0])
            files.folder.mkdir(parents=True)
            append_records(files.metrics, [EPOCH])
        assert interrupted()
        raise Interrupted

    assert run_canary(work, run) == 0 and looks == [False, False]
    assert _layout(work).sweep("s").resource_class("abc").read_text() == "passed\n"
    assert "1 epoch(s), saved and resumed" in capsys.readouterr().out


def test_a_canary_whose_trial_ended_or_is_anothers_says_just_that(hand_over, capsys):
    parent = digits_config(keep="weights")
    trial = digits_config(weights=f"trial/{parent.trial_id}")
    job = replace(_job(0), cohorts=(Cohort(trials=(trial,)),))
    work = hand_over(tasks=(Task.of(job, 1.0),))
    layout = _layout(work)
    layout.trial(parent.trial_id).folder.mkdir(parents=True)
    layout.trial(parent.trial_id).weights.touch()
    assert claim_trial(layout.trial(trial.trial_id), trial.trial_id, "other/job-0001")
    assert run_canary(work, lambda *_, **__: None) == 0
    assert f"trial {trial.trial_id} did not begin: other/job-0001 on " in capsys.readouterr().out
    write_trial(layout, trial, Images.draw(20, 0))
    assert run_canary(work, lambda *_, **__: None) == 0
    assert "resumed" not in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_canary_that_is_preempted_has_decided_nothing(hand_over, capsys, number):
    work = hand_over(1, mark="abc")
    assert run_canary(work, _runner(number)) == AGAIN
    assert "no decision" in capsys.readouterr().out and not _layout(work).sweep("s").resource_class("abc").exists()


def test_of_the_tasks_on_several_nodes_the_first_one_says_which_job_is_next(hand_over, monkeypatch):
    work = hand_over(2)
    followed = []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert run_worker(work, _runner()) == 0
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert run_worker(work, lambda job, layout, **_: followed.append(job.job_id)) == 0
    assert followed == ["job-0000", "job-0001"]


def test_a_signal_that_only_the_other_node_has_had_so_far_ends_the_job_here_too(hand_over):
    work = hand_over(2)

    def run(job, layout, **_):
        raise Interrupted  # by the word of the other node's processes

    assert run_worker(work, run) == AGAIN
    assert not list(_layout(work).root.rglob("error.json"))


def test_an_error_on_a_further_node_is_the_first_ones_to_record(hand_over, monkeypatch):
    work = hand_over(1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    (work.parent / "77_5-0.orders").write_text("job-0000\n\n")

    def run(job, layout, **_):
        raise ValueError("no such device")

    monkeypatch.setenv("SLURM_PROCID", "1")
    assert run_worker(work, run) == 0
    assert not list(_layout(work).root.rglob("error.json"))


def test_a_node_that_does_not_see_the_results_trains_nowhere_else(hand_over, capsys):
    """Neither at the start, nor once they are unmounted under the worker."""
    work = hand_over(2)
    assert main(["run", str(work.with_name("other.json"))]) == BROKEN
    assert "all nodes must see the folder there" in capsys.readouterr().err

    def run(job, layout, **_):
        _finish(layout, job)
        work.unlink()

    with pytest.raises(RecordError, match="is gone"):
        run_worker(work, run)
    assert _ran(work) == ["job-0000"]
