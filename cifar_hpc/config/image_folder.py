"""What makes a folder of one's own images a data set: <class>/*, or train/<class>/*, val/ and test/. Decodes nothing.

Owns: which entry of a folder means what, what is left out and why, the fingerprint. An entry is taken where its meaning is
plain; where it is not, it is a problem that names it: nothing is passed over in silence but hidden entries. Stands beside the
catalogue, since the spec gives the folder its identity and the data room loads it. Imports neither torch nor PIL.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cifar_hpc.config.words import plural

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
SPLITS = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
FORM = "a folder holds <class>/*, or train/<class>/* and optionally val/ and test/, for two or more classes"
NAMED = 6  # entries that a sentence spells out
IN_NO_ROW = "in no row of"  # begins the reason of images that a table of labels does not name


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that is not used. name: relative to the folder, fit to be printed."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageFolder:
    """classes: sorted; splits: train, and val and test where they are, each class -> its images, sorted by name.

    own_splits: whether there is a train/; unlabelled: images of a test/ without class folders; empty: classes without an image
    to train on, with the files left out there; left_out: all that is not used; wrong: what has to be mended first.
    """

    root: Path
    own_splits: bool
    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, tuple[Path, ...]]]
    unlabelled: tuple[Path, ...]
    empty: Mapping[str, int]
    left_out: tuple[LeftOut, ...]
    wrong: tuple[str, ...]
    labelled_by: Path | None = None  # the table that says the classes; None: the folders do

    def labels(self, split: str) -> list[int]:
        """The place of its class of each image of a split, class by class, as they are read."""
        found = self.splits.get(split, {})
        return [label for label, name in enumerate(self.classes) for _ in found.get(name, ())]

    def problems(self, classes: Collection[str] | None, val_frac: float, train_size: int | None = None) -> list[str]:
        """A sentence for each thing without which no trial can start. classes: those that are kept; None: all. val_frac,
        train_size: as in DatasetConfig; with val_frac 0, of a refit or of folds, val/ joins train/."""
        kept = [name for name in self.classes if classes is None or name in classes]
        found = list(self.wrong)
        for name, files_n in self.empty.items():
            if classes is not None and name not in classes:
                continue
            elsewhere = [split for split in ("val", "test") if self.splits.get(split, {}).get(name)]
            if elsewhere:
                split = elsewhere[0]
                images_n = len(self.splits[split][name])
                found.append(f"class {printable(name)!r} has {plural(images_n, 'image')} in {split}/ and none to train on")
            elif files_n:
                found.append(f"class {printable(name)!r} holds no image, {plural(files_n, 'file')} of another kind")
        if len(kept) < 2:
            found.append(f"{len(kept) or 'no'} class with images; {FORM}")
        images_n = sum(len(self.splits["train"][name]) for name in kept)
        if train_size is not None and train_size > images_n:
            found.append(f"train_size {train_size}: there are {plural(images_n, 'image')} to train on")
        if "val" in self.splits and val_frac > 0:
            there = [name for name in kept if self.splits["val"].get(name)]
            if len(there) < 2 and len(kept) > 1:
                only = f"images of {printable(there[0])!r} alone" if there else "no image of the classes that are kept"
                found.append(f"val/ holds {only}: validation cannot choose between trials")
        elif val_frac > 0 and len(kept) > 1:
            alone = [printable(name) for name in kept if len(self.splits["train"][name]) == 1]
            if alone:
                found.append(f"{listed(alone)}: one image; a class needs one to train on and one to validate with, or a val/")
        return found

    def notes(self, classes: Collection[str] | None, val_frac: float, train_size: int | None = None) -> list[str]:
        """A sentence for each thing that a person should know before the first trial; the arguments as of `problems`."""
        kept = [name for name in self.classes if classes is None or name in classes]
        found = [f"{pair} look the same and are two classes: rename one, or merge them" for pair in look_alikes(kept)]
        if not self.own_splits and self.labelled_by is None:
            found.append("no train/: the folders are the classes")
        if "val" not in self.splits and val_frac > 0:
            images_n = train_size or sum(len(self.splits["train"].get(name, ())) for name in kept)
            few = "" if round(val_frac * images_n) >= len(kept) else ", but at least one of each class"
            found.append(
                f"no val/: val_frac {val_frac:g} holds out that share of the training images, stratified, by split_seed{few}"
            )
        for split in ("val", "test") if val_frac > 0 else ("test",):
            absent = [printable(name) for name in kept if split in self.splits and not self.splits[split].get(name)]
            if 0 < len(absent) < len(kept) or (absent and split == "test"):
                found.append(f"{split}/ holds no image of {listed(absent)}")
        if self.unlabelled:
            found.append(f"test/ holds {plural(len(self.unlabelled), 'image')} without classes: nothing is measured on them")
        empty = [printable(name) for name, files_n in self.empty.items() if not files_n and name in (classes or self.empty)]
        if empty:
            found.append(f"no class is made of {listed(empty)}, which hold{'s' * (len(empty) == 1)} nothing")
        if self.left_out:
            kinds: dict[str, list[str]] = {}
            for entry in self.left_out:
                kinds.setdefault(entry.reason, []).append(entry.name)
            found += [f"left out, {reason}: {listed(names)}" for reason, names in kinds.items()]
        return found


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """A line for each, but one for all images that a table does not name: it may name few of a large folder."""
    unnamed = [entry for entry in left_out if entry.reason.startswith(IN_NO_ROW)]
    lines = [f"{entry.name}: {entry.reason}" for entry in left_out if not entry.reason.startswith(IN_NO_ROW)]
    if unnamed:
        lines.append(f"{plural(len(unnamed), 'image')} {unnamed[0].reason}: {listed([entry.name for entry in unnamed])}")
    return lines


def list_folder(root: Path) -> ImageFolder:
    """What `root` holds. Raises OSError where it cannot be listed."""
    return _Listing(root).read()


def images_below(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """All images below a folder, sorted by their path relative to it, and a sentence for each other entry. Raises OSError."""
    listing = _Listing(folder)
    images = tuple(listing.walk(folder))
    return images, (*(f"{entry.name}: {entry.reason}" for entry in listing.left_out), *listing.wrong)


def folder_fingerprint(listing: ImageFolder) -> str:
    """16 hex digits over the splits, classes, names and contents of the labelled images: what stands for them in an id."""
    digest = hashlib.sha256()
    for split, classes in sorted(listing.splits.items()):
        for label, paths in sorted(classes.items()):
            for path in paths:
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                parts = path.relative_to(listing.root).parts[1 if listing.own_splits else 0 :]
                if listing.labelled_by is not None:  # a table, not folders, says the class
                    parts = (label, *path.relative_to(listing.root).parts)
                digest.update(os.fsencode("/".join((split, *parts))) + f"\0{content}\n".encode())
    return digest.hexdigest()[:16]


def printable(name: str) -> str:
    """A name as text that any terminal takes: bytes that are no UTF-8 and control characters are escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def look_alikes(names: Iterable[str]) -> list[str]:
    """Names that differ in their Unicode form (NFC, NFD) or in outer spaces alone, which a table of labels loses; those of one
    look together, in letters that tell them apart."""
    by_look: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_look.setdefault(unicodedata.normalize("NFC", name).strip(), []).append(ascii(name))
    return [" and ".join(sorted(spelled)) for spelled in by_look.values() if len(spelled) > 1]


def listed(names: Sequence[str]) -> str:
    """The names, NAMED of them spelt out."""
    more = len(names) - NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:NAMED])} and {more} more"


def _begins_as_image(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(16)
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_BEGINNINGS) or riff or head[4:12] == b"ftypavif"


@dataclass
class _Listing:
    """Reads one folder. seen: the real folders above and below it, and those that a link led to, so that each is read once,
    however many links lead there; linked: paths that go through a link."""

    root: Path
    left_out: list[LeftOut] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)
    linked: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.seen |= {_identity(parent.stat()) for parent in self.root.resolve().parents}
        for folder, _, _ in os.walk(self.root, onerror=_raise):
            self.seen.add(_identity(Path(folder).stat()))

    def read(self) -> ImageFolder:
        folders, files = self._entries(self.root)
        roles: dict[str, list[Path]] = {}
        for path in folders:
            roles.setdefault(SPLITS.get(path.name.lower(), ""), []).append(path)
        for split, paths in roles.items():
            if split and len(paths) > 1:
                self.wrong.append(f"{listed([f'{self.name(path)}/' for path in paths])} mean the same: keep one of them")
        own = "train" in roles
        if not own and any(roles.keys() - {""}):
            self.wrong.append(f"{self.name(roles.get('val', roles.get('test', []))[0])}/ without a train/ beside it")
        splits: dict[str, dict[str, tuple[Path, ...]]] = {}
        if own:
            splits = {split: self._classes(roles[split][0]) for split in ("train", "val", "test") if split in roles}
            for path in roles.get("", ()):
                self._unknown(path)
            self._beside(self.root, files, "beside train/")
        else:
            splits["train"] = {path.name: tuple(self.walk(path)) for path in roles.get("", ())}
            self._beside(self.root, files, "beside the class folders")
        unlabelled = self._unlabelled(roles, splits) if own else ()
        if not own and len(splits["train"]) == 1:
            only = roles[""][0]
            inside = [path.name for path in self._entries(only, again=True)[0] if path.name.lower() in SPLITS]
            if inside:
                self.wrong.append(f"{inside[0]}/ lies one folder down: {self.name(only)}/ is the folder to write")
        return self._made(own, f"{self.name(roles['train'][0])}/" if own else "", splits, unlabelled)

    def _made(
        self, own: bool, place: str, splits: dict[str, dict[str, tuple[Path, ...]]], unlabelled: tuple[Path, ...]
    ) -> ImageFolder:
        classes = tuple(sorted(name for name, paths in splits["train"].items() if paths))
        empty = {
            name: sum(entry.name.startswith(f"{place}{printable(name)}/") for entry in self.left_out)
            for name in sorted(splits["train"])
            if name not in classes
        }
        for name in classes:
            if printable(name) != name:
                self.wrong.append(f"the class folder {printable(name)}: its name is not UTF-8 text; rename it")
        for split in ("val", "test"):
            unknown = [name for name, paths in splits.get(split, {}).items() if paths and name not in splits["train"]]
            if unknown:
                folders = listed([f"{split}/{printable(name)}" for name in unknown])
                alike = "".join(f"; {pair} look the same and are not" for pair in look_alikes((*classes, *unknown)))
                self.wrong.append(
                    f"{folders}: no class of train/; the classes are {listed(list(map(printable, classes)))}{alike}"
                )
        known = {split: {name: paths for name, paths in sorted(found.items()) if paths} for split, found in splits.items()}
        return ImageFolder(
            self.root, own, classes, known, unlabelled, empty, tuple(self.left_out), tuple(dict.fromkeys(self.wrong))
        )

    def _classes(self, folder: Path) -> dict[str, tuple[Path, ...]]:
        return {path.name: tuple(self.walk(path)) for path in self._entries(folder)[0]}

    def _unlabelled(self, roles: Mapping[str, list[Path]], splits: dict[str, dict[str, tuple[Path, ...]]]) -> tuple[Path, ...]:
        """Images of a test/ in which no folder is a class; elsewhere, images outside the class folders are a problem."""
        found: tuple[Path, ...] = ()
        for split in [split for split in ("train", "val", "test") if split in roles]:
            loose = self._entries(roles[split][0], again=True)[1]
            images = [path for path in loose if self._is_image(path)]
            labelled = bool(set(splits[split]) & set(splits["train"]))
            if split == "test" and not labelled:
                found = (*images, *(path for paths in splits[split].values() for path in paths))
                del splits[split]
                self._beside(roles[split][0], [path for path in loose if path not in images], "in test/")
                continue
            self._beside(roles[split][0], loose, "beside its class folders")
            if not labelled and not images:
                self.wrong.append(f"{self.name(roles[split][0])}/ holds no class folders")
        return found

    def _beside(self, folder: Path, files: Sequence[Path], where: str) -> None:
        images = [self.name(path) for path in files if self._is_image(path)]
        if images:
            self.wrong.append(f"{listed(images)}: {plural(len(images), 'image')} {where}, of no class")
        names = [self.name(path) for path in files if self.name(path) not in images]
        self.left_out += [LeftOut(name, "no images") for name in names]

    def _unknown(self, folder: Path) -> None:
        images = list(self.walk(folder))
        if images:
            allowed = "train/, val/ (or valid/, validation/) and test/"
            self.wrong.append(f"{self.name(folder)}/ holds {plural(len(images), 'image')} and is none of {allowed}")
        else:
            self.left_out.append(LeftOut(f"{self.name(folder)}/", "no images"))

    def walk(self, folder: Path) -> Iterator[Path]:
        """The images below a folder, sorted by their path relative to it."""
        found: list[Path] = []
        pending = [folder]
        while pending:
            folders, files = self._entries(pending.pop())
            pending += folders
            for path in files:
                if self._is_image(path):
                    found.append(path)
                else:
                    self.left_out.append(LeftOut(self.name(path), "no images"))
        yield from sorted(found, key=lambda path: os.fsencode(path.relative_to(folder).as_posix()))

    def _entries(self, folder: Path, *, again: bool = False) -> tuple[list[Path], list[Path]]:
        """The folders and regular files of a folder, sorted; hidden ones left out. again: it was told of before."""
        folders: list[Path] = []
        files: list[Path] = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                try:
                    status = entry.stat()
                except OSError as error:
                    reason = "a link to nothing" if entry.is_symlink() else str(error.strerror).lower()
                    self.wrong.append(f"{self.name(path)}: {reason}")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    through_link = entry.is_symlink() or folder in self.linked
                    if through_link and not again and not self._first_time(path, status):
                        continue
                    folders.append(path)
                elif stat.S_ISREG(status.st_mode):
                    files.append(path)
                else:
                    self.wrong.append(f"{self.name(path)}: {_kind(status.st_mode)}, not a file")
        return folders, files

    def _first_time(self, link: Path, status: os.stat_result) -> bool:
        if _identity(status) in self.seen:
            self.left_out.append(LeftOut(f"{self.name(link)}/", "links to a folder that is read already"))
            return False
        self.seen.add(_identity(status))
        self.linked.add(link)
        return True

    def _is_image(self, path: Path) -> bool:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return True
        try:
            return _begins_as_image(path)
        except OSError as error:
            self.wrong.append(f"{self.name(path)}: {str(error.strerror).lower()}")
            return False

    def name(self, path: Path) -> str:
        return printable(path.relative_to(self.root).as_posix())


def _raise(error: OSError) -> None:
    raise error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
