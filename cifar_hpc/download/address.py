"""A source that is an address: a server, or a folder that this machine sees. Goes on where an earlier fetch was cut off."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.download.files import wrong_sum
from cifar_hpc.download.race import Progress
from cifar_hpc.errors import DataError

STALL_S = 30  # a transfer that brings nothing for so long is given up; the next fetch goes on from there
MIRROR = "CIFAR_HPC_MIRROR"
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class AddressSource:
    """files: (address, name of the file, its sum)."""

    title: str
    files: Sequence[tuple[str, str, str]]
    patient: bool = False

    def bring(self, folder: Path, progress: Progress) -> tuple[Path, ...]:
        return tuple(_bring(address, folder / name, total, progress) for address, name, total in self.files)


def mirror_source(folder: str, files: Sequence[tuple[str, str]]) -> tuple[AddressSource, ...]:
    """The user's own copy, which is asked first: $CIFAR_HPC_MIRROR/<folder>/<name>, an address or a folder of this machine."""
    base = os.environ.get(MIRROR)
    if not base:
        return ()
    if "://" not in base:
        base = Path(base).expanduser().absolute().as_uri()
    addresses = [(f"{base.rstrip('/')}/{folder}/{name}", name, total) for name, total in files]
    return (AddressSource(f"${MIRROR}", addresses),)


def _bring(address: str, target: Path, total: str, progress: Progress) -> Path:
    if target.is_file() and wrong_sum(target, total) is None:
        return target
    part = target.with_name(target.name + ".part")
    _transfer(address, part, progress)
    progress.still_wanted()
    if why := wrong_sum(part, total):
        part.unlink()
        raise DataError(f"{address}: sent something else: {why}")
    os.replace(part, target)
    return target


def _transfer(address: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "cifar-hpc", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=STALL_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise DataError(f"{address}: {error}") from error
        return  # all of it is there already
    except urllib.error.URLError as error:
        raise DataError(f"{address}: {error.reason}") from error
    with response:
        progress.answered = True
        resumed = getattr(response, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        before = progress.done_bytes  # of the files that came first
        at = have if resumed else 0
        progress.total_bytes = before + at + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read1(_CHUNK) if hasattr(response, "read1") else response.read(_CHUNK):
                progress.still_wanted()
                file.write(chunk)
                at += len(chunk)
                progress.done_bytes = before + at
        if length and at < int(length) + (have if resumed else 0):
            raise ConnectionError(f"{address}: cut off after {at} bytes; the next fetch goes on from there")
