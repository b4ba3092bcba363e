"""Copies on a node's own disk: made once, whole, and done without where they cannot be."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.data.folder import read_folder
from cifar_hpc.data.images import Fit
from cifar_hpc.download import nearby as module
from cifar_hpc.download.nearby import SCRATCH_VARIABLE, nearby
from cifar_hpc.models.weights import weights_path


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "scratch"))
    module.scratch_folder.cache_clear()
    yield tmp_path / "scratch" / f"cifar-hpc-{os.getuid()}"
    module.scratch_folder.cache_clear()


@pytest.fixture
def copies(monkeypatch) -> list[Path]:
    """The sources that were copied."""
    made: list[Path] = []
    copy = module.copy_over
    monkeypatch.setattr(module, "copy_over", lambda source, target: (made.append(source), copy(source, target)))
    return made


@pytest.fixture
def weights(tmp_path) -> Path:
    (tmp_path / "net").mkdir()
    path = tmp_path / "net" / "weights.pth"
    path.write_bytes(os.urandom(1000))
    return path


def test_a_file_is_copied_once_for_all_processes_of_a_node(scratch, copies, weights):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(nearby, [weights] * 16))
    (copy,) = found
    assert copies == [weights] and copy.is_relative_to(scratch) and copy.name == weights.name
    assert copy.read_bytes() == weights.read_bytes()


def test_a_file_that_changed_is_copied_again_and_a_corrupt_copy_is_none(scratch, copies, weights):
    nearby(weights).write_bytes(b"cut")
    assert nearby(weights).read_bytes() == weights.read_bytes()
    weights.write_bytes(b"another file")
    assert nearby(weights).read_bytes() == b"another file" and len(copies) == 3


def test_without_a_scratch_folder_files_are_read_where_they_lie(monkeypatch, weights):
    monkeypatch.delenv(SCRATCH_VARIABLE, raising=False)
    assert nearby(weights) == weights


def test_a_full_disk_is_said_and_the_file_is_read_where_it_lies(scratch, weights, monkeypatch, capsys):
    monkeypatch.setattr(module, "ROOM_FRAC", 2.0)
    assert nearby(weights) == weights
    assert "is read where it lies: no room" in capsys.readouterr().err


def test_a_copy_that_differs_from_what_was_read_is_not_taken(scratch, weights, monkeypatch, capsys):
    monkeypatch.setattr(module.hashlib, "file_digest", lambda stream, kind: module.hashlib.sha256(b"other"))
    assert nearby(weights) == weights and "differs" in capsys.readouterr().err
    assert not [path for path in scratch.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_a_folder_that_others_may_write_is_not_taken(scratch, weights, capsys):
    scratch.mkdir()
    scratch.chmod(0o777)
    assert nearby(weights) == weights
    assert "not a folder that only you may write" in capsys.readouterr().err


def test_weights_and_a_folders_prepared_images_are_read_from_the_copies(scratch, copies, weights, tmp_path):
    assert weights_path("resnet18", str(weights)).is_relative_to(scratch)
    for name in ("ants", "bees"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for n in range(2):
            Image.fromarray(np.full((8, 8, 3), 40 * n, np.uint8)).save(tmp_path / "images" / name / f"{n}.png")
    config = DatasetConfig(name="folder", folder=str(tmp_path / "images"))
    first = read_folder(config, Fit(8, "crop", 1.0), tmp_path / "root")
    again = read_folder(config, Fit(8, "crop", 1.0), tmp_path / "root")
    assert copies[1:] == list((tmp_path / "root" / "cache").glob("*.npy"))
    assert Path(again.train.images_NCHW.filename).is_relative_to(scratch)
    assert (np.asarray(first.train.images_NCHW) == np.asarray(again.train.images_NCHW)).all()
