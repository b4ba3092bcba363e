"""Packing, cutting and the answers to failures: pure functions from jobs to arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.arrays import History, plan_submission
from cifar_hpc.executors.slurm.node import canary_of
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import QueueEntry
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.plan import Cohort, Job, Resources
from tests.helpers.training import digits_config

WIDE = Limits(1001, None)


def _jobs(n: int, **resources) -> list[Job]:
    needs = Resources(**{"gpus": 1.0, "minutes": 30.0, **resources})
    cohorts = [(Cohort(trials=(digits_config(seed=seed),)),) for seed in range(n)]
    return [Job(sweep="s", job_id=f"job-{i:04d}", cohorts=cohort, resources=needs) for i, cohort in enumerate(cohorts)]


def _plan(jobs, profile=None, limits=WIDE, histories=None, canary=False):
    return plan_submission(jobs, Path("/results"), profile or SlurmProfile(), limits, histories or {}, canary)


def _sent(submission) -> list[str]:
    return [job.job_id for array in submission.arrays for element in array.elements for job in element.jobs]


def test_five_thousand_long_trials_are_cut_by_the_largest_index_and_none_is_lost_or_doubled():
    jobs = _jobs(5000, minutes=60.0)
    submission = _plan(jobs)
    assert [len(array.elements) for array in submission.arrays] == [1001, 1001, 1001, 1001, 996]
    assert _sent(submission) == [job.job_id for job in jobs] and not submission.waiting
    assert all(element.index == place for array in submission.arrays for place, element in enumerate(array.elements))


def test_what_does_not_fit_a_submit_limit_waits_in_order():
    jobs = _jobs(100, minutes=60.0)
    submission = _plan(jobs, limits=Limits(1001, 40), canary=True)
    assert len(_sent(submission)) == 39  # the canary takes one place
    assert _sent(submission) + [job.job_id for job in submission.waiting] == [job.job_id for job in jobs]


def test_a_full_queue_leaves_everything_waiting():
    submission = _plan(_jobs(3, minutes=60.0), limits=Limits(1001, 0))
    assert not submission.arrays and len(submission.waiting) == 3


def test_short_trials_are_packed_but_never_into_fewer_jobs_than_may_run_at_once():
    jobs = _jobs(100, minutes=1.0)
    (array,) = _plan(jobs).arrays
    assert len(array.elements) == 2 and array.needs.minutes == 55  # 50 trials and the start
    (array,) = _plan(jobs, SlurmProfile(parallel=16)).arrays
    sizes = [len(element.jobs) for element in array.elements]
    assert len(sizes) == 16 and set(sizes) == {6, 7} and sum(sizes) == 100


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
    assert [len(element.jobs) for element in array.elements] == [4, 4]
    (array,) = _plan(jobs).arrays
    assert (array.needs.at_once, array.needs.gpus, array.needs.cpus) == (1, 1, 2) and len(array.elements) == 8


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


def _after(*states: str, nodes: str = "n3"):
    def history(jobs):
        return {jobs[0].trial_ids[0]: History(tuple(QueueEntry(state, "", nodes) for state in states))}

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


def test_after_three_failures_a_trial_is_given_up_with_the_reason():
    jobs = _jobs(2, minutes=60.0)
    submission = _plan(jobs, histories=_after("TIMEOUT", "NODE_FAIL", "TIMEOUT")(jobs))
    assert _sent(submission) == ["job-0001"]
    assert submission.given_up == {jobs[0].trial_ids[0]: "3 starts ended TIMEOUT, NODE_FAIL"}


def test_children_of_a_trial_that_is_given_up_are_not_sent_to_find_nothing():
    parent, other = _jobs(2)
    children = [
        replace(job, level=1, cohorts=(Cohort(trials=(digits_config(seed=9, weights=f"trial/{of.trial_ids[0]}"),)),))
        for job, of in zip(_jobs(4)[2:], (parent, other), strict=True)
    ]
    histories = {parent.trial_ids[0]: History(tuple(QueueEntry("TIMEOUT") for _ in range(3)))}
    submission = _plan([*children, parent, other], histories=histories)
    assert _sent(submission) == ["job-0001", "job-0003"]
    assert submission.given_up[children[0].trial_ids[0]] == f"their parent {parent.trial_ids[0]} is not either"


def test_a_trial_that_ended_by_itself_or_was_cancelled_is_not_given_up():
    jobs = _jobs(1, minutes=60.0)
    assert _sent(_plan(jobs, histories=_after("COMPLETED", "CANCELLED", "FAILED", "PREEMPTED")(jobs))) == ["job-0000"]


def test_a_canary_is_the_first_trial_alone_under_a_name_of_its_own():
    (array,) = _plan(_jobs(100, minutes=1.0)).arrays
    canary = canary_of(array.elements[0])
    assert [job.job_id for job in canary.jobs] == ["canary-0000"]
    assert canary.jobs[0].trial_ids == array.elements[0].jobs[0].trial_ids
