"""This machine's speed, for the cost of a sweep before its first trial: measured once by a process of its own, then remembered.

Owns: the file that remembers it, one line a machine. What a cluster's nodes can do is not asked here: a login node is not one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from cifar_hpc.planning.estimate import Speed
from cifar_hpc.records.store import write_text
from cifar_hpc.spec.parts import Resources
from cifar_hpc.sweep.listener import Listener

ANSWER_S = 120.0  # of the process that measures: torch from a cold disk, and some seconds


def machine_speed(resources: Resources, listener: Listener) -> Speed | None:
    """None where it cannot be measured here. The first time on a machine it takes ten seconds; the listener hears of it."""
    gpus, threads = ("0" if resources.gpus == 0 else "auto"), resources.cpus_per_gpu
    key = machine_of(resources)
    known = _remembered()
    if key not in known:
        listener.note("measuring how fast this machine trains (about ten seconds, once)")
        command = [sys.executable, "-m", "cifar_hpc.worker.calibration", gpus, str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL)
            known[key] = json.loads(done.stdout.splitlines()[-1])["points"]
        except (OSError, subprocess.SubprocessError, ValueError, LookupError):
            return None
        with contextlib.suppress(OSError):
            speeds_file().parent.mkdir(parents=True, exist_ok=True)
            write_text(speeds_file(), json.dumps(known))
    try:
        return Speed.fitted([(float(s), float(flops), float(steps)) for s, flops, steps in known[key]])
    except (TypeError, ValueError):
        return None


def machine_of(resources: Resources) -> str:
    """This machine, as far as trials with these resources use it."""
    gpus = "0" if resources.gpus == 0 else "auto"
    return f"{socket.gethostname()} {os.cpu_count()} gpus={gpus} threads={resources.cpus_per_gpu}"


def speeds_file() -> Path:
    """In the cache of the user, not beside the data: that may lie on a file system of many machines."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cifar-hpc" / "speed.json"


def _remembered() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(speeds_file().read_text())
        return found if isinstance(found, dict) else {}
    return {}
