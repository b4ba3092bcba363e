"""The specs that come with the package: each loads, says its question, cost and expectation, and has nothing to warn of."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpc.spec.load import load_spec

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))


def test_there_are_sweeps() -> None:
    assert len(SWEEPS) >= 11


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_that_comes_with_the_package_loads_and_says_what_it_is_for(path: Path) -> None:
    spec = load_spec(path)
    assert spec.name == path.stem
    assert spec.configs
    known = ("image_size 32 with ImageNet weights",) if path.stem == "vgg11_transfer" else ()  # as in what it repeats
    assert [warning for warning in spec.warnings if not warning.startswith(known or "-")] == []
    header = path.read_text().split("name:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "?" in header and "# Cost: " in header and "# Expect: " in header
