"""Which images folds keep together, and which splits cannot be made: refused before anything trains."""

from __future__ import annotations

import pytest
from PIL import Image
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.config.image_groups import image_groups, labelled_paths
from cifar_hpc.config.image_table import list_table
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.errors import SpecError
from cifar_hpc.spec.load import load_spec, spec_of

SPEC = "name: x\ndataset: {name: digits, train_size: 100}\nbase: {arch: simple_cnn}\ngrid: {lr: [0.1, 0.2]}\n"


@pytest.mark.parametrize(
    "text, found",
    [
        ("folds: 1\n", "at least 2 and at most 100"),
        ("folds: {n: 5, by: patient}\n", "groups of digits"),
        ("folds: 5\nsearch: {num_points: 2, scheduler: asha}\n", "folds beside scheduler asha.*scheduler: halving"),
        ("folds: {m: 5}\n", "'m'"),
    ],
)
def test_folds_that_cannot_be_are_refused_with_their_line(tmp_path, text, found):
    with pytest.raises(SpecError, match=found):
        spec_of(SPEC + text, tmp_path / "x.yaml")


def test_images_of_one_animal_stay_together_by_folder_name_or_column(tmp_path):
    from cifar_hpc.config.image_folder import list_folder

    for name in ("cat/rex_1.png", "cat/rex_2.png", "cat/tom-1.png", "dog/a/1.png", "dog/a/2.png", "dog/b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert image_groups(list_folder(tmp_path / "in"), "folder-prefix") == ("rex", "rex", "tom", "a", "a", "b")
    table = tmp_path / "labels.csv"
    table.write_text("file,label,Owner\ncat/rex_1.png,cat,ann\ncat/tom-1.png,cat,bob\ndog/b/1.png,dog,ann\n")
    assert image_groups(list_table(tmp_path / "in", table), "owner") == ("ann", "bob", "ann")


def grouped(folder, files: str, labels: str) -> dict[str, str]:
    """Of empty files, as a table with these labels has them."""
    for name in files.split():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).touch()
    rows = [f"{name},{label}" for name, label in zip(files.split(), labels.split(), strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    listing = list_table(folder / "in", folder / "labels.csv")
    names = [path.relative_to(folder / "in").as_posix() for path, _ in labelled_paths(listing)]
    return dict(zip(names, image_groups(listing, "folder-prefix"), strict=True))


FILES = "train/cat/rex_1.png train/cat/rex_2.png train/cat/tom_1.png train/dog/a/1.png train/dog/a/2.png train/fox/rex_3.png"
CALLED = "ants/rex_1 ants/rex_2 ants/tom_1 ants/tom_2 ants/tom_3 bees/a_1 bees/a_2 bees/a_3 bees/b_1 bees/b_2 bees/b_3"
PATIENTS = "p1/1.png p1/2.png p2/1.png p2/2.png"


@pytest.mark.parametrize(
    "files, labels, groups",
    [
        (FILES, "cat cat cat dog dog fox", "rex rex tom a a rex"),
        (FILES, "dog cat fox dog fox fox", "rex rex tom a a rex"),
        (FILES, "dog cat cat dog cat dog", "rex rex tom a a rex"),  # no image is a fox any more
        (FILES.replace("train/", "one/"), "dog cat cat dog dog dog", "rex rex tom a a rex"),
        ("imgs/rex_1.jpg imgs/rex_2.jpg imgs/tom_1.jpg", "cat dog dog", "rex rex tom"),
        ("train/rex_1.jpg val/rex_2.jpg train/tom_1.jpg", "cat dog dog", "rex rex tom"),
        (PATIENTS, "ill well well ill", "p1 p1 p2 p2"),
        (CALLED, "ant ant ant ant ant bee bee bee bee bee ant", "rex rex tom tom tom a a a b b b"),
    ],
)
def test_a_label_of_a_table_takes_no_image_out_of_its_group(tmp_path, files, labels, groups):
    assert grouped(tmp_path, files, labels) == dict(zip(files.split(), groups.split(), strict=True))


def test_groups_that_keep_nothing_together_are_told(tmp_path):
    """Names without a _ or - before their number: each image is a group of its own, and nobody is protected."""
    for name in ("cat/rex1.png", "cat/rex2.png", "cat/kim1.png", "dog/tom1.png", "dog/tom2.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    text = f"name: x\ndataset: {{folder: {tmp_path}/in}}\n"
    text += "base: {arch: linear, image_size: 8}\nfolds: {n: 2, by: folder-prefix}\n"
    told = "folds.by folder-prefix keeps nothing together: each of the 5 images is a group of its own"
    assert any(told in note for note in spec_of(text, tmp_path / "x.yaml").findings)
    (tmp_path / "in/cat/rex1.png").rename(tmp_path / "in/cat/rex_1.png")
    (tmp_path / "in/cat/rex2.png").rename(tmp_path / "in/cat/rex_2.png")
    assert not any(told in note for note in spec_of(text, tmp_path / "x.yaml").findings)


OF_FOUR = "4 images: a fold would be empty, or hold all images of a class"
UNSPLITTABLE = [
    ("a/1 a/2 b/1 b/2", "folds: 5", f":4: folds: 5 of {OF_FOUR}; 4 can be dealt."),
    ("a/1 a/2 a/3 b/1", "folds: 3", ":4: folds: class b has one image; each class needs two images: one is trained on"),
    ("train/a/1 train/a/2 train/b/1 val/b/2", "folds: 3", ""),  # which joins train/
    ("a/r_1 a/r_2 a/t_1 b/s_1 b/s_2", "folds: {n: 2, by: folder-prefix}", "class b has one group; each class needs two groups"),
    ("a/q_1 a/r_1 b/s_1 b/t_1", "folds: {n: 3, by: folder-prefix}", "folds: 3 of 4 groups: a fold would be empty"),
    ("a/q_1 a/r_1 b/s_1 b/t_1", "folds: {n: 2, by: folder-prefix, repeats: 2}", ""),
    (" ".join(f"a/{n}" for n in range(40)) + " b/1 b/2", "dataset.train_size: 8", "0.1 where a class has one image"),
    (" ".join(f"a/{n}" for n in range(40)) + " b/1 b/2", "dataset.train_size: 8\nfolds: 2", "class b has one image"),
]


@pytest.mark.parametrize("files, keys, told", UNSPLITTABLE)
def test_a_split_that_the_worker_cannot_make_is_refused_before_anything_trains(tmp_path, files, keys, told):
    for number, name in enumerate(files.split()):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"in/{name}.png")
    spec = tmp_path / "x.yaml"
    size = "".join(line.partition(".")[2] for line in keys.splitlines() if line.startswith("dataset."))
    rest = "\n".join(line for line in keys.splitlines() if not line.startswith("dataset."))
    spec.write_text(
        f"name: x\ndataset: {{folder: in{', ' * bool(size)}{size}}}\nbase: {{arch: linear, image_size: 8}}\n{rest}\n"
    )
    for command in (["data", str(spec)], ["sweep", str(spec), "--dry-run"]):
        done = CliRunner().invoke(app, command, env={"CIFAR_HPC_RESULTS": str(tmp_path / "results")})
        assert (done.exit_code, told in done.output) == (2 if told else 0, True), done.output
    if not told:
        for trial in spec_of(spec.read_text().replace("in", f"{tmp_path}/in", 1), spec).trials:
            assert len(load_dataset_of(trial.config, tmp_path).val.labels_N)


@pytest.mark.parametrize(
    "text, told",
    [
        ("{name: digits, train_size: 20}\nfolds: 25", "folds: 25 of 20 images: a fold would be empty.*20 can be dealt"),
        ("'own.py:load'\nfolds: 5", "folds: 5 of 4 images.*4 can be dealt"),
        ("'own.py:load'\nfolds: 4", ""),
        ("{name: 'own.py:load', args: {n: 3}}", "val_frac: 0.1 where a class has one image"),
        ("{name: 'own.py:load', args: {n: 2}}", "classes: no training image of b in own.py:load"),
    ],
)
def test_sets_that_are_no_folder_are_split_by_the_same_rule(tmp_path, text, told):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n\n\ndef load(n=4):\n    labels = np.array([0, 0, 1, 1])[:n]\n"
        "    return {'train': (np.zeros((n, 1, 8, 8), np.uint8), labels), 'classes': ['a', 'b']}\n"
    )
    (tmp_path / "x.yaml").write_text(f"name: x\ndataset: {text}\nbase: {{arch: linear}}\n")
    if not told:
        assert len(load_spec(tmp_path / "x.yaml").trials) == 4
        return
    with pytest.raises(SpecError, match=told):
        load_spec(tmp_path / "x.yaml")
