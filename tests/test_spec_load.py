"""What a good spec means: values, data sets, overrides, warnings, and what reading one may import."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_hpc.config.normalize import TRAINING
from cifar_hpc.config.trial import AugmentOp, StopConfig
from cifar_hpc.errors import SpecError
from cifar_hpc.planning.cohorts import train_images
from cifar_hpc.spec.checks import FITTED
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.overrides import TOP_LEVEL
from cifar_hpc.spec.parts import Resources
from cifar_hpc.spec.schema import spec_model
from cifar_hpc.spec.sweep import SweepSpec

SWEEPS = Path(__file__).parent.parent / "sweeps"
HEAD = "name: x\ndataset: cifar10\n"


@pytest.fixture
def load(tmp_path: Path):
    def _load(text: str, *overrides: str) -> SweepSpec:
        (tmp_path / "x.yaml").write_text(text)
        return load_spec(tmp_path / "x.yaml", overrides)

    return _load


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_spec_of_the_project_loads_without_a_warning(path: Path) -> None:
    spec = load_spec(path)
    assert spec.name == path.stem
    meant = 1 if path.stem == "vgg11_transfer" else 0  # its 32 pixels are the reference's own
    assert len(spec.warnings) == meant
    assert spec.text == path.read_text()


def test_numbers_and_words_are_those_of_yaml_1_2(load) -> None:
    spec = load(HEAD + "base: {arch: resnet18, weights: imagenet, lr: 1e-3, epochs: 0x10, dropout: ~}\n")
    config = spec.trials[0].config
    assert (config.lr, config.epochs, config.dropout) == (0.001, 16, None)
    with pytest.raises(SpecError, match="no block is called 'on'"):  # a word, not true
        load(HEAD + "base: {arch: resnet18, freeze: on}\n")


def test_an_int_a_float_and_a_scientific_rate_are_one_trial(load) -> None:
    written = ["1", "1.0", "1e0", "10e-1"]
    assert len({load(HEAD + f"base: {{arch: linear, lr: {text}}}\n").trials[0].config.trial_id for text in written}) == 1
    assert len(load(HEAD + "base: {arch: linear}\ngrid: {lr: [1, 1.0, 1e0]}\n").trials) == 1


def test_freezing_keeps_blocks_apart_from_shares(load) -> None:
    text = HEAD + "base: {arch: resnet18, weights: imagenet}\ngrid: {freeze: [0, 0.0, none, 1, 1.0, all, 0.5, layer3]}\n"
    assert [trial.axes["freeze"] for trial in load(text).trials] == ["none", 1, "all", 0.5, "layer3"]


def test_two_spellings_of_one_depth_are_one_trial_that_a_table_shows_as_written(load) -> None:
    text = HEAD + "base: {weights: imagenet}\ngrid: {arch: [resnet18, vgg11], freeze: [0.5, 5, all, 9]}\n"
    trials = load(text).trials
    found = [(trial.axes["arch"], trial.axes["freeze"], trial.config.freeze) for trial in trials]
    assert found == [
        ("resnet18", 0.5, 5),
        ("resnet18", "all", "all"),
        ("vgg11", 0.5, 5),
        ("vgg11", "all", "all"),
        ("vgg11", 9, 9),
    ]


def test_settings_that_are_null_or_nothing_are_not_warned_of(load) -> None:
    assert load(HEAD + "base: {arch: linear, optimizer: adamw, momentum: null}\nstop: {patience: null}\n").warnings == ()


def test_a_superclass_and_its_classes_in_any_order_are_one_trial(load) -> None:
    by_name = load("name: x\ndataset: {name: cifar100, classes: reptiles}\nbase: {arch: linear}\n")
    by_list = load(
        "name: x\ndataset: {name: cifar100, classes: [turtle, snake, lizard, dinosaur, crocodile]}\nbase: {arch: linear}\n"
    )
    assert by_name.trials[0].config == by_list.trials[0].config
    assert by_name.trials[0].config.dataset.classes == ("crocodile", "dinosaur", "lizard", "snake", "turtle")


def test_all_classes_written_out_are_no_choice_of_classes(load) -> None:
    text = "name: x\ndataset: {name: digits, classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}\nbase: {arch: linear}\n"
    assert load(text).trials[0].config.dataset.classes is None


def test_an_image_size_left_out_is_the_data_sets_own(load) -> None:
    sizes = {"cifar10": 32, "mnist": 28, "digits": 8}
    text = "name: x\nbase: {arch: linear}\ngrid: {dataset: [cifar10, mnist, digits], image_size: [null, 32]}\n"
    found = {(trial.axes["dataset"], trial.config.image_size) for trial in load(text).trials}
    assert found == {(name, size) for name, own in sizes.items() for size in (own, 32)}


def test_whole_data_sets_and_single_keys_of_one_are_axes(load) -> None:
    text = (
        "name: x\nbase: {arch: linear}\n"
        "grid: {dataset.train_size: [500, 1000], dataset: [mnist, {name: cifar100, classes: reptiles}]}\n"
    )
    spec = load(text)
    assert [(trial.config.dataset.name, trial.config.dataset.train_size) for trial in spec.trials] == [
        ("mnist", 500),
        ("mnist", 1000),
        ("cifar100", 500),
        ("cifar100", 1000),
    ]
    assert spec.trials[-1].axes == {"dataset": "cifar100 classes=reptiles", "dataset.train_size": 1000}


def test_a_whole_data_set_in_zip_leaves_the_axis_of_one_key_in_grid(load) -> None:
    text = (
        "name: x\nbase: {arch: linear}\n"
        "grid: {dataset.train_size: [500, 1000]}\nzip: {dataset: [cifar10, mnist], lr: [.1, .2]}\n"
    )
    found = [(t.config.dataset.name, t.config.dataset.train_size, t.config.lr) for t in load(text).trials]
    assert found == [("cifar10", 500, 0.1), ("mnist", 500, 0.2), ("cifar10", 1000, 0.1), ("mnist", 1000, 0.2)]


def test_a_list_of_data_sets_in_a_pattern_is_matched_one_data_set_at_a_time(load) -> None:
    text = (
        "name: x\nbase: {arch: linear}\ngrid: {dataset: [mnist, digits], dataset.train_size: [100, 200], lr: [0.1, 0.2]}\n"
        "exclude: [{lr: 0.1, dataset: [{name: mnist, train_size: 100}, {name: digits, train_size: 200}]}]\n"
    )
    left = [(t.config.dataset.name, t.config.dataset.train_size) for t in load(text).trials if t.config.lr == 0.1]
    assert left == [("mnist", 200), ("digits", 100)]
    assert len(load(text).trials) == 6


def make_folder(root: Path, *, size: int = 9) -> Path:
    for name in ("ants", "bees"):
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            (root / "train" / name / f"{number}.jpg").write_bytes(b"x" * size)
    return root


def test_a_folder_lies_relative_to_its_spec_and_is_known_by_its_files(load, tmp_path: Path) -> None:
    make_folder(tmp_path / "photos")
    text = "name: x\ndataset: {folder: photos}\nbase: {arch: linear}\n"
    config = load(text).trials[0].config
    assert config.dataset.folder == str(tmp_path / "photos")
    assert config.image_size == 224
    assert train_images(config) == 18  # of 20: what it costs is not guessed from some other data set
    for label in ("ants", "bees"):
        (tmp_path / "photos" / "val" / label).mkdir(parents=True)
        (tmp_path / "photos" / "val" / label / "0.jpg").write_bytes(b"x")
    own_val = load(text).trials[0].config.dataset
    assert own_val.trained_of(20) == 20 and dataclasses.replace(own_val, val_frac=0.0).trained_of(20) == 22
    shutil.rmtree(tmp_path / "photos" / "val")
    assert load(text).warnings[-1] == "batch_size 128 is more than the training images: one step an epoch"
    assert not any("one step" in said for said in load(text.replace("linear", "linear, classifier: knn")).warnings)
    make_folder(tmp_path / "elsewhere")
    moved = load(text.replace("photos", "elsewhere")).trials[0].config
    assert moved.trial_id == config.trial_id
    make_folder(tmp_path / "photos", size=10)
    assert load(text).trials[0].config.trial_id != config.trial_id


def test_a_weights_file_is_known_by_its_bytes(load, tmp_path: Path) -> None:
    text = HEAD + "base: {arch: resnet18}\ngrid: {weights: [a.pt, b.pt, null]}\n"
    (tmp_path / "a.pt").write_bytes(b"1")
    (tmp_path / "b.pt").write_bytes(b"2")
    spec = load(text)
    assert len(spec.trials) == 3
    assert [trial.axes["weights"] for trial in spec.trials] == ["a.pt", "b.pt", None]
    assert spec.trials[0].config.weights == str(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"1")
    assert len(load(text).trials) == 2


def test_operations_have_all_their_arguments_and_a_named_list_is_its_name(load) -> None:
    text = (
        HEAD + "base: {arch: linear}\ngrid: {augment: [flip_crop, [flip, crop], [flip, {crop: {pad_frac: 0.125}}], [rotate]]}\n"
    )
    augments = [trial.config.augment for trial in load(text).trials]
    assert augments == ["flip_crop", (AugmentOp(name="rotate", args=(("degrees", 15.0),)),)]


def test_the_parts_beside_the_trials_are_read(load) -> None:
    spec = load(
        HEAD + "base: {arch: linear}\nobjective: {metric: val_loss}\nstop: {patience: 2, max_minutes: 5}\n"
        "resources: {gpus: 2, cpus_per_gpu: 4, minutes: 30}\ngrid:\n  # lr: [0.1]\n"
    )
    assert spec.objective == spec.trials[0].config.objective == "val_loss"
    assert spec.trials[0].config.stop == StopConfig(patience=2, max_minutes=5.0)
    assert spec.resources == Resources(gpus=2.0, cpus_per_gpu=4, minutes=30.0)


def test_include_alone_is_the_whole_sweep_and_takes_nothing_from_the_grid(load) -> None:
    alone = load(HEAD + "include: [{arch: linear}, {arch: resnet9, lr: 0.3}]\n")
    assert [trial.axes for trial in alone.trials] == [{"arch": "linear", "lr": 0.01}, {"arch": "resnet9", "lr": 0.3}]
    beside = load(HEAD + "grid: {arch: [resnet9], epochs: [1, 2]}\ninclude: [{arch: linear}]\n")
    assert beside.trials[-1].axes == {"arch": "linear", "epochs": 10}


@pytest.mark.parametrize(
    "rows, axes",
    [
        ("include: [{stop.patience: 1}, {stop.patience: 3}, {}]", [{"stop.patience": value} for value in (1, 3, None)]),
        ("include: [{dataset.train_size: 100}, {}]", [{"dataset.train_size": value} for value in (100, None)]),
        ("seeds: [3]\ninclude: [{dataset.split_seed: seed}, {}]", [{"dataset.split_seed": value} for value in ("seed", 0)]),
        ("include: [{dataset: digits}, {}]", [{"dataset": value} for value in ("digits", "cifar10")]),
        (
            "grid: {lr: [0.1, 0.2]}\nwhen: [{if: {lr: 0.1}, set: {stop.max_minutes: 5}}]",
            [{"lr": 0.1, "stop.max_minutes": 5.0}, {"lr": 0.2, "stop.max_minutes": None}],
        ),
        ("stop: {patience: 2}\ngrid: {classifier: [linear, knn]}", [{"classifier": "linear"}, {"classifier": "knn"}]),
    ],
)
def test_what_include_or_when_sets_for_some_tells_their_rows_apart(load, rows, axes) -> None:
    assert [trial.axes for trial in load(f"{HEAD}base: {{arch: linear}}\n{rows}\n").trials] == axes


def test_overrides_change_one_run_and_not_the_file(load) -> None:
    text = HEAD + "base: {arch: linear, epochs: 9}\ngrid: {lr: [0.1, 0.2], batch_size: [32, 64]}\nexclude: [{lr: 0.2}]\n"
    overrides = ("epochs=2", "grid.lr=[1e-3]", "dataset.train_size=500", "stop.patience=1", "seeds=2", "batch_size=16")
    spec = load(text, *overrides, "resources.gpus=0")
    assert [(t.config.epochs, t.config.lr, t.config.batch_size, t.config.seed) for t in spec.trials] == [
        (2, 0.001, 16, 0),
        (2, 0.001, 16, 1),
    ]
    assert spec.trials[0].config.dataset.train_size == 500
    assert spec.trials[0].config.stop.patience == 1
    assert spec.resources.gpus == 0
    assert spec.text == text
    assert "exclude[0]: no configuration matches" in spec.warnings[0]  # an error in the file itself, a warning under --set


def test_every_section_of_a_spec_is_changed_by_its_name() -> None:
    assert set(TOP_LEVEL) == {field.alias for field in spec_model().model_fields.values()}


def test_an_override_of_a_data_sets_key_goes_onto_each_value_of_the_axis(load) -> None:
    datasets = "dataset: [mnist, {name: cifar100, classes: reptiles, train_size: 100}]"
    for section in ("grid", "zip"):
        for base in ("", "dataset.train_size: 700, "):
            spec = load(f"name: x\nbase: {{{base}arch: linear}}\n{section}: {{{datasets}}}\n", "dataset.train_size=500")
            found = [(trial.config.dataset.name, trial.config.dataset.train_size) for trial in spec.trials]
            assert found == [("mnist", 500), ("cifar100", 500)]
            assert spec.warnings == ()
    spec = load(HEAD + "base: {arch: linear}\ngrid: {dataset.train_size: [100, 200]}\n", "dataset.train_size=500")
    assert [trial.config.dataset.train_size for trial in spec.trials] == [500]
    with pytest.raises(SpecError, match=r"--set dataset\.train_size=x: grid\.dataset\[0\]\.train_size: 'x'"):
        load("name: x\nbase: {arch: linear}\ngrid: {dataset: [mnist]}\n", "dataset.train_size=x")


def test_an_override_of_the_data_set_or_of_stopping_wins_over_base_and_axes(load) -> None:
    spec = load("name: x\nbase: {arch: linear}\ngrid: {dataset: [mnist, digits]}\n", "dataset=cifar10")
    assert [trial.config.dataset.name for trial in spec.trials] == ["cifar10"]
    for part in ("base: {arch: linear, stop.patience: 3}", "base: {arch: linear}\ngrid: {stop.patience: [2, 3]}"):
        assert [t.config.stop.patience for t in load(f"{HEAD}{part}\n", "stop.patience=7").trials] == [7]


def test_a_data_sets_key_that_no_trial_gets_is_warned_of(load) -> None:
    (warning,) = load(
        "name: x\ndataset: {name: mnist, train_size: 500}\nbase: {arch: linear}\ngrid: {dataset: [mnist]}\n"
    ).warnings
    assert "x.yaml:2: dataset.train_size: reaches no trial" in warning


@pytest.mark.parametrize(
    ("rest", "warning"),
    [
        (
            "base: {arch: linear, optimizer: adamw, momentum: 0.9}",
            "momentum has no effect: only optimizer: sgd and muon have it",
        ),
        (
            "base: {arch: resnet18, weights: imagenet, image_size: 64, freeze: all, layer_decay: 0.5}",
            "layer_decay has no effect: only the classifier is trained",
        ),
        (
            "base: {arch: linear}\nstop: {min_delta: 0.1}",
            "stop.min_delta has no effect: stop.patience is not set, or not below epochs",
        ),
        (
            "base: {arch: linear, epochs: 3}\nstop: {patience: 3}",
            "stop.patience has no effect: it is not below epochs, so that nothing stops early",
        ),
        (
            "base: {arch: squeezenet1_1, train: norm, weights: imagenet, image_size: 64}",
            "all trials train the classifier alone: train: norm finds no normalisation layer in other blocks",
        ),
        (
            "base: {weights: imagenet, image_size: 64}\ngrid: {arch: [vgg11, resnet18], train: [all, norm]}",
            "1 of 4 trials train the classifier alone: train: norm finds no normalisation layer in other blocks",
        ),
        ("base: {arch: resnet18, freeze: 0.5}", "all trials freeze blocks with random weights (weights: null)"),
        (
            "base: {arch: linear, batch_size: 512, dataset.train_size: 500}",
            "batch_size 512 is more than the training images: one step an epoch",
        ),
        (
            "base: {arch: linear, batch_size: 12, dataset.train_size: 20}",  # of which ten are held out, one of each class
            "batch_size 12 is more than the training images: one step an epoch",
        ),
    ],
)
def test_a_setting_without_effect_is_warned_of(load, rest: str, warning: str) -> None:
    assert load(f"{HEAD}{rest}\n").warnings == (warning,)


def test_what_a_search_warns_of_counts_no_trials_that_nobody_samples(load) -> None:
    """A range's two ends stand for all between them: with 3 seeds and two values that made 12 trials of the 15 that came."""
    search = "grid: {freeze: [none, 0.5]}\nsearch: {num_points: 5, ranges: {lr: {low: 0.001, high: 0.1}}}\nseeds: 3\n"
    (told,) = load(f"{HEAD}base: {{arch: resnet18}}\n{search}").warnings
    assert told == "some of the trials that may be sampled freeze blocks with random weights (weights: null)"


@pytest.mark.parametrize("key", [*TRAINING, "freeze"])
def test_a_setting_that_only_training_feels_is_warned_of_with_svm_and_knn(load, key: str) -> None:
    words = {"freeze": "0.5", "augment": "flip", "optimizer": "adamw", "schedule": "step", "train": "bias", "start": "probe"}
    words |= {"unfreeze": "{1: fc, 3: layer4}", "lora": "{rank: 8}", "sampler": "balanced"}
    value = words.get(key, "1" if key in ("unfreeze_epoch", "epochs", "batch_size", "ghost_batches") else "0.5")
    arch = "vit_b_16" if key == "lora" else "resnet18"
    base = f"base: {{arch: {arch}, weights: imagenet, image_size: 64, {key}: {value}}}\n"
    fitted = load(f"{HEAD}{base}grid: {{classifier: [svm, knn]}}\n").warnings
    assert fitted == (f"{key} has no effect: svm, logreg and knn are fitted once, to features of a network that is frozen",)
    assert not any(FITTED in text for text in load(f"{HEAD}{base}grid: {{classifier: [svm, linear]}}\n").warnings)


def test_freezing_all_for_svm_is_not_warned_of(load) -> None:
    assert (
        load(f"{HEAD}base: {{arch: resnet18, weights: imagenet, image_size: 64, classifier: svm, freeze: all}}\n").warnings
        == ()
    )


def test_a_setting_that_acts_in_one_trial_is_not_warned_of(load) -> None:
    assert load(HEAD + "base: {arch: linear, momentum: 0.8}\ngrid: {optimizer: [adamw, sgd]}\n").warnings == ()


def test_reading_and_planning_a_spec_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from cifar_hpc.planning.plan import make_plan; from cifar_hpc.spec.load import load_spec\n"
        f"make_plan(load_spec(Path({str(SWEEPS / 'quickstart.yaml')!r})))\n"
        "print([m for m in ('torch', 'torchvision', 'ray', 'submitit', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("dataset", "there"),
    [("{name: cifar100, classes: reptiles, train_size: 2501}", 2500), ("{name: digits, train_size: 1439}", 1438)],
)
def test_more_training_images_than_there_are_are_refused_with_their_number(tmp_path, dataset, there):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: {dataset}\nbase: {{arch: linear}}\n")
    with pytest.raises(SpecError, match=rf"x.yaml:2: dataset.train_size: .*there are {there} labelled training images"):
        load_spec(path)


def test_a_value_that_an_axis_has_twice_is_told_and_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndataset: digits\ngrid:\n  arch: [simple_cnn]\n  lr: [0.1, 1e-3, 0.001]\n  freeze: [none, 0, 1]\n")
    spec = load_spec(path)
    assert len(spec.trials) == 4
    assert [warning.removeprefix(f"{path}:") for warning in spec.warnings[:2]] == [
        "5: grid.lr[2]: 0.001 stands in the list already; it counts once",
        "6: grid.freeze[1]: 'none' stands in the list already; it counts once",
    ]


def test_what_stands_at_the_top_level_can_be_set_for_one_run(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndataset: digits\nbase: {arch: linear}\n")
    assert load_spec(path, ["keep=weights"]).trials[0].config.keep == "weights"


def test_parts_of_a_batch_are_of_two_images_and_whole_in_each_process(load) -> None:
    with pytest.raises(SpecError, match="ghost_batches 100 of batch_size 128; two images a part are needed: at most 64 parts"):
        load(f"{HEAD}base: {{arch: resnet18, ghost_batches: 100}}\n")
    with pytest.raises(SpecError, match="4: resources: 2 processes for ghost_batches 3; each process holds whole parts"):
        load(f"{HEAD}base: {{arch: resnet18, ghost_batches: 3}}\nresources: {{processes: 2}}\n")
