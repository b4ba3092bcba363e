"""Packing, cutting and the answers to failures: pure functions from jobs to arrays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.arrays import History, canary_job, plan_submission
from cifar_hpc.executors.slurm.profile import SiteClass, SlurmProfile
from cifar_hpc.executors.slurm.queue import QueueEntry, SlurmQueue
from cifar_hpc.executors.slurm.sender import Sender
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from tests.helpers.training import digits_config

WIDE = Limits(1001, None)


def _jobs(n: int, **resources) -> list[Job]:
    needs = Resources(**{"gpus": 1.0, "minutes": 30.0, **resources})
    cohorts = [(Cohort(trials=(digits_config(seed=seed),)),) for seed in range(n)]
    return [Job(sweep="s", job_id=f"job-{i:04d}", cohorts=cohort, resources=needs) for i, cohort in enumerate(cohorts)]


def _plan(jobs, profile=None, limits=WIDE, histories=None, canary=False):
    return plan_submission(jobs, profile or SlurmProfile(), limits, histories or {}, canary)


def _sent(submission) -> list[str]:
    return [job.job_id for array in submission.arrays for job in array.jobs]


def _workers(submission) -> list[int]:
    return [array.workers for array in submission.arrays]


def test_five_thousand_long_trials_are_dealt_to_arrays_of_the_largest_size_and_none_is_lost_or_doubled():
    jobs = _jobs(5000, minutes=60.0)
    submission = _plan(jobs)
    assert _workers(submission) == [1000] * 5
    assert sorted(_sent(submission)) == [job.job_id for job in jobs] and not submission.waiting


def test_a_submit_limit_leaves_fewer_workers_not_trials_without_one():
    submission = _plan(_jobs(100, minutes=60.0), limits=Limits(1001, 40), canary=True)
    assert _workers(submission) == [39], "the canary takes one place"
    assert len(_sent(submission)) == 100 and not submission.waiting
    assert submission.arrays[0].needs.minutes == 65, "what a worker has no time for it does in a start of its own"
    (array,) = _plan(_jobs(100, minutes=60.0), SlurmProfile(requeue=False), Limits(1001, 40)).arrays
    assert array.needs.minutes == 155, "where no worker may start again, it needs the time at once"


@pytest.mark.parametrize("room", [1, 2])
def test_with_room_for_one_or_two_jobs_one_worker_is_its_own_canary(room):
    submission = _plan(_jobs(100, minutes=60.0), limits=Limits(1001, room), canary=True)
    assert _workers(submission) == [1] and not submission.gates and not submission.waiting


def test_every_class_has_one_worker_before_any_has_two():
    jobs = [*_jobs(10, minutes=60.0), *_jobs(10, minutes=60.0, memory_gb=32.0)]
    assert _workers(_plan(jobs, limits=Limits(1001, 8))) == [7, 1]
    assert _workers(_plan(jobs, limits=Limits(1001, 8), canary=True)) == [6, 1]


def test_a_full_queue_leaves_everything_waiting():
    submission = _plan(_jobs(3, minutes=60.0), limits=Limits(1001, 0))
    assert not submission.arrays and len(submission.waiting) == 3


def test_there_are_as_many_workers_as_parallel_and_no_more_than_the_work_fills():
    (array,) = _plan(_jobs(100, minutes=1.0)).arrays
    assert array.workers == 2 and array.needs.minutes == 55  # 50 trials and the start
    (array,) = _plan(_jobs(100, minutes=1.0), SlurmProfile(parallel=16)).arrays
    assert array.workers == 16
    (array,) = _plan(_jobs(36, minutes=1 / 60), SlurmProfile(parallel=12)).arrays
    assert array.workers == 1 and array.needs.minutes == 6, "36 trials of a second are no work for a second worker"


def test_a_time_limit_never_exceeds_the_partitions():
    (array,) = _plan(_jobs(1, minutes=600.0), SlurmProfile(max_minutes=120.0)).arrays
    assert array.needs.minutes == 120


def test_trials_of_different_needs_are_different_arrays():
    cpu = [Job(sweep="s", job_id=f"cpu-{i}", cohorts=j.cohorts, resources=Resources(gpus=0)) for i, j in enumerate(_jobs(4))]
    arrays = _plan([*_jobs(2), *cpu]).arrays
    assert sorted(array.needs.gpus for array in arrays) == [0, 1]


def test_a_share_of_a_gpu_runs_several_at_once_only_where_the_profile_allows():
    jobs = _jobs(8, gpus=0.25, memory_gb=4.0, cpus_per_gpu=2, minutes=60.0)
    (array,) = _plan(jobs, SlurmProfile(share_gpus=True)).arrays
    assert (array.needs.at_once, array.needs.gpus, array.needs.cpus, array.needs.memory_gb) == (4, 1, 8, 16.0)
    assert array.workers == 2
    (array,) = _plan(jobs).arrays
    assert (array.needs.at_once, array.needs.gpus, array.needs.cpus) == (1, 1, 2) and array.workers == 8


def test_a_class_takes_jobs_by_the_memory_that_they_ask_slurm_for():
    small = {"classes": {"small": SiteClass(up_to_memory_gb=32.0)}}
    by_gpu, shared = SlurmProfile(memory_per_gpu_gb=45.0, **small), SlurmProfile(share_gpus=True, **small)
    assert _plan(_jobs(1), by_gpu).arrays[0].needs.site == ""
    assert _plan(_jobs(4, gpus=0.25, memory_gb=12.0), shared).arrays[0].needs.site == "", "four of them are one job"
    jobs, grown = _jobs(1, memory_gb=24.0), SlurmProfile(**small)
    assert _plan(jobs, grown).arrays[0].needs.site == "small"
    assert _plan(jobs, grown, histories=_after("OUT_OF_MEMORY")(jobs)).arrays[0].needs.site == "", "36 GB from now on"


@pytest.mark.parametrize(
    ("keys", "part"), [({}, 1.0), ({"share_gpus": True}, 0.25), ({"shards": 4}, 0.25)], ids=["alone", "together", "shards"]
)
def test_a_trial_that_asked_for_a_part_of_a_gpu_is_charged_what_it_was_given(tmp_path, keys, part):
    profile = SlurmProfile(**keys)
    (array,) = _plan(_jobs(4, gpus=0.25), profile).arrays
    layout = Layout(tmp_path)
    work = Sender(layout, "s", profile, SlurmQueue(layout.queue))._work(array, "")
    assert {task.resources["gpus"] for task in work.tasks} == {part}
    assert work.gpus == (0.25 if "shards" in keys else 1)


def test_unnamed_gpus_mean_one_where_the_site_has_some():
    assert _plan(_jobs(1, gpus=None)).arrays[0].needs.gpus == 1
    assert _plan(_jobs(1, gpus=None), SlurmProfile(gres=None)).arrays[0].needs.gpus == 0
    with pytest.raises(CifarHpcError, match="gres: null"):
        _plan(_jobs(1), SlurmProfile(gres=None))


def test_a_trial_on_several_gpus_and_nodes_gets_the_cpus_of_all_its_processes_and_shares_nothing():
    (array,) = _plan(_jobs(2, gpus=4.0, nodes=2, cpus_per_gpu=6, minutes=60.0), SlurmProfile(share_gpus=True)).arrays
    assert (array.needs.nodes, array.needs.gpus, array.needs.cpus, array.needs.at_once) == (2, 4, 24, 1)
    (array,) = _plan(_jobs(1, gpus=0, processes=3, cpus_per_gpu=2)).arrays
    assert (array.needs.nodes, array.needs.gpus, array.needs.cpus) == (1, 0, 6)
    arrays = _plan([*_jobs(1), *_jobs(1, nodes=2)]).arrays
    assert [array.needs.nodes for array in arrays] == [1, 2] and arrays[0].needs.gate != arrays[1].needs.gate


def _after(*states: str, nodes: str = "n3", fruitless: int = 0):
    def history(jobs):
        return {jobs[0].trial_ids[0]: History(tuple(QueueEntry(state, "", nodes) for state in states), fruitless)}

    return history


def test_out_of_memory_gets_half_as_much_again_each_time():
    jobs = _jobs(2, memory_gb=8.0, minutes=60.0)
    arrays = _plan(jobs, histories=_after("OUT_OF_MEMORY", "OUT_OF_MEMORY")(jobs)).arrays
    assert sorted(array.needs.memory_gb for array in arrays) == [8.0, 18.0]


def test_a_failed_node_is_avoided_by_those_that_it_failed():
    jobs = _jobs(2, minutes=60.0)
    arrays = _plan(jobs, histories=_after("NODE_FAIL")(jobs)).arrays
    assert sorted(array.needs.exclude for array in arrays) == [(), ("n3",)]
    (array,) = _plan(jobs, histories=_after("NODE_FAIL", nodes="n[3-4]")(jobs)).arrays
    assert array.needs.exclude == (), "of two nodes nobody knows which one it was"


def test_after_three_starts_that_came_to_nothing_a_trial_is_given_up_with_the_reason():
    jobs = _jobs(2, minutes=60.0)
    submission = _plan(jobs, histories=_after("TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", fruitless=3)(jobs))
    assert _sent(submission) == ["job-0001"]
    assert submission.given_up == {jobs[0].trial_ids[0]: "3 starts came to nothing (TIMEOUT, OUT_OF_MEMORY)"}


def test_children_of_a_trial_that_is_given_up_are_not_sent_to_find_nothing():
    parent, other = _jobs(2)
    children = [
        replace(job, level=1, cohorts=(Cohort(trials=(digits_config(seed=9, weights=f"trial/{of.trial_ids[0]}"),)),))
        for job, of in zip(_jobs(4)[2:], (parent, other), strict=True)
    ]
    histories = {parent.trial_ids[0]: History(fruitless=3)}
    submission = _plan([*children, parent, other], histories=histories)
    assert _sent(submission) == ["job-0001", "job-0003"]
    assert submission.given_up[children[0].trial_ids[0]] == f"their parent {parent.trial_ids[0]} is not either"


def test_a_trial_that_was_preempted_or_lost_its_node_three_times_is_not_given_up():
    jobs = _jobs(1, minutes=60.0)
    assert _sent(_plan(jobs, histories=_after("NODE_FAIL", "CANCELLED", "PREEMPTED", "NODE_FAIL")(jobs))) == ["job-0000"]


def test_a_canary_is_the_first_trial_alone_under_a_name_of_its_own():
    (array,) = _plan(_jobs(100, minutes=1.0)).arrays
    canary = canary_job(array)
    assert canary.job_id == "canary-0000" and canary.trial_ids == array.jobs[0].trial_ids
