"""`stages:` of a spec: which trial starts from which, what the two stages call their axes, and where a mistake stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import answering
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.sweep.preflight import seen_before

SPEC = """\
name: two
seeds: 2
base: {batch_size: 64, lr: 0.1}
stages:
  pretrain:
    dataset: {name: digits, train_size: 400}
    base: {arch: simple_cnn}
    grid: {epochs: [1, 2], augment: [none, flip]}
  finetune:
    dataset: {name: digits, train_size: 200}
    base: {weights: {stage: pretrain}, epochs: 3, lr: 0.01}
    grid: {freeze: [none, all], augment: [none, flip]}
"""


def trials_of(folder: Path, text: str = SPEC, *overrides: str) -> dict[str, list[SweepTrial]]:
    path = folder / "x.yaml"
    path.write_text(text)
    stages: dict[str, list[SweepTrial]] = {}
    for trial in load_spec(path, overrides).trials:
        stages.setdefault(trial.axes["stage"], []).append(trial)
    return stages


def parent_of(child: SweepTrial, parents: list[SweepTrial]) -> dict[str, Any]:
    (found,) = [parent.axes for parent in parents if child.config.weights == f"trial/{parent.config.trial_id}"]
    return found


def test_a_trial_of_two_stages_is_a_row_of_the_last_which_starts_from_the_other(tmp_path: Path) -> None:
    """From scratch at the parent's rate, the fair rival of the child, was told as the parent's stage and was no row."""
    (tmp_path / "x.yaml").write_text(
        "name: two\ndataset: {name: digits, train_size: 400}\nbase: {arch: simple_cnn, epochs: 2}\n"
        "stages:\n  pre: {base: {lr: 0.1}, seeds: 1}\n"
        "  fine: {grid: {weights: [{stage: pre}, null], lr: [0.01, 0.1]}, seeds: 3}\n"
    )
    spec = load_spec(tmp_path / "x.yaml")
    answers = answering(plan_record(make_plan(spec)))
    assert len(answers) == 12 and {trial.axes["stage"] for trial in answers} == {"fine"}
    assert spec.warnings[0] == "stage fine has 1 trial of stage pre too: they train once, and are told as stage fine's"


def test_children_match_their_parents_on_shared_axes_and_seeds_and_multiply_by_the_others(tmp_path: Path) -> None:
    stages = trials_of(tmp_path)
    assert (len(stages["pretrain"]), len(stages["finetune"])) == (8, 2 * 2 * 2 * 2)
    for child in stages["finetune"]:
        parent = parent_of(child, stages["pretrain"])
        assert (child.axes["augment"], child.axes["seed"]) == (parent["augment"], parent["seed"])
        assert child.axes["pretrain.epochs"] == parent["epochs"]
        assert (child.config.arch, child.config.lr, child.config.epochs) == ("simple_cnn", 0.01, 3)
    assert list(stages["finetune"][0].axes) == ["stage", "pretrain.epochs", "freeze", "augment", "seed"]
    assert {trial.config.lr for trial in stages["pretrain"]} == {0.1}, "common where none says else"
    assert {trial.config.keep for trial in stages["pretrain"]} == {"weights"}
    assert {trial.config.keep for trial in stages["finetune"]} == {"best"}
    assert [len(level) for level in make_plan(load_spec(tmp_path / "x.yaml")).levels] == [8, 16]


def test_the_seeds_of_a_point_are_one_point_though_each_has_a_parent_of_its_own(tmp_path: Path) -> None:
    children = trials_of(tmp_path)["finetune"]
    assert len({child.config.trial_id for child in children}) == 16
    assert len({child.config.point_id for child in children}) == 8
    fitted = trials_of(tmp_path, SPEC.replace("epochs: 3,", "classifier: svm,"))["finetune"]
    assert {child.config.seed for child in fitted} == {0, 1}


def test_scratch_stands_beside_pretraining_and_stages_may_follow_one_another(tmp_path: Path) -> None:
    text = SPEC.replace("base: {weights: {stage: pretrain}, epochs: 3", "base: {arch: simple_cnn, epochs: 3")
    text = text.replace("grid: {freeze: [none, all], augment: [none, flip]}", "grid: {weights: [null, {stage: pretrain}]}")
    text += "  third:\n    dataset: digits\n    base: {weights: {stage: finetune}}\n"
    stages = trials_of(tmp_path, text)
    assert {child.axes["weights"] for child in stages["finetune"]} == {None, "pretrain"}
    assert (len(stages["finetune"]), len(stages["third"])) == (2 + 8, 10)
    grandchild = stages["third"][-1]
    assert grandchild.axes.keys() == {"stage", "pretrain.epochs", "pretrain.augment", "finetune.weights", "seed"}
    assert parent_of(grandchild, stages["finetune"])["pretrain.epochs"] == grandchild.axes["pretrain.epochs"]
    assert len(make_plan(load_spec(tmp_path / "x.yaml")).levels) == 3


def test_set_reaches_every_stage_or_the_one_that_it_names(tmp_path: Path) -> None:
    sets = ("epochs=1", "augment=none", "seeds=1", "dataset.train_size=100", "stages.finetune.grid.freeze=[1]")
    stages = trials_of(tmp_path, SPEC, *sets)
    configs = [trial.config for trials in stages.values() for trial in trials]
    assert len(configs) == 2
    assert {(c.epochs, c.augment, c.dataset.train_size) for c in configs} == {(1, "none", 100)}
    assert [config.freeze for config in configs] == ["none", 1]
    stages = trials_of(
        tmp_path, SPEC.replace("{name: digits, train_size: 400}", "digits"), "stages.pretrain.dataset.train_size=100"
    )
    sizes = {name: {trial.config.dataset.train_size for trial in trials} for name, trials in stages.items()}
    assert sizes["pretrain"] == {100} != sizes["finetune"]
    shared = SPEC.replace("    dataset: {name: digits, train_size: 400}\n", "").replace("seeds: 2", "seeds: 2\ndataset: digits")
    first = trials_of(tmp_path, shared, "stages.pretrain.dataset.train_size=100")["pretrain"]
    assert {trial.config.dataset.train_size for trial in first} == {100}  # where the stage has the data set of all
    with pytest.raises(SpecError, match="the stage 'pretain'; the spec has the stages pretrain, finetune"):
        trials_of(tmp_path, SPEC, "stages.pretain.dataset.train_size=100")


WRONG = {
    "a typo in a stage": (
        "epochs: 3",
        "epocs: 3",
        [("x.yaml:11: stages.finetune.base.epocs", "the key 'epocs'", "it is no trial key", "epochs")],
    ),
    "a stage that is not there": (
        "{stage: pretrain}",
        "{stage: pretrian}",
        [("x.yaml:11: stages.finetune.base.weights", "the stage 'pretrian'", "before this one stand pretrain", "pretrain")],
    ),
    "an axis without a parent": (
        "freeze: [none, all], augment: [none, flip]",
        "augment: [none, cutout]",
        [
            (
                "x.yaml:11: stages.finetune.base.weights",
                "no trial of stage pretrain with augment cutout belongs to a point of this stage",
                "it has none, flip; trials are matched by the axes that both stages sweep: give both stages the same "
                "values of augment",
            )
        ],
    ),
    "another architecture": (
        "epochs: 3",
        "arch: resnet9",
        [
            (
                "x.yaml:11: stages.finetune.base.weights",
                "no trial of stage pretrain with arch resnet9 belongs to a point of this stage",
                "it has simple_cnn; a stage that says no arch takes over its parents'",
            )
        ],
    ),
    "a contradiction in what stands beside the stages": (
        "batch_size: 64",
        "freeze: 9",
        [
            (
                "x.yaml:3: base.freeze",
                "freeze 9 with arch simple_cnn: 9 blocks",
                "0 to 3 of them can be frozen: features.0, features.4, features.8",
            )
        ],
    ),
    "a section that only a stage has": (
        "seeds: 2",
        "zip: {lr: [0.1]}",
        [
            (
                "x.yaml:2: zip",
                "'zip' beside stages",
                "beside them may stand name, dataset, base, grid, seeds, folds, objective, stop, keep, plugins, "
                "resources, ensemble; each stage has its own",
            )
        ],
    ),
    "a section that stands for all stages": (
        "  finetune:\n",
        "  finetune:\n    resources: {gpus: 1}\n",
        [("x.yaml:10: stages.finetune.resources", "the key 'resources'", "it stands beside `stages`, for all of them")],
    ),
    "a search of a stage": (
        "  finetune:\n",
        "  finetune:\n    search: {num_points: 3}\n",
        [("x.yaml:10: stages.finetune.search", "the key 'search'", "no stage has one")],
    ),
    "a search of all stages": (
        "seeds: 2",
        "search: {num_points: 3}",
        [
            (
                "x.yaml:2: search",
                "'search' beside stages",
                "beside them may stand name, dataset, base, grid, seeds, folds, objective, stop, keep, plugins, resources, "
                "ensemble",
            )
        ],
    ),
    "neighbours, which keep no weights": (
        "base: {arch: simple_cnn}",
        "base: {arch: simple_cnn, classifier: knn}",
        [
            (
                "x.yaml:11: stages.finetune.base.weights",
                "a trial of stage pretrain with classifier knn",
                "it keeps no weights: linear or svm or logreg do",
            )
        ],
    ),
}


@pytest.mark.parametrize("title", WRONG)
def test_a_mistake_in_a_stage_is_told_with_its_path_and_line(title: str, tmp_path: Path, monkeypatch) -> None:
    old, new, answer = WRONG[title]
    monkeypatch.chdir(tmp_path)
    assert old in SPEC
    Path("x.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_spec(Path("x.yaml"))
    assert list(caught.value.problems) == [Problem(*fields) for fields in answer]


def test_settings_that_only_a_network_above_its_classifier_feels_make_no_trial_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    grid = "grid: {freeze: [none, all], layer_decay: [null, 0.5], unfreeze_epoch: [null, 1]}\n"
    path.write_text("name: x\ndataset: digits\nbase: {arch: simple_cnn}\n" + grid)
    trials = load_spec(path).trials
    assert len(trials) == 4 + 1
    assert trials[-1].axes == {"freeze": "all", "layer_decay": None, "unfreeze_epoch": None}
    path.write_text("name: x\ndataset: digits\nbase: {arch: linear, layer_decay: 0.5, unfreeze_epoch: 1}\n")
    (trial,), warnings = load_spec(path).trials, load_spec(path).warnings
    assert (trial.config.layer_decay, trial.config.unfreeze_epoch) == (None, None)
    assert {warning.split(" has")[0] for warning in warnings} == {"layer_decay", "unfreeze_epoch"}


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("{name: digits, train_size: 400}", False),
        ("{name: digits, train_size: 400, val_frac: 0.2}", True),
        ("{name: digits, classes: ['1', '2']}", True),
        ("{name: mnist, train_size: 400}", False),
    ],
)
def test_a_stage_that_validates_with_what_its_parents_may_have_trained_on_says_so(tmp_path, dataset, told) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SPEC.replace("{name: digits, train_size: 200}", dataset))
    assert [warning.split(":")[0] for warning in seen_before(Layout(tmp_path), load_spec(path))] == ["stage finetune"] * told


def test_classes_that_no_parent_saw_are_not_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = SPEC.replace("{name: digits, train_size: 400}", "{name: digits, classes: ['3', '4']}")
    path.write_text(text.replace("{name: digits, train_size: 200}", "{name: digits, classes: ['1', '2']}"))
    assert not seen_before(Layout(tmp_path), load_spec(path))


def test_images_that_a_set_brings_to_validate_on_are_not_warned_of(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("bee", "wasp"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.new("L", (8, 8), 40 * number + len(name) + len(split))
                image.save(tmp_path / "photos" / split / name / f"{number}.png")
    path = tmp_path / "x.yaml"
    text = SPEC.replace("{name: digits, train_size: 400}", "{folder: photos, train_size: 4}")
    text = text.replace("{name: digits, train_size: 200}", "{folder: photos}").replace(
        "base: {batch", "base: {image_size: 8, batch"
    )
    path.write_text(text)
    assert not seen_before(Layout(tmp_path), load_spec(path))


@pytest.mark.parametrize("stages", ["[{name: pretrain, base: {arch: linear}}]", "{pretrain: 5}", "5", "{pretrain: [1]}"])
def test_stages_of_another_form_are_told_with_their_line(tmp_path: Path, stages: str) -> None:
    with pytest.raises(SpecError, match=r"x\.yaml:2: stages"):
        trials_of(tmp_path, f"name: two\nstages: {stages}\ndataset: digits\n")
