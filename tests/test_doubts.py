"""Labels that networks agree against, and images that stand in two splits."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.pool import Images, configs, write_trial
from cifar_hpc.cli import app
from cifar_hpc.collect.doubts import confident_class, doubts_of
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.data.dataset import Split
from cifar_hpc.data.duplicates import Pair, near_duplicates
from cifar_hpc.data.labelled import labelled_images
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_record, write_text
from cifar_hpc.report import corrections
from cifar_hpc.report.corrections import write_corrected
from cifar_hpc.report.labels import doubt_columns, doubt_line, duplicate_lines
from cifar_hpc.spec.load import load_spec
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of


def test_the_confident_class_is_northcutts_definition_image_by_image():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    shares = rng.dirichlet(np.ones(4), 200) + 0.8 * np.eye(4)[labels] * (rng.random((200, 1)) < 0.8)
    shares /= shares.sum(1, keepdims=True)
    found = confident_class(shares, labels)
    thresholds = [np.mean([shares[i, j] for i in range(200) if labels[i] == j]) for j in range(4)]
    for i in range(200):
        sure = [j for j in range(4) if shares[i, j] >= thresholds[j]]
        assert found[i] == (max(sure, key=lambda j: shares[i, j]) if sure else -1)


def test_labels_that_were_turned_are_found_and_the_others_left():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    labels = truth.copy()
    turned = rng.choice(300, 12, replace=False)
    labels[turned] = (truth[turned] + 1) % 3
    networks = []
    for _ in range(3):
        logits = 4 * np.eye(3)[truth] + rng.normal(size=(300, 3))
        networks.append(torch.tensor(logits).softmax(1).numpy())
    known = SplitPredictions(np.zeros((300, 3), np.float32), labels, np.arange(300))
    found = doubts_of("val", networks, known)
    rows = {one.row for one in found}
    assert len(rows & set(turned)) >= 6 and len(rows - set(turned)) <= 2
    assert all(one.suggested == truth[one.row] and 2 * one.agree > 3 for one in found if one.row in turned)


def split_of(images: np.ndarray) -> Split:
    n = len(images)
    return Split(torch.from_numpy(images), torch.zeros(n, dtype=torch.int64), torch.arange(n))


def test_an_image_that_was_saved_again_or_brightened_is_a_near_duplicate_and_no_other_is():
    rng = np.random.default_rng(2)
    waves = np.kron(rng.integers(0, 256, (40, 3, 8, 8)), np.ones((1, 1, 4, 4))).astype(np.uint8)
    test = waves[20:].copy()
    test[3] = np.clip(waves[5].astype(int) + rng.integers(-6, 7, waves[5].shape), 0, 255)  # as JPEG leaves it
    test[7] = np.clip(waves[11].astype(int) + 5, 0, 255)
    flat = np.full((2, 3, 32, 32), 128, np.uint8)
    pairs = near_duplicates(
        {"train": split_of(np.concatenate([waves[:20], flat])), "test": split_of(np.concatenate([test, flat]))}
    )
    assert {(p.split, p.row, p.other_split, p.other_row) for p in pairs} == {("test", 3, "train", 5), ("test", 7, "train", 11)}
    whole = split_of(np.concatenate([waves[:20], test[[3, 7]], flat]))
    folds = near_duplicates({"val": whole}, [np.array([0] * 20 + [1, 0, 0, 1])])
    assert {(p.split, p.row, p.other_row) for p in folds} == {("val", 20, 5), ("val", 5, 20)}, "of one fold they are no matter"
    dealt_again = near_duplicates({"val": whole}, [np.array([0] * 20 + [number, 0, 0, 1]) for number in (0, 1)])
    assert dealt_again == folds, "where any deal parts them, a network was measured on what it had as good as seen"


@pytest.fixture
def photos(tmp_path):
    """Dark and bright images; one bright image among the dark ones, and one dark image in test/ too."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 14), ("test", 5)):
        for name, level in (("bright", 190), ("dark", 60)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wave = np.kron(rng.integers(-50, 50, (4, 4)), np.ones((4, 4)))
                Image.fromarray(np.clip(level + wave, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "photos/train/bright/3.png").rename(tmp_path / "photos/train/dark/wrong.png")
    (tmp_path / "photos/test/dark/0.png").write_bytes((tmp_path / "photos/train/dark/1.png").read_bytes())
    return tmp_path


def labels_of(photos, monkeypatch, text):
    """What `labels` answers on a sweep of nearest neighbours, and its table."""
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(photos / "results"))
    monkeypatch.setenv("CIFAR_HPC_DATA", str(photos / "data"))
    (photos / "x.yaml").write_text(
        f"name: look\nbase: {{arch: linear, image_size: 16, classifier: knn}}\ngrid: {{knn_k: [3, 5, 7]}}\n{text}"
    )
    layout, spec = Layout(photos / "results"), load_spec(photos / "x.yaml")
    layout.sweep("look").plan.parent.mkdir(parents=True, exist_ok=True)
    write_record(layout.sweep("look").plan, plan_record(make_plan(spec)))
    run_job(job_of(*(trial.config for trial in spec.trials)), layout, executor="inline")
    found = CliRunner().invoke(app, ["labels", "look"])
    assert found.exit_code == 0, found.output
    return found.stdout, layout.sweep("look").report / "labels"


@pytest.mark.parametrize("folds", [None, 2])
def test_the_table_to_correct_keeps_a_folders_own_validation_images_where_they_are(photos, monkeypatch, folds):
    monkeypatch.setenv("CIFAR_HPC_DATA", str(photos / "data"))
    for name in ("bright", "dark"):
        (photos / "photos/val" / name).mkdir(parents=True)
        for number in range(5, 9):
            (photos / f"photos/train/{name}/{number}.png").rename(photos / f"photos/val/{name}/{number}.png")
    text = "name: x\nbase: {arch: linear, image_size: 16}\ndataset: {folder: photos}\n" + (f"folds: {folds}\n" if folds else "")
    (photos / "x.yaml").write_text(text)
    images = labelled_images(load_spec(photos / "x.yaml").trials[0].config)
    for split in images.splits:
        for row in range(len(images.splits[split].labels_N)):
            assert images.name(split, row).startswith(f"{images.split_in_folder(split, row)}/")


def test_where_each_seed_has_a_split_of_its_own_the_labels_of_one_split_are_judged_and_none_are_mixed(photos, monkeypatch):
    text = "dataset: {folder: photos, split_seed: seed, val_frac: 0.5}\nseeds: "
    alone, folder = labels_of(photos, monkeypatch, f"{text}1\n")
    table = (folder / "labels.csv").read_text()
    together, folder = labels_of(photos, monkeypatch, f"{text}3\n")
    assert (folder / "labels.csv").read_text() == table
    assert together.splitlines()[0] == alone.splitlines()[0]
    assert "the validation images are those of seed 0." in together


def test_where_no_label_is_in_doubt_no_sheet_is_told_of_or_left(photos, monkeypatch):
    (photos / "photos/train/dark/wrong.png").unlink()
    sheet = photos / "results/look/report/labels/labels.png"
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(b"of labels that were corrected")
    said, _ = labels_of(photos, monkeypatch, "dataset: {folder: photos}\nfolds: 3\n")
    assert "0 labels in doubt" in said and not sheet.exists()
    assert "labels.png" not in CliRunner().invoke(app, ["labels", "look"]).output


def test_tables_of_nothing_have_the_header_that_they_have_else(photos, monkeypatch):
    (photos / "photos/test/dark/0.png").unlink()
    (photos / "photos/train/dark/wrong.png").unlink()
    _, folder = labels_of(photos, monkeypatch, "dataset: {folder: photos}\nfolds: 3\n")
    assert (folder / "duplicates.csv").read_text() == "split,image,label,other_split,other_image,other_label,difference\n"
    printed = CliRunner().invoke(app, ["labels", "look", "--format", "csv"]).stdout
    assert printed == "file,label,split,suggested,confidence,networks\n"
    header = CliRunner().invoke(app, ["status", "look", "--format", "csv"]).stdout.splitlines()[0]
    assert header.startswith("trial_id,knn_k,")
    assert CliRunner().invoke(app, ["status", "look", "status=failed", "--format", "csv"]).stdout == f"{header}\n"
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(photos / "none"))
    assert CliRunner().invoke(app, ["status", "--format", "csv"]).stdout.startswith("sweep,trials,to_come,planned,")


def test_the_command_names_the_wrong_label_the_duplicate_and_leaves_a_table_that_a_spec_takes(photos, monkeypatch):
    said, folder = labels_of(photos, monkeypatch, "dataset: {folder: photos}\nfolds: 3\n")
    assert "not row #1" in CliRunner().invoke(app, ["labels", "look#1"]).stderr
    assert "by two configurations or more" in CliRunner().invoke(app, ["labels", "look", "knn_k=3"]).stderr
    assert "no trial matches 'knn_k=4'" in CliRunner().invoke(app, ["labels", "look knn_k=4"]).stderr
    assert "1 label in doubt of 28 val images" in said
    assert "1 test image has a near-duplicate in an earlier split" in said
    assert "in another fold" not in said
    assert (folder / "labels.png").stat().st_size > 1000
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    assert (rows[0]["file"], rows[0]["label"], rows[0]["suggested"]) == ("train/dark/wrong.png", "dark", "bright")
    assert len(rows) == 38 and len((folder / "duplicates.csv").read_text().splitlines()) == 2
    (photos / "y.yaml").write_text(
        f"name: again\ndataset: {{folder: photos, labels: {folder / 'labels.csv'}}}\nbase: {{arch: linear, image_size: 16}}\n"
    )
    assert len(load_spec(photos / "y.yaml").trials) == 1


def test_the_table_to_correct_names_every_image_of_the_folder_whatever_part_of_it_the_sweep_used(photos, monkeypatch):
    _, folder = labels_of(photos, monkeypatch, "dataset: {folder: photos, train_size: 12, val_frac: 0.5}\n")
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    there = [path.relative_to(photos / "photos").as_posix() for path in (photos / "photos").rglob("*.png")]
    assert sorted(row["file"] for row in rows) == sorted(there) and len(there) == 38
    assert all(row["file"].startswith(f"{row['split']}/{row['label']}/") for row in rows)


def test_the_table_to_correct_keeps_the_columns_and_rows_of_the_folders_own_table(photos, monkeypatch):
    """Among them rows without a label, and columns that mean nothing to the sweep or what `labels` writes itself."""
    files = sorted(path.relative_to(photos / "photos") for path in (photos / "photos/train").rglob("*.png"))
    own = [[str(file), "" if n == 3 else file.parts[1], f"@{n % 7}", f"0.{n}"] for n, file in enumerate(files)]
    table = photos / "own.csv"
    table.write_text("\n".join(",".join(row) for row in [["File", "class", "patient", "Confidence"], *own]) + "\n")
    _, folder = labels_of(photos, monkeypatch, "dataset: {folder: photos, labels: own.csv}\nfolds: {n: 3, by: patient}\n")
    header, *rows = csv.reader((folder / "labels.csv").open())
    assert "correct the column `class`" in CliRunner().invoke(app, ["labels", "look"]).stderr
    assert header == ["File", "class", "patient", "Confidence", "suggested", "confidence of labels", "networks"]
    assert rows[0][:2] == ["train/dark/wrong.png", "dark"] and rows[0][4] == "bright"
    assert sorted([*row[:2], row[2].removeprefix("'"), row[3]] for row in rows) == own
    table.write_text((folder / "labels.csv").read_text())
    assert load_spec(photos / "x.yaml").trials[0].config.dataset.labelled == 27
    labels_of(photos, monkeypatch, "dataset: {folder: photos, labels: own.csv}\nfolds: {n: 3, by: patient}\n")
    assert next(csv.reader((folder / "labels.csv").open())) == header


def test_a_table_that_labels_wrote_is_written_again_with_what_the_networks_say_now(photos, monkeypatch):
    text = "dataset: {folder: photos}\nfolds: 3\n"
    _, folder = labels_of(photos, monkeypatch, text)
    first = (folder / "labels.csv").read_text()
    (photos / "again.csv").write_text(first)
    labels_of(photos, monkeypatch, text.replace("photos}", "photos, labels: again.csv}"))
    second = (folder / "labels.csv").read_text()
    assert second.splitlines()[0] == first.splitlines()[0] == "file,label,split,suggested,confidence,networks"
    assert sorted(line.split(",")[0] for line in second.splitlines()) == sorted(
        line.split(",")[0] for line in first.splitlines()
    )


@pytest.mark.parametrize("with_copy", [True, False])
def test_what_a_reader_corrected_in_the_table_stays_when_labels_is_typed_again(photos, monkeypatch, with_copy):
    _, folder = labels_of(photos, monkeypatch, "dataset: {folder: photos}\nfolds: 3\n")
    table = folder / "labels.csv"
    header, *rows = csv.reader(table.open())
    at = {row[0]: row for row in rows}
    at["train/dark/wrong.png"][1] = "bright"
    at["train/dark/2.png"][1] = ""  # without a label
    at["train/dark/4.png"][2] = "test"
    rows.remove(at["train/dark/5.png"])
    with table.open("w", encoding="utf-8-sig", newline="") as stream:  # as a spreadsheet writes it
        noted = [[*row, "blurred" if row[0] == "train/bright/0.png" else ""] for row in reversed(rows)]
        csv.writer(stream).writerows([[*header, "note"], *noted, ["more/new.png", "dark", "train", "", "", "", ""]])
    if not with_copy:
        (folder / ".labels.csv").unlink()
    for _ in range(2):
        done = CliRunner().invoke(app, ["labels", "look"])
        told = f"labels.csv: {5 + with_copy} rows stay as you corrected them"
        assert done.exit_code == 0 and told in " ".join(done.stderr.split())
        found = list(csv.DictReader(table.open()))
        assert list(found[0]) == [*header, "note"] and len(found) == 39 - with_copy
        assert (found[0]["file"], found[0]["label"], found[0]["suggested"]) == ("train/dark/wrong.png", "bright", "bright")
        cells = {row["file"]: (row["label"], row["split"], row["note"]) for row in found}
        assert cells["train/dark/2.png"] == ("", "train", "") and cells["train/dark/4.png"] == ("dark", "test", "")
        assert cells["train/bright/0.png"] == ("bright", "train", "blurred") and cells["more/new.png"] == ("dark", "train", "")
        assert ("train/dark/5.png" in cells) is not with_copy  # that it was taken out, the hidden copy alone knows
    table.unlink()
    assert "as you corrected" not in CliRunner().invoke(app, ["labels", "look"]).stderr
    assert len(list(csv.DictReader(table.open()))) == 38


@pytest.mark.parametrize("ended", ["hidden copy lost", "killed between the two"])
def test_images_that_are_new_in_the_folder_are_not_taken_for_rows_that_a_reader_took_out(tmp_path, monkeypatch, ended):
    path, header = tmp_path / "labels.csv", ["file", "label", "suggested"]
    write_corrected(path, [header, ["x", "a", ""]], "file", ["suggested"])
    path.write_text("file,label,suggested\nx,b,\n")  # corrected
    rows = [header, ["x", "a", ""], ["y", "a", ""]]
    if ended == "hidden copy lost":
        (tmp_path / ".labels.csv").unlink()
    else:
        written = []

        def write_one(*what: Any) -> None:
            assert not written, "killed"
            written.append(what)
            write_text(*what)

        with monkeypatch.context() as context, pytest.raises(AssertionError, match="killed"):
            context.setattr(corrections, "write_text", write_one)
            write_corrected(path, rows, "file", ["suggested"])
    assert write_corrected(path, rows, "file", ["suggested"]) == 1
    assert path.read_text() == "file,label,suggested\nx,b,\ny,a,\n"


@pytest.mark.parametrize("with_copy", [True, False])
def test_a_title_that_is_typed_another_way_is_the_column_that_a_spec_takes_it_for(tmp_path, with_copy):
    path, rows = tmp_path / "labels.csv", [["file", "label", "suggested"], ["x", "a", "b"], ["y", "a", ""]]
    write_corrected(path, rows, "file", ["suggested"])
    path.write_text("Suggested ,File , Label,Note\nb,x,b,seen\n,y,a,\n")
    if not with_copy:
        (tmp_path / ".labels.csv").unlink()
    for _ in range(2):
        assert write_corrected(path, rows, "file", ["suggested"]) == 1
        assert path.read_text() == "file,label,suggested,Note\nx,b,b,seen\ny,a,,\n"


def test_two_columns_of_ones_own_that_only_case_tells_apart_stay_two(tmp_path):
    path, rows = tmp_path / "labels.csv", [["file", "label", "Label", "suggested"], ["x", "a", "1", ""]]
    write_corrected(path, rows, "file", ["suggested"])
    path.write_text("file,Label,label,suggested\nx,2,b,\n")
    assert write_corrected(path, rows, "file", ["suggested"]) == 1
    assert path.read_text() == "file,label,Label,suggested\nx,b,2,\n"


def test_labels_corrected_in_the_folders_own_table_are_not_turned_back_by_a_table_to_correct_of_before(photos, monkeypatch):
    files = sorted(path.relative_to(photos / "photos") for path in (photos / "photos/train").rglob("*.png"))
    text = "".join(f"{file},{file.parts[1]}\n" for file in files)
    (photos / "own.csv").write_text(f"file,label\n{text}")
    asked = "dataset: {folder: photos, labels: own.csv}\nfolds: 3\n"
    labels_of(photos, monkeypatch, asked)
    (photos / "own.csv").write_text(f"file,label\n{text}".replace("wrong.png,dark", "wrong.png,bright"))
    _, folder = labels_of(photos, monkeypatch, asked)
    found = {row["file"]: row["label"] for row in csv.DictReader((folder / "labels.csv").open())}
    assert found["train/dark/wrong.png"] == "bright"


def test_what_stands_in_the_place_of_the_table_and_is_none_is_not_written_over(photos, monkeypatch):
    _, folder = labels_of(photos, monkeypatch, "dataset: {folder: photos}\nfolds: 3\n")
    (folder / "labels.csv").write_text("file;label\ntrain/dark/1.png;dark\n")
    done = CliRunner().invoke(app, ["labels", "look"])
    assert done.exit_code == 2 and "It is not written over" in " ".join(done.stderr.split())
    assert (folder / "labels.csv").read_text().startswith("file;label")


def test_no_table_is_said_to_be_corrected_where_the_data_set_takes_none(photos, monkeypatch):
    _, folder = labels_of(photos, monkeypatch, "dataset: {name: digits, train_size: 120}\nfolds: 3\n")
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    assert rows and set(rows[0]) == {"image", "label", "split", "suggested", "confidence", "networks"}
    told = CliRunner().invoke(app, ["labels", "look"]).stderr
    assert "labels.csv: the place of each" in told and "correct the" not in told


def test_where_every_image_has_a_near_duplicate_no_number_is_of_those_without(tmp_path):
    layout, (trial,) = Layout(tmp_path), configs(1, seeds=1, epochs=1)
    write_trial(layout, trial, Images.draw(2, 0))
    (best,) = make_leaderboard(scan(layout)).measured
    pairs = [Pair("val", row, "train", row, 0.0) for row in (0, 1)]
    assert duplicate_lines(best, pairs, layout)[0].endswith(" %, and no image is without one.")
    told = duplicate_lines(best, [Pair("test", 0, "train", 0, 0.0)], layout)  # of which no predictions are there
    assert told == ["1 test image has a near-duplicate in an earlier split."]


def test_the_table_of_doubts_adds_up_to_all_of_them():
    pairs = {(f"c{n}", "x"): 20 - n for n in range(15)}
    images = doubt_columns(SimpleNamespace(counts=lambda: pairs))[2].cells
    assert sum(map(int, images)) == sum(pairs.values())


@pytest.mark.parametrize("split_seed", ["seed", 0])
def test_folds_of_images_that_each_seed_draws_are_said_to_be_those_of_one_seed(split_seed):
    config = {"dataset.split_seed": split_seed, "dataset.train_size": 90}
    trial = SimpleNamespace(own_split=True, fold=1, seed=0, config=config)
    line = doubt_line(SimpleNamespace(images={"val": 90}, found=(), networks=("a", "b"), trial=trial))
    assert line.endswith("are those of seed 0.") == (split_seed == "seed")
