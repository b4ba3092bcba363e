"""How the launchers of a world agree on where its ranks find each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cifar_hpc.distributed import rendezvous as module
from cifar_hpc.distributed.rendezvous import Rendezvous, Team
from cifar_hpc.distributed.store import StoreAddress, own_addresses, reachable, serve_store
from cifar_hpc.errors import Interrupted


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.01)


def _agree(folder, nodes: int = 2) -> tuple[list[Rendezvous], list[StoreAddress]]:
    launchers = [Rendezvous(folder, Team(1, place, nodes)) for place in range(nodes)]
    with ThreadPoolExecutor(nodes) as pool:
        return launchers, list(pool.map(lambda one: one.find_store(), launchers))


def _meet(addresses: list[StoreAddress]) -> bool:
    """Whether what one writes the others read."""
    first, *others = [address.open(len(addresses), 5.0) for address in addresses]
    first.set("word", "heard")
    return all(other.get("word") == b"heard" for other in others)


def test_launchers_meet_over_tcp_and_ask_the_file_system_for_no_lock(tmp_path):
    _, addresses = _agree(tmp_path, nodes=3)
    assert _meet(addresses) and all(address.file is None for address in addresses)
    assert not list(tmp_path.glob("store-*"))


def test_where_one_node_cannot_reach_the_first_all_take_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "reachable", lambda hosts, port: None)
    _, addresses = _agree(tmp_path)
    assert {address.file for address in addresses} == {tmp_path / "store-0"} and _meet(addresses)


@pytest.mark.parametrize("nodes", [1, 2])
def test_where_no_port_can_be_had_all_take_the_file(tmp_path, monkeypatch, nodes):
    monkeypatch.setattr(module, "serve_store", lambda **_: None)
    _, addresses = _agree(tmp_path, nodes)
    assert {address.file for address in addresses} == {tmp_path / "store-0"} and _meet(addresses)


def test_a_round_sees_nothing_of_the_round_before(tmp_path):
    (launcher,), (before,) = _agree(tmp_path, nodes=1)
    before.open(1, 5.0).set("word", "of round 0")
    launcher.begin_round()
    launcher.begin_round()
    assert not launcher.find_store().open(1, 5.0).check(["word"])


def test_a_launcher_that_waits_for_others_hears_an_interruption(tmp_path):
    with pytest.raises(Interrupted):
        Rendezvous(tmp_path, Team(1, 1, 2)).find_store(lambda: True)


def test_a_store_of_one_node_is_served_to_that_node_alone():
    served = serve_store(to_other_nodes=False)
    assert served is not None and reachable(["127.0.0.1"], served.port)
    others = [address for address in own_addresses() if not address.startswith("127.")]
    assert not reachable(others, served.port)
