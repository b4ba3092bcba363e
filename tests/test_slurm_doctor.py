"""`cifar-hpc doctor`: what it reads from a cluster, and that a profile of it works there."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.executors.slurm.probe import cluster_facts, gpu_types, probe, probe_text, suggest
from cifar_hpc.executors.slurm.profile import SlurmProfile, load_profile
from cifar_hpc.executors.slurm.queue import QueueEntry
from cifar_hpc.executors.slurm.site import Partition
from slurm.local.cluster import Cluster


def _partition(name: str, gres: str | None = None, default: bool = False, minutes: float | None = None) -> Partition:
    return Partition(name=name, is_default=default, minutes=minutes, nodes=4, cpus=32, memory_gb=256.0, gres=gres)


def test_gpus_of_a_node_are_counted_over_types_and_sockets():
    assert _partition("a", "gpu:a100:4(S:0-1),gpu:h100:2,nvme:1").gpus == 6
    assert _partition("b", "gpu:8").gpus == 8 and _partition("c").gpus == 0
    mig = _partition("d", "gpu:1g.10gb:7(S:0),gpu:a100:1,gpu:no_consume:1,shard:8")
    assert mig.gpu_types == {"1g.10gb": 7, "a100": 1} and mig.shards == 8


def test_a_partition_with_gpus_is_chosen_and_its_gpus_bound_what_runs_at_once():
    keys = suggest([_partition("cpu", default=True), _partition("gpu", "gpu:a100:4", minutes=2880)])
    share = {"cpus_per_gpu": 8, "memory_per_gpu_gb": 60}
    assert keys == {"gpu_partition": "gpu", "parallel": 16, **share, "cpu_partition": "cpu", "max_minutes": 2880}


def test_the_type_of_gpu_that_was_chosen_decides_the_partition_and_what_runs_at_once():
    sites = [_partition("old", "gpu:v100:2", default=True), _partition("new", "gpu:h100:4,shard:h100:16")]
    assert gpu_types(sites) == {"h100": 16, "v100": 8}
    keys = suggest(sites, "h100")
    assert (keys["gpu_partition"], keys["gres"], keys["parallel"], keys["shards"]) == ("new", "gpu:h100", 16, 4)
    assert suggest(sites)["gpu_partition"] == "old" and "gres" not in suggest(sites)


def test_a_site_without_gpus_asks_for_none():
    assert suggest([_partition("cpu", default=True)])["gres"] is None


def test_a_cluster_without_accounting_or_user_signals_is_told():
    text = " ".join(cluster_facts({"PreemptMode": "REQUEUE", "AccountingStorageType": "accounting_storage/none"}))
    assert "accounting: no" in text and "SIGTERM only" in text


def test_doctor_tries_a_job_and_writes_a_profile_that_reads_back(cluster: Cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--wait-s", "90"])
    assert done.exit_code == 0, done.output
    assert "shared with the nodes" in done.output and ", imported in " in done.output
    assert re.search(r"two tasks on n\d and n\d", done.output), done.output
    assert "file locks hold across nodes: yes" in done.output
    assert "clocks agree with the file server within 0" in done.output
    profile = load_profile(tmp_path / "slurm/local.yaml")
    assert (profile.gpu_partition, profile.parallel, profile.cpus_per_gpu, profile.time_min) == ("main", 12, 4, True)
    assert not list((tmp_path / "results").glob(".probe*")), "the probe leaves nothing"


def test_doctor_without_slurm_says_what_to_do_instead(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 2 and "--on ray" in done.output


def test_what_two_nodes_find_is_told_in_sentences():
    well = {"host": "n1", "cpus": 4, "token": "t", "sees": "n2", "flock": "yes", "clock_s": 0.1, "network": True}
    torch = {"torch": "2.9", "import_s": 45.0, "gpus": ["H100"]}
    bad = {**well, "host": "n2", "sees": None, "flock": "no: Function not implemented", "clock_s": -90.0, "network": False}
    text = "\n".join(
        probe_text([{**well, **torch}, {**bad, "error": "ModuleNotFoundError: No module named 'torch'"}], "t", "gpu")
    )
    for words in (
        "NOT what another node writes",
        "across nodes: no: Function not implemented",
        "within 90.0 s, too much",
        "fetch data and weights here",
        "imported in 45 s (slow",
        "python on n2 cannot import cifar_hpc and torch: ModuleNotFoundError",
    ):
        assert words in text
    blind = {"host": "n2", "cpus": 4, "token": None, "files": "No such file or directory"}
    text = "\n".join(probe_text([{**well, **torch}, blind], "t", None))
    assert "NOT the same folder on n2" in text and "reach the network: yes" in text


def test_slurm_that_is_silent_for_a_moment_has_not_ended_the_probe(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path))
    answers = iter([None, {"1": QueueEntry("OUT_OF_MEMORY")}])
    for name, does in (("look", lambda *_, **__: next(answers)), ("cancel", lambda *_: None)):
        monkeypatch.setattr(f"cifar_hpc.executors.slurm.queue.SlurmQueue.{name}", does)
    monkeypatch.setattr("cifar_hpc.executors.slurm.probe._send", lambda *_: "1")
    (said,) = probe(SlurmProfile(), nodes=2, wait_s=10)
    assert said.startswith("probe: ended without an answer (OUT_OF_MEMORY)")
