"""One real Slurm cluster for all tests that want one: up at the first, down after the last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.local.cluster import PACKAGES, Cluster, Site, is_installed


@pytest.fixture(scope="session")
def _running_cluster() -> Iterator[Cluster]:
    if not is_installed():
        lack = f"Slurm is not installed: apt-get install --no-install-recommends {PACKAGES}"
        if os.environ.get("CI") == "true":
            pytest.fail(lack)
        pytest.skip(lack)
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # not tmp_path: too long for sockets, closed to munged
    port = 20000 + os.getpid() % 400 * 100
    site = Site(root=root, nodes=("n1", "n2", "n3"), cpus=16, gpus=4, isolated=os.getuid() == 0, port=port, node_timeout_s=10)
    cluster = Cluster(site, die_with_parent=True)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down(purge=True)


@pytest.fixture
def cluster(_running_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, with the Slurm commands of this process speaking to it; the queue is emptied afterwards."""
    for key in [key for key in os.environ if key.startswith(("SLURM_", "SBATCH_", "SRUN_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("SLURM_CONF", str(_running_cluster.site.slurm_conf))
    yield _running_cluster
    _running_cluster.run("scancel", "--quiet", "-u", str(os.getuid()), check=False)
