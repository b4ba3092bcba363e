"""The race between sources: slow ones are overtaken, the right sum wins, a closed network is told, a cut transfer goes on."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torchvision.datasets

from cifar_hpc.data import hosts
from cifar_hpc.data.official import SUMS
from cifar_hpc.download import race as racing
from cifar_hpc.download.address import AddressSource, mirror_source
from cifar_hpc.download.files import work_folder
from cifar_hpc.download.race import race
from cifar_hpc.errors import DataError

BODY = bytes(range(256)) * 4000  # 1 MB
SUM = "sha256:" + hashlib.sha256(BODY).hexdigest()
SLOW_BYTES_PER_S = 70_000  # what CIFAR-10's official host gives


class _Server(http.server.BaseHTTPRequestHandler):
    """/fast, /slow (70 kB/s), /wrong, /cut (a fifth of it, then a closed connection, as long as no range is asked for)."""

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append((self.path, start))
        body = (BODY[:-1] + b"x" if self.path == "/wrong" else BODY)[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/cut" and not start:
            body = body[: len(body) // 5]
        step = SLOW_BYTES_PER_S // 20 if self.path == "/slow" else len(body)
        try:
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                if self.path == "/slow":
                    time.sleep(0.05)
        except OSError:  # the one who was slow is left
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _source(server, path: str) -> AddressSource:
    return AddressSource(path, [(f"http://127.0.0.1:{server.server_port}/{path}", "file.bin", SUM)])


def _race(sources, tmp_path):
    said: list[str] = []
    winner, files = race(sources, tmp_path, "file.bin", said.append, "bring it by hand")
    assert [path.read_bytes() for path in files] == [BODY]
    return winner.title, said


def test_a_source_of_70_kb_per_second_is_overtaken_and_the_first_whole_file_wins(server, tmp_path, monkeypatch):
    monkeypatch.setattr(racing, "SLOW_AFTER_S", 0.3)
    monkeypatch.setattr(racing, "TELL_S", (0.1, 0.1, 0.1))
    winner, said = _race([_source(server, "slow"), _source(server, "fast")], tmp_path)
    assert winner == "fast"
    assert server.asked == [("/slow", 0), ("/fast", 0)]
    assert any("of 1.0 MB" in line and "MB/s" in line and "left (slow)" in line for line in said)  # the rate and the time left
    assert any("slow; asking fast beside it" in line for line in said)


def test_a_fast_source_is_left_alone(server, tmp_path):
    winner, _ = _race([_source(server, "fast"), _source(server, "slow")], tmp_path)
    assert winner == "fast"
    assert server.asked == [("/fast", 0)]


def test_a_source_with_another_sum_loses_and_is_named(server, tmp_path):
    winner, said = _race([_source(server, "wrong"), _source(server, "fast")], tmp_path)
    assert winner == "fast"
    assert any("wrong: sent something else: file.bin.part is corrupt" in line for line in said)


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(server, tmp_path):
    with pytest.raises(DataError, match="the next fetch goes on from there"):
        race([_source(server, "cut")], tmp_path, "file.bin", print, "")
    winner, _ = _race([_source(server, "cut")], tmp_path)
    assert winner == "cut"
    assert server.asked == [("/cut", 0), ("/cut", len(BODY) // 5)]


def test_no_network_is_told_with_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(racing, "ANSWER_S", 0.05)
    monkeypatch.setattr(racing, "UNREACHABLE_S", 0.3)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        sources = [AddressSource(title, [(address, "x", SUM)]) for title in ("one", "two")]
        with pytest.raises(DataError, match=r"one: no answer within 0 s\n  - two: no answer"):
            race(sources, tmp_path, "x", said.append, "put x here")
        patient = replace(sources[0], title="a client", patient=True)
        thread = threading.Thread(target=lambda: _ended(race, [patient], tmp_path, "x", said.append, "put x here"), daemon=True)
        thread.start()
        while not said:
            thread.join(0.05)
    assert said[0] == "x: nothing has answered yet; is there a network? Without one: put x here"


def _ended(call, *arguments) -> None:
    with pytest.raises(DataError):
        call(*arguments)


def test_a_mirror_may_be_a_folder(tmp_path, monkeypatch):
    (tmp_path / "mirror" / "cifar10").mkdir(parents=True)
    (tmp_path / "mirror" / "cifar10" / "file.bin").write_bytes(BODY)
    monkeypatch.setenv("CIFAR_HPC_MIRROR", str(tmp_path / "mirror"))
    assert _race(mirror_source("cifar10", [("file.bin", SUM)]), tmp_path / "work")[0] == "$CIFAR_HPC_MIRROR"
    assert hosts.sources_of("mnist")[0].title == "$CIFAR_HPC_MIRROR"


def test_what_a_killed_fetch_left_is_removed_but_for_what_can_be_gone_on_with(tmp_path):
    (tmp_path / "source-1" / "tmp-abc").mkdir(parents=True)
    (tmp_path / "source-1" / "file.bin.part").write_bytes(b"half")
    with work_folder(tmp_path, "x", print):
        assert [path.name for path in (tmp_path / "source-1").iterdir()] == ["file.bin.part"]


def test_hosts_and_sums_are_those_of_torchvision_and_every_data_set_has_several():
    for name, theirs in (("cifar10", torchvision.datasets.CIFAR10), ("cifar100", torchvision.datasets.CIFAR100)):
        ours = hosts.SERVED[name]
        assert ours.hosts[0][1].format(file=theirs.filename) == theirs.url
        assert ours.files == {theirs.filename: f"md5:{theirs.tgz_md5}"}
    for name, theirs in (("mnist", torchvision.datasets.MNIST), ("fashion_mnist", torchvision.datasets.FashionMNIST)):
        assert hosts.SERVED[name].hosts[0][1].removesuffix("{file}") in theirs.mirrors
        assert hosts.SERVED[name].files == {file: f"md5:{md5}" for file, md5 in theirs.resources}
    assert all(len(hosts.sources_of(name)) > 1 for name in SUMS)
