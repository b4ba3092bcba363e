"""`report --serve` gives the report's own files to this machine, and nothing else to anybody."""

from __future__ import annotations

import http.client
import os
import socket
import urllib.request

import pytest

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.report import server
from cifar_hpc.report.server import serve


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "results" / "small" / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "index.html").write_text("the page")
    (folder / "figures" / "effects.svg").write_text("<svg/>")
    (folder / ".secret.svg").write_text("secret")
    (folder / "figures" / ".secret.svg").write_text("secret")
    (folder / "notes.txt").write_text("secret")
    (tmp_path / "secret.csv").write_text("secret")
    (folder / "leaderboard.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "tables").symlink_to(tmp_path)
    os.mkfifo(folder / "leaderboard.md")
    return folder


def _get(address: str, path: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.putrequest(method, path, skip_host=host is not None)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_and_its_files_are_served_fresh_and_a_taken_port_is_said(folder):
    with serve(folder, 0) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/") as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.read() == b"the page"
        assert _get(address, "/index.html?x=1") == (200, b"the page")
        assert _get(address, "/figures/effects.svg") == (200, b"<svg/>")
        assert _get(address, "/index.html", method="HEAD") == (200, b"")
        with pytest.raises(CifarHpcError, match="0 takes any free port"), serve(folder, int(address.split(":")[2])):
            pass


@pytest.mark.parametrize(
    "path",
    [
        "/figures/", "/figures", "/.secret.svg", "/figures/.secret.svg", "/notes.txt", "/leaderboard.csv", "/leaderboard.md",
        "/tables/secret.csv", "/../secret.csv", "/figures/../../../../secret.csv", "/figures/%2e%2e/index.html", "//etc/passwd",
        "/%00", "/index.html/", "/figures/effects.svg%0a",
    ],
)  # fmt: skip
def test_what_is_no_file_of_the_report_is_not_there(folder, path):
    with serve(folder, 0) as address:
        status, text = _get(address, path)
    assert status == 404 and b"secret" not in text.replace(path.encode(), b"")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:80", "localhost@evil.example"])
def test_a_page_of_another_site_gets_nothing(folder, host):
    with serve(folder, 0) as address:
        assert _get(address, "/", host or " ")[0] == 421
        for own in ("localhost:1234", "127.0.0.1", "[::1]:80"):
            assert _get(address, "/", own)[0] == 200


def test_a_client_that_goes_or_says_nothing_is_not_heard_of(folder, capfd, monkeypatch):
    monkeypatch.setattr(server._Handler, "timeout", 0.2)
    (folder / "figures" / "large.png").write_bytes(b"x" * 20_000_000)
    with serve(folder, 0) as address:
        port = int(address.split(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(b"GET /figures/large.png HTTP/1.1\r\nHost: localhost\r\n\r\n")
            gone.recv(10)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.settimeout(20)
            assert silent.recv(10) == b""  # closed by the server
        with socket.create_connection(("127.0.0.1", port)) as other:
            other.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert _get(address, "/")[0] == 200
    assert capfd.readouterr() == ("", "")
