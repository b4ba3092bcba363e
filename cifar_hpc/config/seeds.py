"""The seeds of the named random streams: every draw of a trial comes from one of them, whatever trains beside it."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, purpose: str, *counters: int) -> int:
    """The seed, 0..2**63-1, of one named random stream, such as stream_seed(seed, 'augment', epoch, step)."""
    text = f"{seed}/{purpose}/" + "/".join(map(str, counters))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
