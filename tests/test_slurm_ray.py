"""Ray over the nodes of a Slurm job: slurm/ray_cluster.sbatch on a real cluster."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cifar_hpc.planning.plan import make_plan
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import Status
from cifar_hpc.spec.load import load_spec
from slurm.local.cluster import Cluster

ROOT = Path(__file__).parents[1]
SPEC = """\
name: spread
dataset: {name: digits, train_size: 400}
base: {arch: simple_cnn, image_size: 8, epochs: 40}
grid: {batch_size: [32, 48]}
resources: {gpus: 0}
"""


def test_a_sweep_trains_on_all_nodes_of_an_allocation_and_leaves_nothing_on_them(cluster: Cluster, tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text(SPEC)
    monkeypatch.setitem(cluster.environment, "PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for key, value in {"CIFAR_HPC_RESULTS": str(results_root()), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setitem(cluster.environment, key, value)
    output = tmp_path / "job.log"
    flags = ["--parsable", "--cpus-per-task=1", f"--output={output}", f"--chdir={tmp_path}"]
    job = cluster.run("sbatch", *flags, str(ROOT / "slurm/ray_cluster.sbatch"), "s.yaml").strip()
    until = time.monotonic() + 180
    while cluster.run("squeue", "-h", "-j", job, "-t", "pending,running,completing").strip():
        assert time.monotonic() < until, output.read_text()
        time.sleep(0.5)
    layout = Layout(results_root())
    ids = [trial.trial_id for trial in make_plan(load_spec(tmp_path / "s.yaml")).trials]
    states = [read_state(layout.trial(trial_id), trial_id) for trial_id in ids]
    assert [state.status for state in states] == [Status.COMPLETED] * 2, output.read_text()
    assert len({state.result.hardware.host for state in states}) == 2
    assert not Path(f"/tmp/ray-{job}").exists()
    assert not list(layout.sweep("spread").logs.glob("chpc-*"))
