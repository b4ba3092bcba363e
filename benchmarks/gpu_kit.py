"""Packs what a GPU machine without a network needs to run the GPU's checks and tables, into .gpu/ in parts under 64 MiB.

    python -m benchmarks.gpu_kit                   # make gpu-kit; needs CIFAR-10 ($CIFAR_HPC_DATA) and the package index
    bash .gpu/run.sh tests                         # there, from the project's root: pytest -m gpu
    bash .gpu/run.sh tables [--only speed ...]     # there: benchmarks.gpu
    bash .gpu/run.sh sweep sweeps/mnist_cnn.yaml   # there: a sweep; its trials come back in $OUT/results.tgz, without weights

.gpu/run.sh, .gpu/whl (wheels for Python 3.12 that a machine with torch and torchvision lacks), .gpu/a (the first three files of
CIFAR-10, lossless), .gpu/b (the rest and the test images), .gpu/code.tgz (the committed files, for where no checkout is). Where
.gpu/b is not at hand, files of .gpu/a stand in for it: good for speed, and the accuracies mean nothing.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_hpc.data.files import data_root

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / ".gpu"
MOST_MB = 64
WHEELS = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "ruamel-yaml")
WHEELS += (
    "rich",
    "markdown-it-py",
    "mdurl",
    "kornia",
    "kornia-rs",
    "pytest",
    "pytest-timeout",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PARTS = {"a": ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin"]}
PARTS["b"] = ["data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"]
SIDE, GRID = 32, 50  # pixels of an image; images on a side of a mosaic
RUN = """#!/bin/bash
# bash .gpu/run.sh tests|tables|sweep [arguments], from the project's root on the GPU machine; see benchmarks/gpu_kit.py
set -eu
what=$1; shift
kit=/tmp/gpu-kit
export PYTHONUNBUFFERED=1 PYTHONPATH=$kit/site:$PWD CIFAR_HPC_DATA=$kit/data CIFAR_HPC_RESULTS=$kit/results
[ -e cifar_hpc ] || tar xzf .gpu/code.tgz
[ -e $kit/site ] || python3 -m pip install -q --no-index --no-deps --no-compile --target $kit/site .gpu/whl/*.whl
[ "$what" = tests ] && exec python3 -m pytest -m gpu -q -p no:cacheprovider tests/test_gpu.py "$@"
python3 -m benchmarks.gpu_kit --unpack $kit/data/cifar-10-batches-bin
[ "$what" = tables ] && exec python3 -m benchmarks.gpu "$@"
python3 -m cifar_hpc sweep "$@" --on inline || echo "the sweep ended with $?"
exec tar czf "${OUT:-.}/results.tgz" -C $kit/results --exclude=checkpoint.pt --exclude=weights.safetensors .
"""


def pack_images(source: Path, names: list[str], target: Path) -> None:
    """Mosaics of 2,500 images as lossless WebP, half the size of the files, and their labels."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for name in names:
            rows = np.fromfile(source / name, np.uint8).reshape(-1, 1 + 3 * SIDE * SIDE)
            packed.writestr(f"{name}/labels", rows[:, 0].tobytes())
            for i in range(0, len(rows), GRID * GRID):
                tiles = rows[i : i + GRID * GRID, 1:].reshape(GRID, GRID, 3, SIDE, SIDE)
                mosaic = np.ascontiguousarray(tiles.transpose(0, 3, 1, 4, 2)).reshape(GRID * SIDE, GRID * SIDE, 3)
                stream = io.BytesIO()
                Image.fromarray(mosaic).save(stream, "WEBP", lossless=True, method=4, quality=80)
                packed.writestr(f"{name}/{i:05d}", stream.getvalue())


def unpack_images(part: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(part) as packed:
        for name in sorted({entry.partition("/")[0] for entry in packed.namelist()}):
            labels = np.frombuffer(packed.read(f"{name}/labels"), np.uint8)
            mosaics = sorted(
                entry for entry in packed.namelist() if entry.startswith(f"{name}/") and not entry.endswith("labels")
            )
            images = []
            for entry in mosaics:
                mosaic = np.asarray(Image.open(io.BytesIO(packed.read(entry))).convert("RGB"))
                tiles = mosaic.reshape(GRID, SIDE, GRID, SIDE, 3).transpose(0, 2, 4, 1, 3)
                images.append(tiles.reshape(GRID * GRID, 3 * SIDE * SIDE))
            (target / name).write_bytes(np.concatenate([labels[:, None], np.concatenate(images)], 1).tobytes())


def unpack(target: Path) -> None:
    """All parts at hand; files of the first stand in for absent ones."""
    for part in sorted(KIT.glob("*/images.zip")):
        if not all((target / name).exists() and not (target / f"{name}.stand-in").exists() for name in PARTS[part.parent.name]):
            unpack_images(part, target)
            for name in PARTS[part.parent.name]:
                (target / f"{name}.stand-in").unlink(missing_ok=True)
    for name, stand_in in zip(PARTS["b"], PARTS["a"], strict=True):
        if not (target / name).exists():
            (target / name).write_bytes((target / stand_in).read_bytes())
            (target / f"{name}.stand-in").touch()
            print(f"{name} is not at hand: a copy of {stand_in} stands in, accuracies mean nothing", file=sys.stderr)


def wheels(folder: Path) -> None:
    """In the versions of requirements.lock."""
    folder.mkdir(parents=True, exist_ok=True)
    locked = dict(
        line.split(" ")[0].split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line[:60]
    )
    for name in WHEELS:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "3.12",
        ]
        command += [argument for platform in PLATFORMS for argument in ("--platform", platform)]
        subprocess.run(
            [*command, "--implementation", "cp", "-d", str(folder), f"{name}=={locked[name].rstrip(';')}"], check=True
        )


def pack() -> None:
    KIT.mkdir(exist_ok=True)
    (KIT / "run.sh").write_text(RUN)
    wheels(KIT / "whl")
    source = data_root() / "cifar-10-batches-bin"
    for part, names in PARTS.items():
        if not (KIT / part / "images.zip").exists():
            pack_images(source, names, KIT / part / "images.zip")
    subprocess.run(["git", "archive", "--format=tar.gz", "-o", str(KIT / "code.tgz"), "HEAD"], cwd=ROOT, check=True)
    for path in sorted(KIT.iterdir()):
        files = [path] if path.is_file() else list(path.rglob("*"))
        size_mb = sum(file.stat().st_size for file in files if file.is_file()) / 2**20
        print(f"{size_mb:6.1f} MB  .gpu/{path.name}")
        if size_mb > MOST_MB:
            raise SystemExit(f".gpu/{path.name} is larger than {MOST_MB} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="on the GPU machine: the images, into the folder")
    asked = parser.parse_args()
    if asked.unpack is not None:
        unpack(asked.unpack)
    else:
        pack()


if __name__ == "__main__":
    main()
