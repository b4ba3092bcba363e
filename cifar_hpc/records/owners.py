"""Whether who wrote a file still lives: its process where this one can see it, else the age of what it keeps touching.

Owns: the identity of a process, the file system's own clock, and the names of temporary files, which say whose they are. Knows
no record.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DEAD_AFTER_S = 120.0  # what was not touched for so long has no living owner
CLOCK_FRESH_S = 60.0  # so long a file system's clock is known without asking it again
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{12})-([0-9]+)-([0-9.]+)-[0-9a-f]{12}\.tmp")
_CLOCKS: dict[
    int, tuple[float, float]
] = {}  # device -> this process's monotonic time and the file system's time, seen together


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one machine. boot_id: see there; started: as pid_started says."""

    host: str
    boot_id: str
    pid: int
    started: float


def own_process() -> Process:
    return Process(socket.gethostname(), boot_id(), os.getpid(), pid_started(os.getpid()) or 0.0)


def lives(process: Process) -> bool | None:
    """Whether it still runs; None where this process cannot see: another host, another boot or container, a hidden /proc."""
    if (process.host, process.boot_id) != (socket.gethostname(), boot_id()):
        return None
    started = pid_started(process.pid)
    if started == 0.0 and process.started:
        return None
    return started == process.started


def is_touched(path: Path) -> bool:
    """Whether the file was written or touched within DEAD_AFTER_S by the clock of the file system that it lies on."""
    try:
        return file_system_now(path.parent) - path.stat().st_mtime < DEAD_AFTER_S
    except FileNotFoundError:
        return False
    except OSError:  # nothing is known of it: better to wait than to work beside its owner
        return True


def file_system_now(folder: Path) -> float:
    """The time by the clock that stamps files in the folder: a server's, on a share. This machine's where one may not write."""
    try:
        device = folder.stat().st_dev
        at, now = _CLOCKS.get(device, (0.0, 0.0))
        elapsed = time.monotonic() - at
        if now and elapsed < CLOCK_FRESH_S:
            return now + elapsed
        probe = temporary_for(folder / "clock")
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, b".")
            now = os.fstat(handle).st_mtime
        finally:
            os.close(handle)
            os.unlink(probe)
    except OSError:
        return time.time()
    _CLOCKS[device] = (time.monotonic(), now)
    return now


def temporary_for(path: Path) -> Path:
    """A name beside `path` that nobody has and that says whose it is."""
    own = own_process()
    return path.with_name(f".{path.name}.{machine_mark(own)}-{own.pid}-{own.started:.0f}-{secrets.token_hex(6)}.tmp")


def remove_left(folder: Path) -> None:
    """Removes the temporary files and folders in it whose writer was killed. Raises nothing: what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := _TEMPORARY.fullmatch(entry.name)) and not _is_at_work(found, Path(entry.path)):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)


def _is_at_work(found: re.Match[str], path: Path) -> bool:
    machine, pid, started = found.groups()
    own = own_process()
    alive = lives(Process(own.host, own.boot_id, int(pid), float(started))) if machine == machine_mark(own) else None
    return is_touched(path) if alive is None else alive


def machine_mark(process: Process) -> str:
    return hashlib.sha256(f"{process.host}/{process.boot_id}".encode()).hexdigest()[:12]


@cache
def boot_id() -> str:
    """The kernel's id of this boot, and of the namespace of pids that this process sees (a container's): in any other a pid
    means nothing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{re.sub('[^0-9]', '', str(Path('/proc/self/ns/pid').readlink()))}"
    except OSError:
        return "unknown"


def pid_started(pid: int) -> float | None:
    """The kernel's start time of a living process; None where it is gone or a zombie. 0.0 where it lives but cannot be seen:
    without /proc, or of another user where /proc hides those."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        with contextlib.suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except (ProcessLookupError, OverflowError):
                return None
        return 0.0
    return None if fields[0] in "ZX" else float(fields[19])
