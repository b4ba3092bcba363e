"""Which trials were measured on the same images: these are ranked together, and no others."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from benchmarks.pool import Images, write_plan, write_trial
from cifar_hpc.collect.image_sets import split_by_images
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import chosen_sections, one_section
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.store import write_record
from cifar_hpc.report.caveats import _of_several, caveats
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.progress import best_point
from cifar_hpc.status.state import read_states
from tests.test_collect_leaderboard import BASE, write


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_the_best_of_several_splits_is_not_told_as_the_best_of_one(layout: Layout) -> None:
    """Which a report does not rank together; seeds that have splits of their own, and folds, are of one."""
    of_seed = [dataclasses.replace(BASE.dataset, split_seed=seed, split_by_seed=True) for seed in (0, 1)]
    trials = [dataclasses.replace(BASE, seed=seed, dataset=dataset) for seed, dataset in enumerate(of_seed)]
    other = dataclasses.replace(BASE, dataset=dataclasses.replace(of_seed[0], train_size=100))
    equal = dataclasses.replace(BASE, dataset=dataclasses.replace(of_seed[0], train_size=200))
    for config, value in zip((*trials, other, equal), (0.8, 0.85, 0.9, 0.9), strict=True):
        write(layout, config, value)
    for name, configs, end in (
        ("one", trials, "(mean of 2)"),
        ("two", [*trials, other], "which are not comparable"),
        ("equal", [other, equal], "val acc 90.0 %, on one of 2 data sets or splits, which are not comparable"),
    ):
        write_plan(layout, configs, name)
        plan = read_plan(layout, name)
        best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
        assert str(best).endswith(end), best


def other(**keys: object) -> DatasetConfig:
    return dataclasses.replace(BASE.dataset, **keys)  # type: ignore[arg-type]


FOLDER = other(name="folder", folder="/one/photos", fingerprint="0123456789")
OWN_VAL = dataclasses.replace(FOLDER, own_val=100)


@pytest.mark.parametrize(
    "datasets",
    [
        (FOLDER, dataclasses.replace(FOLDER, folder="/moved/pictures")),
        (other(args=(("n", 1),), fingerprint="01"), other(args=(("n", 2),), fingerprint="01")),
        (other(folds=2, fold=1), other(folds=2, fold=2, val_frac=0.2)),
        (other(split_by_seed=True), other(split_by_seed=True, split_seed=1)),
        (OWN_VAL, dataclasses.replace(OWN_VAL, train_size=20, split_seed=3, val_frac=0.5)),
        (OWN_VAL, dataclasses.replace(OWN_VAL, train_size=20, split_seed=3, split_by_seed=True)),
    ],
)
def test_what_is_measured_on_the_same_images_is_told_and_ranked_together(layout: Layout, datasets: list[DatasetConfig]) -> None:
    assert {*_sets(layout, datasets)} == {1}


@pytest.mark.parametrize(
    "datasets",
    [
        (FOLDER, dataclasses.replace(FOLDER, fingerprint="other")),
        (FOLDER, dataclasses.replace(FOLDER, train_size=20)),
        (other(), other(args=(("n", 2),))),
        (other(folds=2, fold=1), other(folds=2, fold=1, fold_groups="pairs")),
        (OWN_VAL, dataclasses.replace(OWN_VAL, fingerprint="other")),
        (OWN_VAL, dataclasses.replace(OWN_VAL, val_frac=0.0)),
    ],
)
def test_what_is_measured_on_other_images_is_told_and_ranked_apart(layout: Layout, datasets: list[DatasetConfig]) -> None:
    assert {*_sets(layout, datasets)} == {2}


def _sets(layout: Layout, datasets: list[DatasetConfig]) -> tuple[int, int]:
    """How many sets of images the best so far is said to be of, and a report ranks by themselves."""
    trials = [dataclasses.replace(BASE, lr=0.1 * n, seed=n, dataset=dataset) for n, dataset in enumerate(datasets, 1)]
    for config in trials:
        write(layout, config, 0.8)
    write_plan(layout, trials, "s")
    plan = read_plan(layout, "s")
    best = best_point(plan, read_states(layout, [trial.trial_id for trial in plan.trials], [plan]))
    return best.sets if best else 0, len(split_by_images(scan(layout, ["s"])))


def test_older_records_that_do_not_say_that_a_set_brings_validation_images_stand_with_newer_ones(layout: Layout) -> None:
    write(layout, dataclasses.replace(BASE, dataset=OWN_VAL), 0.8)
    write(layout, dataclasses.replace(BASE, dataset=dataclasses.replace(FOLDER, train_size=20)), 0.7)
    assert len(split_by_images(scan(layout))) == 1


def test_what_one_older_set_without_a_digest_brings_says_nothing_of_another(layout: Layout) -> None:
    write(layout, dataclasses.replace(BASE, dataset=other(name="digits", own_val=100)), 0.8)
    write(layout, BASE, 0.8)
    write(layout, dataclasses.replace(BASE, dataset=other(train_size=20)), 0.7)
    assert len(split_by_images(scan(layout))) == 3


def test_points_of_different_data_are_told_apart(layout: Layout) -> None:
    write(layout, BASE, 0.9)
    write(layout, dataclasses.replace(BASE, dataset=DatasetConfig(name="cifar10", split_seed=1)), 0.9)
    board = make_leaderboard(scan(layout))
    assert board.axes == ("dataset.split_seed",)


def test_a_split_into_folds_is_not_told_by_the_share_that_it_does_not_hold_out(layout: Layout) -> None:
    write(layout, BASE, 0.9)
    write(layout, dataclasses.replace(BASE, dataset=DatasetConfig(name="cifar10", folds=2, fold=1)), 0.9)
    write(layout, dataclasses.replace(BASE, dataset=DatasetConfig(name="cifar10", val_frac=0.2)), 0.9)
    names = [name for name, _ in split_by_images(scan(layout))]
    assert sorted(names) == ["cifar10, folds 2", "cifar10, val_frac 0.1", "cifar10, val_frac 0.2"]
    labels = sorted(row.label for row in make_leaderboard(scan(layout)).rows)
    assert labels == ["dataset.folds=2", "dataset.val_frac=0.1", "dataset.val_frac=0.2"]


def test_groups_that_folds_keep_together_are_told_by_what_makes_them(layout: Layout) -> None:
    """A section, and a column, had the digest of which images these are."""
    groups = [(None, None), ("1f0e", "patient"), ("77aa", "folder-prefix")]
    for digest, by in groups:
        dataset = dataclasses.replace(FOLDER, folds=2, fold=1, fold_groups=digest, fold_by=by)
        write(layout, dataclasses.replace(BASE, dataset=dataset), 0.8)
    names = [name for name, _ in split_by_images(scan(layout))]
    assert sorted(names) == ["photos", "photos, fold_by folder-prefix", "photos, fold_by patient"]
    labels = sorted(row.label for row in make_leaderboard(scan(layout)).rows)
    assert labels == ["dataset.fold_by=-", "dataset.fold_by=folder-prefix", "dataset.fold_by=patient"]


def test_ones_own_data_is_told_apart_by_its_arguments(layout: Layout) -> None:
    for n in (200, 400):
        data = dataclasses.replace(FOLDER, args=(("n", n),), fingerprint=f"{n}abcdef")
        write(layout, dataclasses.replace(BASE, dataset=data), 0.8)
    assert sorted(name for name, _ in split_by_images(scan(layout))) == ["photos, args.n 200", "photos, args.n 400"]
    dataset = dataclasses.replace(FOLDER, args=(("n", 999),), fingerprint="400abcdef")  # which has no more images
    write(layout, dataclasses.replace(BASE, dataset=dataset), 0.8)
    assert sorted(name for name, _ in split_by_images(scan(layout))) == ["photos", "photos, args.n 200"]


def test_an_older_record_without_a_digest_of_its_images_is_told_apart_in_words(layout: Layout) -> None:
    for fingerprint in (None, "0123456789abcdef"):
        write(layout, dataclasses.replace(BASE, dataset=DatasetConfig(name="cifar10", fingerprint=fingerprint)), 0.9)
    names = [name for name, _ in split_by_images(scan(layout))]
    assert sorted(names) == ["cifar10 (012345)", "cifar10 (its images not recorded)"]


@pytest.mark.parametrize(
    ("datasets", "terms"),
    [
        ((other(), other(train_size=20), other(train_size=30)), {"dataset.train_size=-", "dataset.train_size=20"}),
        (
            (other(classes=("cat", "dog")), other(classes=("bird", "frog", "ship"))),
            {"dataset.classes=cat+dog", "dataset.classes=bird+frog+ship"},
        ),
        ((other(), dataclasses.replace(FOLDER, folder="/one/my photos")), {"'dataset=\"my photos\"'", "dataset=cifar10"}),
        (
            (other(fingerprint="0123456789"), other(fingerprint="1123456789")),
            {"dataset.fingerprint=0123456789", "dataset.fingerprint=1123456789"},
        ),
    ],
)
def test_who_compares_nothing_across_data_sets_names_a_filter_that_leaves_one(layout, datasets, terms) -> None:
    """labels looked at the first alone; --pivot named filters that left several."""
    for dataset in datasets:
        write(layout, dataclasses.replace(BASE, dataset=dataset), 0.8)
    with pytest.raises(CifarHpcError, match="labels: one data set and split at a time, and here are ") as told:
        one_section(chosen_sections(layout, [], ""), "labels")
    term = str(told.value).partition(". A filter leaves one, such as ")[2]
    assert term in terms
    one_section(chosen_sections(layout, [], " ".join(shlex.split(term))), "labels")


def test_a_plain_sweep_is_whole_though_an_earlier_one_with_a_split_for_each_seed_trained_one_of_its_trials(
    tmp_path: Path,
) -> None:
    text = (
        "name: {n}\ndataset: {{name: digits, train_size: 60{more}}}\nbase: {{arch: linear, epochs: 1}}\n"
        "grid: {{lr: [0.1, 0.3]}}\nseeds: 3\n"
    )
    layout = Layout(tmp_path / "results")
    for name, more in (("own", ", split_seed: seed"), ("plain", "")):
        (tmp_path / f"{name}.yaml").write_text(text.format(n=name, more=more))
        plan = make_plan(load_spec(tmp_path / f"{name}.yaml"))
        for trial in plan.trials:
            if not layout.trial(trial.trial_id).result.exists():
                write_trial(layout, trial, Images.draw(50, 10), sweep=name)
        write_record(layout.sweep(name).plan, plan_record(plan))
    for name in ("own", "plain"):
        (section,) = chosen_sections(layout, [name], "")
        assert [row.seeds for row in section.board.measured] == [3, 3]
        assert section.board.axes == ("lr",) and section.board.rows[0].trials[0].own_split is (name == "own")
    for terms, n in (("", 1), ("seed=0", 1), ("seed!=0", 0)):
        (section, *_) = chosen_sections(layout, [], terms)
        notes = [note for note in caveats(section.pool, section.board) if "several configurations" in note]
        assert len(notes) == n
    (note,) = _of_several(scan(layout))
    assert note.startswith("2 trials are of several configurations, of different sweeps, and count in one here;")
