"""The key-value store through which the processes of one world find each other: torch's, over TCP or as a file.

TCP wherever it can be: the first node's launcher serves, at a port that the system gives and at every IPv4 address that it has,
so that no name is resolved, no port agreed on, and nothing asked of the file system. A file is second best: it wants locks, and
some network file systems are mounted without. Owns: StoreAddress and its making. Knows no launchers and no rounds.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

CONNECT_S = 3.0  # for one address of the first node to answer
_GIVE_ADDRESS = 0x8915  # SIOCGIFADDR of Linux


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """host and port of a served store, or else the file. part: whose keys these are in a store that serves several rounds."""

    file: Path | None = None
    host: str = ""
    port: int = 0
    part: str = ""

    def of_round(self, number: int) -> StoreAddress:
        file = None if self.file is None else self.file.with_name(f"{self.file.name}-{number}")
        return replace(self, file=file, part=f"round-{number}")

    def open(self, size: int, timeout_s: float) -> Store:
        """The store, as one of `size` processes sees it. Raises RuntimeError where nobody serves it any more."""
        if self.file is not None:
            return FileStore(str(self.file), size)
        wait = datetime.timedelta(seconds=timeout_s)
        served = TCPStore(self.host, self.port, None, False, wait, wait_for_workers=False)
        return PrefixStore(self.part, served)


def serve_store(*, to_other_nodes: bool) -> TCPStore | None:
    """A store that this process serves for as long as the object lives, else to itself and its children alone; None where that
    cannot be."""
    with contextlib.suppress(RuntimeError, OSError):
        listening = socket.create_server(("" if to_other_nodes else "127.0.0.1", 0))
        port, descriptor = listening.getsockname()[1], listening.detach()
        wait = datetime.timedelta(seconds=60)
        return TCPStore("127.0.0.1", port, None, True, wait, wait_for_workers=False, master_listen_fd=descriptor)
    return None


def reachable(hosts: Iterable[str], port: int) -> str | None:
    """The first of the addresses that answers from here."""
    for host in hosts:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=CONNECT_S):
            return host
    return None


def own_addresses() -> list[str]:
    """Of this machine as others may see it: that of the interface that gloo is told to take, of the default route, then all
    others."""
    wanted = os.environ.get("GLOO_SOCKET_IFNAME")
    found = [address for address in (_address_of(wanted) if wanted else None, _outward_address()) if address]
    with contextlib.suppress(OSError):
        for _, name in socket.if_nameindex():
            if (address := _address_of(name)) and not address.startswith("127."):
                found.append(address)
    return list(dict.fromkeys(found))


def _outward_address() -> str | None:
    """Nothing is sent: the system says which address it would send from."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))  # of the block for documentation: nobody's
        return str(asked.getsockname()[0])
    return None


def _address_of(interface: str) -> str | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked.fileno(), _GIVE_ADDRESS, struct.pack("256s", interface.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    return None
