"""A new spec to begin with: commented, running as it stands, with the schema for editors beside it. Nothing is overwritten.

Where a folder of images has the sweep's name, it is a spec for these; else one for a data set that every machine can fetch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cifar_hpc.config.image_folder import ImageFolder, list_folder, printable
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.spec.schema import schema_text
from cifar_hpc.spec.values import near_name, wrong_name

_NEW_SPEC = """\
# yaml-language-server: $schema=./{schema}
# The question that this sweep answers.
#
# Cost: the trials times the minutes of one (`cifar-hpc sweep {file} --dry-run` counts them).
# Expect: what you think the answer is, before you look.
name: {name}
dataset: {{name: cifar10, train_size: 5000}}   # or cifar100, mnist, fashion_mnist, digits, {{folder: PATH}}
base:                                        # the same in every trial
  epochs: 5
  batch_size: 128
grid:                                        # every combination
  arch: [linear, simple_cnn]
  augment: [none, flip_crop]
  lr: [1e-2, 1e-1]
seeds: 1                                     # 3 or more before a difference means anything
objective: {{metric: val_acc, mode: max}}
# stop: {{patience: 3}}                        # epochs without improvement
# exclude: [{{arch: linear, augment: flip_crop}}]
# when: [{{if: {{arch: linear}}, set: {{weight_decay: 0}}}}]
# resources: {{gpus: 1, cpus_per_gpu: 4, memory_gb: 16, minutes: 30}}
"""
_OF_FOLDER = """\
# yaml-language-server: $schema=./{schema}
# How much of a network that knows ImageNet should be trained for these images?
#
# Cost: the trials times the minutes of one (`cifar-hpc sweep {file} --dry-run` counts them).
# Expect: what you think the answer is, before you look.
name: {name}
dataset: {{folder: {folder}}}                  # {images}
{folds}base:                                        # the same in every trial
  arch: mobilenet_v3_small                   # small and quick; `cifar-hpc arch` lists the others
  weights: imagenet                          # starts from a network that knows a million photos
  image_size: 160
  epochs: 6
  batch_size: 16
  optimizer: adamw
  weight_decay: 0.01
grid:                                        # every combination
  freeze: [all, 0.5]                         # train the classifier alone, or half of the network; none: all of it
  lr: [3e-4, 1e-3]
  # augment: [none, flip_crop]               # with and without random flips and crops
"""
_FOLDS = """\
folds: {n}                                     # each image is measured by a network that was trained without it
"""
_SEEDS = """\
seeds: 3
"""
_FEW_IMAGES = 3000  # below them a tenth held out says little, and all of them cost little
_SCHEMA_FILE = "spec.schema.json"


def write_new_spec(name: str) -> Path:
    """name: of the sweep or of a folder of images, or the path of the new file, which is returned; a bare name goes to sweeps/
    where there is one.

    Raises CifarHpcError.
    """
    given = Path(name)
    if given.name in ("", ".."):
        own = Path(name).resolve().name or "NAME"
        raise CifarHpcError(f"init: {name!r} is no name: type that of the folder, from the folder above it: {own}")
    is_file = given.suffix in (".yaml", ".yml")
    folder = given.with_suffix("") if is_file else given
    listing = _images(folder)
    stem = folder.name
    if listing is not None and wrong_name(stem):
        stem = near_name(stem) or "images"  # a sweep's name has what it may of the folder's
    path = given.with_name(f"{stem}{given.suffix if is_file else '.yaml'}")
    if given.parent == Path() and given.suffix == "" and Path("sweeps").is_dir():
        path = Path("sweeps") / path
    if problem := wrong_name(path.stem):
        raise CifarHpcError(f"init: {problem}")
    text = _text(path, folder, listing)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
        (path.parent / _SCHEMA_FILE).write_text(schema_text() + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise CifarHpcError(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise CifarHpcError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _text(path: Path, folder: Path, listing: ImageFolder | None) -> str:
    """Of the spec at that path; listing: of the folder, where it holds images. Raises CifarHpcError where no trial can start
    with them as they lie."""
    if listing is None:
        return _NEW_SPEC.format(name=path.stem, file=path, schema=_SCHEMA_FILE)
    if problems := listing.problems(None, 0.1):
        raise CifarHpcError("\n".join(f"init: {printable(str(folder))}: {problem}" for problem in problems))
    images_n = sum(map(len, listing.splits["train"].values()))
    few = "val" not in listing.splits and images_n < _FEW_IMAGES
    return _OF_FOLDER.format(
        name=path.stem,
        file=path,
        schema=_SCHEMA_FILE,
        folder=json.dumps(os.path.relpath(folder, path.parent), ensure_ascii=False),
        images=f"{images_n} images to train on, of {len(listing.classes)} classes",
        folds=_FOLDS.format(n=_folds_n(listing)) if few else _SEEDS,
    )


def _folds_n(listing: ImageFolder) -> int:
    """Five, or as many as can be dealt."""
    from cifar_hpc.data.splits import most_parts

    most = most_parts(listing.labels("train"), 5)
    assert most is not None  # each class has two images
    return most


def _images(folder: Path) -> ImageFolder | None:
    """None where there is no such folder, or no image in it."""
    try:
        listing = list_folder(folder)
    except OSError:
        return None
    return listing if listing.classes or listing.unlabelled or listing.wrong else None
