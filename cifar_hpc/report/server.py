"""One report on this machine's own address, for a browser: the files that a report consists of, and nothing else.

From elsewhere one comes through `ssh -L`. Any other path, a link, a dot file, a listing, another site's name in Host: refused.
Knows nothing of what the files say.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cifar_hpc.errors import CifarHpcError

TIMEOUT_S = 10.0  # for a client that opens a connection and says nothing
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+=,-]{0,127}"
_FILES = re.compile(
    rf"index\.html|leaderboard\.(csv|md)|figures/{_PART}\.(png|svg)|tables/{_PART}\.(csv|md)|ensembles/{_PART}\.json"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)  # any port: a tunnel has its own


@contextlib.contextmanager
def serve(folder: Path, port: int) -> Iterator[str]:
    """Serves the report in `folder` on 127.0.0.1 while the context lasts; gives the address. port 0: any free one."""
    try:
        server = _Server(("127.0.0.1", port), type("_Bound", (_Handler,), {"folder": folder}))
    except (OSError, OverflowError) as error:
        raise CifarHpcError(f"--serve {port}: {getattr(error, 'strerror', error)}; 0 takes any free port") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes, or sends what is no HTTP, is nothing to tell the person of."""


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    timeout = TIMEOUT_S
    server_version, sys_version = "cifar-hpc", ""

    def do_GET(self) -> None:
        data = self._answer()
        if data is not None:
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> bytes | None:
        if not _HOSTS.fullmatch(self.headers.get("Host", "")):  # a page of another site, whose name leads here
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        data = _read(self.folder, name) if _FILES.fullmatch(name) else None
        if data is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[Path(name).suffix])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """No line in the terminal for each request."""


def _read(folder: Path, name: str) -> bytes | None:
    """The regular file of that name below the folder, reached through no link; None where there is none."""
    handles: list[int] = []
    try:
        handles.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for part in name.split("/"):
            handles.append(os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handles[-1]))
        if not stat.S_ISREG(os.fstat(handles[-1]).st_mode):
            return None
        with os.fdopen(handles[-1], "rb", closefd=False) as stream:
            return stream.read()
    except OSError:
        return None
    finally:
        for handle in handles:
            os.close(handle)
