"""Every end has a reason in `status` and `logs`: what a job said last, of jobs that died before any trial began too."""

from __future__ import annotations

import contextlib
import os
import time

import pytest
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.logs import END_BYTES, last_words, newest, tail
from slurm.local.cluster import Cluster

SPEC = "name: s\ndataset: {name: digits, train_size: 200}\nbase: {arch: linear, epochs: 1}\ngrid: {lr: [0.1, 0.2]}\n"


def _run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    return done.output


@pytest.fixture
def told(cluster: Cluster, tmp_path, monkeypatch):
    """Of a submitted sweep what `status` says once it says these words, and what `logs` says of a trial."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "slurm").mkdir()
    (tmp_path / "s.yaml").write_text(SPEC)

    def tell(profile: str, words: str) -> tuple[str, str]:
        (tmp_path / "slurm/site.yaml").write_text(f"gres: null\nparallel: 1\nmemory_gb: 1\n{profile}")
        assert "2 trials submitted" in _run("sweep", "s.yaml", "--no-canary")
        until = time.monotonic() + 60
        while words not in (status := _run("status", "s")):
            assert time.monotonic() < until, status
            time.sleep(0.5)
            Layout(results_root()).queue.unlink(missing_ok=True)
        return status, _run("logs", "s", "lr=0.1")

    return tell


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("python: /usr/bin/python3 -S\n", "No module named"),
        ("container: /nowhere/apptainer exec image.sif\n", "/nowhere/apptainer"),
    ],
    ids=["python without packages", "wrong container"],
)
def test_a_job_that_dies_before_its_trials_begin_says_why(told, profile, words):
    status, logs = told(profile, "its log ends")
    assert words in status
    assert words in logs and "_log.out, all " in logs


def test_a_node_without_torch_fails_its_trials_with_pythons_own_words(told, tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node/torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    status, logs = told(f"environment: {{PYTHONPATH: {tmp_path / 'node'}}}\n", "2 failed")
    assert "ModuleNotFoundError: No module named 'torch'" in status
    assert "ModuleNotFoundError: No module named 'torch'" in logs and "_log.out, " in logs


@pytest.mark.skipif(os.getuid() != 0, reason="only root's nodes have file systems of their own")
def test_results_that_a_node_does_not_see_are_named_as_the_reason(told, cluster: Cluster, tmp_path):
    results_root().mkdir()
    with contextlib.ExitStack() as stack:
        for node in cluster.site.nodes:
            stack.enter_context(cluster.hidden(node, results_root()))
        status, logs = told("", "does its node see")
    assert str(results_root()) in status and "does its node see" in logs and "no log of s/job-" in logs


def test_of_a_huge_log_only_the_end_is_read(tmp_path):
    path = tmp_path / "log.out"
    with path.open("wb") as stream:
        stream.truncate(200 * 2**20)
        stream.seek(0, 2)
        stream.write(b"\nfirst\nlast\n")
    assert tail(path, 2) == (["first", "last"], True)
    short = tmp_path / "short.out"
    short.write_text("one\ntwo\n")
    assert tail(short, 40) == (["one", "two"], False) and END_BYTES < 10**6


def test_the_newest_job_of_an_array_speaks_with_all_its_nodes(tmp_path):
    files = Layout(tmp_path).sweep("s")
    folder = files.array("s-1").folder
    folder.mkdir(parents=True)
    for name, text in {"7_0_0": "old", "7_1_0": "ValueError: no\nits processes ended with status 1", "7_1_1": "other"}.items():
        (folder / f"{name}_log.out").write_text(text)
    os.utime(folder / "7_0_0_log.out", (1, 1))
    os.utime(folder / "7_1_1_log.out", (2, 2))
    assert [path.name for path in newest(files.task_logs("7@alps"))] == ["7_1_0_log.out", "7_1_1_log.out"]
    assert last_words(files, "7@alps") == "; its log ends: ValueError: no"
    assert last_words(files, "8") == ""
    killed = "srun: error: n1: task 0: Killed\nsrun: Force Terminated StepId=9.0\nits processes ended with status 137\n"
    (folder / "9_0_log.out").write_text(killed)
    assert last_words(files, "9") == "; its log ends: srun: error: n1: task 0: Killed", (
        "a killed process has no words of its own"
    )
