"""The guide is built strictly, and what it tells to type or to write is taken by the program."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from ruamel.yaml import YAML

from cifar_hpc.cli import app
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.schema import describe_keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _generate() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _blocks(*languages: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text()):
            if language in languages:
                yield page.relative_to(ROOT).as_posix(), text


def _commands() -> list[tuple[str, str]]:
    """Every cifar-hpc line of the blocks of shell, and every one in the running text."""
    found = [(page, line) for page, text in _blocks("sh", "") for line in text.splitlines() if line.startswith("cifar-hpc ")]
    for page in PAGES:
        found += [(page.relative_to(ROOT).as_posix(), line) for line in re.findall(r"`(cifar-hpc [^`]+)`", page.read_text())]
    return sorted(set(found))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for name in ("ants", "bees"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / "train" / name / f"{number}.png")
    for _, text in _blocks("python"):
        (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text)  # each begins with its file's name
    rows = [f"train/{name}/{number}.png,{name}" for name in ("ants", "bees") for number in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    (tmp_path / "paper.pth").write_bytes(b"a name is all that a spec needs")
    monkeypatch.chdir(tmp_path)


def test_there_are_commands_to_check():
    assert len(_commands()) > 30


@pytest.mark.parametrize(("page", "line"), _commands(), ids=lambda text: text[:60])
def test_every_command_of_the_guide_is_taken_by_the_program(page, line, monkeypatch, tmp_path):
    for folder in ("new_photos", "photos", "test_images", "FOLDER"):  # asked for when a line is parsed
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split(" #")[0].split(" > ")[0])[1:]
    group: Any = typer.main.get_command(app)
    if words[0].startswith("--"):
        group.make_context("cifar-hpc", words, resilient_parsing=True)
        return
    command = group.get_command(None, words[0])
    assert command is not None, f"{page}: no command {words[0]}"
    if words[1:]:  # a name alone, as in running text, is that command and no more
        command.make_context(words[0], words[1:])
    if words[0] == "sweep" and words[1].startswith("sweeps/"):
        assert (ROOT / words[1]).is_file()


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(("page", "text"), [block for block in _blocks("yaml") if block[1].startswith("name:")])
def test_every_spec_of_the_guide_is_one(page, text, tmp_path):
    (tmp_path / "spec.yaml").write_text(text)
    assert load_spec(tmp_path / "spec.yaml").trials


@pytest.mark.usefixtures("photos")
def test_every_key_of_a_spec_has_an_example_that_loads(tmp_path):
    examples = _generate().examples()
    assert set(examples) == {row["key"] for row in describe_keys()}
    yaml = YAML(typ="safe")
    for key, text in examples.items():
        part = yaml.load(text)
        whole = {"name": "example", "dataset": "cifar10", "base": {"arch": "resnet18"}, **part}
        if "stages" in part or "arch" in part.get("grid", {}):
            whole["base"] = part.get("base", {})
        with (tmp_path / "spec.yaml").open("w") as file:
            yaml.dump({name: value for name, value in whole.items() if value != {}}, file)
        spec = load_spec(tmp_path / "spec.yaml")
        assert spec.trials or spec.search, key  # a search samples its trials as it goes


def test_the_guide_is_built_strictly(tmp_path, monkeypatch):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setattr(sys, "path", [*sys.path])
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    spec = (tmp_path / "site" / "reference" / "spec" / "index.html").read_text()
    assert all(row["key"] in spec for row in describe_keys())
    assert "cifar-hpc predict" in (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()


@pytest.mark.parametrize(
    ("missing", "shown", "status"), [("", "quickstart", 0), ("quickstart", "quickstart_scratch", 0), ("quickstart*", "", 2)]
)
def test_the_demo_says_where_no_weights_can_be_had_and_shows_networks_from_scratch(tmp_path, missing, shown, status):
    program = tmp_path / "cifar-hpc"
    program.write_text(f'#!/bin/sh\ncase "$1 $2" in "fetch sweeps/"{missing or "nothing"}.yaml) exit 2;; esac; echo "$*"\n')
    program.chmod(0o755)
    asked = ["make", "-s", "-o", "setup", "demo", f"BIN={tmp_path}"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert ("two small networks from scratch" in done.stdout) == bool(missing)
    assert [line for line in done.stdout.splitlines() if line.startswith(("sweep", "report"))] == (
        [f"sweep sweeps/{shown}.yaml", f"report {shown}"] if shown else []
    )
