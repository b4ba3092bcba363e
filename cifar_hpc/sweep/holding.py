"""One process at a time for what two must not do at once: running a search, submitting a sweep. Knows neither."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records import claims
from cifar_hpc.records.layout import SweepFiles
from cifar_hpc.records.schema import Claim
from cifar_hpc.records.store import read_record

POLL_EVERY_S = 0.5


@contextlib.contextmanager
def held(files: SweepFiles, does: str, wait_s: float = 0.0, told: Callable[[str], None] | None = None) -> Iterator[None]:
    """For this process alone while the block runs. does: what it does, after the owner's name, such as 'submits this sweep'.

    wait_s: how long to wait for a living owner to end; told: hears of it once. Raises CifarHpcError where it is still there.
    """
    driver, until = files.driver, time.monotonic() + wait_s
    while (claim := claims.claim_trial(driver, files.name, f"{files.name}/driver")) is None:
        owner = _owner(files)
        if time.monotonic() >= until:
            raise CifarHpcError(f"{files.name}: {owner} {does}, one at a time" + (f"; waited {wait_s:g} s" if wait_s else ""))
        if told is not None:
            told(f"{files.name}: waiting for {owner}, which {does}")
            told = None
        time.sleep(POLL_EVERY_S)
    try:
        with claims.heartbeat([driver.claim(claim.attempt)]):
            yield
    finally:
        claims.remove_claims(driver)
        with contextlib.suppress(OSError):
            driver.folder.rmdir()


def living_owner(files: SweepFiles) -> str | None:
    """Who has it now, 'process 12 on node7'; None where no living process has."""
    with contextlib.suppress(OSError, RecordError):
        owner = claims.newest_claim(files.driver)
        if owner is not None and claims.is_alive(owner, files.driver.claim(owner.attempt)):
            return _words(owner)
    return None


def _owner(files: SweepFiles) -> str:
    with contextlib.suppress(IndexError, OSError, RecordError):
        return _words(read_record(files.driver.claims()[-1], Claim))
    return "another process"


def _words(owner: Claim) -> str:
    return f"process {owner.pid} on {owner.host}"
