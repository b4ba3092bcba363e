"""Writes tiny data sets in the official formats, which torchvision's own readers read too."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np

CIFAR10_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


def images(count: int, channels: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def labels(count: int, classes: int) -> np.ndarray:
    return np.arange(count) % classes


def write_cifar10_binary(folder: Path, per_file: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*CIFAR10_TRAIN, "test_batch"]):
        pixels = images(per_file, 3, 32, number).reshape(per_file, -1)
        records = np.concatenate([labels(per_file, 10).astype(np.uint8)[:, None], pixels], 1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_cifar10_python(folder: Path, per_file: int = 20) -> dict[str, str]:
    """Returns the md5 of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*CIFAR10_TRAIN, "test_batch"]):
        entry = {"data": images(per_file, 3, 32, number).reshape(per_file, -1), "labels": labels(per_file, 10).tolist()}
        (folder / name).write_bytes(_as_python2(pickle.dumps(entry, protocol=2), "data", "labels"))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _as_python2(data: bytes, *keys: str) -> bytes:
    """The pickle with byte-string keys, as Python 2 wrote the official files."""
    for key in keys:
        head = len(key).to_bytes(4, "little") + key.encode()
        assert b"X" + head in data
        data = data.replace(b"X" + head, b"T" + head)
    return data


def write_cifar100_binary(folder: Path, fine_labels: list[int], train_n: int = 40, test_n: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, count) in enumerate({"train": train_n, "test": test_n}.items()):
        fine = np.array([fine_labels[i % len(fine_labels)] for i in range(count)], dtype=np.uint8)
        pixels = images(count, 3, 32, number).reshape(count, -1)
        records = np.concatenate([np.zeros((count, 1), np.uint8), fine[:, None], pixels], 1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_cifar100_python(folder: Path, count: int = 200) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(["train", "test"]):
        fine = labels(count, 100).tolist()
        entry = {"data": images(count, 3, 32, number).reshape(count, -1), "fine_labels": fine, "coarse_labels": fine}
        (folder / name).write_bytes(_as_python2(pickle.dumps(entry, protocol=2), "data", "fine_labels"))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}, protocol=2))
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def write_idx(folder: Path, *, packed: bool, train_n: int = 60, test_n: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate({"train": train_n, "t10k": test_n}.items()):
        pixels = struct.pack(">IIII", 0x803, count, 28, 28) + images(count, 1, 28, number).tobytes()
        classes = struct.pack(">II", 0x801, count) + labels(count, 10).astype(np.uint8).tobytes()
        for name, data in ((f"{split}-images-idx3-ubyte", pixels), (f"{split}-labels-idx1-ubyte", classes)):
            (folder / (name + (".gz" if packed else ""))).write_bytes(gzip.compress(data) if packed else data)
