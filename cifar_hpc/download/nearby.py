"""Copies of large files on a node's own disk, so that a thousand jobs do not read one network file system.

Where $CIFAR_HPC_SCRATCH names a folder, a file that a trial reads is copied there once, by the first process of the node that
asks; the others wait for it. What cannot be copied (no room, no such folder) is read where it lies: nothing fails for want of a
copy. Owns: the copies and their locks. Knows neither data sets nor networks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

SCRATCH_VARIABLE = "CIFAR_HPC_SCRATCH"
ROOM_FRAC = 0.1  # of the disk that stays free
_PIECE = 2**22  # bytes read at once


def nearby(path: Path) -> Path:
    """The file's copy on this node, of the same name; the file itself where there can be none."""
    return nearby_all([path])[0]


def nearby_all(paths: Sequence[Path]) -> list[Path]:
    """The copies of files of one folder, in one folder; the files themselves where one of them cannot be copied."""
    scratch = scratch_folder(os.environ.get(SCRATCH_VARIABLE, ""))
    if scratch is None or not paths:
        return list(paths)
    try:
        copies = [_copied(path, scratch) for path in paths]
    except OSError as error:
        _say(f"{paths[0]} is read where it lies: {error.strerror or error}")
        return list(paths)
    return copies


@cache
def scratch_folder(given: str) -> Path | None:
    """This user's own folder below the one that is named: what others may write into holds no weights of ours."""
    if not given:
        return None
    folder = Path(given).expanduser() / f"cifar-hpc-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        _say(f"{SCRATCH_VARIABLE}: {given}: {error.strerror}; files are read where they lie")
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        _say(f"{SCRATCH_VARIABLE}: {folder} is not a folder that only you may write; files are read where they lie")
        return None
    return folder


def _copied(path: Path, scratch: Path) -> Path:
    """Raises OSError."""
    source = path.parent.resolve(strict=True) / path.name
    if source.is_relative_to(scratch.resolve()):
        return path
    folder = scratch / hashlib.sha256(str(source.parent).encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    copy = folder / path.name
    if _is_copy(copy, source):
        return copy
    with _locked(folder / f".{path.name}.lock"):
        if not _is_copy(copy, source):
            copy_over(source, copy)
    return copy


def _is_copy(copy: Path, source: Path) -> bool:
    """Whether it is whole and of the source as it is now: a copy gets its size and time, the time last."""
    try:
        ours, theirs = copy.stat(), source.stat()
    except FileNotFoundError:
        return False
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def copy_over(source: Path, copy: Path) -> None:
    """Reads the source once, and what was written again: a copy that differs is none."""
    size = source.stat().st_size
    disk = shutil.disk_usage(copy.parent)
    if size + ROOM_FRAC * disk.total > disk.free:
        raise OSError(0, f"no room for {size / 1e9:.1f} GB in {copy.parent}")
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        digest = hashlib.sha256()
        with source.open("rb") as stream, temporary.open("xb") as target:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                target.write(piece)
        with temporary.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").digest() != digest.digest():
                raise OSError(0, f"its copy in {copy.parent} differs")
        shutil.copystat(source, temporary)
        temporary.chmod(0o600)
        os.replace(temporary, copy)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of the node at a time; the kernel frees the lock of one that dies. On a disk without locks each copies for
    itself, and the last one stays."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
