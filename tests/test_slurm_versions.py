"""What Slurm 20.11 to 25.05 print, and that it is read alike."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cifar_hpc.executors.slurm.probe import cluster_facts
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.site import read_config, read_limits, read_partitions
from cifar_hpc.records.jobs import JobState


@dataclass(frozen=True)
class _Release:
    """One release's own ways: what stands for no node, for no accounting, for a GPU's place, for a job that nobody knows."""

    version: str
    no_node: str
    no_accounting: str
    gres: str
    unknown: str
    limit: str = "UNLIMITED"


RELEASES = (
    _Release(
        "20.11.9", "None assigned", "accounting_storage/none", "gpu:a100:4", "slurm_load_jobs error: Invalid job id specified"
    ),
    _Release(
        "22.05.8",
        "None assigned",
        "accounting_storage/none",
        "gpu:a100:4(S:0-1)",
        "slurm_load_jobs error: Invalid job id specified",
    ),
    _Release("23.11.10", "None assigned", "(null)", "gpu:a100:4(S:0-1)", "slurm_load_jobs error: Invalid job id specified"),
    _Release(
        "24.11.3",
        "None assigned",
        "(null)",
        "gpu:nvidia_a100-sxm4-80gb:4(S:0-1),shard:nvidia_a100-sxm4-80gb:16(S:0-1)",
        "slurm_load_jobs error: Invalid job id specified",
        "infinite",
    ),
    _Release(
        "25.05.1",
        "None assigned",
        "(null)",
        "gpu:nvidia_h100_80gb_hbm3:3(S:0,3),gpu:nvidia_h100_80gb_hbm3_1g.10gb:1(S:1)",
        "squeue: error: Invalid job id specified",
        "infinite",
    ),
)


@pytest.fixture(params=RELEASES, ids=lambda release: release.version)
def release(request, tmp_path, monkeypatch):
    """A cluster of that release: one GPU partition, an array of which one task runs and one was cancelled, no accounting."""
    found: _Release = request.param
    outputs = {
        "scontrol": f"Configuration data as of 2026-01-01T00:00:00\nAccountingStorageType   = {found.no_accounting}\n"
        f"ClusterName             = alps\nMaxArraySize            = 1001\nMaxJobCount             = 10000\n"
        f"PreemptMode             = OFF\nSLURM_VERSION           = {found.version}\nCgroup Support Configuration:\n",
        "sinfo": f"gpu*|2-00:00:00|4|64+|512000+|{found.gres}\ncpu|{found.limit}|2|32|256000|(null)\n",
        "sacct": f"1000_[3-5%2]|PENDING|{found.no_node}\n1000_1|CANCELLED by 1000|n2\n1000_2|OUT_OF_MEMORY|n1\n",
    }
    for name, text in outputs.items():
        _write(tmp_path, name, text)
    _write(tmp_path, "squeue", "1000_[3-5%2]|PENDING|JobArrayTaskLimit|\n1000_0|RUNNING|None|n1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return found


def _write(folder, name: str, text: str, status: int = 0) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(
        f"#!/bin/sh\ncat <<'END'{' >&2' if status else ''}\n{text.rstrip()}\nEND\nexit {status}\n"
    )
    (folder / "bin" / name).chmod(0o755)


def test_the_queue_is_read_alike(release, tmp_path):
    queue = SlurmQueue(tmp_path / "queue.json")
    handles = [f"1000_{index}@alps" for index in range(6)]
    states = queue.states(handles)
    assert [states[handle] for handle in handles] == [JobState.RUNNING, *[JobState.GONE] * 2, *[JobState.QUEUED] * 3]
    words = queue.explain(handles)
    assert words["1000_2@alps"] == "OUT_OF_MEMORY" and words["1000_1@alps"].startswith("CANCELLED")
    assert words["1000_4@alps"] == "PENDING (JobArrayTaskLimit)"
    _write(tmp_path, "squeue", release.unknown, status=1)
    assert SlurmQueue(tmp_path / "another.json").states(["7@alps"]) == {"7@alps": JobState.GONE}


def test_partitions_limits_and_facts_are_read_alike(release):
    gpu, cpu = read_partitions()
    assert (gpu.name, gpu.is_default, gpu.minutes, gpu.nodes, gpu.cpus, gpu.gpus) == ("gpu", True, 2880, 4, 64, 4)
    assert (cpu.gpus, cpu.minutes, cpu.gres) == (0, None, None)
    assert read_limits(SlurmProfile()).why.startswith("10000 jobs (MaxJobCount")
    facts = " ".join(cluster_facts(read_config()))
    assert f"Slurm {release.version}" in facts and "accounting: no" in facts


@pytest.mark.parametrize("word", ["EXPEDITING", "POWER_UP_NODE", "LAUNCH_FAILED", "A_WORD_OF_2030"])
def test_a_state_that_nobody_has_heard_of_is_a_job_that_lives(word, tmp_path, monkeypatch):
    _write(tmp_path, "squeue", f"1|{word}|None|n1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert SlurmQueue(tmp_path / "queue.json").states(["1"]) == {"1": JobState.RUNNING}
