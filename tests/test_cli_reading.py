"""What the reading commands print: on terminals of every width, in a pipe, and for programs."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cifar_hpc import catalog
from cifar_hpc.cli import app
from cifar_hpc.errors import nearest


def call(*arguments: str, columns: int | None = None):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": None if columns is None else str(columns)})


def test_arch_without_a_name_lists_every_architecture():
    assert [row["arch"] for row in json.loads(call("arch", "--format", "json").stdout)] == list(catalog.ARCHS)
    lines = call("arch", columns=80).stdout.splitlines()
    assert len(lines) == 1 + len(catalog.ARCHS)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("word", "meant"),
    [("resnet19", "resnet18"), ("vgg12", "vgg11"), ("efficientnet_b9", "efficientnet_b7"), ("resnet3", "resnet34")],
)
def test_a_wrong_number_is_answered_with_the_nearest_number_and_a_short_list(word, meant):
    assert nearest(word, catalog.ARCHS) == meant
    told = call("arch", word)
    assert told.exit_code == 2
    assert f"Did you mean '{meant}'?" in told.stderr
    assert len(told.stderr) < 160
