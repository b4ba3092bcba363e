"""A real terminal of a chosen size, for what people see: tmux holds it, and tells what stands on its screen."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence

import pytest

DEADLINE_S = 120.0  # until something appears: a loaded machine is slow


class Screen:
    def __init__(self, socket: str) -> None:
        self._tmux = ["tmux", "-L", socket, "-f", "/dev/null"]

    def run(self, *words: str) -> str:
        plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True, env=plain).stdout

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.run("capture-pane", "-p", "-S", "-").splitlines()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, *words: str) -> str:
        """The screen once it shows all these words."""
        end_s = time.monotonic() + DEADLINE_S
        while not all(word in (text := self.text) for word in words):
            assert time.monotonic() < end_s, f"not on the screen: {words}\n{text}"
            time.sleep(0.1)
        return text

    def press(self, key: str) -> None:
        self.run("send-keys", key)


@contextlib.contextmanager
def terminal(columns: int, rows: int, command: Sequence[str], environment: dict[str, str]) -> Iterator[Screen]:
    """The command in a terminal of that size; the screen stays until the block ends."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed here: nothing to show a terminal's screen with")
    screen = Screen(f"cifar-hpc-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    stay = f"{shlex.join(command)}; echo ended with $?; exec sleep 600"
    screen.run("new-session", "-d", "-x", str(columns), "-y", str(rows), *settings, stay)
    try:
        yield screen
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            screen.run("kill-server")
