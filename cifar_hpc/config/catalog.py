"""The names that a spec may use, with the facts needed before any tensor exists. Imports neither torch nor the package.

Owns: data sets (classes, sizes), architectures, augmentations. Optimisers, schedules, classifiers and objectives are entries of
registry.py. A name that is in neither is refused on the login node, with the nearest right one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """classes: in the official label order (empty: read from the folder); size: pixels of a side (None: read from the
    folder); channels: 1 or 3; train_n, test_n: images in the official splits; superclasses: name -> its classes."""

    classes: tuple[str, ...]
    size: int | None
    channels: int
    train_n: int | None
    test_n: int | None
    superclasses: Mapping[str, tuple[str, ...]]


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_DIGITS = tuple("0123456789")
# Krizhevsky 2009, Learning multiple layers of features from tiny images: 20 superclasses of 5 classes each.
_CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
_CIFAR100 = tuple(sorted(name for classes in _CIFAR100_SUPERCLASSES.values() for name in classes))

DATASETS: dict[str, DatasetInfo] = {
    "cifar10": DatasetInfo(_CIFAR10, 32, 3, 50_000, 10_000, {}),
    "cifar100": DatasetInfo(_CIFAR100, 32, 3, 50_000, 10_000, _CIFAR100_SUPERCLASSES),
    "mnist": DatasetInfo(_DIGITS, 28, 1, 60_000, 10_000, {}),
    "fashion_mnist": DatasetInfo(_FASHION, 28, 1, 60_000, 10_000, {}),
    "digits": DatasetInfo(_DIGITS, 8, 1, 1_438, 359, {}),  # a fixed stratified fifth is the test split
    "folder": DatasetInfo((), None, 3, None, None, {}),
}

_CLASS_N = {  # training images of each class, where classes differ
    "mnist": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "digits": (142, 146, 142, 146, 145, 146, 145, 143, 139, 144),
}
BROUGHT = ("torchvision/", "hf/")  # what the name of a data set begins with that becomes a folder of images
_ANY_DATASET = DatasetInfo((), None, 3, None, None, {})  # what is known of one that only its images tell of


def dataset(name: str) -> DatasetInfo:
    """The facts on a data set; of one beyond DATASETS only the images tell."""
    return DATASETS.get(name, _ANY_DATASET)


OWN_ARCHS = ("linear", "simple_cnn", "convnet5", "convnet12", "alexnet_cifar", "resnet9")

_FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("architectures.json").read_text())
ARCHS = tuple(_FACTS)
TORCHVISION_ARCHS = tuple(name for name in ARCHS if name not in OWN_ARCHS)  # all that it classifies with
TIMM = "timm/"  # what the name of an architecture of timm begins with; which there are, only timm knows


@dataclass(frozen=True, slots=True)
class ArchInfo:
    """What is known of an architecture without building it. blocks: names in forward order, the classifier last; params: at
    1000 classes, 3 channels and 224 pixels; flops: of a forward pass of one such image; block_params, bias_params, norm_params:
    of each block all parameters, biases, those of normalisation layers; lora_ranks: the largest rank of `lora` that a layer
    of the block takes, 0: none has one; linear_head: whether the last block is just one linear layer with a bias; flop_shares:
    each block's share of the FLOPs, 0..1; min_side, side_step: pixels, the image sides it takes are the multiples of the step
    from min_side on; norm_side: the least of them that gives each BatchNorm several values a channel from one image, 0 without
    BatchNorm; weights: torchvision's weight names, its recommended one first -> the file's name."""

    blocks: tuple[str, ...]
    params: int
    flops: int
    block_params: tuple[int, ...]
    bias_params: tuple[int, ...]
    norm_params: tuple[int, ...]
    lora_ranks: tuple[int, ...]
    linear_head: bool
    flop_shares: tuple[float, ...]
    min_side: int
    side_step: int
    weights: Mapping[str, str]
    norm_side: int = 0


@functools.cache
def architecture(arch: str) -> ArchInfo | None:
    """The facts on one of ARCHS, None for any other name. `python -m cifar_hpc.models.facts` wrote them from built models."""
    facts = _FACTS.get(arch)
    if facts is None:
        return None
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return ArchInfo(**plain)


def block_names(arch: str) -> tuple[str, ...] | None:
    """The names that `freeze` may take for one of ARCHS, the classifier last; None for any other name."""
    info = architecture(arch)
    return info.blocks if info else None


def labelled_images(dataset: str, classes: Collection[str] | None = None) -> int | None:
    """Training images of the official split, of these classes only (None: of all); None where only the images tell."""
    info = DATASETS.get(dataset, _ANY_DATASET)
    if info.train_n is None or not classes:
        return info.train_n
    each = _CLASS_N.get(dataset, [info.train_n // len(info.classes)] * len(info.classes))
    return sum(n for name, n in zip(info.classes, each, strict=True) if name in classes)


def imagenet_weights(arch: str) -> tuple[str, ...]:
    """torchvision's weight names for the whole network, the one that `imagenet` means first; empty where it has none."""
    info = architecture(arch)
    return tuple(info.weights) if info else ()


# Architectures whose stem (7x7, stride 2, pooling) may be exchanged for 3x3, stride 1, no pooling: `stem: cifar`.
CIFAR_STEM_ARCHS = tuple(
    name for name in TORCHVISION_ARCHS if name.startswith(("resnet", "resnext", "wide_resnet", "densenet"))
)


@dataclass(frozen=True, slots=True)
class OpArg:
    """A numeric argument of an augmentation operation: its default, its closed range, and whether it is a whole number."""

    default: float
    low: float
    high: float
    doc: str
    whole: bool = False


def _strength(what: str) -> dict[str, OpArg]:
    return {"strength": OpArg(0.2, 0.0, 1.0, f"{what} is multiplied by 1-strength..1+strength, uniform")}


_SHARE_OF_IMAGES = "share of the images that it acts on"

# The operations that `augment: [...]` may list, applied in the order listed, each with a draw of its own for every image;
# those of BATCH_OPS mix the images of a batch and their targets, so that only one may stand, as the last. Lengths are shares
# of a side, so that a spec means the same at any image size.
AUGMENT_OPS: dict[str, dict[str, OpArg]] = {
    "flip": {"p": OpArg(0.5, 0.0, 1.0, "share of the images mirrored left to right")},
    "vflip": {"p": OpArg(0.5, 0.0, 1.0, "share of the images mirrored top to bottom")},
    "crop": {"pad_frac": OpArg(0.125, 0.0, 0.5, "zero padding on each side before a crop of the old size, share of a side")},
    "resized_crop": {
        "min_area_frac": OpArg(
            0.5, 0.01, 1.0, "least area, of an aspect of 3/4..4/3, before a side is cut to the image's; share of it"
        )
    },
    "rotate": {"degrees": OpArg(15.0, 0.0, 180.0, "largest angle either way")},
    "translate": {"frac": OpArg(0.1, 0.0, 1.0, "largest shift either way, along each axis, share of a side")},
    "scale": {"frac": OpArg(0.2, 0.0, 0.9, "size is multiplied by 1-frac..1+frac, uniform")},
    "shear": {"degrees": OpArg(10.0, 0.0, 60.0, "largest angle either way, along each axis")},
    "brightness": _strength("brightness"),
    "contrast": _strength("the distance from the image's mean gray"),
    "saturation": _strength("the distance from the pixel's gray"),
    "hue": {"frac": OpArg(0.05, 0.0, 0.5, "largest shift either way, share of the colour circle")},
    "gray": {"p": OpArg(0.1, 0.0, 1.0, _SHARE_OF_IMAGES)},
    "blur": {
        "p": OpArg(0.5, 0.0, 1.0, _SHARE_OF_IMAGES),
        "sigma_frac": OpArg(0.03, 0.001, 0.2, "standard deviation of the Gaussian, share of a side"),
    },
    # DeVries & Taylor 2017: 16 of 32 pixels on CIFAR-10, the centre anywhere in the image.
    "cutout": {"size_frac": OpArg(0.5, 0.0, 1.0, "side of the square that is blanked, share of a side")},
    # Zhong et al. 2017, random erasing: a rectangle with an aspect of 0.3..1/0.3.
    "erase": {
        "p": OpArg(0.5, 0.0, 1.0, _SHARE_OF_IMAGES),
        "min_area_frac": OpArg(0.02, 0.0, 1.0, "least area erased, before a side is cut to the image's; share of it"),
        "max_area_frac": OpArg(0.33, 0.0, 1.0, "largest area erased, share of the image"),
    },
    "randaugment": {  # Cubuk et al. 2019, torchvision's fourteen operations
        "num_ops": OpArg(2, 1, 8, "operations applied one after another", whole=True),
        "magnitude": OpArg(9, 0, 30, "strength of each, of 30", whole=True),
    },
    "trivialaugment": {},  # Mueller & Hutter 2021: one operation of the wide set, any strength
    "autoaugment": {},  # Cubuk et al. 2018, the CIFAR-10 policy
    "mixup": {"alpha": OpArg(1.0, 0.01, 10.0, "both parameters of the Beta distribution of the mixing share")},  # Zhang 2017
    "cutmix": {"alpha": OpArg(1.0, 0.01, 10.0, "both parameters of the Beta distribution of the area kept")},  # Yun 2019
}

BATCH_OPS = ("mixup", "cutmix")

# What a name of `augment` stands for: operations with their default arguments, in this order.
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "flip": ("flip",),
    "flip_crop": ("flip", "crop"),
    "geometric": ("flip", "rotate", "translate", "scale"),
    "color": ("brightness", "contrast", "saturation", "hue"),
    "geometric_color": ("flip", "rotate", "translate", "scale", "brightness", "contrast", "saturation", "hue"),
    "cutout": ("flip", "crop", "cutout"),
    "randaugment": ("flip", "crop", "randaugment"),
    "trivialaugment": ("flip", "crop", "trivialaugment"),
    "autoaugment": ("flip", "crop", "autoaugment"),
    "mixup": ("flip", "crop", "mixup"),
    "cutmix": ("flip", "crop", "cutmix"),
}

PRECISIONS = ("auto", "fp32", "tf32", "bf16")
RESIZES = ("crop", "squash", "pad")
STEMS = ("imagenet", "cifar")
ENSEMBLE_METHODS = ("uniform", "accuracy", "greedy", "bagging", "stacking")
ENSEMBLE_LIBRARY = 60  # members that an ensemble looks at, the most accurate (pruning: Caruana et al. 2006)
