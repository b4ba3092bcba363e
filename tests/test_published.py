"""The prose about the published sweeps against their tables: each figure is its group's first by validation; commands run."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from cifar_hpc import CifarHpcError, Results
from cifar_hpc.spec.load import load_spec

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published"
INDEX = (PUBLISHED / "README.md").read_text()
_found = importlib.util.spec_from_file_location("docs_published", ROOT / "docs" / "published.py")
assert _found is not None and _found.loader is not None
published = importlib.util.module_from_spec(_found)
_found.loader.exec_module(published)
SWEEPS = sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir())


def row_of(sweep: str) -> str:
    """Its row in the table of sweeps."""
    return next(line for line in INDEX.splitlines() if line.startswith(f"| [{sweep}]"))


def page_of(sweep: str) -> str:
    return (PUBLISHED / sweep / "README.md").read_text()


def quoted_in(sweep: str) -> str:
    return row_of(sweep) + page_of(sweep)


def first_of(sweep: str, **group: str) -> dict[str, str]:
    """The row that is first by validation among those of the group; one that a part of its seeds measured only where there is
    no other."""
    with (PUBLISHED / sweep / "leaderboard.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if all(row.get(key, "") == value for key, value in group.items())]
    measured = [row for row in rows if row["val_acc"]]
    whole = [row for row in measured if row.get("partial") != "True"]
    return max(whole or measured, key=lambda row: float(row["val_acc"]))


CHOSEN = [
    ("quickstart", {"freeze": "0.5"}, "test_acc", "83.1"),
    ("quickstart", {"freeze": "all"}, "test_acc", "78.0"),
    ("quickstart", {"arch": "simple_cnn"}, "test_acc", "60.7"),
    ("quickstart_scratch", {"arch": "simple_cnn"}, "test_acc", "54.3"),
    ("quickstart_scratch", {"arch": "linear"}, "test_acc", "31.9"),
    ("baselines", {"arch": "resnet9"}, "test_acc", "89.5"),
    ("baselines", {"arch": "convnet5"}, "test_acc", "87.2"),
    ("baselines", {"arch": "simple_cnn"}, "test_acc", "80.9"),
    ("baselines", {"arch": "linear"}, "test_acc", "39.0"),
    ("mnist_cnn", {}, "test_acc", "99.05"),
    ("mnist_cnn", {"augment": "none"}, "test_acc", "98.85"),
    ("transfer_strategies", {"arch": "simple_cnn"}, "val_acc", "79.4"),
    ("transfer_strategies", {"arch": "mobilenet_v3_small", "weights": ""}, "val_acc", "50.3"),
    ("transfer_strategies", {"classifier": "svm"}, "val_acc", "91.0"),
    ("transfer_strategies", {"classifier": "linear", "augment": "none"}, "val_acc", "94.0"),
    ("transfer_strategies", {"weights": "imagenet", "augment": "flip_crop"}, "val_acc", "92.0"),
    ("small_sets", {"classifier": "logreg"}, "val_acc", "83.9"),
    ("small_sets", {"classifier": "linear", "freeze": "all"}, "val_acc", "83.2"),
    ("small_sets", {"freeze": "layer3"}, "val_acc", "82.2"),
    ("small_sets", {"train": "bias"}, "val_acc", "81.4"),
    ("small_sets", {"start": "probe"}, "val_acc", "81.7"),
    ("small_sets", {"train": "layer2 fc"}, "val_acc", "81.4"),
    ("small_sets", {"train": "all", "freeze": "none", "start": "", "anchor": ""}, "val_acc", "81.4"),
    ("small_sets", {"anchor": "0.01"}, "val_acc", "80.7"),
    ("small_sets", {"train": "norm"}, "val_acc", "75.9"),
    ("freeze_networks", {"arch": "resnet18", "freeze": "none"}, "test_acc", "79.9"),
    ("freeze_networks", {"arch": "resnet18", "freeze": "0.5"}, "test_acc", "77.2"),
    ("freeze_networks", {"arch": "resnet18", "freeze": "0.75"}, "test_acc", "73.7"),
    ("freeze_networks", {"arch": "resnet18", "freeze": "all"}, "test_acc", "67.4"),
    ("freeze_networks", {"arch": "mobilenet_v2", "freeze": "none"}, "test_acc", "79.7"),
    ("freeze_networks", {"arch": "mobilenet_v2", "freeze": "0.5"}, "test_acc", "78.0"),
    ("freeze_networks", {"arch": "mobilenet_v2", "freeze": "0.75"}, "test_acc", "73.3"),
    ("freeze_networks", {"arch": "mobilenet_v2", "freeze": "all"}, "test_acc", "65.2"),
    ("freeze_networks", {"arch": "efficientnet_b0", "freeze": "none"}, "test_acc", "75.1"),
    ("freeze_networks", {"arch": "efficientnet_b0", "freeze": "0.5"}, "test_acc", "77.0"),
    ("freeze_networks", {"arch": "efficientnet_b0", "freeze": "0.75"}, "test_acc", "71.3"),
    ("freeze_networks", {"arch": "efficientnet_b0", "freeze": "all"}, "test_acc", "50.4"),
    ("freeze_depth", {}, "test_acc", "92.4"),
    ("freeze_depth", {"freeze": "0.5"}, "test_acc", "91.0"),
    ("freeze_depth", {"freeze": "0.75"}, "test_acc", "88.0"),
    ("freeze_depth", {"freeze": "all"}, "test_acc", "76.4"),
    ("freeze_depth", {"freeze": "none", "augment": "none"}, "test_acc", "91.1"),
    ("freeze_depth", {"freeze": "all", "augment": "flip_crop"}, "test_acc", "72.7"),
    ("freeze_depth", {"optimizer": "sgd"}, "val_acc", "87.7"),
    ("freeze_sizes", {"images": "cifar10, train_size 2000"}, "test_acc", "63.5"),
    ("freeze_sizes", {"images": "cifar10, train_size 2000", "freeze": "all"}, "test_acc", "54.7"),
    ("freeze_sizes", {"images": "cifar10, train_size 500"}, "test_acc", "45.4"),
    ("freeze_sizes", {"images": "cifar10, train_size 500", "freeze": "none"}, "test_acc", "34.2"),
    ("reptiles", {"stage": "scratch"}, "val_acc", "72.6"),
    ("reptiles", {"stage": "scratch"}, "test_acc", "70.1"),
    ("reptiles", {"stage": "finetune"}, "val_acc", "78.3"),
    ("reptiles", {"stage": "finetune"}, "test_acc", "75.9"),
    ("vgg11_transfer", {"arch": "vgg11_bn"}, "test_acc", "87.1"),
    ("vgg11_transfer", {"arch": "vgg11_bn", "augment": "none"}, "test_acc", "83.5"),
    ("vgg11_transfer", {"arch": "resnet18", "weights": "resnet18-imagenet1k.pt"}, "test_acc", "86.8"),
    ("vgg11_transfer", {"arch": "resnet18", "weights": "resnet18-imagenet1k.pt", "augment": "none"}, "test_acc", "84.4"),
    ("vgg11_transfer", {"arch": "resnet18", "weights": ""}, "test_acc", "81.2"),
    ("vgg11_transfer", {"arch": "resnet18", "weights": "", "augment": "none"}, "test_acc", "76.0"),
    ("alexnet", {}, "val_acc", "78.2"),
    ("alexnet", {}, "test_acc", "77.8"),
    ("alexnet", {"augment": "none"}, "val_acc", "75.5"),
    ("alexnet", {"augment": "none"}, "test_acc", "75.4"),
    ("convnet_augment", {"augment": "flip_crop"}, "val_acc", "92.5"),
    ("convnet_augment", {"augment": "flip_crop"}, "test_acc", "91.9"),
    ("convnet_augment", {"augment": "none"}, "val_acc", "89.2"),
    ("convnet_augment", {"augment": "none"}, "test_acc", "88.5"),
    ("convnet_augment", {"augment": "color"}, "val_acc", "88.8"),
    ("convnet_augment", {"augment": "color"}, "test_acc", "88.5"),
    ("convnet_augment", {"augment": "geometric_color"}, "val_acc", "90.8"),
    ("convnet_augment", {"augment": "geometric_color"}, "test_acc", "90.1"),
    ("convnet_augment", {"augment": "geometric"}, "val_acc", "90.3"),
    ("convnet_augment", {"augment": "geometric"}, "test_acc", "89.9"),
]


@pytest.mark.parametrize(("sweep", "group", "column", "figure"), CHOSEN)
def test_a_quoted_accuracy_is_that_of_its_groups_first_by_validation(
    sweep: str, group: dict[str, str], column: str, figure: str
) -> None:
    share = 100 * float(first_of(sweep, **group)[column])
    assert abs(share - float(figure)) <= 0.051
    assert figure in quoted_in(sweep)


def test_no_accuracy_is_quoted_in_the_table_of_sweeps_that_is_not_checked_here() -> None:
    """Beside the references, in a column of their own, and the differences."""
    checked = {sweep: {figure for name, _, _, figure in CHOSEN if name == sweep} for sweep in SWEEPS}
    checked["ensemble_zoo"] = {"95.2", "0.9"}
    checked["lr_search"] = {"0.7"}
    for sweep in SWEEPS:
        found = row_of(sweep).split("|")[4]
        assert set(re.findall(r"(?<!± )\b\d+\.\d+\b", found)) <= checked[sweep], sweep


def test_the_ensemble_quoted_is_the_one_that_is_first_on_validation() -> None:
    lines = (PUBLISHED / "ensemble_zoo" / "ensembles.md").read_text().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    best_member, methods = rows[0], rows[1:]
    chosen = max(methods, key=lambda row: float(row[2]))
    text = quoted_in("ensemble_zoo")
    assert f"{float(chosen[4]):.1f}" in text and chosen[0] in text
    assert f"{float(chosen[4]) - float(best_member[4]):.1f}" in text
    with (PUBLISHED / "ensemble_zoo" / "leaderboard.csv").open() as stream:
        best_on_test = max(100 * float(row["test_acc"]) for row in csv.DictReader(stream) if row["test_acc"])
    assert f"{float(chosen[4]) - best_on_test:.1f} above" in text


def test_the_search_is_compared_with_the_grid_on_validation() -> None:
    grid = 100 * float(first_of("lr_search")["val_acc"])
    search = float((PUBLISHED / "lr_search" / "search_leaderboard.md").read_text().splitlines()[2].split("|")[3].split()[0])
    assert f"{grid - search:.1f} points below on validation" in quoted_in("lr_search")


@pytest.mark.parametrize("sweep", ["", *SWEEPS])
def test_every_link_of_a_page_is_there_and_no_command_has_a_gap(sweep: str) -> None:
    page = PUBLISHED / sweep / "README.md"
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
    assert "…" not in page.read_text()


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_page_shows_every_figure_that_is_published_with_it_and_the_head_of_its_leaderboard(sweep: str) -> None:
    page = page_of(sweep)
    leaderboard = (PUBLISHED / sweep / "leaderboard.md").read_text()
    assert published.with_table(page, leaderboard) == page, "make published writes the table"
    assert "<!-- table: " in page and leaderboard.splitlines()[2] in page
    figures = {path.name for path in (PUBLISHED / sweep).glob("*.png")}
    assert figures == {published.file_of(name) for name in published.FIGURES[sweep]}
    assert all(f"]({name})" in page for name in figures)


def test_a_report_that_fails_is_told_and_takes_no_published_figure_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alexnet").mkdir()
    (tmp_path / "alexnet" / "layers.png").write_bytes(b"as it was")

    (tmp_path / "results" / "alexnet").mkdir(parents=True)
    (tmp_path / "results" / "alexnet" / "plan.json").write_text("{}")

    def report(self: Results, *words: str) -> Path:
        if "#" in words[0]:
            raise CifarHpcError("no such row")
        return tmp_path

    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    monkeypatch.setattr(Results, "report", report)
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("sys.argv", ["published.py", "alexnet"])
    with pytest.raises(SystemExit, match="alexnet: no such row"):
        published.main()
    assert (tmp_path / "alexnet" / "layers.png").read_bytes() == b"as it was"


def test_every_published_sweep_is_in_the_table_and_in_the_guide() -> None:
    guide = (ROOT / "mkdocs.yml").read_text()
    assert sorted(published.FIGURES) == SWEEPS
    for sweep in SWEEPS:
        assert f"| [{sweep}]({sweep}/README.md) |" in INDEX
        assert f"questions/{sweep}/README.md" in guide


def commands() -> dict[str, list[str]]:
    """The first command of each page."""
    found = ((sweep, re.search(r"`(cifar-hpc sweep sweeps/\w+\.yaml[^`]*)`", page_of(sweep))) for sweep in SWEEPS)
    return {sweep: shlex.split(match[1]) for sweep, match in found if match}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_published_command_plans_the_rows_of_its_table(sweep: str, tmp_path: Path) -> None:
    """With dummies where the command names files of weights, and CIFAR-10 in place of the folder of ants and bees."""
    words = [word.replace("\n", " ") for word in commands()[sweep]]
    for name in ("resnet18", "efficientnet_b0"):
        (tmp_path / f"{name}-imagenet1k.pt").write_bytes(name.encode())
    sets = [words[i + 1].replace("W/", f"{tmp_path}/") for i, word in enumerate(words) if word == "--set"]
    sets = [
        argument.replace("dataset={folder: hymenoptera}", "dataset={name: cifar10, classes: [cat, dog]}") for argument in sets
    ]
    spec = load_spec(ROOT / "sweeps" / f"{sweep}.yaml", sets)
    with (PUBLISHED / sweep / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    stages = {row["stage"] for row in rows if "stage" in row}
    planned = {trial.config.point_id: trial for trial in spec.trials if not stages or dict(trial.axes).get("stage") in stages}
    if sweep == "lr_search":  # the table is of the grid, which the text says how to have: --set search=null
        spec = load_spec(ROOT / "sweeps" / f"{sweep}.yaml", [*sets, "search=null"])
        planned = {trial.config.point_id: trial for trial in spec.trials}
    assert len(planned) == len(rows)
    for key in ("arch", "augment"):
        if key in rows[0]:
            found = [str(dict(trial.axes).get(key) or getattr(trial.config, key)) for trial in planned.values()]
            assert sorted(found) == sorted(row[key] or "none" for row in rows)
