"""What the program tells of itself: help, examples, version, completion, and what would run."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cifar_hpc import __version__
from cifar_hpc.cli import app
from cifar_hpc.cli.examples import EXAMPLES
from cifar_hpc.config import catalog
from cifar_hpc.records.schema import PlannedTrial
from cifar_hpc.spec.load import load_spec
from cifar_hpc.terminal.prose import laid_out
from cifar_hpc.terminal.tables import TextColumn, print_columns

ROOT = Path(__file__).parents[1]


def call(*words: str, width: int = 120):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": str(width)})


def test_every_command_has_examples_and_no_other_word_has():
    group: Any = typer.main.get_command(app)
    assert set(EXAMPLES) == set(group.list_commands(None))


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_taken_by_its_command(line, tmp_path, monkeypatch):
    (tmp_path / "new_photos").mkdir()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split(" > ")[0])[1:]
    unquoted = re.sub("'[^']*'", "", line.split(" > ")[0])
    assert not set(unquoted) & set("<>[]*?"), "a shell would not hand it on"
    group: Any = typer.main.get_command(app)
    group.get_command(None, words[0]).make_context(words[0], words[1:])
    assert words[0] in EXAMPLES and line in EXAMPLES[words[0]]


def test_help_shows_the_examples_as_they_are_typed():
    shown = call("sweep", "-h").stdout
    assert shown == call("sweep", "--help").stdout
    assert all(line in shown for line in EXAMPLES["sweep"])


def test_the_version_is_told():
    told = call("--version")
    assert (told.exit_code, told.stdout.strip()) == (0, f"cifar-hpc {__version__}")


def test_a_shell_completes_commands_and_options():
    asked = {"_CIFAR_HPC_COMPLETE": "complete_bash", "PYTHONPATH": str(ROOT)}
    for line, found in (("cifar-hpc stat", "status"), ("cifar-hpc report --op", "--open")):
        environment = {**os.environ, **asked, "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        program = [sys.executable, "-c", "from cifar_hpc.cli import app; app(prog_name='cifar-hpc')"]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [found]


def test_a_dry_run_lists_the_configurations(tmp_path, monkeypatch):
    made: list[str] = []
    monkeypatch.setattr(
        "cifar_hpc.planning.plan.PlannedTrial", lambda **keys: made.append(keys["trial_id"]) or PlannedTrial(**keys)
    )
    (tmp_path / "s.yaml").write_text(
        "name: s\ndataset: digits\ngrid: {arch: [linear, simple_cnn], lr: [0.1, 1e-5]}\nseeds: 2\n"
    )
    shown = call("sweep", str(tmp_path / "s.yaml"), "--dry-run", "--list").stdout.splitlines()
    head = next(n for n, line in enumerate(shown) if line.split()[:2] == ["arch", "lr"])
    rows = [line.split() for line in shown[head + 1 :]]
    assert [row[:5] for row in rows] == [[a, r, "2", "2", "planned"] for a in ("linear", "simple_cnn") for r in ("0.1", "1e-5")]
    assert all(len(row[5]) == 8 for row in rows)
    assert len(made) == len(set(made)) == 8, "its plan is made once, not by each who tells something of it"
    search = "search: {algorithm: random, num_points: 2, ranges: {lr: {low: 1e-3, high: 1, log: true}}}"
    searched = f"name: t\ndataset: digits\n{search}\nbase: {{arch: linear}}\n"
    (tmp_path / "t.yaml").write_text(searched)
    assert "a search samples" in call("sweep", str(tmp_path / "t.yaml"), "--dry-run", "--list").stderr
    asha = ["--set", "epochs=4", "--set", "search.num_points=5", "--set", "search.scheduler=asha"]  # 8 epochs were trained
    assert "stops trials: about 9 epochs if 1/3 go on" in call("sweep", str(tmp_path / "t.yaml"), "--dry-run", *asha).stdout


def test_arch_counts_a_network_in_one_way():
    every = {row["arch"]: row for row in json.loads(call("arch", "--format", "json").stdout)}
    assert set(every) == set(catalog.ARCHS)
    for name in ("linear", "simple_cnn", "mobilenet_v3_small"):
        blocks = json.loads(call("arch", name, "--format", "json").stdout)
        assert sum(block["params"] for block in blocks) == every[name]["params"]
        assert sum(block["macs"] for block in blocks) == pytest.approx(every[name]["macs"], rel=1e-3)
    assert every["resnet18"]["macs"] == pytest.approx(1.814e9, rel=0.01)  # as torchvision's and the papers' 1.8 GFLOPs
    assert "MAC" in call("arch", "linear").stderr


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_a_table_ends_its_lines_between_words(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    cells = ("mobilenet_v3_small then resnet18", "a sentence of several words that has to be folded")
    columns = [
        TextColumn("arch", cells),
        TextColumn("why it failed", ("out of memory on node1 after a while", "the disk is full again")),
        TextColumn("val acc %", ("91.30 (3)", "90.10 (3)"), right=True),
        TextColumn("seconds", ("12", "13"), keep=3, right=True),
    ]
    print_columns(columns)
    shown = capsys.readouterr().out
    known = {word for column in columns for text in (column.title, *column.cells) for word in text.split()}
    assert all(len(line) <= width for line in shown.splitlines())
    assert all(word in known or word.endswith("…") for word in shown.split())
    assert width < 60 or "…" not in shown


def test_a_sentence_on_a_terminal_ends_its_lines_between_words_and_what_is_to_copy_stays_whole(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    said = "Fewer than three seeds: no place is claimed for one configuration, which stands by its number."
    lines = laid_out(said, Terminal()).splitlines()
    assert len(lines) > 1 and all(len(line) <= 40 for line in lines) and " ".join(lines) == said
    found = f"warning: {'/a_long/path' * 4}: {said}"
    assert f"\n{'/a_long/path' * 4}:\n" in laid_out(found, Terminal())  # a path is whole, and the words beside it are
    copied = "next: cifar-hpc sweep sweeps/a_long_name.yaml --set epochs=2 --set seeds=3"
    assert laid_out(copied, Terminal()) == copied
    assert laid_out(said, io.StringIO()) == said


def test_what_the_examples_set_suits_the_spec_that_they_name():
    lines = [shlex.split(line) for lines in EXAMPLES.values() for line in lines if "sweeps/quickstart.yaml" in line]
    assert len(lines) > 4
    for words in lines:
        load_spec(ROOT / "sweeps/quickstart.yaml", [after for word, after in itertools.pairwise(words) if word == "--set"])
