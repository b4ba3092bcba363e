"""Official files: found in any form, read as torchvision reads them, and named when they are corrupt."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torchvision.datasets as reference

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.data.files import data_root, find_form, why_missing
from cifar_hpc.data.sources import read_official
from cifar_hpc.errors import DataError, UnusableError
from tests.helpers.official_files import (
    write_cifar10_binary,
    write_cifar10_python,
    write_cifar100_binary,
    write_cifar100_python,
    write_idx,
)


def _accept_sums(monkeypatch, cls, sums):
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cls, attribute, [[name, sums[name]] for name, _ in getattr(cls, attribute)])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums[cls.meta["filename"]]})


@pytest.mark.parametrize(
    ("name", "cls", "folder", "write"),
    [
        ("cifar10", reference.CIFAR10, "cifar-10-batches-py", write_cifar10_python),
        ("cifar100", reference.CIFAR100, "cifar-100-python", write_cifar100_python),
    ],
)
def test_python_batches_are_read_as_torchvision_reads_them(tmp_path, monkeypatch, name, cls, folder, write):
    _accept_sums(monkeypatch, cls, write(tmp_path / folder))
    for ours, train in zip(read_official(name, tmp_path), (True, False), strict=True):
        theirs = cls(tmp_path, train=train)
        np.testing.assert_array_equal(ours.images_NCHW.transpose(0, 2, 3, 1), theirs.data)
        assert ours.labels_N.tolist() == theirs.targets


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, packed):
    write_idx(tmp_path / "MNIST" / "raw", packed=False)
    theirs = [reference.MNIST(tmp_path, train=train) for train in (True, False)]
    if packed:
        for path in (tmp_path / "MNIST" / "raw").iterdir():
            path.unlink()
        write_idx(tmp_path / "MNIST" / "raw", packed=True)
    for ours, expected in zip(read_official("mnist", tmp_path), theirs, strict=True):
        np.testing.assert_array_equal(ours.images_NCHW[:, 0], expected.data.numpy())
        assert ours.labels_N.tolist() == expected.targets.tolist()


def test_binary_and_python_batches_of_the_same_images_are_equal(tmp_path):
    write_cifar10_binary(tmp_path / "a" / "cifar-10-batches-bin")
    write_cifar10_python(tmp_path / "b" / "cifar-10-batches-py")
    for binary, python in zip(read_official("cifar10", tmp_path / "a"), read_official("cifar10", tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(binary.images_NCHW, python.images_NCHW)
        np.testing.assert_array_equal(binary.labels_N, python.labels_N)


def test_files_are_found_in_the_root_itself(tmp_path):
    write_cifar10_binary(tmp_path)
    assert why_missing(DatasetConfig(name="cifar10"), tmp_path) is None


def test_mnist_files_are_never_taken_for_fashion_mnist(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", packed=False)
    assert why_missing(DatasetConfig(name="mnist"), tmp_path) is None
    assert "cifar-hpc fetch fashion_mnist" in why_missing(DatasetConfig(name="fashion_mnist"), tmp_path)
    assert "in cifar-100-python/, ./, cifar-100-binary/)" in why_missing(DatasetConfig(name="cifar100"), tmp_path)


@pytest.mark.parametrize("cut", [1, 3072])
def test_a_corrupt_binary_batch_is_named_and_not_read(tmp_path, cut):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10_binary(folder)
    corrupt = folder / "data_batch_3.bin"
    corrupt.write_bytes(corrupt.read_bytes()[:-cut])
    assert str(corrupt) in why_missing(DatasetConfig(name="cifar10"), tmp_path)
    with pytest.raises(DataError, match=r"data_batch_3\.bin is corrupt.*cifar-hpc fetch cifar10"):
        read_official("cifar10", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_corrupt_idx_file_is_named(tmp_path, packed):
    folder = tmp_path / "mnist"
    write_idx(folder, packed=packed)
    corrupt = folder / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    corrupt.write_bytes(corrupt.read_bytes()[:-900])
    assert f"{corrupt} is corrupt" in why_missing(DatasetConfig(name="mnist"), tmp_path)


def test_a_corrupt_python_batch_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10_python(folder)
    corrupt = folder / "data_batch_2"
    corrupt.write_bytes(corrupt.read_bytes()[:1000] + b"!")
    assert f"{corrupt} is corrupt" in why_missing(DatasetConfig(name="cifar10"), tmp_path)
    corrupt.write_bytes(corrupt.read_bytes()[:1000] + b".")  # corrupt where it cannot be seen from its end
    assert why_missing(DatasetConfig(name="cifar10"), tmp_path) is None
    with pytest.raises(DataError, match="data_batch_2"):
        read_official("cifar10", tmp_path)


def test_a_missing_batch_is_named(tmp_path):
    write_cifar10_binary(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    assert "is missing test_batch.bin" in why_missing(DatasetConfig(name="cifar10"), tmp_path)


def test_a_whole_form_is_taken_where_another_is_corrupt(tmp_path):
    write_cifar10_python(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    write_cifar10_binary(tmp_path / "cifar-10-batches-bin")
    found, wrong = find_form("cifar10", tmp_path)
    assert found.form.kind == "binary"
    assert "test_batch is corrupt" in wrong[0]


class _Payload:
    def __reduce__(self):
        return (print, ("a pickle ran code",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10_python(folder)
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": _Payload(), "labels": []}, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_1.*print"):
        read_official("cifar10", tmp_path)
    assert capsys.readouterr().out == ""


def test_a_partial_cifar100_serves_its_classes_and_refuses_the_others(tmp_path):
    names = catalog.DATASETS["cifar100"].classes
    reptiles = catalog.DATASETS["cifar100"].superclasses["reptiles"]
    write_cifar100_binary(tmp_path / "cifar-100-binary", [names.index(name) for name in reptiles])
    asked = DatasetConfig(name="cifar100", classes=reptiles, val_frac=0.25)
    assert why_missing(asked, tmp_path) is None
    assert load_dataset(asked, 32, tmp_path).classes == reptiles
    other = DatasetConfig(name="cifar100", classes=("turtle", "whale"))
    assert "without whale: run `cifar-hpc fetch cifar100`" in why_missing(other, tmp_path)
    with pytest.raises(UnusableError, match="no training image of whale"):
        load_dataset(other, 32, tmp_path)


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    write_cifar10_binary(tmp_path)
    data = bytearray((tmp_path / "data_batch_1.bin").read_bytes())
    data[0] = 77
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(data))
    with pytest.raises(DataError, match="label 77"):
        read_official("cifar10", tmp_path)


def test_digits_needs_no_files(tmp_path):
    assert why_missing(DatasetConfig(name="digits"), tmp_path) is None


def test_the_data_root_is_the_variable_or_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.delenv("CIFAR_HPC_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "cifar-hpc"


def test_looking_for_data_imports_no_torch():
    code = "import sys, cifar_hpc.data.files, cifar_hpc.data.fetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
