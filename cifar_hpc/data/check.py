"""What the files of a folder of images hold, looked into once for each fingerprint, and what is worth knowing of it.

Owns: looking at every file (whole? how large? which pixels? the same as another?), the outcome under root/cache, and the
sentences that it makes. A login node runs it: imports no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.config.image_folder import ImageFolder, listed, printable
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.data.images import ImageFacts, look_at, quiet
from cifar_hpc.errors import DataError

_VERSION = 4  # raise it when more is looked for
_SPLITS = ("train", "val", "test")  # in the order of listings
UNEVEN = 3  # the largest class over the smallest from which on it is told
CUT_FRAC = 0.02  # of the pixels, on average, from which on a crop is told
SHOWN = 20  # broken files that are named


@dataclass(frozen=True, slots=True)
class FolderCheck:
    """broken: file and why; sides: least, median and largest shorter side, pixels; modes: PIL's word -> files; cut_frac: share
    of an image outside its central square, on average; frames: files with more frames than the first.

    equal: files of equal content, in the order of splits and classes.
    """

    broken: tuple[tuple[str, str], ...]
    sides: tuple[int, int, int]
    modes: dict[str, int]
    cut_frac: float
    frames: int
    equal: tuple[tuple[str, ...], ...]


def check_folder(listing: ImageFolder, fingerprint: str, root: Path) -> FolderCheck:
    """The outcome for these images, from the cache under root where they were looked into before."""
    known = known_check(fingerprint, root)
    if known is not None:
        return known
    check = _look_into(listing)
    _keep(check, _place(fingerprint, root))
    return check


def known_check(fingerprint: str, root: Path) -> FolderCheck | None:
    """The outcome where these images were looked into before."""
    try:
        kept: dict[str, Any] = json.loads(_place(fingerprint, root).read_text())
        if kept.pop("version") != _VERSION:
            return None
        broken, equal = tuple((name, why) for name, why in kept["broken"]), tuple(map(tuple, kept["equal"]))
        low, median, high = kept["sides"]
        return FolderCheck(**{**kept, "broken": broken, "equal": equal, "sides": (low, median, high)})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def problems_of(check: FolderCheck) -> list[str]:
    """A sentence for each file that is no whole image."""
    more = [f"and {len(check.broken) - SHOWN} more files"] if len(check.broken) > SHOWN else []
    return [*(f"{name} {why}" for name, why in check.broken[:SHOWN]), *more]


def notes_of(check: FolderCheck, listing: ImageFolder, configs: Collection[TrialConfig]) -> list[str]:
    """What a person should know of these images before they are trained on as the configs say."""
    classes = next((config.dataset.classes for config in configs), None)  # all are of one set of images
    found = _notes_on_equal(check, listing, classes)
    counts = Counter(
        {name: len(paths) for name, paths in listing.splits["train"].items() if name in (classes or listing.classes)}
    )
    (most, most_n), (least, least_n) = counts.most_common()[0], counts.most_common()[-1]
    if most_n >= UNEVEN * least_n:
        share = 100 * most_n / counts.total()
        uneven, of_them = ("the chosen classes of train/ are", "them") if classes else ("train/ is", "it")
        found.append(
            f"{uneven} uneven: {most_n} images of {printable(most)}, {least_n} of {printable(least)}; who always says "
            f"{printable(most)} is right for {share:.0f} % of {of_them}"
        )
    every: list[str] = []  # of which the check has no classes
    clear = sum(n for mode, n in check.modes.items() if "A" in mode.split()[0][1:] or "clear" in mode or mode in ("La", "RGBa"))
    if clear:
        every.append(f"{plural(clear, 'file')} may have transparent pixels, which are seen over gray 128")
    deep = sum(n for mode, n in check.modes.items() if mode.startswith(("I", "F")))
    if deep:
        every.append(f"{plural(deep, 'file')} of more than 8 bits are scaled to 8 by the range of their format")
    if check.frames:
        every.append(f"{plural(check.frames, 'file')} of several frames: the first is used")
    for frac in sorted(
        {config.crop_frac for config in configs if config.resize == "crop"} if check.cut_frac >= CUT_FRAC else ()
    ):
        cut, of = 1 - (1 - check.cut_frac) * frac**2, "" if frac == 1 else f" with crop_frac {frac:g}"
        every.append(f"resize: crop{of} cuts off {100 * cut:.0f} % of an image on average; squash and pad cut nothing")
    median = check.sides[1]  # 0: no image is whole; pad fits the longer side
    sides = sorted({c.image_size for c in configs if c.image_size and c.resize != "pad" and c.image_size > median > 0})
    if sides:
        every.append(f"half of the images are at most {median} pixels wide or high: image_size {sides[-1]} enlarges them")
    return [*found, *(f"in all classes, chosen or not: {note}" if classes else note for note in every)]


def _notes_on_equal(check: FolderCheck, listing: ImageFolder, classes: Collection[str] | None) -> list[str]:
    """On files of these classes, None: of all, that are equal."""
    places = {
        printable(path.relative_to(listing.root).as_posix()): (split, label)
        for split, labels in listing.splits.items()
        for label, paths in labels.items()
        if classes is None or label in classes
        for path in paths
    }
    across: list[tuple[str, str]] = []  # each file of val/ and test/ after one of an earlier split
    split_labels: list[tuple[str, str]] = []
    repeated = 0
    for group in check.equal:
        first: dict[str, str] = {}  # split -> its first of them
        kept = [name for name in group if name in places]
        for name in sorted(kept, key=lambda name: _SPLITS.index(places[name][0])):
            split, label = places[name]
            before = first.setdefault(split, name)
            if before != name and split == "train":
                repeated += places[before][1] == label
                split_labels += [(before, name)] if places[before][1] != label else []
            across += [(first[other], name) for other in _SPLITS[: _SPLITS.index(split)] if other in first][:1]
    found = []
    if across:
        stand = f"of val/ or test/ {'stands' if len(across) == 1 else 'stand'} in another split too"
        found.append(f"{plural(len(across), 'file')} {stand}, so that validation or test is not apart: {_pairs(across)}")
    if split_labels:
        found.append(f"{plural(len(split_labels), 'pair')} of equal files in two classes of train/: {_pairs(split_labels)}")
    if repeated:
        splits = "" if "val" in listing.splits else ", so that some may fall on both sides of the validation split"
        repeat = "repeats" if repeated == 1 else "repeat"
        found.append(f"{plural(repeated, 'file')} of train/ {repeat} another one of the same class{splits}")
    return found


def _look_into(listing: ImageFolder) -> FolderCheck:
    places = [(split, name, path) for split, classes in listing.splits.items() for name in classes for path in classes[name]]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(workers, 16)) as pool, quiet():
        looks = list(pool.map(lambda place: _look(place[2]), places))
    names = [printable(path.relative_to(listing.root).as_posix()) for _, _, path in places]
    broken = tuple((name, look) for name, look in zip(names, looks, strict=True) if isinstance(look, str))
    whole = [look[0] for look in looks if not isinstance(look, str)]
    shorter = sorted(min(facts.width, facts.height) for facts in whole) or [0]
    cuts = [1 - min(facts.width, facts.height) / max(facts.width, facts.height) for facts in whole]
    equal: dict[bytes, list[str]] = {}
    for name, look in zip(names, looks, strict=True):
        if not isinstance(look, str):
            equal.setdefault(look[1], []).append(name)
    return FolderCheck(
        broken=broken,
        sides=(shorter[0], shorter[len(shorter) // 2], shorter[-1]),
        modes=dict(Counter(facts.mode for facts in whole).most_common()),
        cut_frac=sum(cuts) / max(1, len(cuts)),
        frames=sum(facts.frames for facts in whole),
        equal=tuple(tuple(group) for group in equal.values() if len(group) > 1),
    )


def _look(path: Path) -> tuple[ImageFacts, bytes] | str:
    """What an image is, with the digest of its file; or why it is none."""
    try:
        facts = look_at(path)
        with path.open("rb") as stream:
            return facts, hashlib.file_digest(stream, "sha256").digest()
    except DataError as error:
        return str(error).removeprefix(f"{printable(str(path))} ")
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _place(fingerprint: str, root: Path) -> Path:
    return root / "cache" / f"folder-{fingerprint}.json"


def _keep(check: FolderCheck, place: Path) -> None:
    """A cache that cannot be written is done without."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=place.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            try:
                json.dump({"version": _VERSION, **dataclasses.asdict(check)}, file)
                file.flush()
                temporary.replace(place)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError:
        pass


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return listed([f"{one} = {other}" for one, other in pairs])
