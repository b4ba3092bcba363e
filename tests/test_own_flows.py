"""The user's own network and data set on every way that built-in ones go: kill -9, two processes, refit, Ray, soup, Slurm."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.models.loading import pack_weights
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.worker.job import run_job
from slurm.local.cluster import Cluster
from tests.helpers.training import job_of, numbers
from tests.test_own_parts import DATA, NETS, PARTS, SPEC
from tests.test_plugins import MINE

ONE = SPEC.replace("[none, stem], arch_args.width: [4, 6]", "[stem]").replace("n: 96", "n: 192")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("mynets.py", NETS), ("parts.py", PARTS), ("mydata.py", DATA), ("own.yaml", ONE)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("cifar_hpc.config.sources._kept", [])
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def written(place: Path, text: str) -> Path:
    (place / "own.yaml").write_text(text)
    return place / "own.yaml"


def test_killed_with_nine_it_goes_on_to_the_same_numbers_though_the_file_changed(place: Path) -> None:
    path = written(place, ONE.replace("epochs: 2", "epochs: 300"))
    config = load_spec(path).trials[0].config
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "cifar_hpc", "sweep", "own.yaml", "--on", "inline"]
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files, end = Layout(results_root()).trial(config.trial_id), time.monotonic() + 120
    while not files.metrics.exists() and time.monotonic() < end:
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    assert not files.result.exists()
    (place / "mynets.py").write_text("raise RuntimeError('edited meanwhile')\n")
    run_job(job_of(config), Layout(results_root()), executor="inline")
    whole = Layout(place / "whole")
    whole.root.mkdir()
    whole.sources.symlink_to(Layout(results_root()).sources)
    run_job(job_of(config), whole, executor="inline")
    resumed, alone = (read_record(at.trial(config.trial_id).result, TrialResult) for at in (Layout(results_root()), whole))
    assert resumed.attempts == 2 and numbers(resumed) == numbers(alone)


def test_two_processes_train_it_and_a_refit_follows(place: Path) -> None:
    written(place, ONE + "resources: {processes: 2}\n")
    run("sweep", "own.yaml", "--on", "inline")
    config = load_spec(place / "own.yaml").trials[0].config
    result = read_record(Layout(results_root()).trial(config.trial_id).result, TrialResult)
    assert result.hardware.world_size == 2 and result.val is not None
    run("refit", "own", "--on", "inline")


def test_ray_trains_it_and_a_soup_is_made(place: Path) -> None:
    """With an optimiser of one's own too, which the workers know by its code alone."""
    start = load_spec(place / "own.yaml").trials[0].config
    weights = place / "start.safetensors"
    weights.write_bytes(pack_weights(build_model(start, 3, 1), ((0.5,), (0.25,))))
    (place / "mine.py").write_text(MINE)
    text = ONE.replace("freeze: [stem]", "lr: [0.005, 0.002]")
    text = text.replace("lr: 0.05}", f"weights: {weights.name}, freeze: stem, optimizer: rmsprop}}\nplugins: [mine.py]")
    written(place, text)
    importlib.import_module("ray")  # as a notebook may before it trains
    run("sweep", "own.yaml", "--on", "ray")
    layout, configs = Layout(results_root()), load_spec(place / "own.yaml").configs
    results = [read_record(layout.trial(config.trial_id).result, TrialResult) for config in configs]
    assert [(result.executor, len(result.provenance.sources)) for result in results] == [("ray", 3)] * 2
    assert "uniform" in run("soup", "own")


def test_slurm_trains_it_on_a_node(cluster: Cluster, place: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    (place / "slurm").mkdir()
    (place / "slurm/site.yaml").write_text("memory_gb: 1\n")
    run("sweep", "own.yaml", "--on", "slurm", "--no-canary", "--wait")
    config = load_spec(place / "own.yaml").trials[0].config
    result = read_record(Layout(results_root()).trial(config.trial_id).result, TrialResult)
    assert result.executor == "slurm" and result.frozen_blocks == 1
