"""Something done again and again from a thread while a block runs. Owns: repeated. Knows not what is done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(do: Callable[[], float], first_s: float, name: str) -> Iterator[None]:
    """Calls `do` first_s seconds after the block begins, and again as many seconds later as it returns; the block's end waits
    for a call that is at work. name: of the thread."""
    stopped = threading.Event()

    def run() -> None:
        pause_s = first_s
        while not stopped.wait(pause_s):
            pause_s = do()

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
