"""The local cluster itself: what the other Slurm tests stand on."""

from __future__ import annotations

import time
from pathlib import Path

from slurm.local.cluster import Cluster


def _wait_for(text: str, cluster: Cluster, *command: str, timeout_s: float = 40.0) -> str:
    end = time.monotonic() + timeout_s
    while text not in (output := cluster.run(*command, check=False)):
        assert time.monotonic() < end, f"{text!r} never stood in: {output}"
        time.sleep(0.2)
    return output


def test_a_job_gets_the_fake_gpus_it_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    cluster.run("sbatch", "--wait", "--gres=gpu:2", "-o", str(out), "--wrap", "echo $CUDA_VISIBLE_DEVICES")
    assert out.read_text() in ("0,1\n", "2,3\n")


def test_a_power_cut_on_a_node_starts_its_job_again_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("sbatch", "--requeue", "-J", "cut", "-o", "/dev/null", "--wrap", "sleep 60")
    _wait_for("RUNNING", cluster, "squeue", "-h", "-n", "cut", "-o", "%T")
    node = cluster.run("squeue", "-h", "-n", "cut", "-o", "%N").strip()
    try:
        cluster.kill_node(node, tell=True)
        _wait_for("Restarts=1", cluster, "scontrol", "show", "job")
    finally:
        cluster.start_node(node)
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def test_the_controller_comes_back_with_its_queue(cluster: Cluster) -> None:
    cluster.run("sbatch", "--hold", "-J", "waiting", "-o", "/dev/null", "--wrap", "true")
    cluster.stop_controller()
    cluster.start_controller()
    _wait_for("waiting", cluster, "squeue", "-h", "-o", "%j")
