"""Specs whose parts do not fit one another: weights, classes, images and depths that a network or a data set does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cifar_hpc.config.catalog import DATASETS, labelled_images
from cifar_hpc.errors import SpecError
from cifar_hpc.spec.load import load_spec
from tests.helpers.spec_answers import HEAD, Case, check_answer

WEIGHTS = (
    "null, imagenet, one of torchvision's weights such as IMAGENET1K_V1, a weights file (.pt, .pth, .safetensors), "
    "{stage: NAME} or {trial: ID}"
)

CASES: dict[str, Case] = {
    "published weights for a network that has none": (
        HEAD + "base: {weights: imagenet}\ngrid: {arch: [resnet18, simple_cnn]}\n",
        [
            (
                "x.yaml:3: base.weights",
                "weights imagenet with arch simple_cnn",
                "simple_cnn has no published weights; `when` can set weights: null for it",
            )
        ],
    ),
    "a solved classifier for a network whose last block is not one linear layer": (
        HEAD + "base: {arch: squeezenet1_1, image_size: 64}\ngrid: {classifier: [knn, svm]}\n",
        [
            (
                "x.yaml:4: grid.classifier[1]",
                "classifier: svm with arch squeezenet1_1, whose block 'classifier' is not just one linear layer with a bias",
                "linear, knn",
            )
        ],
    ),
    "a probe of such a network": (
        HEAD + "base: {arch: squeezenet1_1, image_size: 64, start: probe}\n",
        [
            (
                "x.yaml:3: base.start",
                "start: probe with arch squeezenet1_1, whose block 'classifier' is not just one linear layer with a bias",
                "null",
            )
        ],
    ),
    "weights of another network": (
        HEAD + "base: {arch: resnet18, weights: IMAGENET1K_V2}\n",
        [("x.yaml:3: base.weights", "weights IMAGENET1K_V2 with arch resnet18", "it has imagenet, IMAGENET1K_V1")],
    ),
    "weights by the name that torchvision's pages give them": (
        HEAD + "base: {arch: resnet18, weights: ResNet18_Weights.IMAGENET1K_V1}\n",
        [("x.yaml:3: base.weights", "'ResNet18_Weights.IMAGENET1K_V1'", WEIGHTS, "IMAGENET1K_V1")],
    ),
    "the word none for no weights": (
        HEAD + "base: {arch: resnet18, weights: none}\n",
        [("x.yaml:3: base.weights", "'none'", WEIGHTS, "null")],
    ),
    "a weights file that is not there": (
        HEAD + "base: {arch: resnet18, weights: mine.safetensors}\n",
        [
            (
                "x.yaml:3: base.weights",
                "'mine.safetensors': no such file or directory",
                "a weights file lies relative to the spec",
            )
        ],
    ),
    "a small stem where there is none": (
        HEAD + "base: {stem: cifar}\ngrid: {arch: [resnet18, vgg11]}\n",
        [
            (
                "x.yaml:3: base.stem",
                "stem cifar with arch vgg11",
                "resnet*, resnext*, wide_resnet* and densenet* have one; `when` can set stem: imagenet for the others",
            )
        ],
    ),
    "a superclass in the singular": (
        "name: x\ndataset: {name: fashion_mnist, classes: shoes}\nbase: {arch: linear}\n",
        [("x.yaml:2: dataset.classes", "'shoes'", "a list of classes is needed")],
    ),
    "a class that is not of the data set": (
        "name: x\ndataset:\n  name: cifar10\n  classes: [cat, dogs]\nbase: {arch: linear}\n",
        [
            (
                "x.yaml:4: dataset.classes",
                "the class 'dogs'",
                "cifar10 has airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
                "dog",
            )
        ],
    ),
    "a data set that is not known": (
        "name: x\ndataset: cifar-10\nbase: {arch: linear}\n",
        [
            (
                "x.yaml:2: dataset.name",
                "'cifar-10'",
                "one of cifar10, cifar100, mnist, fashion_mnist, digits, folder, torchvision/NAME, hf/PATH, or one's "
                "own: FILE.py:FUNCTION or MODULE:FUNCTION",
                "cifar10",
            )
        ],
    ),
    "more images than there are": (
        "name: x\ndataset: {name: cifar10, classes: [cat, dog], train_size: 20000}\nbase: {arch: linear}\n",
        [("x.yaml:2: dataset.train_size", "20000", "there are 10000 labelled training images")],
    ),
    "too few images to split": (
        "name: x\ndataset: {name: cifar10, train_size: 10}\nbase: {arch: linear}\n",
        [("x.yaml:2: dataset.train_size", "10", "at least 20: of each of 10 classes one to train on and one to validate with")],
    ),
    "batches of one image before BatchNorm": (
        "name: x\ndataset: digits\nbase: {arch: resnet18, image_size: 32, batch_size: 1}\n",
        [
            (
                "x.yaml:3: base.batch_size",
                "batch_size 1: batches of one image",
                "BatchNorm of resnet18 trains on two images or more at image_size 32, and on one from 33 on",
            )
        ],
    ),
    "a folder that is not there": (
        "name: x\ndataset: {folder: photos}\nbase: {arch: linear}\n",
        [
            (
                "x.yaml:2: dataset.folder",
                "no such folder",
                "a folder holds <class>/*, or train/<class>/* and optionally val/ and test/, for two or more classes",
            )
        ],
    ),
    "a linear network with frozen blocks": (
        HEAD + "base: {freeze: 2}\ngrid: {arch: [linear, convnet5]}\n",
        [("x.yaml:3: base.freeze", "freeze 2 with arch linear", "it is all classifier; `when` can set freeze: none for it")],
    ),
    "more frozen blocks than there are": (
        HEAD + "base: {arch: convnet5}\ngrid:\n  freeze: [2, 9]\n",
        [
            (
                "x.yaml:5: grid.freeze[1]",
                "freeze 9 with arch convnet5: 9 blocks",
                "0 to 5 of them can be frozen: features.0, features.5, features.10, features.15, features.20",
            )
        ],
    ),
    "a frozen block that one network lacks": (
        HEAD + "base: {freeze: layer5}\ngrid: {arch: [resnet18]}\n",
        [
            (
                "x.yaml:3: base.freeze",
                "freeze layer5 with arch resnet18: no block is called 'layer5'",
                "allowed: none, all, 0 to 9, a share 0.0 to 1.0, or a block: conv1, layer1.0, layer1.1, layer2.0, "
                "layer2.1, layer3.0, layer3.1, layer4.0, layer4.1",
                "layer4",
            )
        ],
    ),
    "images too small for a network": (
        HEAD + "base: {image_size: 32}\ngrid: {arch: [resnet18, alexnet]}\n",
        [("x.yaml:3: base.image_size", "image_size 32 with arch alexnet", "it takes pixels from 63 on")],
    ),
    "a data set's own size that a network cannot part": (
        "name: x\ndataset: mnist\nbase:\n  arch: vit_b_16\n",
        [("x.yaml:3: base.image_size", "image_size 28 with arch vit_b_16", "it takes multiples of 16 pixels from 16 on")],
    ),
}


@pytest.mark.parametrize("title", CASES)
def test_what_a_network_or_a_data_set_lacks_is_told_with_what_it_has(title: str, tmp_path: Path, monkeypatch) -> None:
    check_answer(CASES[title], tmp_path, monkeypatch)


def test_where_a_folder_brings_validation_images_one_of_each_class_is_enough_to_train_on(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b") * 2):
        place = tmp_path / "own" / ("train", "val")[number // 2] / name
        place.mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (8, 8), (number, image, 0)).save(place / f"{image}.png")
    text = "name: x\ndataset: {folder: own, train_size: 3}\nbase: {arch: linear, image_size: 8}\n"
    (tmp_path / "x.yaml").write_text(text)
    assert len(load_spec(tmp_path / "x.yaml").trials) == 1
    with pytest.raises(SpecError, match="one to train on and one to validate with"):
        load_spec(tmp_path / "x.yaml", ["folds=2"])


@pytest.mark.parametrize(("name", "classes", "there"), [("mnist", [1, 7], 13_007), ("digits", [0, 1], 288)])
def test_of_classes_that_are_not_alike_many_the_images_are_counted(
    name: str, classes: list[int], there: int, tmp_path: Path
) -> None:
    assert labelled_images(name, DATASETS[name].classes) == DATASETS[name].train_n
    (tmp_path / "x.yaml").write_text(f"name: x\ndataset: {{name: {name}, classes: {classes}}}\nbase: {{arch: linear}}\n")
    assert load_spec(tmp_path / "x.yaml", [f"dataset.train_size={there}"]).trials
    with pytest.raises(SpecError, match=f"there are {there} labelled"):
        load_spec(tmp_path / "x.yaml", [f"dataset.train_size={there + 1}"])
