"""Sums of files, the folder of one fetch and its lock. Knows nothing of where the bytes come from."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def wrong_sum(path: Path, expected: str | None) -> str | None:
    """Why a file is not the expected one, or None. expected: 'md5:...' or 'sha256:...', of which a beginning is enough."""
    if expected is None:
        return None
    algorithm, _, begins = expected.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found.startswith(begins):
        return None
    return f"{path.name} is corrupt or not the official file: {path.stat().st_size} bytes, {algorithm} {found}, not {begins}"


@contextmanager
def work_folder(path: Path, what: str, say: Say) -> Iterator[Path]:
    """A folder for one fetch at a time: two at once wait for each other, and what a killed one left is removed or gone on with.

    The kernel frees the lock of an owner that dies. Partial downloads stay for the next fetch; other temporary files do not.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what}: another fetch of it is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        for left in path.rglob("tmp-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield path


def clear(work: Path) -> None:
    """Remove the partial downloads, once the files are where they belong."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
