"""Data sets of others become folders: torchvision's, Hugging Face's on disk; and a table says the labels of a folder."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from torchvision import datasets
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.config.image_folder import folder_fingerprint, list_folder, printable
from cifar_hpc.config.image_table import list_table
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data import brought
from cifar_hpc.data.brought import TORCHVISION, fetch_torchvision, hf_folder, torchvision_folder
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.labelled import labelled_images
from cifar_hpc.errors import DataError, SpecError
from cifar_hpc.spec.load import load_spec
from cifar_hpc.terminal.tables import to_csv


def picture(number: int, side: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8))


def png(number: int) -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return stream.getvalue()


def spec_of(path: Path, dataset: str) -> Path:
    path.write_text(f"name: brought\ndataset: {dataset}\nbase: {{arch: linear, image_size: 12, epochs: 1}}\n")
    return path


def test_every_name_is_a_class_of_torchvisions_that_can_download() -> None:
    for name in TORCHVISION:
        bases = getattr(datasets, name).__mro__
        assert any("download" in inspect.signature(base.__init__).parameters for base in bases), name


def test_a_data_set_of_torchvisions_is_fetched_by_its_own_class_into_a_folder(tmp_path: Path, monkeypatch) -> None:
    """EuroSAT's own reader, on files that its download would have left."""

    def download(self: datasets.EuroSAT) -> None:
        for label, name in enumerate(("Forest", "River")):
            folder = Path(self._data_folder) / name
            folder.mkdir(parents=True)
            for number in range(6):
                picture(10 * label + number).save(folder / f"{name}_{number}.jpg")

    monkeypatch.setattr(datasets.EuroSAT, "download", download)
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path))
    path = spec_of(tmp_path / "x.yaml", "{name: torchvision/EuroSAT, val_frac: 0.34}")
    with pytest.raises(SpecError, match="run `cifar-hpc fetch torchvision/EuroSAT`"):
        load_spec(path)
    folder = fetch_torchvision("torchvision/EuroSAT", tmp_path, lambda line: None)
    assert folder == torchvision_folder("torchvision/EuroSAT", tmp_path)
    assert sorted(p.parent.name for p in folder.rglob("*.jpg")) == ["Forest"] * 6 + ["River"] * 6
    data = load_dataset_of(load_spec(path).trials[0].config, tmp_path)
    assert data.classes == ("Forest", "River") and len(data.train.labels_N) + len(data.val.labels_N) == 12
    with pytest.raises(DataError, match="Did you mean 'torchvision/EuroSAT'"):
        torchvision_folder("torchvision/eurosat", tmp_path)


def test_classes_of_torchvisions_keep_their_first_name_and_never_share_a_folder(tmp_path: Path) -> None:
    class Planes(list[tuple[Image.Image, int]]):
        classes = (("tench", "Tinca tinca"), "F/A-18")

    made = brought._of_torchvision({"train": Planes([(picture(0), 0), (picture(1), 1)])})
    assert [name for _, name, _ in made] == ["tench", "F/A-18"]
    with pytest.raises(DataError, match="'F/A-18' and 'F_A-18' would both lie in a folder"):
        brought._write(iter([("train", "F/A-18", picture(0)), ("train", "F_A-18", picture(1))]), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_hugging_faces_tables_become_a_folder_once(tmp_path: Path, monkeypatch, form: str) -> None:
    source = tmp_path / "pets"
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog/wolf"]}}
    for split, rows in (("train", 8), ("validation", 4), ("test", 4)):
        images = [{"bytes": png(i), "path": None} for i in range(rows)]
        table = pyarrow.table({"image": images, "label": [i % 2 for i in range(rows)]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        if form == "parquet":
            source.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(table, source / f"{split}-00000-of-00001.parquet")
        else:
            (source / split).mkdir(parents=True)
            file = source / split / "data-00000-of-00001.arrow"
            with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            file.with_name("state.json").write_text(json.dumps({"_data_files": [{"filename": file.name}]}))
            shutil.copyfile(file, file.with_name("cache-1f2e3d4c5b6a7988.arrow"))  # as `map` leaves it
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path / "root"))
    config = load_spec(spec_of(tmp_path / "x.yaml", "hf/pets")).trials[0].config
    with pytest.raises(SpecError, match="'dog/wolf'; hf/pets has cat, dog_wolf"):
        load_spec(spec_of(tmp_path / "x.yaml", "{name: hf/pets, classes: [cat, dog/wolf]}"))
    data = load_dataset_of(config, tmp_path / "root")
    assert data.classes == ("cat", "dog_wolf")
    assert [len(split.labels_N) for split in (data.train, data.val, data.test)] == [8, 4, 4]
    monkeypatch.setattr(brought, "_write", lambda *arguments: pytest.fail("made again"))
    assert str(hf_folder(source, tmp_path / "root")) == config.dataset.folder


@pytest.mark.parametrize("none", [-1, None])
def test_images_without_a_label_in_hugging_faces_tables_are_no_images_of_a_class(tmp_path: Path, none: int | None) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    (tmp_path / "pets").mkdir()
    for split, labels in (("train", [0, 1, 0, 1]), ("test", [none] * 3)):
        images = [{"bytes": png(i), "path": None} for i in range(len(labels))]
        table = pyarrow.table({"image": images, "label": pyarrow.array(labels, pyarrow.int64())})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pyarrow.parquet.write_table(table, tmp_path / "pets" / f"{split}-00000-of-00001.parquet")
    listing = list_folder(hf_folder(tmp_path / "pets", tmp_path / "root"))
    assert set(listing.splits) == {"train"} and len(listing.unlabelled) == 3 and not listing.wrong


@pytest.mark.parametrize(
    ("names", "splits"),
    [("train dev eval", {"train", "val", "test"}), ("a b", {"train"}), ("test_run/train test_run/dev", {"train", "val"})],
)
def test_a_split_of_hugging_faces_is_what_its_name_says_and_no_part_of_train(
    tmp_path: Path, names: str, splits: set[str]
) -> None:
    for name in names.split():
        file = tmp_path / "pets" / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"image": [png(i) for i in range(4)], "label": [0, 1, 0, 1]}), file)
    assert set(list_folder(hf_folder(tmp_path / "pets", tmp_path / "root")).splits) == splits
    (file.parent / "extra-00000-of-00001.parquet").write_bytes(file.read_bytes())
    if names == "train dev eval":
        with pytest.raises(DataError, match=r"extra-00000-of-00001.* its name says no split, and others' do"):
            hf_folder(tmp_path / "pets", tmp_path / "root")


def test_the_tables_of_two_data_sets_of_hugging_faces_are_not_joined(tmp_path: Path) -> None:
    for name in ("mnist/train/0000.parquet", "mnist/test/0000.parquet", "letters/train-00000-of-00001.parquet"):
        file = tmp_path / "both" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"image": [png(i) for i in range(4)], "label": [0, 1, 0, 1]}), file)
    with pytest.raises(DataError, match="several data sets, in letters, mnist: give the folder of one"):
        hf_folder(tmp_path / "both", tmp_path / "root")
    assert set(list_folder(hf_folder(tmp_path / "both" / "mnist", tmp_path / "root")).splits) == {"train", "test"}


def test_a_table_names_files_as_labels_writes_them_and_as_a_person_does(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    names = [
        "'-x.png",
        "-x.png",
        "''=q.png",
        "=1+1.png",
        " lead.png",
        "trail .png",
        "a\nb.png",
        "\x1b[31m.png",
        "a,b.png",
        "x'.png",
    ]
    for name in names:
        picture(1).save(tmp_path / "photos" / name)
    records = [{"file": printable(name), "label": "-odd" if number % 2 else "even"} for number, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text(to_csv(records))
    listing = list_table(tmp_path / "photos", tmp_path / "labels.csv")
    assert listing.wrong == () and listing.classes == ("-odd", "even")
    assert [path.name for path in listing.splits["train"]["even"]] == sorted(names[::2])
    assert [path.name for path in listing.splits["train"]["-odd"]] == sorted(names[1::2])
    (tmp_path / "photos" / "-x.png").unlink()
    (tmp_path / "labels.csv").write_text("file,label\n'-x.png,a\n x'.png ,b\n")
    assert [path.name for path in list_table(tmp_path / "photos", tmp_path / "labels.csv").splits["train"]["a"]] == ["'-x.png"]


def test_images_of_the_folder_in_no_row_of_its_table_are_one_line_of_data_and_told_before_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    (tmp_path / "photos" / "link").symlink_to("more")
    lines = ["file,label"]
    for number in range(8):
        picture(number).save(tmp_path / "photos" / "more" / f"{number}.png")
        if number not in (2, 5):
            lines.append(f"{'link' if number == 3 else 'more'}/{number}.png,{('', 'bee', 'ant')[min(number, 1 + number % 2)]}")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    path = spec_of(tmp_path / "x.yaml", "{folder: photos, labels: labels.csv, val_frac: 0.4}")
    said = CliRunner().invoke(app, ["data", str(path)]).stdout
    assert "left out (3):\n  more/0.png: no label\n  2 images in no row of labels.csv: more/2.png, more/5.png\n" in said
    told = json.loads(CliRunner().invoke(app, ["data", str(path), "--format", "json"]).stdout)
    assert told[0]["left out"][1:] == ["more/2.png: in no row of labels.csv", "more/5.png: in no row of labels.csv"]
    dry = CliRunner().invoke(app, ["sweep", str(path), "--dry-run"])
    assert "left out, in no row of labels.csv: more/2.png, more/5.png" in dry.output


def test_a_table_names_files_of_its_folder_alone_and_each_once_however_it_is_spelt(tmp_path: Path) -> None:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("1.png", "2.png", "more/3.png", "../beside.png"):
        picture(1).save(tmp_path / "photos" / name)
    table = tmp_path / "labels.csv"
    inside = [f"{tmp_path}/photos/1.png,a", "more/../2.png,b", "more/3.png,b"]
    table.write_text("\n".join(["file,label", *inside]))
    listing = list_table(tmp_path / "photos", table)
    assert listing.wrong == () and [str(path.relative_to(tmp_path / "photos")) for path in listing.splits["train"]["b"]] == [
        *("2.png", "more/3.png")
    ]
    outside = [f"{tmp_path}/beside.png,a", "../beside.png,a", "more/../1.png,b"]
    table.write_text("\n".join(["file,label", *inside, *outside]))
    with pytest.raises(SpecError) as caught:
        load_spec(spec_of(tmp_path / "x.yaml", "{folder: photos, labels: labels.csv, val_frac: 0.4}"))
    told = (f"no file '{tmp_path}/beside.png' in the folder", "no file '../beside.png'", "'more/../1.png' a second time")
    assert all(words in str(caught.value) for words in told), caught.value


def test_a_table_in_another_order_is_the_same_data_set_with_the_same_split(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path / "root"))
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(12):
        picture(number).save(tmp_path / "photos" / f"{number}.png")
        rows.append(f"{number}.png,{'ant' if number % 2 else 'bee'}")
    table = tmp_path / "labels.csv"
    path = spec_of(tmp_path / "x.yaml", f"{{folder: photos, labels: {table}, val_frac: 0.34}}")

    def read(order: list[str]) -> tuple[TrialConfig, list[str]]:
        table.write_text("\n".join(["file,label", *order]) + "\n")
        config = load_spec(path).trials[0].config
        images = labelled_images(config)
        return config, sorted(images.names["val"])

    first, again = read(rows), read(rows[::-1])
    assert first == again
    table.write_text("\n".join(["file,label", *rows]) + "\n")
    by_row = folder_fingerprint(list_table(tmp_path / "photos", table, by_row=True))
    old = dataclasses.replace(first[0], dataset=dataclasses.replace(first[0].dataset, fingerprint=by_row))
    assert by_row != first[0].dataset.fingerprint and labelled_images(old).names["train"]
    table.write_text("\n".join(["file,label", *rows[::-1]]) + "\n")
    with pytest.raises(DataError, match="changed since the sweep was planned"):
        labelled_images(old)


def test_a_table_says_the_labels_and_splits_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    lines = ["filename,label,split"]
    for number in range(12):
        picture(number).save(tmp_path / "photos" / f"{number}.png")
        lines.append(f"{number}.png,{'ant' if number % 2 else 'bee'},{'test' if number > 8 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    path = spec_of(tmp_path / "x.yaml", "{folder: photos, labels: labels.csv, val_frac: 0.34}")
    config = load_spec(path).trials[0].config
    data = load_dataset_of(config, tmp_path / "root")
    assert data.classes == ("ant", "bee") and len(data.test.labels_N) == 3
    (tmp_path / "labels.csv").write_text("\n".join(lines).replace("0.png,bee", "0.png,ant") + "\n")
    assert load_spec(path).trials[0].config.trial_id != config.trial_id
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "99.png,ant,train", "0.png,ant,train", "3.png,ant,dev"]) + "\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    for told in (
        "labels.csv:14: no file '99.png'",
        "labels.csv:15: '0.png' a second time (first on line 2)",
        "labels.csv:16: the split 'dev'",
    ):
        assert told in str(caught.value)
