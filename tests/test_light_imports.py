"""Login nodes are slow and shared: what only looks at files imports neither a network library nor a scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_hpc.spec.parts import Resources
from cifar_hpc.sweep.calibration import machine_of

HEAVY = {"torch", "torchvision", "ray", "submitit", "pandas", "matplotlib", "sklearn", "scipy", "kornia"}
SPEC = "name: light\ndataset: digits\ngrid: {arch: [linear, simple_cnn]}\n"
PROGRAM = """
import json, sys
from cifar_hpc.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted({name.split(".")[0] for name in sys.modules})]))
"""


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A cache folder that knows this machine: measuring it imports torch, in a process of its own, for ten seconds."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "cifar-hpc").mkdir()
    known = {machine_of(Resources()): [[1.0, 1e10, 10], [1.0, 1e9, 1000]]}
    (folder / "cifar-hpc/speed.json").write_text(json.dumps(known))
    return folder


@pytest.fixture
def run(tmp_path, calibrated):
    (tmp_path / "good.yaml").write_text(SPEC)
    (tmp_path / "bad.yaml").write_text(SPEC.replace("linear", "lineer"))

    def run(*arguments: str) -> tuple[int, set[str]]:
        paths = {"PYTHONPATH": str(Path(__file__).parents[1]), "CIFAR_HPC_RESULTS": str(tmp_path / "results")}
        paths["XDG_CACHE_HOME"] = str(calibrated)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=tmp_path,
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
        )
        assert done.stdout, done.stderr
        status, modules = json.loads(done.stdout.splitlines()[-1])
        return status or 0, set(modules)

    return run


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["sweep", "good.yaml", "--dry-run"], 0),
        (["status"], 0),
        (["sweep", "bad.yaml"], 2),
        (["schema"], 0),
        (["arch", "--plan", "good.yaml"], 0),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_commands_that_train_nothing_import_nothing_heavy(run, arguments, status):
    ended, modules = run(*arguments)
    assert ended == status
    assert "typer" in modules
    assert modules & HEAVY == set()
