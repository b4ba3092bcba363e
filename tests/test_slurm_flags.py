"""What a job asks of Slurm, as the profile has it."""

from __future__ import annotations

import re

import pytest

from cifar_hpc.executors.slurm.arrays import ArrayPlan, Needs
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.flags import cpus_of, memory_gb_of, sbatch_flags, shards_of, srun_flags
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.layout import Layout


def _gpus(profile: SlurmProfile, shards: int = 0) -> dict:
    flags = sbatch_flags(profile, nodes=1, gpus=2, cpus=4, memory_gb=None, shards=shards)
    return {flag: value for flag, value in flags.items() if flag.startswith(("gpu", "gres"))}


@pytest.mark.parametrize(
    ("profile", "wanted"),
    [
        ({}, {"gres": "gpu:2"}),
        ({"gres": "gpu:a100"}, {"gres": "gpu:a100:2"}),
        ({"gres": "gpu:1g.10gb"}, {"gres": "gpu:1g.10gb:2"}),
        ({"gpus": "gpus-per-node"}, {"gpus-per-node": "2"}),
        ({"gpus": "gpus-per-node", "gres": "gpu:h100"}, {"gpus-per-node": "h100:2"}),
        ({"gpus": "gpus-per-task", "gres": "gpu:h100"}, {"gpus-per-task": "h100:2"}),
        ({"gres": None}, {}),
    ],
)
def test_gpus_are_asked_for_as_the_site_wants_it(profile, wanted):
    assert _gpus(SlurmProfile(**profile)) == wanted


def test_a_share_of_a_gpu_is_asked_for_in_the_shards_of_the_site():
    profile = SlurmProfile(shards=4)
    assert [shards_of(profile, gpus) for gpus in (0.25, 0.3, 1.0, 0.0)] == [1, 2, 0, 0]
    assert shards_of(SlurmProfile(), 0.25) == 0 and _gpus(profile, shards=1) == {"gres": "shard:1"}


def test_nothing_is_sent_that_nobody_asked_for():
    assert sbatch_flags(SlurmProfile(gres=None), nodes=1, gpus=0, cpus=1, memory_gb=None) == {
        "nodes": 1,
        "ntasks-per-node": 1,
        "cpus-per-task": 1,
        "requeue": True,
    }


def test_what_the_profile_says_of_the_site_stands_in_the_flags():
    keys = {"reservation": "course", "licenses": "matlab:1", "comment": "a b", "wckey": "w", "account": "v", "qos": "long"}
    flags = sbatch_flags(SlurmProfile(exclude="n1", **keys), nodes=2, gpus=1, cpus=8, memory_gb=1.5, exclude="n2")
    assert {key: flags[key] for key in keys} == keys and (flags["exclude"], flags["mem"]) == ("n1,n2", "1536M")
    assert srun_flags(SlurmProfile(srun={"cpu-bind": "none", "container-writable": True, "label": False})) == [
        "--cpu-bind=none",
        "--container-writable",
    ]


def test_a_job_with_a_gpu_gets_cpus_and_memory_that_a_cuda_process_lives_with():
    site = SlurmProfile(cpus_per_gpu=16, memory_per_gpu_gb=60.0, memory_gb=4.0)
    assert [cpus_of(site, 1, gpus) for gpus in (0.0, 1.0, 2.0, 0.25)] == [1, 16, 32, 4]
    assert cpus_of(SlurmProfile(), 1, 1.0) == 4 and cpus_of(SlurmProfile(), 6, 1.0) == 6
    assert [memory_gb_of(site, asked, 2.0) for asked in (None, 8.0)] == [120.0, 8.0]
    assert memory_gb_of(site, None, 0.0) == 4.0 and memory_gb_of(SlurmProfile(), None, 1.0) is None


@pytest.mark.parametrize(
    ("profile", "longest", "least"),
    [
        ({"time_min": True}, 40.0, ["45"]),
        ({"time_min": True}, 20.0, ["33"]),  # half of it: a requeued job keeps what Slurm has cut it down to
        ({}, 20.0, []),
        ({"time_min": True}, 60.0, []),  # its longest trial needs all of it
        ({"time_min": True, "requeue": False}, 20.0, []),  # what is left then nobody would train
    ],
)
def test_less_time_is_offered_down_to_the_longest_trial_where_the_site_takes_it(tmp_path, profile, longest, least):
    needs = Needs(nodes=1, gpus=0, cpus=1, memory_gb=None, minutes=65, at_once=1, exclude=())
    jobs = tuple(Job(sweep="s", job_id=f"job-{n}", cohorts=(), resources=Resources(gpus=0)) for n in (1, 2))
    executor = SlurmExecutor(SlurmProfile(**profile), Layout(tmp_path))
    script = executor.script(ArrayPlan(needs, jobs, minutes=(10.0, longest)), "s")
    assert re.findall(r"#SBATCH --time-min=(\d+)", script) == least
