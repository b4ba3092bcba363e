"""`cifar-hpc doctor`: what it reads from a cluster, and that a profile of it works there."""

from __future__ import annotations

from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.executors.slurm.probe import cluster_facts, suggest
from cifar_hpc.executors.slurm.profile import load_profile
from cifar_hpc.executors.slurm.site import Partition
from slurm.local.cluster import Cluster


def _partition(name: str, gres: str | None = None, default: bool = False, minutes: float | None = None) -> Partition:
    return Partition(name=name, is_default=default, minutes=minutes, nodes=4, cpus=32, memory_gb=256.0, gres=gres)


def test_gpus_of_a_node_are_counted_over_types_and_sockets():
    assert _partition("a", "gpu:a100:4(S:0-1),gpu:h100:2,nvme:1").gpus == 6
    assert _partition("b", "gpu:8").gpus == 8 and _partition("c").gpus == 0


def test_a_partition_with_gpus_is_chosen_and_its_gpus_bound_what_runs_at_once():
    keys = suggest([_partition("cpu", default=True), _partition("gpu", "gpu:a100:4", minutes=2880)])
    assert keys == {"gpu_partition": "gpu", "parallel": 16, "cpu_partition": "cpu", "max_minutes": 2880}


def test_a_site_without_gpus_asks_for_none():
    assert suggest([_partition("cpu", default=True)])["gres"] is None


def test_a_cluster_without_accounting_or_user_signals_is_told():
    text = " ".join(cluster_facts({"PreemptMode": "REQUEUE", "AccountingStorageType": "accounting_storage/none"}))
    assert "accounting: no" in text and "SIGTERM only" in text


def test_doctor_tries_a_job_and_writes_a_profile_that_reads_back(cluster: Cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--wait-s", "90"])
    assert done.exit_code == 0, done.output
    assert "shared with the nodes" in done.output and "torch" in done.output
    profile = load_profile(tmp_path / "slurm/local.yaml")
    assert (profile.gpu_partition, profile.parallel) == ("main", 12)
    assert not list((tmp_path / "results").glob(".probe*")), "the probe leaves nothing"


def test_doctor_without_slurm_says_what_to_do_instead(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 2 and "--on ray" in done.output
