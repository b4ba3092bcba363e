"""`cifar-hpc report --watch` and `--serve`: the same report again while trials run. Renews it; computes nothing itself.

The server is the standard library's, bound to this machine's own address: from elsewhere one comes through ssh -L.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cifar_hpc.errors import CifarHpcError

LOOK_EVERY_S = 10.0  # at the records; the page in a browser reloads as often


def watch(renew: Callable[[Any], tuple[Any, bool]]) -> None:
    """Calls renew(seen) until it says that no trial is to come, or Ctrl-C. It returns what it saw, given back at the next
    call so that it may skip what has not changed, and whether trials are still to come."""
    seen, coming = renew(None)
    while coming:
        time.sleep(LOOK_EVERY_S)
        seen, coming = renew(seen)


@contextlib.contextmanager
def serve(root: Path, port: int) -> Iterator[str]:
    """Serves the folder's files, for reading, on 127.0.0.1 while the context lasts; gives the address. port 0: any free one."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Files, directory=str(root)))
    except OSError as error:
        raise CifarHpcError(f"--serve {port}: {error.strerror}; 0 takes any free port") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Files(SimpleHTTPRequestHandler):
    """Files as they are now: no copy in a browser's cache, and no line in the terminal for each request."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
