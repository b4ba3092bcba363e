"""Every benchmark still finds what it measures: a script that nobody ran since a name moved is useless on the day it counts."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import torch

from benchmarks import airbench94

SCRIPTS = sorted(path for folder in ("benchmarks", "slurm") for path in (Path(__file__).parents[1] / folder).glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_takes_from_the_package_is_there(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cifar_hpc"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module


def test_the_recipe_beside_which_resnet9_is_measured_trains_without_a_gpu_too():
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = images, torch.arange(40) % 10
    acc, _ = airbench94.train({"train": split, "test": split}, torch.device("cpu"), epochs=1.5, batch=20)
    assert 0 <= acc <= 1
