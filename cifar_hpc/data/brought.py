"""Data sets of others that become a folder of images: torchvision's (`torchvision/NAME`), Hugging Face's on disk (`hf/PATH`).

Each image file is kept as it is where there is one, else it is written as PNG, which loses nothing. From there on it is a
folder as any other. Owns: which of torchvision's there are and how they are split, reading Parquet and Arrow. Imports
torchvision and pyarrow only when it brings something.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.errors import DataError, did_you_mean, nearest

_OFFICIAL = ({"split": "train"}, {"split": "test"})
_FLAGS = ({"train": True}, {"train": False})
_THREE = ({"split": "train"}, {"split": "val"}, {"split": "test"})
# Name -> the arguments that give train, val and test (two: train and test; one: all images are for training).
TORCHVISION: dict[str, tuple[Mapping[str, Any], ...]] = {
    "Caltech101": ({},),
    "Caltech256": ({},),
    "Country211": ({"split": "train"}, {"split": "valid"}, {"split": "test"}),
    "DTD": _THREE,
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    "EuroSAT": ({},),
    "FGVCAircraft": _THREE,
    "Flowers102": _THREE,
    "Food101": _OFFICIAL,
    "GTSRB": _OFFICIAL,
    "Imagenette": ({"split": "train"}, {"split": "val"}),
    "KMNIST": _FLAGS,
    "LFWPeople": _OFFICIAL,
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "PCAM": _THREE,
    "QMNIST": _FLAGS,
    "RenderedSST2": _THREE,
    "SEMEION": ({},),
    "STL10": _OFFICIAL,
    "SUN397": ({},),
    "SVHN": _OFFICIAL,
    "USPS": _FLAGS,
}
_SPLIT_NAMES = {1: ("train",), 2: ("train", "test"), 3: ("train", "val", "test")}
_FILES = ("_image_files", "_images", "samples", "imgs", "_samples", "_labels_and_files")  # where torchvision's sets list theirs
Labelled = Iterator[tuple[str, str | None, Path | bytes | Any]]  # split, class, the image: a file, a file's bytes, or PIL's
# What Hugging Face takes for the name of a split.
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_VERSION = 3  # raise it when the same tables become another folder


def torchvision_folder(name: str, root: Path) -> Path:
    """Where `torchvision/NAME` lies once it was fetched. Raises DataError where there is no such set, or it is not here."""
    short = _known(name)
    folder = root / "torchvision" / short
    if not folder.is_dir():
        raise DataError(f"{name} is not under {root}: run `cifar-hpc fetch {name}` where there is a network.")
    return folder


def fetch_torchvision(name: str, root: Path, say: Callable[[str], None]) -> Path:
    """Brings it by torchvision's own class. Raises DataError where that cannot be reached."""
    short = _known(name)
    folder, raw = root / "torchvision" / short, root / "torchvision" / f".raw-{short}"
    if folder.is_dir():
        say(f"{name}: there")
        return folder
    import torchvision.datasets

    splits = TORCHVISION[short]
    say(f"{name}: fetching by torchvision to {raw}")
    try:
        raw.mkdir(parents=True, exist_ok=True)
        parts = {
            split: getattr(torchvision.datasets, short)(str(raw), download=True, **arguments)
            for split, arguments in zip(_SPLIT_NAMES[len(splits)], splits, strict=True)
        }
    except Exception as error:  # its classes raise whatever their downloads do
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{name}: torchvision cannot fetch it ({type(error).__name__}: {reason})") from error
    _write(_of_torchvision(parts), folder)
    shutil.rmtree(raw, ignore_errors=True)
    return folder


def hf_folder(path: Path, root: Path) -> Path:
    """The folder made of a Hugging Face data set on disk: Parquet files, or what `save_to_disk` wrote. It is made once for each
    state of the files. Raises DataError where there is no column of images and one of labels."""
    files = sorted((*path.rglob("*.parquet"), *(file for file in path.rglob("*.arrow") if _is_saved(file))))
    if not files:
        raise DataError(f"{path} holds no .parquet and no .arrow file")
    facts = [(file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    folder = root / "cache" / f"hf-{hashlib.sha256(json.dumps([_VERSION, *facts]).encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        _write(_of_tables(path, files), folder)
    return folder


def _is_saved(file: Path) -> bool:
    """Whether it is of the data set that `save_to_disk` wrote: beside it `datasets` leaves what it computed from it, which
    state.json does not name."""
    state = file.with_name("state.json")
    try:
        named = {Path(one["filename"]).name for one in json.loads(state.read_text(encoding="utf-8"))["_data_files"]}
    except FileNotFoundError:
        return not file.name.startswith("cache-")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{state} cannot be read: {error}") from error
    return file.name in named


def _known(name: str) -> str:
    short = name.removeprefix("torchvision/")
    if short not in TORCHVISION:
        near = nearest(short, {known.lower(): known for known in TORCHVISION}) or nearest(short, TORCHVISION)
        meant = next((known for known in TORCHVISION if near and known.lower() == near.lower()), None)
        raise DataError(
            f"{name}; of torchvision's there are {', '.join(TORCHVISION)}.{did_you_mean(meant and f'torchvision/{meant}')}"
        )
    return short


def _of_torchvision(parts: Mapping[str, Any]) -> Labelled:
    for split, data in parts.items():
        names = getattr(data, "classes", None) or getattr(data, "categories", None)
        files = _listed(data)
        for index in range(len(data)):
            image, label = data[index]
            name = names[label] if names and label < len(names) else str(label)
            name = str(name[0] if isinstance(name, tuple) else name)  # Imagenette's have synonyms
            yield split, name, files[index] if files else image


def _listed(data: Any) -> list[Path] | None:
    """The files of its images in the order of its items, where it has files."""
    for attribute in _FILES:
        entries = getattr(data, attribute, None)
        if isinstance(entries, Sequence) and len(entries) == len(data) and len(entries):
            paths = [entry[0] if isinstance(entry, tuple | list) else entry for entry in entries]
            if all(isinstance(path, str | os.PathLike) for path in paths) and Path(paths[0]).is_file():
                return [Path(path) for path in paths]
    return None


def _of_tables(path: Path, files: Sequence[Path]) -> Labelled:
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    other = [file for file in files if splits[file] is None]
    if 0 < len(other) < len(files):
        raise DataError(
            f"{other[0]}: its name says no split, and others' do: {', '.join(_SPLIT_WORDS)} are known; move it away"
        )
    sets = sorted({above.as_posix() for file in files if (above := _above_split(file.relative_to(path))) is not None})
    if len(sets) > 1:
        raise DataError(f"{path} holds several data sets, in {', '.join(sets)}: give the folder of one")
    for file in files:
        split = splits[file] or "train"
        for columns, rows in _tables(file):
            image = next((name for name, kind in columns.items() if kind.get("_type") == "Image"), None)
            label = next((name for name, kind in columns.items() if kind.get("_type") == "ClassLabel"), None)
            image, label = (
                image or ("image" if "image" in columns else None),
                label or ("label" if "label" in columns else None),
            )
            if image is None or label is None:
                raise DataError(
                    f"{file}: columns {', '.join(columns)}; one of images and one of labels (image, label) are needed"
                )
            names = columns[label].get("names")
            for row in rows:
                content = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
                if not isinstance(content, bytes):
                    raise DataError(f"{file}: an image without its bytes: save the data set with its images in it")
                yield split, _class_of(row[label], names), content


def _class_of(label: Any, names: Sequence[str] | None) -> str | None:
    """None where it has none: null, and among names -1, as the test images of competitions have it."""
    if label is None or (names and label < 0):
        return None
    return str(names[label]) if names else str(label)


def _tables(file: Path) -> Iterator[tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]]:
    """Some rows at once, with what is known of their columns."""
    import pyarrow
    import pyarrow.parquet

    try:
        if file.suffix == ".parquet":
            source = pyarrow.parquet.ParquetFile(file)
            schema, batches = source.schema_arrow, source.iter_batches(batch_size=256)
        else:
            stream = pyarrow.ipc.open_stream(pyarrow.memory_map(str(file)))
            schema, batches = stream.schema, iter(stream)
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        columns = {name: dict(features.get(name) or {}) for name in schema.names}
        for batch in batches:
            yield columns, batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as a table ({str(error).split(chr(10))[0]})") from error


def _split_of(name: Path) -> str | None:
    """What the file's name, or else that of a folder above it, says; None where none does."""
    return next((said for part in reversed(name.parts) if (said := _split_in(part))), None)


def _above_split(name: Path) -> Path | None:
    """The folder in which the file, or the folder that says its split, stands: a data set's own."""
    return next((place.parent for place in (name, *name.parents) if _split_in(place.name)), None)


def _split_in(part: str) -> str | None:
    words = re.findall(r"[a-z]+", part.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _write(images: Labelled, folder: Path) -> None:
    """folder/<split>/<class>/<number>.<suffix>, whole or not at all; what has no class lies in folder/<split>."""
    from PIL import Image

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        classes: dict[str, str] = {}  # folder -> class
        for number, (split, name, image) in enumerate(images):
            plain = re.sub(r"[/\x00-\x1f]|^\.", "_", name or "")
            if classes.setdefault(plain, name or "") != (name or ""):
                raise DataError(f"{folder}: the classes {classes[plain]!r} and {name!r} would both lie in a folder {plain!r}")
            place = temporary / split / plain
            place.mkdir(parents=True, exist_ok=True)
            if isinstance(image, bytes):
                with Image.open(io.BytesIO(image)) as opened:
                    suffix = (opened.format or "png").lower()
                (place / f"{number:07d}.{suffix}").write_bytes(image)
            elif isinstance(image, Path):
                shutil.copyfile(image, place / f"{number:07d}{image.suffix.lower()}")
            else:
                image.save(place / f"{number:07d}.png")
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # somebody else made it meanwhile
            if not folder.is_dir():
                raise
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
