"""What the official files of each data set are called, where they lie under the data root, and their sums. Opens no file.

Forms: python batches, the binary version (-bin) and idx files (also gzipped), as their authors publish them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["python", "binary", "idx"]


@dataclass(frozen=True, slots=True)
class Form:
    """One official form. folders: where it is looked for, relative to the root; the first is where fetch puts it.

    train, test: file names; for idx, images and labels in turn. label_bytes: bytes before the pixels of a binary record, the
    last of which is the label.
    """

    kind: Kind
    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test


RECORD_PIXELS = 3 * 32 * 32  # of a binary record: red, green, blue planes

_IDX_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# The idx files of mnist and fashion_mnist bear the same names, so that they are never looked for in the root itself.
FORMS: Mapping[str, tuple[Form, ...]] = {
    "cifar10": (
        Form("python", ("cifar-10-batches-py", "."), tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)),
        Form("binary", ("cifar-10-batches-bin", "."), tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)),
    ),
    "cifar100": (
        Form("python", ("cifar-100-python", "."), ("train",), ("test",)),
        Form("binary", ("cifar-100-binary", "."), ("train.bin",), ("test.bin",), label_bytes=2),
    ),
    "mnist": (Form("idx", ("MNIST/raw", "mnist"), _IDX_TRAIN, _IDX_TEST),),
    "fashion_mnist": (Form("idx", ("FashionMNIST/raw", "fashion_mnist"), _IDX_TRAIN, _IDX_TEST),),
}

# Sums of whole official files: 'md5:' where the authors publish that one, 'sha256:' of files that agree with them.
SUMS: Mapping[str, Mapping[str, str]] = {
    "cifar10": {
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
        "data_batch_1.bin": "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    "cifar100": {
        "train": "md5:16019d7e3df5f24257cddd939b257f8d",
        "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    "mnist": {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        "train-images-idx3-ubyte": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
}
