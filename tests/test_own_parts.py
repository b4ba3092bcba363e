"""A network and a data set from a file outside the package: all that is done with built-in ones is done with them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.config.sources import OwnCodeError, find_source, keep_copy, load_source
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.own import read_own
from cifar_hpc.errors import SpecError, UnusableArchError
from cifar_hpc.planning.cohorts import train_images
from cifar_hpc.records.layout import Layout
from cifar_hpc.spec.load import load_spec
from cifar_hpc.testing import check_dataset, check_network
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of, numbers
from tests.test_train_loop import result_of

NETS = """
from torch import nn
from parts import conv


class TinyNet(nn.Module):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__()
        self.stem = conv(in_channels, width)
        self.body = conv(width, width)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Branching(TinyNet):
    def forward(self, x):
        x = self.stem(x)
        if x.mean() > 1e9:
            return x
        return self.head(self.body(x))


class Told(Branching):
    def blocks(self):
        return {"stem": self.stem, "body": self.body, "classifier": self.head}


class Unlike(Told):
    def forward(self, x):
        return self.head(self.stem(x))


def broken(num_classes, in_channels):
    raise RuntimeError("no such thing")
"""
PARTS = """
from torch import nn


def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())
"""
DATA = """
import numpy as np


def load(n=96, classes=3, kind="good"):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    images = (rng.integers(0, 120, (n, 1, 8, 8)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    parts = {"train": (images[: n // 2], labels[: n // 2]), "test": (images[n // 2 :], labels[n // 2 :])}
    if kind == "float":
        parts["train"] = (images / 255.0, labels)
    if kind == "last":
        parts["train"] = (images[: n // 2].transpose(0, 2, 3, 1), labels[: n // 2])
    if kind == "labels":
        parts["test"] = (images[n // 2 :], labels[n // 2 :] + 1)
    if kind == "key":
        parts["tset"] = parts["test"]
    return {**parts, "classes": ["a", "b", "c"]}
"""
SPEC = """
name: own
dataset: {name: mydata.py:load, args: {n: 96}}
base: {arch: mynets.py:TinyNet, epochs: 2, batch_size: 16, lr: 0.05}
grid: {freeze: [none, stem], arch_args.width: [4, 6]}
keep: weights
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("cifar_hpc.config.sources._kept", [])  # copies of other tests' code
    for name, text in (("mynets.py", NETS), ("parts.py", PARTS), ("mydata.py", DATA), ("own.yaml", SPEC)):
        (tmp_path / name).write_text(text)
    return tmp_path


def spec_with(place: Path, old: str, new: str) -> Path:
    assert old in SPEC
    path = place / "other.yaml"
    path.write_text(SPEC.replace(old, new))
    return path


def problem_of(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return str(caught.value)


def test_a_network_and_a_data_set_from_files_are_frozen_swept_and_recorded(place: Path) -> None:
    spec = load_spec(place / "own.yaml")
    assert [trial.axes for trial in spec.trials] == [
        {"freeze": freeze, "arch_args.width": width} for freeze in ("none", "stem") for width in (4, 6)
    ]
    assert not any("random weights" in warning for warning in spec.warnings)  # it may bring its own
    assert len(load_spec(place / "own.yaml", ["anchor=0.1"]).trials) == 4
    configs = [trial.config for trial in spec.trials]
    assert {(config.arch, config.dataset.name, config.image_size) for config in configs} == {
        ("mynets.py:TinyNet", "mydata.py:load", 8)
    }
    assert all(TrialConfig.from_json(json.loads(json.dumps(config.to_json()))) == config for config in configs)
    layout = Layout(place / "results")
    frozen = [config for config in configs if config.freeze != "none"]
    run_job(job_of(*frozen[:1]), layout, executor="inline")
    result = result_of(layout, frozen[0])
    assert (result.frozen_blocks, result.total_blocks, result.classes) == (1, 3, ("a", "b", "c"))
    assert [label.split(",")[0] for label in result.provenance.sources] == ["mydata.py:load", "mynets.py:TinyNet"]


def test_the_id_follows_the_code_and_its_arguments_and_not_the_place(place: Path, tmp_path_factory) -> None:
    before = load_spec(place / "own.yaml").trials[0].config
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in place.iterdir():
        (elsewhere / path.name).write_text(path.read_text())
    assert load_spec(elsewhere / "own.yaml").trials[0].config.trial_id == before.trial_id
    assert load_spec(spec_with(place, "n: 96", "n: 90")).trials[0].config.trial_id != before.trial_id
    (place / "parts.py").write_text(PARTS + "# another state of what the file imports\n")
    assert load_spec(place / "own.yaml").trials[0].config.trial_id != before.trial_id


def test_what_was_planned_is_what_runs_whatever_becomes_of_the_file(place: Path) -> None:
    from cifar_hpc.planning.plan import make_plan, plan_record
    from cifar_hpc.records.plans import write_plan

    spec = load_spec(place / "own.yaml")
    layout = Layout(place / "results")
    write_plan(layout, plan_record(make_plan(spec)))
    config = spec.trials[0].config
    run_job(job_of(config), layout, executor="inline")
    (place / "mynets.py").unlink()
    again = Layout(place / "again")
    (place / "again").mkdir()
    (place / "again" / "sources").symlink_to(layout.sources)
    run_job(job_of(config), again, executor="inline")
    assert numbers(result_of(again, config)) == numbers(result_of(layout, config))


def test_a_file_that_changed_since_the_plan_and_has_no_copy_fails_its_trial_with_the_reason(place: Path) -> None:
    config = load_spec(place / "own.yaml").trials[0].config
    (place / "parts.py").write_text(PARTS + "x = 1\n")
    layout = Layout(place / "results")
    run_job(job_of(config), layout, executor="inline")
    assert "has changed since the sweep was planned" in json.loads(layout.trial(config.trial_id).error.read_text())["message"]


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("mynets.py:Branching", r"`if x.mean() > 1e9:`: TraceError"),
        ("mynets.py:Branching", r"one that says its blocks itself: def blocks(self)"),
        ("mynets.py:Unlike", "one after another, give other logits than the network"),
        ("mynets.py:TinyNett", "Did you mean 'TinyNet'?"),
        ("mynets.py:broken", "RuntimeError: no such thing"),
        ("mynet.py:TinyNet", "no such file"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_before_anything_trains(place: Path, arch: str, told: str) -> None:
    path = spec_with(place, "mynets.py:TinyNet", arch)
    path.write_text(path.read_text().replace(", arch_args.width: [4, 6]", ""))
    assert told in problem_of(path)


def test_blocks_are_the_modules_own_where_tracing_fails(place: Path) -> None:
    spec = load_spec(spec_with(place, "mynets.py:TinyNet", "mynets.py:Told"))
    layout = Layout(place / "results")
    config = next(trial.config for trial in spec.trials if trial.config.freeze == "stem")
    run_job(job_of(config), layout, executor="inline")
    assert (result_of(layout, config).frozen_blocks, result_of(layout, config).total_blocks) == (1, 3)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("float", "images of float64; uint8 is needed, 0 to 255; multiply by 255 and round"),
        ("last", "the channels stand last: images.transpose(0, 3, 1, 2)"),
        ("labels", "labels from 1 to 3; 0 to 2, as there are 3 classes"),
        ("key", "returns 'tset'; its keys are train, val, test, unlabelled, classes. Did you mean 'test'?"),
    ],
)
def test_a_data_set_of_another_form_is_refused_in_four_parts(place: Path, kind: str, told: str) -> None:
    found = problem_of(spec_with(place, "n: 96", f"kind: {kind}"))
    assert told in found and "other.yaml:3" in found


def test_ones_own_set_is_costed_by_the_images_that_it_has(place: Path) -> None:
    spec = load_spec(place / "own.yaml")
    assert {config.dataset.labelled for config in spec.configs} == {48} and train_images(spec.configs[0]) == 43.2
    told = CliRunner().invoke(app, ["fetch", str(place / "own.yaml")])
    assert "mydata.py:load: your own data set, 48 labelled images: nothing to fetch" in told.stderr


def test_arguments_are_for_ones_own_alone(place: Path) -> None:
    assert "the argument 'widht' of mynets.py:TinyNet" in problem_of(spec_with(place, "arch_args.width", "arch_args.widht"))
    assert "they are for one's own" in problem_of(spec_with(place, "mynets.py:TinyNet", "simple_cnn"))


def test_an_installed_module_is_a_source_by_its_hash_and_version() -> None:
    source = find_source("arch", "json.decoder:JSONDecoder", Path.cwd())
    assert (source.name, source.version, source.path, len(source.sha256)) == ("json.decoder:JSONDecoder", None, None, 64)
    assert load_source(source) is json.JSONDecoder
    assert find_source("arch", "numpy.version:full_version", Path.cwd()).version == np.__version__
    with pytest.raises(OwnCodeError, match="cannot be imported"):
        find_source("arch", "no_such_lab.nets:Net", Path.cwd())


def test_the_code_of_a_module_is_what_its_import_runs_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file of it changes, the trials that were trained with the old one are others; one that is not run does not."""
    files = {
        "mylab_a/__init__.py": "",
        "mylab_a/deep/__init__.py": "",
        "mylab_a/nets.py": "from mylab_a.deep.parts import Part\nfrom .near import near\nfrom mylab_b import beside\n",
        "mylab_a/deep/parts.py": "from ..far import far\nclass Part: pass\n",
        "mylab_a/near.py": "near = 1\n",
        "mylab_a/far.py": "far = 1\n",
        "mylab_b.py": "beside = 1\n",
        "mylab_a/other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    digests = {find_source("arch", "mylab_a.nets:Part", Path.cwd()).sha256}
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}changed = True\n")
        digests.add(find_source("arch", "mylab_a.nets:Part", Path.cwd()).sha256)
    assert len(digests) == len(files)  # the first, and one for each but the last
    source = find_source("arch", "mylab_a.nets:Part", Path.cwd())
    assert load_source(source).__name__ == "Part"
    (tmp_path / "mylab_a/far.py").write_text("far = 2\n")
    with pytest.raises(OwnCodeError, match="changed since the sweep was planned"):
        load_source(source)
    with pytest.raises(OwnCodeError, match=r"changed since this process imported it.*start Python again"):
        load_source(find_source("arch", "mylab_a.nets:Part", Path.cwd()))


def test_a_file_takes_along_what_the_packages_beside_it_import_of_themselves(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "net.py").write_text("from parts import Part\n")
    (tmp_path / "parts/__init__.py").write_text("from .core import Part\n")
    (tmp_path / "parts/core.py").write_text("class Part: pass\n")
    source = find_source("arch", "net.py:Part", tmp_path)
    keep_copy(source, tmp_path / "sources")
    assert (tmp_path / "sources" / source.sha256 / "parts/core.py").is_file()
    (tmp_path / "parts/core.py").write_text("class Part: size = 2\n")
    assert find_source("arch", "net.py:Part", tmp_path).sha256 != source.sha256


def test_status_and_report_never_import_the_users_code(place: Path) -> None:
    """The code raises when it is imported in the process of a reader."""
    spec = load_spec(place / "own.yaml")
    from cifar_hpc.planning.plan import make_plan, plan_record
    from cifar_hpc.records.plans import write_plan

    layout = Layout(place / "results")
    write_plan(layout, plan_record(make_plan(spec)))
    run_job(job_of(spec.trials[0].config), layout, executor="inline")
    for path in [place / "mynets.py", place / "mydata.py", *layout.sources.rglob("*.py")]:
        path.write_text("raise SystemExit('imported')\n")
    environment = {**os.environ, "CIFAR_HPC_RESULTS": str(layout.root), "PYTHONPATH": str(Path(__file__).parents[1])}
    for command in (["status", "own"], ["report", "own", "--format", "csv"]):
        ran = subprocess.run(
            [sys.executable, "-m", "cifar_hpc", *command], cwd=place, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0 and "imported" not in ran.stderr, ran.stderr
    assert "arch_args.width" in ran.stdout


def test_the_command_line_shows_trains_exports_and_says_what_changed(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(place / "results"))
    runner = CliRunner()
    shown = runner.invoke(app, ["arch", "mynets.py:TinyNet", "--format", "csv"])
    assert [line.split(",")[1] for line in shown.stdout.splitlines()[1:]] == ["stem", "body", "head"]
    path = spec_with(place, "[none, stem], arch_args.width: [4, 6]", "[stem]")
    ran = runner.invoke(app, ["sweep", str(path), "--on", "inline"])
    assert ran.exit_code == 0, ran.output
    trial = load_spec(path).trials[0].config.trial_id
    exported = runner.invoke(app, ["export", trial])
    assert exported.exit_code == 0, exported.output
    (place / "mynets.py").write_text(NETS + "# a change\n")
    dry = runner.invoke(app, ["sweep", str(path), "--dry-run"])
    assert "mynets.py:TinyNet has changed, and with it 1 trial\n" in dry.output, dry.output


def test_the_published_contract_tests_pass_what_is_right_and_name_what_is_wrong(place: Path) -> None:
    assert check_network("mynets.py:Told", folder=place, width=6).names == ("stem", "body", "classifier")
    assert check_dataset("mydata.py:load", folder=place, n=30).classes == ("a", "b", "c")
    (place / "mynets.py").write_text(NETS.replace("self.body = conv", "self.unused = nn.Linear(1, 1); self.body = conv"))
    with pytest.raises((AssertionError, UnusableArchError), match="unused"):
        check_network("mynets.py:Told", folder=place)


def test_what_a_function_returns_is_part_of_the_id_and_is_checked_when_it_is_loaded(place: Path) -> None:
    from cifar_hpc.data.dataset import load_dataset_of

    np.save(place / "labels.npy", np.arange(96) % 3)
    reading = f"labels = np.load({str(place / 'labels.npy')!r})"
    (place / "mydata.py").write_text(DATA.replace("labels = np.arange(n) % classes", reading))
    before = load_spec(place / "own.yaml").configs
    assert before == load_spec(place / "own.yaml").configs
    load_dataset_of(before[0], place)
    np.save(place / "labels.npy", (np.arange(96) + 1) % 3)
    after = load_spec(place / "own.yaml").configs
    assert not {config.trial_id for config in before} & {config.trial_id for config in after}
    assert before[0].sources == after[0].sources  # the code is the same
    load_dataset_of(after[0], place)
    with pytest.raises(OwnCodeError, match="returns other images or labels than when the sweep was planned"):
        load_dataset_of(before[0], place)


def test_data_shows_what_ones_own_function_returns_of_each_arguments(place: Path) -> None:
    path = spec_with(place, "load, args: {n: 96}}", "load, classes: [a, b]}").with_suffix(".yml")
    path.write_text((place / "other.yaml").read_text().replace("grid: {", "grid: {dataset.args.n: [96, 60], "))
    shown = CliRunner().invoke(app, ["data", str(path)])
    assert shown.exit_code == 0, shown.output
    assert re.findall(r"(?m)^(?:mydata.*|all .*|shorter.*)$", re.sub(" +", " ", shown.stdout)) == [
        *("mydata.py:load n=96", "all 29 3 32", "shorter side: 8 pixels"),
        *("mydata.py:load n=60", "all 18 2 20", "shorter side: 8 pixels"),
    ]
    none = CliRunner().invoke(app, ["data", str(path), "--set", "dataset.args.classes=2", "--set", "dataset.classes=[b, c]"])
    assert none.exit_code == 2 and "no training image of c in mydata.py:load" in none.stderr, none.output
    assert "fetch" not in none.stderr


def test_what_is_asked_of_finished_trials_takes_the_code_that_they_were_made_of(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(place / "results"))
    (place / "own.yaml").write_text(SPEC.replace("freeze: [none, stem]", "freeze: [none]"))
    runner = CliRunner()
    assert runner.invoke(app, ["sweep", "own.yaml", "--on", "inline"]).exit_code == 0
    (place / "mydata.py").write_text("raise RuntimeError('another state of the file')")
    (place / "mynets.py").unlink()
    for command in (["labels", "own"], ["reproduce", "own#1"], ["export", "own#1"]):
        monkeypatch.setattr("cifar_hpc.config.sources._kept", [])  # each command is a process of its own
        read_own.cache_clear()
        ran = runner.invoke(app, command)
        assert ran.exit_code == 0, (command, ran.output, ran.exception)


def test_a_data_sets_own_validation_split_is_used_and_joined_for_a_refit(place: Path) -> None:
    (place / "mydata.py").write_text(DATA.replace('parts["tset"] = parts["test"]', 'parts["val"] = parts["test"]'))
    spec = load_spec(spec_with(place, "n: 96", "kind: key"))
    config = spec.trials[0].config
    from cifar_hpc.config.normalize import refitted
    from cifar_hpc.data.dataset import load_dataset_of

    data = load_dataset_of(config, place)
    assert (len(data.train.labels_N), len(data.val.labels_N)) == (48, 48)
    whole = load_dataset_of(refitted(config, 1), place)
    assert len(whole.train.labels_N) == 96 and len(torch.unique(whole.train.index_N)) == 96
    assert read_own.cache_info().currsize
