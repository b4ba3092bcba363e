"""What doctor's job runs on each of two nodes: one JSON line of what it finds. Alone it needs no package, of ours or another's.

Owns: the facts of one task. Usage: python probe_node.py FOLDER TASK DATA. The folder is in the results folder; the submitter
wrote `token` there. The tasks find each other by files in it; nothing is waited for longer than PATIENCE_S.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0


def _await(path: Path) -> str | None:
    """What stands there, once another task wrote it; None where it never comes into sight."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            return path.read_text()
        except OSError:
            time.sleep(0.1)
    return None


def _locks(folder: Path, task: int) -> str:
    """'yes' where a lock that the first task holds keeps the second from it, across nodes; else what came instead."""
    lock = folder / "lock"
    try:
        with lock.open("a") as stream:
            if task == 0:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / "held").write_text("held")
                return "yes" if _await(folder / "tried") is not None else "the other task did not come"
            if _await(folder / "held") is None:
                return "the other task did not come"
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "yes"
            return "no: two nodes hold it at once"
    except OSError as error:
        return f"no: {error.strerror}"
    finally:
        if task == 1:
            (folder / "tried").write_text("tried")


def _clock(folder: Path, task: int) -> float | None:
    """Seconds by which this node's clock is ahead of the file server's."""
    mark = folder / f"clock-{task}"
    before = time.time()
    try:
        mark.write_text("")
        return (before + time.time()) / 2 - mark.stat().st_mtime
    except OSError:
        return None


def _network() -> bool:
    try:
        socket.create_connection(("example.org", 443), timeout=5).close()
    except OSError:
        return False
    return True


def _torch() -> dict[str, Any]:
    began = time.monotonic()
    try:
        torch = importlib.import_module("torch")  # asked for by name: whether it is there is the question
        importlib.import_module("cifar_hpc")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {"torch": torch.__version__, "import_s": round(time.monotonic() - began, 1)}
    found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def main(folder: Path, task: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"task": task, "host": socket.gethostname(), "cpus": len(os.sched_getaffinity(0))}
    try:
        facts["token"] = (folder / "token").read_text()
        (folder / f"hello-{task}").write_text(facts["host"])
    except OSError as error:
        return {**facts, "token": None, "files": error.strerror or str(error)}
    facts["sees"] = _await(folder / f"hello-{1 - task}")
    facts["flock"] = _locks(folder, task)
    facts["clock_s"] = _clock(folder, task)
    return {**facts, "network": _network(), **_torch()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))), flush=True)
