"""Reading and writing records: whole files atomically, streams line by line. Knows nothing of what the records mean."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from cifar_hpc.errors import RecordError
from cifar_hpc.records.codec import Record
from cifar_hpc.records.owners import remove_left, temporary_for

R = TypeVar("R", bound=Record)

MOST_BYTES = 2**28  # of a file of records: a plan of 100,000 trials is a third of it


def utc_now() -> str:
    """The time now, UTC, ISO-8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a whole file so that a reader sees the old one or the new one, whatever dies in between.

    Temporary name in the same folder, fsync, os.replace, fsync of the folder. On any error (a full disk included) the
    temporary file is removed and the old one stands. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path.parent)
    temporary = temporary_for(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
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
    the old one stands, after a kill at the worst moment the next writer brings it back. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        _restore_left(folder)
    remove_left(folder.parent)
    place = temporary_for(folder)
    fresh, old = place / "new", place / "old"
    fresh.mkdir(parents=True)
    try:
        yield fresh
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _restore_left(folder: Path) -> None:
    """A writer that was killed between its two renames left the folder as it was beside its place."""
    for old in folder.parent.glob(f".{folder.name}.*.tmp/old"):
        with contextlib.suppress(OSError):
            old.rename(folder)
            return


def write_text(path: Path, text: str) -> None:
    """`write_atomic` of text. Raises OSError."""
    write_atomic(path, lambda stream: stream.write(text.encode()))


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
    """Raises FileNotFoundError where there is none, RecordError where it is corrupt or foreign, OtherVersionError where it is
    another program version's, and OSError where the disk does not give it."""
    data = read_regular(path)
    try:
        return kind.decode(data)
    except RecordError as error:
        raise type(error)(f"{path}: {error.found}", error.mend) from error
    except Exception as error:  # whatever a stranger's file makes of a parser
        raise RecordError(f"{path}: {error}") from error


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """The file, to be read. Raises OSError; RecordError where it is no regular file: a named pipe would never end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.ELOOP):
            raise RecordError(f"{path}: not a regular file") from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise RecordError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'a pipe or device'}, not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; raises as `open_regular`, and RecordError where it is larger than any record is."""
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > MOST_BYTES:
            raise RecordError(f"{path}: larger than {MOST_BYTES} bytes, which no record is")
        return stream.read()


def create_record(path: Path, record: Record) -> bool:
    """A whole record under a name that did not exist before; False where another was first. os.link is atomic on NFS too.

    Readable as the umask says. Raises OSError."""
    remove_left(path.parent)
    temporary = temporary_for(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(record.encode())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Adds one JSON line a record in a single write, after mending a corrupt last line. Raises OSError."""
    block = b"".join(record.encode() + b"\n" for record in records)
    if not block:
        return
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, flags, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            block = b"\n" + block
        while block:
            block = block[os.write(handle, block) :]
    finally:
        os.close(handle)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """A whole stream written again, atomically: what a resumed writer begins from."""
    write_atomic(path, lambda stream: stream.write(b"".join(record.encode() + b"\n" for record in records)))


def read_records(path: Path, kind: type[R]) -> list[R]:
    """All whole lines of a stream; corrupt lines (a writer died, or is writing) are left out; empty where there is no file.

    Raises RecordError where it is no regular file, OSError where the disk does not give it."""
    try:
        lines = read_regular(path).split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for line in filter(None, lines):
        with contextlib.suppress(Exception):  # whatever a stranger's line makes of a parser
            records.append(kind.decode(line))
    return records
