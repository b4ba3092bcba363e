"""What the processes of jobs printed: which files these are, and their ends. Reads no more of a file than its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.records.layout import SweepFiles

END_BYTES = 64 * 1024
MOST_LETTERS = 160


def tail(path: Path, lines_n: int) -> tuple[list[str], bool]:
    """The last lines, at most so many, and whether lines stand before them. Raises OSError."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - END_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    cut = size > END_BYTES
    if cut:
        lines = lines[1:]  # its beginning is missing
    return lines[-lines_n:], cut or len(lines) > lines_n


def newest(paths: Sequence[Path]) -> list[Path]:
    """The logs of the job that printed last, one for each of its nodes: all that differ from the newest in the node alone."""
    if not paths:
        return []
    last = max(paths, key=_changed_at)
    job = last.name.rsplit("_", 2)[0]
    return [path for path in paths if path.parent == last.parent and path.name.rsplit("_", 2)[0] == job]


def last_words(sweep: SweepFiles, handle: str) -> str:
    """'; FILE ends: ModuleNotFoundError: ...' of the newest log of a job that is gone; nothing where it printed nothing."""
    for path in newest(sweep.task_logs(handle))[:1]:
        try:
            said = [line.strip() for line in tail(path, 20)[0] if line.strip() and not _is_frame(line)]
        except OSError:
            return ""
        if said:
            words = said[-1] if len(said[-1]) <= MOST_LETTERS else f"{said[-1][:MOST_LETTERS]}..."
            return f"; its log ends: {words}"
    return ""


def _is_frame(line: str) -> bool:
    """What srun and the batch script add about a process that ended: its own words stand before."""
    return line.startswith(("srun: ", "slurmstepd: ", "its processes ended with status"))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
