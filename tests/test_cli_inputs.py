"""Images and weights files are judged before anything starts, and every printed next step works."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.config.data_notes import whose
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.packages import augment_missing
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.planning.plan import make_plan, plan_record, recorded_plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import ErrorRecord, PlanRecord
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.report.caveats import caveats
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.preflight import findings_of

SPEC = """
name: own
dataset: {folder: photos, val_frac: 0.25}
base: {arch: linear, image_size: 8, epochs: 1, batch_size: 8}
grid: {lr: [0.05]}
keep: weights
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a spec and images of two colours beside it; commands are typed there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "pale")):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(128 * label, 128 * label + 128, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / "train" / name / f"{number}.png")
    (tmp_path / "own.yaml").write_text(SPEC)
    return tmp_path


def _run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_a_broken_image_stops_the_sweep_before_it_starts_and_mended_the_same_command_goes_on(place):
    bad = place / "photos" / "train" / "pale" / "3.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    code, said = _run("sweep", "own.yaml", "--on", "inline")
    assert code == 2
    assert "train/pale/3.png is not a whole image" in said and "mend that and type the same command again" in said
    assert not Layout(place / "results").pool.exists() or not any(Layout(place / "results").pool.iterdir())
    bad.write_bytes(whole)
    assert _run("sweep", "own.yaml", "--on", "inline")[0] == 0


def test_a_package_that_an_augmentation_needs_is_missed_once_and_before_the_first_trial(place, monkeypatch):
    for module in ("kornia", "kornia.enhance"):
        monkeypatch.setitem(sys.modules, module, None)
    coloured = ("--set", "grid.lr=[0.05, 0.06]", "--set", "augment=trivialaugment")
    missing, asked = augment_missing, []
    monkeypatch.setattr("cifar_hpc.sweep.preflight.augment_missing", lambda augment: asked.append(augment) or missing(augment))
    code, said = _run("sweep", "own.yaml", "--on", "inline", *coloured)
    assert asked == ["trivialaugment"]  # of two trials
    assert code == 2 and said.count("kornia, which computes it, is not installed here: pip install 'kornia>=0.8'") == 1
    assert not Layout(place / "results").pool.exists() or not any(Layout(place / "results").pool.iterdir())


def test_after_images_changed_retry_says_what_to_type_and_that_works(place):
    assert _run("sweep", "own.yaml", "--on", "inline")[0] == 0
    layout = Layout(place / "results")
    trial = layout.trial(layout.trial_ids()[0])
    trial.result.unlink()
    failed = {"attempt": 1, "kind": "DataError", "message": "x", "traceback": "", "host": "h", "job": "j"}
    write_record(trial.error, ErrorRecord(trial_id=trial.folder.name, failed_at="2026-01-01T00:00:00Z", **failed))
    assert "retry own" in _run("status", "own")[1]
    Image.new("RGB", (8, 8)).save(place / "photos" / "train" / "dark" / "late.png")
    code, said = _run("retry", "own", "--on", "inline")
    assert code == 2
    assert "changed since the sweep was planned" in said and "plan it again with `cifar-hpc sweep SPEC`" in said
    assert _run("sweep", "own.yaml", "--on", "inline")[0] == 0


def test_findings_stand_in_the_dry_run_and_in_the_plan_for_the_report(place):
    first = place / "photos" / "train" / "dark"
    (first / "copy.png").write_bytes((first / "0.png").read_bytes())
    code, said = _run("sweep", "own.yaml", "--dry-run")
    assert code == 0 and "not looked into yet: the images of" in said and "cifar-hpc data" in said
    code, said = _run("data", "own.yaml")
    assert code == 0 and "1 file of train/ repeats another one of the same class" in said
    code, said = _run("sweep", "own.yaml", "--dry-run")
    assert "not looked into" not in said and "repeats another one" in said
    assert _run("sweep", "own.yaml", "--on", "inline")[0] == 0
    plan = read_record(Layout(place / "results").sweep("own").plan, PlanRecord)
    assert any("repeats another one" in finding for finding in plan.findings)
    assert any("no val/" in finding for finding in plan.findings)


def test_each_section_of_a_sweep_tells_what_is_known_of_its_own_images(place):
    """As sections of val_frac 0.1 and 0.3, or of two choices of classes; what is of every data set stands in all."""
    first = place / "photos" / "train" / "dark"
    (first / "copy.png").write_bytes((first / "0.png").read_bytes())
    axes = "{dataset.val_frac: [0.2, 0.4], dataset.classes: [[dark, pale], [pale, third]], lr: [0.05, 0.06]}"
    (first.parent / "third").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8), (0, 0, number)).save(first.parent / "third" / f"{number}.png")
    text = SPEC.replace("image_size: 8, ", "").replace(", val_frac: 0.25", "").replace("{lr: [0.05]}", axes)
    (place / "own.yaml").write_text(text)
    assert _run("data", "own.yaml")[0] == 0
    spec, layout = load_spec(place / "own.yaml"), Layout(place / "results")
    spec = dataclasses.replace(spec, findings=findings_of(spec.findings, spec.configs, {}, Silent()))
    plan = plan_record(recorded_plan(plan_record(make_plan(spec))))  # as `retry` writes it
    write_record(layout.sweep("own").plan, plan)
    sections = chosen_sections(layout, ["own"], "")
    assert len(sections) == 4 and {len(section.pool.unfinished) for section in sections} == {2}
    for section in sections:
        told = " ".join(caveats(section.pool, section.board))
        for share in ("0.2", "0.4"):
            assert (f"no val/: val_frac {share}" in told) == (f"val_frac {share}" in section.name), section.name
        assert ("are uneven" in told) == ("third" in section.name)
        assert told.count("no image_size is given") == 1
        assert told.count("repeats another one of the same class") == ("dark" in section.name)
    alone = chosen_sections(layout, ["own"], "lr=0.05")
    assert {section.board.rows[0].label for section in alone} == {"lr=0.05"}
    part = dataclasses.replace(plan, trials=plan.trials[::2], cohorts=())
    write_record(layout.sweep("own").plan, part)
    assert all("val_frac" in section.board.rows[0].label for section in chosen_sections(layout, ["own"], ""))
    part = dataclasses.replace(plan, trials=plan.trials[:2], cohorts=plan.cohorts[:1])  # of a search: more may be sampled
    write_record(layout.sweep("own").plan, part)
    (section,) = chosen_sections(layout, ["own"], "")
    told = " ".join(caveats(section.pool, section.board))
    assert ("val_frac 0.2" in told) != ("val_frac 0.4" in told)
    parent, *rest = plan.trials
    parent = dataclasses.replace(parent, axes={**parent.axes, "stage": "first"})
    children = [
        dataclasses.replace(trial, config={**trial.config, "weights": f"{PARENT_PREFIX}{parent.trial_id}"})
        for trial in rest
        if trial.config["dataset"]["val_frac"] != parent.config["dataset"]["val_frac"]
    ]
    children = [dataclasses.replace(trial, axes={**trial.axes, "stage": "then"}) for trial in children]
    staged = dataclasses.replace(plan, trials=(parent, *children), cohorts=())
    write_record(layout.sweep("own").plan, staged)
    for section in chosen_sections(layout, ["own"], ""):  # what is known of the images of a stage is so of what starts from it
        told = " ".join(caveats(section.pool, section.board))
        assert "val_frac 0.2" in told and "val_frac 0.4" in told
    older = dataclasses.replace(plan, findings_of={})  # it does not tell: all may be of each
    write_record(layout.sweep("own").plan, older)
    assert {len(section.pool.findings) for section in chosen_sections(layout, ["own"], "")} == {len(plan.findings)}


def test_a_dry_run_says_whose_images_a_finding_is_of_where_a_sweep_has_several_sets(place):
    (place / "photos" / "train" / "third").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8), (0, 0, number)).save(place / "photos" / "train" / "third" / f"{number}.png")
    axes = "{dataset.val_frac: [0.2, 0.4], dataset.classes: [[dark, pale], [pale, third]]}"
    (place / "own.yaml").write_text(SPEC.replace(", val_frac: 0.25", "").replace("{lr: [0.05]}", axes))
    assert _run("data", "own.yaml")[0] == 0
    said = _run("sweep", "own.yaml", "--dry-run")[1]
    uneven = "of them (classes pale+third, val_frac 0.2; classes pale+third, val_frac 0.4)"
    assert said.count("are uneven") == said.count(uneven) == 1 and "no train/" not in said
    for share in (0.2, 0.4):
        left = f"(classes dark+pale, val_frac {share}; classes pale+third, val_frac {share})"
        assert re.search(rf"val_frac {share} holds out [^()]* {re.escape(left)}", said)
    alone = _run("sweep", "own.yaml", "--dry-run", "--set", "dataset.val_frac=0.2", "--set", "dataset.classes=[pale, third]")[1]
    assert "are uneven" in alone and "(classes" not in alone
    sets = [DatasetConfig(name=name) for name in ("cifar10", "cifar100")]
    of_one = {"own.pt: other classes are left out": {sets[1].digest}}
    assert [*whose(of_one, sets)] == ["own.pt: other classes are left out (cifar100)"]
    assert [*whose(of_one, sets[1:])] == [*of_one]


def test_how_uneven_the_classes_are_is_told_of_those_that_are_chosen(place):
    for number in range(10):
        folder = place / "photos" / "train" / f"kind{number % 2}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (place / "photos" / "train" / "rare").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8), (0, 0, number)).save(place / "photos" / "train" / "rare" / f"{number}.png")
    Image.new("RGBA", (8, 8), (0, 0, 9, 0)).save(place / "photos" / "train" / "kind1" / "more.png")
    (place / "own.yaml").write_text(SPEC.replace("folder: photos", "folder: photos, classes: [kind0, kind1]"))
    assert "in all classes, chosen or not: 1 file may have transparent" in " ".join(_run("data", "own.yaml")[1].split())
    (place / "own.yaml").write_text(SPEC.replace("folder: photos", "folder: photos, classes: [kind1, rare]"))
    told = (
        "the chosen classes of train/ are uneven: 6 images of kind1, 2 of rare; who always says kind1 is right for 75 % of them"
    )
    assert told in " ".join(_run("data", "own.yaml")[1].split())


def test_what_is_known_of_a_folder_is_told_once_however_many_folds_it_has(place):
    (place / "own.yaml").write_text(SPEC.replace(", val_frac: 0.25", "") + "folds: 3\n")
    wide = place / "photos" / "train" / "dark" / "wide.png"
    Image.new("RGB", (32, 8)).save(wide)
    code, said = _run("data", "own.yaml")
    assert code == 0 and said.count("dealt into 3 folds") == said.count("class  ") == 1
    assert re.search(r"all +17 +0 +0\n", said) and "val/" not in said
    said = _run("sweep", "own.yaml", "--dry-run")[1]
    assert said.count("resize: crop cuts off") == 1
    (place / "seeds.yaml").write_text(SPEC.replace("0.25", "0.25, split_seed: seed") + "seeds: 3\n")
    assert _run("data", "seeds.yaml")[1].count("class  ") == 1
    said = _run("fetch", "own.yaml")[1]
    assert said.count("photos: your own folder, 17 labelled images: nothing to fetch") == 1


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("crop", ["crop cuts off 50 %", "enlarges them"]),
        ("crop, crop_frac: 0.8", ["crop with crop_frac 0.8 cuts off 68 %", "enlarges them"]),
        ("squash", ["enlarges them"]),
        ("pad", []),
    ],
)
def test_what_fitting_cuts_off_and_enlarges_is_that_of_the_specs_own_way(place, how, told):
    for path in (place / "photos").rglob("*.png"):
        Image.new("RGB", (64, 32), (int(path.stem), 0, 0)).save(path)
    (place / "own.yaml").write_text(SPEC.replace("image_size: 8", f"image_size: 48, resize: {how}"))
    said = " ".join(_run("data", "own.yaml")[1].split())
    assert ("cuts off" in said, "enlarges" in said) == ("crop" in how, "pad" not in how)
    assert all(sentence in said for sentence in told)


def test_where_no_image_is_whole_no_size_is_told(place):
    for path in (place / "photos").rglob("*.png"):
        path.write_bytes(b"x")
    code, said = _run("data", "photos")
    assert code == 2 and "shorter side" not in said and "0 pixels" not in said


def test_data_shows_classes_by_splits_and_everything_that_is_wrong_at_once(place):
    (place / "photos" / "train" / "dark" / "1.png").write_bytes(b"x")
    (place / "photos" / "train" / "pale" / "2.png").write_bytes(b"x")
    (place / "photos" / "train" / "pale" / "note.txt").write_text("x")
    code, said = _run("data", "photos", "--format", "json")
    assert code == 2
    found = json.loads(said)[0]
    assert [row["class"] for row in found["classes"]] == ["dark", "pale"]
    assert found["left out"] == ["train/pale/note.txt: no images"]
    assert sum("is not a whole image" in problem for problem in found["problems"]) == 2
    assert found["pixels"] == {"RGB": 14}


@pytest.mark.parametrize("form", ["csv", "md", "latex"])
def test_what_has_to_be_mended_is_told_beside_counts_of_every_form(place, form):
    (place / "photos" / "train" / "dark" / "1.png").write_bytes(b"x")
    (place / "photos" / "train" / "pale" / "note.txt").write_text("x")
    done = CliRunner().invoke(app, ["data", "photos", "--format", form])
    assert done.exit_code == 2 and "photos: to mend: train/dark/1.png is not a whole image" in done.stderr
    assert "photos:   train/pale/note.txt: no images\n" in done.stderr
    assert "pale" in done.stdout and "to mend:" not in done.stdout and "note" not in done.stdout


def test_the_images_that_data_counts_by_pixels_are_those_of_its_table_or_said_to_be_more(place):
    (place / "own.yaml").write_text(SPEC.replace("val_frac: 0.25", "train_size: 10"))
    assert re.search(r"all +8 +2 +0\n.*\npixels of the folder's 16 images: 16 RGB\n", _run("data", "own.yaml")[1])
    (place / "photos" / "test" / "fox").mkdir(parents=True)
    (place / "photos" / "test" / "dark").mkdir()
    for kind in ("fox", "dark"):
        Image.new("RGB", (8, 8), "red").save(place / "photos" / "test" / kind / "own.png")
    code, said = _run("data", "photos")
    assert code == 2 and re.search(r"fox +0 +0 +1\n", said) and "test/fox: no class of train/" in said
    assert re.search(r"all +16 +0 +2\n", said) and "\npixels: 18 RGB\n" in said


def test_equal_files_in_two_splits_are_told(place):
    (place / "photos" / "val" / "dark").mkdir(parents=True)
    (place / "photos" / "val" / "pale").mkdir()
    for name in ("dark", "pale"):
        Image.new("RGB", (8, 8), (name == "dark" and "red") or "blue").save(place / "photos" / "val" / name / "own.png")
    taken = (place / "photos" / "train" / "dark" / "0.png").read_bytes()
    (place / "photos" / "val" / "dark" / "copy.png").write_bytes(taken)
    _, said = _run("data", "photos")
    assert "1 file of val/ or test/ stands in another split too" in said and "train/dark/0.png = val/dark/copy.png" in said
    for split, name in (("train", "same.png"), ("val", "again.png"), ("test", "one.png"), ("test", "two.png")):
        for kind in ("dark", "pale"):
            (place / "photos" / split / kind).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (9, 9, len(kind + split + name))).save(place / "photos" / split / kind / "own.png")
        (place / "photos" / split / "dark" / name).write_bytes(taken)
    _, said = _run("data", "photos")
    assert "4 files of val/ or test/ stand in another split too" in said and "= test/dark/two.png" in said


def test_files_of_a_class_that_the_spec_leaves_out_are_equal_to_none(place):
    for number in range(8):
        (place / "photos" / "train" / "fox").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (0, number, 99)).save(place / "photos" / "train" / "fox" / f"{number}.png")
    taken = (place / "photos" / "train" / "dark" / "0.png").read_bytes()
    for kind in ("dark", "pale", "fox"):
        (place / "photos" / "test" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8), (9, 9, len(kind))).save(place / "photos" / "test" / kind / "own.png")
    (place / "photos" / "test" / "dark" / "copy.png").write_bytes(taken)
    (place / "photos" / "train" / "fox" / "copy.png").write_bytes(taken)
    told = {}
    for classes in ("[dark, pale]", "[pale, fox]", "[dark, fox]"):
        (place / "own.yaml").write_text(SPEC.replace("val_frac: 0.25", f"classes: {classes}"))
        said = _run("data", "own.yaml")[1]
        told[classes] = ["another split" in said, "two classes of train/" in said]
    assert told == {"[dark, pale]": [True, False], "[pale, fox]": [False, False], "[dark, fox]": [True, True]}


def test_weights_that_cannot_be_used_stop_the_sweep_before_it_starts(place):
    torch.save({"net": {"encoder.weight": torch.ones(2)}}, place / "w.pt")
    text = SPEC.replace("arch: linear", "arch: simple_cnn, weights: w.pt")
    (place / "own.yaml").write_text(text)
    _run("data", "own.yaml")
    assert "not looked into" not in _run("sweep", "own.yaml", "--dry-run")[1], "`data` looks into no weights"
    code, said = _run("sweep", "own.yaml", "--on", "inline")
    assert code == 2 and "encoder.weight: unknown to the network" in said and "Nothing was started" in said


def test_predict_labels_what_can_be_read_and_names_the_rest(place):
    assert _run("sweep", "own.yaml", "--on", "inline")[0] == 0
    trial = Layout(place / "results").trial_ids()[0]
    new = place / "new"
    new.mkdir()
    good = (place / "photos" / "train" / "pale" / "0.png").read_bytes()
    (new / "a.png").write_bytes(good)
    (new / "=1+1.png").write_bytes(good)  # what reads the answer looks for just this name
    (new / "noname").write_bytes(good)
    (new / "b.png").write_bytes(good[:60])
    (new / "x.heic").write_bytes(b"x")
    done = CliRunner().invoke(app, ["predict", trial, "new"])
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["id", "=1+1.png", "a.png", "noname"]
    assert done.exit_code == 1
    assert "3 images labelled, 2 files left out" in done.stderr
    assert "x.heic: no images" in done.stderr and "b.png is not a whole image" in done.stderr
