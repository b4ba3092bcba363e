"""Writes that the disk refuses, in this process: counts the writes below a folder, says where each was asked for, refuses some.

A write is what Python hands to the system: opening for writing, writing, syncing, renaming, linking, making folders,
removing. What compiled code writes by itself is not seen. Knows nothing of commands and attacks.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FRAMES = 3  # of the program's own that tell one site from another
_PROGRAM = f"{os.sep}cifar_hpc{os.sep}"
_PATCHED = ("open", "write", "fsync", "replace", "rename", "link", "mkdir", "unlink", "remove", "rmdir", "close")


@dataclass(frozen=True)
class Refusal:
    """The nth write at a site fails with this errno; lasting: whatever is asked after it fails too."""

    site: str
    nth: int
    errno: int
    lasting: bool = False

    def __str__(self) -> str:
        return f"{errno.errorcode[self.errno]}{' from then on' * self.lasting} at the {self.nth}. {self.site}"


@dataclass
class Writes:
    """sites: of each write in its order, what was asked and by which lines of the program. refused: whether one was."""

    sites: list[str] = field(default_factory=list)
    refused: bool = False

    def ask(self, operation: str, path: Any, refusal: Refusal | None) -> None:
        site = f"{operation} < {_asked_by()}"
        self.sites.append(site)
        if refusal is None:
            return
        if (self.refused and refusal.lasting) or (site == refusal.site and self.sites.count(site) == refusal.nth):
            self.refused = True
            raise OSError(refusal.errno, os.strerror(refusal.errno), os.fspath(path))


def _asked_by() -> str:
    """The program's own innermost lines on the way here, innermost first."""
    found: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(found) < _FRAMES:  # type: ignore[redundant-expr]
        name = frame.f_code.co_filename
        if _PROGRAM in name:
            found.append(f"{name.rpartition(_PROGRAM)[2]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found) or "elsewhere"


@contextlib.contextmanager
def refusing(below: Path, refusal: Refusal | None = None) -> Iterator[Writes]:
    """Counts the writes below the folder while inside, and refuses those that it is told."""
    writes = Writes()
    inside = f"{below}{os.sep}"
    known: dict[int, str] = {}
    absolute = os.path.abspath  # no Path: it would follow links, and ask the system

    def is_inside(path: Any) -> bool:
        return absolute(os.fspath(path)).startswith(inside)

    def placed(path: Any, more: dict[str, Any]) -> str:
        """The path, of one in an open folder too."""
        folder = more.get("dir_fd")
        return absolute(os.fspath(path) if folder is None else f"{known.get(folder, '/')}{os.sep}{os.fspath(path)}")

    def ask(operation: str, path: Any) -> None:
        if is_inside(path):
            writes.ask(operation, path, refusal)

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            ask("write", path_of(self.name))
            return super().write(data)

    def path_of(file: Any) -> Any:
        return known.get(file, "/") if isinstance(file, int) else file

    originals: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in _PATCHED}
    original_open = io.open

    def os_open(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            ask("open", placed(path, more))
        handle: int = originals["open"](path, flags, *args, **more)
        known[handle] = placed(path, more)
        return handle

    def stream_open(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *args: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+") or not is_inside(path_of(file)):
            return original_open(file, mode, buffering, encoding, *args, **more)
        if not isinstance(file, int):
            ask("open", file)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd=more.get("closefd", True))
        if buffering == 0:
            return raw
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding or "utf-8", write_through=True)

    def asking(name: str, which: int) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            ask(name, path_of(args[which]) if isinstance(args[which], int) else placed(args[which], more))
            return originals[name](*args, **more)

        return call

    def close(handle: int) -> None:
        known.pop(handle, None)
        originals["close"](handle)

    patched = {name: asking(name, 1 if name in ("replace", "rename", "link") else 0) for name in _PATCHED}
    for name, call in {**patched, "open": os_open, "close": close}.items():
        setattr(os, name, call)
    io.open = builtins.open = stream_open
    try:
        yield writes
    finally:
        for name, call in originals.items():
            setattr(os, name, call)
        io.open = builtins.open = original_open
