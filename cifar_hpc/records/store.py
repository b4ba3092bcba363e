"""Reading and writing records: whole files atomically, streams line by line. Knows nothing of what the records mean."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from cifar_hpc.errors import RecordError
from cifar_hpc.records.schema import Record

R = TypeVar("R", bound=Record)


def utc_now() -> str:
    """The time now, UTC, ISO-8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a whole file so that a reader sees the old one or the new one, whatever dies in between.

    Temporary name in the same folder, fsync, os.replace, fsync of the folder. On any error (a full disk included) the
    temporary file is removed and the old one stands. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder`, and of all that lay there, once the block ends well; after an error
    the old one stands. A kill between the two renames leaves the old one beside it, hidden. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as place:
        fresh, old = Path(place) / "new", Path(place) / "old"
        fresh.mkdir()
        yield fresh
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                old.rename(folder)
            raise


def write_changed(path: Path, data: bytes) -> None:
    """`write_atomic` of what is not there yet: a file that holds just that stays, also where one may only read."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return
    write_atomic(path, lambda stream: stream.write(data))


def write_record(path: Path, record: Record) -> None:
    """One record as one JSON file, atomically. Raises OSError; ValueError on NaN or infinity (absent means not measured)."""
    write_atomic(path, lambda stream: stream.write(record.encode() + b"\n"))


def read_record(path: Path, kind: type[R]) -> R:
    """Raises FileNotFoundError where there is none, RecordError where it is torn, foreign or newer than this program."""
    try:
        return kind.decode(path.read_bytes())
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Adds one JSON line a record in a single write, after mending a torn last line. Raises OSError."""
    block = b"".join(record.encode() + b"\n" for record in records)
    if not block:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
            block = b"\n" + block
        stream.write(block)
        stream.flush()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """A whole stream anew, atomically: what a resumed writer begins from."""
    write_atomic(path, lambda stream: stream.write(b"".join(record.encode() + b"\n" for record in records)))


def read_records(path: Path, kind: type[R]) -> list[R]:
    """All whole lines of a stream; torn lines (a writer died, or is writing) are left out; empty where there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        with contextlib.suppress(RecordError):
            records.append(kind.decode(line))
    return records


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _current_umask()
