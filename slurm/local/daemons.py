"""The processes of the local cluster: starts them, knows which live, ends them. Knows nothing of what they serve.

A daemon is remembered by its pid and the kernel's start time of it in root/run/<name>.pid, so that a pid used again by somebody
else is never killed. What the daemons started in turn is found by CLUSTER_VARIABLE in its environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CLUSTER_VARIABLE = "CIFAR_HPC_CLUSTER"
NODE_VARIABLE = "CIFAR_HPC_CLUSTER_NODE"


def wait_until(ready: Callable[[], object], timeout_s: float, what: str, interval_s: float = 0.02) -> None:
    """Raises TimeoutError where `ready` stays false."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not ready after {timeout_s:g} s")
        time.sleep(interval_s)


def port_answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Daemons:
    """The daemons under one root. die_with_parent: the kernel ends them when the starting process dies, whatever kills it."""

    def __init__(self, root: Path, environment: dict[str, str], die_with_parent: bool = False) -> None:
        self.root = root
        self.environment = environment
        self.die_with_parent = die_with_parent
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], **variables: str) -> None:
        with self._output(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                env={**self.environment, **variables},
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent if self.die_with_parent else None,
            )
        self._children[name] = child
        self._pid_file(name).write_text(json.dumps([child.pid, _stat(child.pid)[1]]))

    def wait_ready(self, name: str, ready: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Raises RuntimeError, with the end of its output, where the daemon ends first."""

        def check() -> object:
            code = self._children[name].poll()
            if code is not None:
                tail = self._output(name).read_text(errors="replace").splitlines()[-5:]
                raise RuntimeError(f"{name} ended with {code}:\n" + "\n".join(tail))
            return ready()

        wait_until(check, timeout_s, name)

    def pid(self, name: str) -> int | None:
        """The daemon's pid while it lives."""
        try:
            pid, started = json.loads(self._pid_file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if _stat(pid) == (True, started) else None

    def end(self, name: str, how: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> None:
        """Signals the daemon and waits; SIGKILL where it does not end in time."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, how)
            child = self._children.get(name)

            def ended() -> bool:
                return (child is not None and child.poll() is not None) or self.pid(name) is None

            try:
                wait_until(ended, timeout_s, f"end of {name}")
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                if child is not None:
                    child.wait()
        self._pid_file(name).unlink(missing_ok=True)

    def kill_strays(self, node: str | None = None) -> None:
        """SIGKILL to what a slurmd of this cluster (or of one node) started: steps and tasks outlive their slurmd."""
        ours = f"{CLUSTER_VARIABLE}={self.root}".encode()
        places = [f"{NODE_VARIABLE}={node or ''}".encode(), f"SLURMD_NODENAME={node or ''}".encode()]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours in variables and any(
                value == place if node else value.startswith(place) for value in variables for place in places
            ):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)

    def _pid_file(self, name: str) -> Path:
        return self.root / "run" / f"{name}.pid"

    def _output(self, name: str) -> Path:
        return self.root / "log" / f"{name}.out"


def _stat(pid: int) -> tuple[bool, str]:
    """Whether a process lives (a zombie does not), and the kernel's start time of it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return False, ""
    return fields[0] not in "ZX", fields[19]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
