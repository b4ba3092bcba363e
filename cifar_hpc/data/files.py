"""Where data lies under the data root, and whether it is there and whole. Cheap: a login node runs it. Imports no torch.

Owns: the data root, finding an official form, the corrupt-file checks by size.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import ImageFolder, folder_fingerprint, list_folder, printable
from cifar_hpc.config.image_table import list_table
from cifar_hpc.data.official import FORMS, RECORD_PIXELS, Form
from cifar_hpc.errors import DataError


@dataclass(frozen=True, slots=True)
class Found:
    """An official form that lies whole in `folder`."""

    form: Form
    folder: Path

    def path(self, name: str) -> Path:
        """The file of that official name, gzipped where only that one is there."""
        plain = self.folder / name
        return plain if plain.is_file() or self.form.kind != "idx" else self.folder / f"{name}.gz"


def data_root() -> Path:
    """$CIFAR_HPC_DATA, else the user's cache directory ($XDG_CACHE_HOME, ~/.cache)."""
    given = os.environ.get("CIFAR_HPC_DATA")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cifar-hpc"


def find_form(name: str, root: Path) -> tuple[Found | None, tuple[str, ...]]:
    """The first whole official form of data set `name` under `root`, and what is wrong with those passed over."""
    wrong: list[str] = []
    for form in FORMS[name]:
        for folder in form.folders:
            found = Found(form, root / folder)
            there = [file for file in form.files if found.path(file).is_file()]
            if not there:
                continue
            corrupt = [reason for file in there if (reason := corrupt_reason(form, found.path(file)))]
            missing = [file for file in form.files if file not in there]
            if not corrupt and not missing:
                return found, tuple(wrong)
            wrong += corrupt
            # In the root itself a name such as 'train' may be anything: only a named folder that is missing files is told of.
            if missing and folder != ".":
                wrong.append(f"{found.folder} is missing {', '.join(missing)}")
    return None, tuple(wrong)


def corrupt_reason(form: Form, path: Path) -> str | None:
    """Why an official file cannot be whole, from its size and ends alone; None where nothing speaks against it."""
    size = path.stat().st_size
    if form.kind == "binary":
        record = form.label_bytes + RECORD_PIXELS
        if size and size % record == 0:
            return None
        return f"{path} is corrupt: {size} bytes, not a whole number of {record}-byte records"
    if form.kind == "python":
        return None if size and _last_bytes(path, 1) == b"." else f"{path} is corrupt: {size} bytes, and no pickle ends there"
    try:
        head, length = _idx_head(path, size)
    except (struct.error, zlib.error, OSError) as error:
        return f"{path} is corrupt: no idx header ({error})"
    dims = head[3] if len(head) == 16 else 0
    if head[:3] != b"\0\0\x08" or len(head) < 4 + 4 * dims or not 1 <= dims <= 3:
        return f"{path} is corrupt: no idx header of unsigned bytes"
    want = 4 + 4 * dims
    items = 1
    for extent in struct.unpack(f">{dims}I", head[4 : 4 + 4 * dims]):
        items *= extent
    want += items
    return None if length == want else f"{path} is corrupt: {length} bytes, its header promises {want}"


def why_missing(config: DatasetConfig, root: Path) -> str | None:
    """What of a data set is not under `root`, as a sentence with the fetch line to type; None where all is there.

    Looks at names, sizes and, of a file smaller than the official one, at the labels: never at all images.
    """
    if config.name == "folder":
        return _missing_folder(config)
    if config.name not in FORMS:  # digits comes with scikit-learn
        return None
    line = f"run `cifar-hpc fetch {config.name}` where there is a network"
    found, wrong = find_form(config.name, root)
    if found is None:
        why = "; ".join(wrong) or f"no official files of it in {', '.join(_places(config.name))}"
        return f"{config.name} is not under {root} ({why}): {line}."
    absent = _absent_classes(config, found)
    if absent:
        return f"{found.folder} holds only a part of {config.name}, without {shorten(absent)}: {line}."
    return None


def folder_path(config: DatasetConfig) -> Path:
    """Where a folder data set lies. Raises DataError where the config names none."""
    if not config.folder:
        raise DataError("dataset folder: no path given; write `folder: PATH`")
    return Path(config.folder).expanduser().absolute()


def planned_folder(config: DatasetConfig) -> ImageFolder:
    """What the folder holds. Raises DataError where that is no longer what the config's fingerprint stands for."""
    folder = folder_path(config)
    try:
        listing = list_folder(folder) if config.labels is None else list_table(folder, Path(config.labels))
        fingerprint = folder_fingerprint(listing)
        if config.labels is not None and config.fingerprint not in (None, fingerprint):
            by_row = list_table(folder, Path(config.labels), by_row=True)  # older trials are split by the order of the rows
            if folder_fingerprint(by_row) == config.fingerprint:
                listing, fingerprint = by_row, config.fingerprint
    except OSError as error:
        raise DataError(f"{printable(str(error.filename or folder))}: {error.strerror}") from error
    if config.fingerprint is not None and config.fingerprint != fingerprint:
        raise DataError(
            f"{folder} changed since the sweep was planned (fingerprint {fingerprint}, planned {config.fingerprint}): "
            f"put the images back, or plan it again with `cifar-hpc sweep SPEC`"
        )
    problems = listing.problems(config.classes, config.without_folds.val_frac, config.train_size)
    if problems:
        raise DataError("\n".join(f"{folder}: {problem}" for problem in problems))
    return listing


def shorten(names: Sequence[str]) -> str:
    """The names, at most six of them spelt out."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _places(name: str) -> Iterator[str]:
    return (folder + "/" for folder in dict.fromkeys(folder for form in FORMS[name] for folder in form.folders))


def _missing_folder(config: DatasetConfig) -> str | None:
    path = folder_path(config)
    if not path.is_dir():
        return f"the folder {path} is not there: copy it to this machine, or correct `folder` in the spec (nothing to fetch)."
    return None


def _absent_classes(config: DatasetConfig, found: Found) -> tuple[str, ...]:
    """Asked classes without a training image. Only a binary file that is smaller than the official one is read for it."""
    info = catalog.dataset(config.name)
    if found.form.kind != "binary" or info.train_n is None:
        return ()
    record = found.form.label_bytes + RECORD_PIXELS
    paths = [found.path(name) for name in found.form.train]
    if sum(path.stat().st_size for path in paths) >= info.train_n * record:
        return ()
    labels = {label for path in paths for label in path.read_bytes()[found.form.label_bytes - 1 :: record]}
    asked = info.classes if config.classes is None else config.classes
    return tuple(name for name in asked if name in info.classes and info.classes.index(name) not in labels)


def _idx_head(path: Path, size: int) -> tuple[bytes, int]:
    """The first 16 bytes of an idx file, and its length, unpacked where it is gzipped (from the trailer)."""
    with path.open("rb") as file:
        start = file.read(4096)
    if path.suffix != ".gz":
        return start[:16].ljust(16, b"\0") if len(start) >= 8 else b"", size
    head = zlib.decompressobj(31).decompress(start, 16)
    return head.ljust(16, b"\0"), struct.unpack("<I", _last_bytes(path, 4))[0]


def _last_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(count, path.stat().st_size), os.SEEK_END)
        return file.read()
