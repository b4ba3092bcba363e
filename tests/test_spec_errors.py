"""Malformed specs, each with the answer that its writer would like to get: where, what was found, what is allowed, the nearest.

Three answers stand here as they are printed; how any answer is put together is no concern of the others.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cifar_hpc.errors import SpecError
from cifar_hpc.spec.load import load_spec
from tests.helpers.spec_answers import HEAD, RUNS, Case, check_answer

FREEZE = "none, all, a whole number (first n blocks), a share 0.0..1.0 with a point, or a block's name"
NAMES = (
    "none, flip, flip_crop, geometric, color, geometric_color, cutout, randaugment, trivialaugment, autoaugment, mixup, cutmix"
)
ARCHS = "one of 86 architectures (`cifar-hpc arch` lists them), or one's own: FILE.py:NAME or MODULE:NAME"
WEIGHTS = (
    "null, imagenet, one of torchvision's weights such as IMAGENET1K_V1, a weights file (.pt, .pth, .safetensors), "
    "{stage: NAME} or {trial: ID}"
)

CASES: dict[str, Case] = {
    "a typo in an architecture names the line and the nearest": (
        HEAD + "grid:\n  arch: [resnet18, resnet3]\n",
        "x.yaml:4: grid.arch[1]: 'resnet3'; one of 86 architectures (`cifar-hpc arch` lists them), "
        "or one's own: FILE.py:NAME or MODULE:NAME. "
        "Did you mean 'resnet34'?",
    ),
    "an architecture in capitals": (
        HEAD + "base:\n  arch: ResNet18\n",
        [("x.yaml:4: base.arch", "'ResNet18'", ARCHS, "resnet18")],
    ),
    "an unknown section": (
        HEAD + "bsae: {arch: linear}\n",
        [("x.yaml:3: bsae", "the key 'bsae'", "it is no key of a spec", "base")],
    ),
    "an unknown trial key": (
        HEAD + "base:\n  arch: linear\n  learning_rate: 0.1\n  weight_deacy: 0\n",
        "x.yaml:5: base.learning_rate: the key 'learning_rate'; it is no trial key. Did you mean 'lr'?\n"
        "x.yaml:6: base.weight_deacy: the key 'weight_deacy'; it is no trial key. Did you mean 'weight_decay'?",
    ),
    "a trial key at the top level": (
        RUNS + "epochs: 3\n",
        [("x.yaml:4: epochs", "the key 'epochs'", "a trial key stands in base, grid or zip", "base.epochs")],
    ),
    "a key of the whole sweep in base": (
        HEAD + "base: {arch: linear, keep: weights}\n",
        [("x.yaml:3: base.keep", "the key 'keep'", "it stands at the top level: mind the indentation")],
    ),
    "whole numbers beyond the limits, which are nobody's intention": (
        HEAD + "base: {arch: linear, epochs: 0.0, dropout: 1.0}\n",
        [
            ("x.yaml:3: base.dropout", "1.0", "a number at least 0 and below 1 or null is needed"),
            ("x.yaml:3: base.epochs", "0.0", "a whole number at least 1 is needed"),
        ],
    ),
    "keys of parts that have a short form": (
        RUNS + "keep: {bst: 3, max_gb: 0}\nfolds: {n: 5, repeat: 2}\n",
        [
            ("x.yaml:4: keep.max_gb", "0", "a number above 0 is needed"),
            ("x.yaml:4: keep.bst", "the key 'bst'", "it is no key of keep", "best"),
            ("x.yaml:5: folds.repeat", "the key 'repeat'", "it is no key of folds", "repeats"),
        ],
    ),
    "a pattern with a seed that there is": (
        RUNS + "seeds: 3\nexclude: [{lr: 5, seed: 1}]\n",
        [("x.yaml:5: exclude[0]", "no configuration matches: none has lr 5.0", "a pattern leaves out at least one")],
    ),
    "keys by the names of other programs": (
        HEAD + "model: resnet18\nparams: {wd: [0], batch: [64]}\nbase: {optim: sgd, aug: none, patience: 3}\n",
        [
            ("x.yaml:3: model", "the key 'model'", "it is no key of a spec", "base.arch"),
            ("x.yaml:4: params", "the key 'params'", "it is no key of a spec", "grid"),
            ("x.yaml:5: base.optim", "the key 'optim'", "it is no trial key", "optimizer"),
            ("x.yaml:5: base.aug", "the key 'aug'", "it is no trial key", "augment"),
            ("x.yaml:5: base.patience", "the key 'patience'", "it is no trial key", "stop.patience"),
        ],
    ),
    "a key that is fixed and swept": (
        HEAD + "base: {arch: linear, lr: 0.1}\ngrid:\n  lr: [0.1, 0.2]\n",
        "x.yaml:3: base.lr: lr is an axis too (x.yaml:5: grid.lr); a key is fixed in base or swept, not both.",
    ),
    "a list in base where a value is read by a rule of its own": (
        HEAD + "base: {arch: [linear, resnet18], freeze: [0, 1]}\n",
        [
            ("x.yaml:3: base.arch", "the list ['linear', 'resnet18']", f"{ARCHS}; axes stand in grid"),
            ("x.yaml:3: base.freeze", "the list [0, 1]", f"{FREEZE}; axes stand in grid"),
        ],
    ),
    "pretrained, as a key and as a value": (
        HEAD + "pretrained: true\nbase: {backbone: resnet18, pretrained: false, weights: pretrained}\n",
        [
            ("x.yaml:3: pretrained", "the key 'pretrained'", "it is no key of a spec", "base.weights: imagenet"),
            ("x.yaml:4: base.weights", "'pretrained'", WEIGHTS, "imagenet"),
            ("x.yaml:4: base.backbone", "the key 'backbone'", "it is no trial key", "arch"),
            ("x.yaml:4: base.pretrained", "the key 'pretrained'", "it is no trial key", "weights: null"),
        ],
    ),
    "a name that is a file's": (
        "name: index.parquet\ndataset: cifar10\nbase: {arch: linear}\n",
        [
            (
                "x.yaml:1: name",
                "'index.parquet', which names a file or another folder of results/",
                "a name that is the sweep's own",
                "index",
            )
        ],
    ),
    "a name with a space": (
        "name: my sweep\ndataset: cifar10\nbase: {arch: linear}\n",
        [("x.yaml:1: name", "'my sweep'", "letters, digits, '.', '_' and '-', at most 64, as a folder is named", "my_sweep")],
    ),
    "a section that is indented too far": (
        HEAD + "base:\n  arch: linear\n  grid: {lr: [1]}\n",
        [("x.yaml:5: base.grid", "the key 'grid'", "it stands at the top level: mind the indentation")],
    ),
    "one value in grid": (
        RUNS + "grid: {lr: 1e-3}\n",
        [
            (
                "x.yaml:4: grid.lr",
                "0.001",
                "a list with at least one value is needed (a value for every trial stands in base: lr)",
            )
        ],
    ),
    "several values in base": (
        HEAD + "base: {arch: linear, lr: [0.1, 0.2]}\n",
        [("x.yaml:3: base.lr", "the list [0.1, 0.2]", "a number above 0, or auto; axes stand in grid")],
    ),
    "an empty axis": (
        RUNS + "grid: {lr: []}\n",
        [
            (
                "x.yaml:4: grid.lr",
                "an empty list",
                "a list with at least one value is needed (a value for every trial stands in base: lr)",
            )
        ],
    ),
    "numbers of the wrong kind, all told at once": (
        HEAD + "base:\n  arch: linear\n  epochs: '3'\n  lr: true\n  batch_size: 128.0\n  momentum: 1\n  dropout: -0.1\n",
        [
            ("x.yaml:5: base.epochs", "'3'", "a whole number at least 1 is needed; a number stands without quotes"),
            ("x.yaml:6: base.lr", "true", "a number above 0, or auto is needed"),
            ("x.yaml:7: base.batch_size", "128.0", "a whole number at least 1 is needed", "128"),
            ("x.yaml:8: base.momentum", "1", "a number at least 0 and below 1 or null is needed"),
            ("x.yaml:9: base.dropout", "-0.1", "a number at least 0 and below 1 or null is needed"),
        ],
    ),
    "not a number and infinity": (
        HEAD + "base: {arch: linear, lr: .nan, weight_decay: .inf}\n",
        [
            ("x.yaml:3: base.lr", ".nan", "a finite number below 2^63 is needed"),
            ("x.yaml:3: base.weight_decay", ".inf", "a finite number below 2^63 is needed"),
        ],
    ),
    "a number without end": (
        RUNS + f"seeds: {'9' * 5000}\n",
        [("x.yaml:4: seeds", "9" * 40, "a finite number below 2^63 is needed")],
    ),
    "freezing in every wrong way": (
        HEAD + "base: {arch: resnet18, weights: imagenet}\ngrid:\n  freeze: [none, 1.5, -1, true, null, '0.5', [1]]\n",
        [
            ("x.yaml:5: grid.freeze[1]", "1.5", FREEZE),
            ("x.yaml:5: grid.freeze[2]", "-1", FREEZE),
            ("x.yaml:5: grid.freeze[3]", "true", FREEZE, "all"),
            ("x.yaml:5: grid.freeze[4]", "null", FREEZE, "none"),
            ("x.yaml:5: grid.freeze[5]", "'0.5'", f"{FREEZE}; a number stands without quotes"),
            ("x.yaml:5: grid.freeze[6]", "the list [1]", FREEZE),
        ],
    ),
    "misspelt keys of a search": (
        RUNS + "search:\n  num_ponits: 9\n  num_points: 9\n  ranges:\n    lrr: {low: 0.1, high: 1}\n"
        "    momentum: {low: 0.1, hihg: 1, high: 1}\n    arch: {low: 0, high: 1}\n  scheduler: {name: asha, grace_epoch: 2}\n",
        [
            ("x.yaml:5: search.num_ponits", "the key 'num_ponits'", "it is no key of search", "num_points"),
            ("x.yaml:8: search.ranges.lrr", "the key 'lrr'", "it is no trial key that is a number", "lr"),
            ("x.yaml:9: search.ranges.momentum.high", "1", "a number at least 0 and below 1 is needed"),
            ("x.yaml:9: search.ranges.momentum.hihg", "the key 'hihg'", "it is no key of a range", "high"),
            (
                "x.yaml:10: search.ranges.arch",
                "the key 'arch'",
                "it has no range: its values are a list in grid",
            ),
            ("x.yaml:11: search.scheduler.grace_epoch", "the key 'grace_epoch'", "it is no key of scheduler", "grace_epochs"),
        ],
    ),
    "a split for each seed beside that of a seed": (
        "name: x\nbase: {arch: linear}\ndataset: digits\ngrid: {dataset.split_seed: [0, seed]}\nseeds: 3\n",
        [
            (
                "x.yaml:4: grid.dataset.split_seed[1]",
                "seed, of which seed 0 is the same trial as with split_seed 0",
                "beside seed stand numbers that are no seed of the sweep, such as 100",
            )
        ],
    ),
    "an empty search": (
        RUNS + "search:\n",
        [
            (
                "x.yaml:4: search",
                "an empty search",
                "search: {num_points: 20} samples points; without the line the whole grid is trained",
            )
        ],
    ),
    "a search without axes": (
        RUNS + "search: {num_points: 9}\n",
        [("x.yaml:4: search", "no axes", "a search samples from grid, zip and search.ranges")],
    ),
    "a stage where there are none": (
        HEAD + "base: {arch: resnet18, weights: {stage: pretrain}}\n",
        [("x.yaml:3: base.weights", "the stage 'pretrain'", "no stage stands before this one")],
    ),
    "a warm-up as long as the training": (
        HEAD + "base: {arch: linear, epochs: 5, warmup_epochs: 5}\n",
        [("x.yaml:3: base.warmup_epochs", "5 of 5 epochs", "warm-up is shorter than the training")],
    ),
    "an exclude pattern that matches none, with the value that no point has": (
        RUNS + "grid: {lr: [0.1, 0.2]}\nexclude:\n  - {lr: 0.1}\n  - {arch: linear, lr: 0.5}\n",
        [("x.yaml:7: exclude[1]", "no configuration matches: none has lr 0.5", "a pattern leaves out at least one")],
    ),
    "everything excluded": (
        RUNS + "exclude: [{arch: linear}]\n",
        [("x.yaml:4: exclude", "every configuration is left out", "at least one trial is needed")],
    ),
    "zipped lists of two lengths": (
        RUNS + "zip: {lr: [1, 2], epochs: [1]}\n",
        [("x.yaml:4: zip", "lr has 2, epochs has 1", "lists that are zipped have one length")],
    ),
    "an axis in grid and zip": (
        RUNS + "grid: {lr: [1, 2]}\nzip:\n  lr: [3]\n",
        [("x.yaml:6: zip.lr", "lr is in grid too", "an axis stands in one of them")],
    ),
    "a rule without its change": (
        RUNS + "when: [{if: {arch: linear}}]\n",
        [("x.yaml:4: when[0].set", "nothing", "'set' is needed")],
    ),
    "folds inside the data set": (
        "name: x\ndataset: {name: digits, folds: 3}\nbase: {arch: linear}\n",
        [("x.yaml:2: dataset.folds", "the key 'folds'", "it stands at the top level: mind the indentation", "folds")],
    ),
    "no data set": (
        "name: x\nbase: {arch: linear}\n",
        [("x.yaml:1: dataset", "no dataset", "it stands at the top level: dataset: cifar10")],
    ),
    "no architecture": (HEAD, [("x.yaml:1: base.arch", "no arch", "it stands in base or grid")]),
    "no name": ("dataset: cifar10\nbase: {arch: linear}\n", [("x.yaml:1: name", "nothing", "'name' is needed")]),
    "a name that is a path": (
        "name: ../x\ndataset: cifar10\nbase: {arch: linear}\n",
        [("x.yaml:1: name", "'../x'", "letters, digits, '.', '_' and '-', at most 64, as a folder is named", "x")],
    ),
    "the name of the pool": (
        "name: trials\ndataset: cifar10\nbase: {arch: linear}\n",
        [
            (
                "x.yaml:1: name",
                "'trials', which names a file or another folder of results/",
                "a name that is the sweep's own",
                "trials_1",
            )
        ],
    ),
    "the wrong direction": (
        RUNS + "objective: {metric: val_acc, mode: min}\n",
        [("x.yaml:4: objective.mode", "'min' with val_acc", "the mode of this metric is max", "max")],
    ),
    "choosing by the test split": (
        RUNS + "objective: {metric: test_acc}\n",
        [("x.yaml:4: objective.metric", "'test_acc'", "one of val_acc, val_loss, balanced_acc, macro_f1, macro_auroc")],
    ),
    "an area whose least is above its largest": (
        HEAD + "base: {arch: linear, augment: [{erase: {min_area_frac: 0.5}}]}\n",
        [("x.yaml:3: base.augment", "erase min_area_frac 0.5", "at most max_area_frac, 0.33")],
    ),
    "a number where text stands": (
        "name: x\ndataset: {folder: 1.0}\nbase: {arch: linear}\n",
        [("x.yaml:2: dataset.folder", "1.0", "text or null is needed")],
    ),
    "a rank that none can be": (
        HEAD + "base: {arch: linear, lora: 0}\n",
        [("x.yaml:3: base.lora", "0", "{rank: 8}, a whole number from 1 on, or null")],
    ),
    "an augmentation with a hyphen": (
        HEAD + "base: {arch: linear, augment: flip-crop}\n",
        [("x.yaml:3: base.augment", "'flip-crop'", f"one of {NAMES}, or a list of operations", "flip_crop")],
    ),
    "an operation beyond its range": (
        HEAD + "base: {arch: linear, augment: [flip, {rotate: {degrees: 300}}]}\n",
        [("x.yaml:3: base.augment", "rotate degrees 300", "a number 0..180 (largest angle either way)")],
    ),
    "an argument that an operation does not take": (
        HEAD + "base: {arch: linear, augment: [{rotate: {degree: 30}}]}\n",
        [("x.yaml:3: base.augment", "the argument 'degree' of rotate", "rotate takes degrees", "degrees")],
    ),
    "mixing before the end": (
        HEAD + "base: {arch: linear, augment: [mixup, flip]}\n",
        [("x.yaml:3: base.augment", "'mixup' before another operation", "mixup or cutmix stands last, and only one of them")],
    ),
    "a seed among the trial keys": (
        HEAD + "base: {arch: linear, seed: 3}\n",
        [("x.yaml:3: base.seed", "'seed'", "seeds stand at the top level, as a list or a count", "seeds")],
    ),
    "a seed twice": (RUNS + "seeds: [0, 1, 0]\n", [("x.yaml:4: seeds", "the seed 0 twice", "each seed stands once")]),
    "no seeds": (RUNS + "seeds: 0\n", [("x.yaml:4: seeds", "0", "a count 1..10000, or a list of seeds")]),
    "an unknown resource": (
        RUNS + "resources:\n  gpu: 1\n",
        [("x.yaml:5: resources.gpu", "the key 'gpu'", "it is no key of resources", "gpus")],
    ),
    "one GPU and a half": (
        RUNS + "resources: {gpus: 1.5}\n",
        [("x.yaml:4: resources.gpus", "1.5", "a share of one GPU, 0..1, or a whole number is needed")],
    ),
    "a grid beyond reason": (
        RUNS + "grid:\n" + "".join(f"  {k}: {list(range(1, 101))}\n" for k in ("epochs", "batch_size", "lr", "image_size")),
        [("x.yaml:4: grid", "100,000,000 trials", "a sweep has at most 100,000")],
    ),
    # What YAML itself can do to us.
}


@pytest.mark.parametrize("title", CASES)
def test_a_malformed_spec_gets_the_answer_that_its_writer_would_like(title: str, tmp_path: Path, monkeypatch) -> None:
    check_answer(CASES[title], tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("epochs", "--set epochs: no key=value; write --set epochs=2 or --set 'grid.lr=[1e-3, 3e-3]'."),
        ("epochs=two", "--set epochs=two: base.epochs: 'two'; a whole number at least 1 is needed."),
        ("epoch=2", "--set epoch=2: base.epoch: the key 'epoch'; it is no trial key. Did you mean 'epochs'?"),
        ("grid.lr=[1e-3,-1]", "--set grid.lr=[1e-3,-1]: grid.lr[1]: -1; a number above 0, or auto is needed."),
        ("name.x=1", "--set name.x=1: x.yaml:1: name is not a mapping; a key can only be set inside a mapping."),
    ],
)
def test_a_wrong_override_is_told_by_its_own_words(override: str, answer: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(RUNS)
    with pytest.raises(SpecError, match=re.escape(answer)):
        load_spec(Path("x.yaml"), [override])
