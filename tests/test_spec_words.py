"""A spec's names, and what changes a sweep that is there, said in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.errors import SpecError
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import load_spec

SPEC = "name: x\ndataset: digits\nbase: {arch: linear, epochs: 1}\ngrid: {lr: [0.01, 0.1]}\n"


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(SPEC)
    return Path("x.yaml")


def test_set_base_against_an_axis_names_both_and_set_grid_takes_the_key_out_of_base(spec):
    with pytest.raises(SpecError) as caught:
        load_spec(spec, ["base.lr=0.5"])
    assert str(caught.value) == (
        "--set base.lr=0.5: base.lr: lr is an axis too (x.yaml:4: grid.lr); a key is fixed in base or swept, not both."
    )
    assert {config.epochs for config in load_spec(spec, ["grid.epochs=[2, 3]"]).configs} == {2, 3}
    assert {config.lr for config in load_spec(spec, ["lr=0.5"]).configs} == {0.5}


@pytest.mark.parametrize("name", ["trials", "Report", "published", "index.parquet", "x.yaml", "a.json", "results.csv"])
def test_a_name_that_is_a_file_or_a_folder_of_the_results_is_refused(spec, name):
    spec.write_text(SPEC.replace("name: x", f"name: {name}"))
    with pytest.raises(SpecError, match="a name that is the sweep's own"):
        load_spec(spec)


@pytest.mark.parametrize("name", ["v1.2", "lr_0.1", "resnet18.v2", "a-b_c"])
def test_a_point_in_a_name_is_no_file(spec, name):
    spec.write_text(SPEC.replace("name: x", f"name: {name}"))
    assert load_spec(spec).name == name


def test_init_refuses_a_name_that_no_sweep_can_have(spec):
    for path in (".", ".."):
        told = CliRunner().invoke(app, ["init", path])
        assert told.exit_code == 2 and f"{path!r} is no name" in told.stderr
    told = CliRunner().invoke(app, ["init", "my sweep"])
    assert told.exit_code == 2 and "Did you mean 'my_sweep'?" in told.stderr
    assert not Path("my sweep.yaml").exists()
    assert CliRunner().invoke(app, ["init", "some folder/my_sweep.yaml"]).exit_code == 0
    assert load_spec(Path("some folder/my_sweep.yaml")).name == "my_sweep"


@pytest.mark.parametrize("beside", [True, False])
def test_init_of_a_folder_of_images_writes_a_spec_for_them(spec, beside):
    for number in range(8):
        for place in (f"photos/ants{number % 2}", *(() if beside else (f"photos/val/ants{number % 2}",))):
            folder = Path(place if beside else place.replace("photos/ants", "photos/train/ants"))
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, len(place), 0)).save(folder / f"{number}.png")
    told = CliRunner().invoke(app, ["init", "photos"])
    assert told.exit_code == 0 and told.stdout == "photos.yaml\n" and "next: cifar-hpc fetch photos.yaml" in told.stderr
    made = load_spec(Path("photos.yaml"))
    assert {trial.config.dataset.folder for trial in made.trials} == {str(Path("photos").absolute())}
    assert {trial.config.dataset.folds for trial in made.trials} == ({5} if beside else {None})  # else it has its val/


def test_a_dot_in_a_folders_name_ends_no_name(spec):
    for number in range(4):
        folder = Path(f"photos.2/ants{number % 2}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    for given, file in (("photos.2", "photos.2.yaml"), ("spec/photos.2.yaml", "spec/photos.2.yaml")):
        told = CliRunner().invoke(app, ["init", given])
        assert told.exit_code == 0 and told.stdout == f"{file}\n"
    assert 'dataset: {folder: "photos.2"}' in Path("photos.2.yaml").read_text()


@pytest.mark.parametrize(("folder", "file"), [("My Photos", "My_Photos"), ("trials", "trials_1"), ("\u82b1", "images")])
def test_init_of_a_folder_whose_name_no_sweep_can_have_takes_the_nearest_one(spec, folder, file):
    for number in range(4):
        of = Path(f"{folder}/ants{number % 2}")
        of.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(of / f"{number}.png")
    told = CliRunner().invoke(app, ["init", folder])
    assert told.exit_code == 0 and told.stdout == f"{file}.yaml\n"
    made = load_spec(Path(f"{file}.yaml"))
    assert {trial.config.dataset.folder for trial in made.trials} == {str(Path(folder).absolute())}


def test_init_writes_as_many_folds_as_can_be_dealt(spec):
    for number in range(4):
        folder = Path(f"photos/ants{number % 2}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    assert CliRunner().invoke(app, ["init", "photos"]).exit_code == 0
    assert {trial.config.dataset.folds for trial in load_spec(Path("photos.yaml")).trials} == {4}


def test_init_says_what_to_mend_in_a_folder_that_no_trial_can_start_with(spec):
    Path("photos").mkdir()
    Image.new("RGB", (8, 8)).save("photos/1.png")
    told = CliRunner().invoke(app, ["init", "photos"])
    assert told.exit_code == 2 and "1 image beside the class folders, of no class" in told.stderr
    assert not Path("photos.yaml").exists()


def test_the_home_folder_is_meant_in_every_path(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR_HPC_RESULTS", "~/kept")
    assert results_root() == tmp_path / "kept"
    told = CliRunner().invoke(app, ["sweep", "~/x.yaml", "--dry-run"])
    assert told.exit_code == 0, told.output


def test_a_plan_that_set_replaces_stays_readable_and_the_answer_says_where(spec):
    assert CliRunner().invoke(app, ["sweep", "x.yaml", "--on", "inline"]).exit_code == 0
    told = CliRunner().invoke(app, ["sweep", "x.yaml", "--on", "inline", "--set", "grid.lr=[0.1]"])
    assert told.exit_code == 0, told.output
    (kept,) = Layout(results_root()).sweep("x").folder.glob("plan-*.json")
    assert str(kept) in told.stderr.replace("\n", "")
    assert [trial.axes["lr"] for trial in read_record(kept, PlanRecord).trials] == [0.01, 0.1]
    again = CliRunner().invoke(app, ["sweep", "x.yaml", "--on", "inline"])
    assert "nothing to start" in again.stderr
