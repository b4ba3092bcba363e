"""`cifar-hpc report --watch`: the same report again while trials run. Renews it; computes nothing itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

POLL_EVERY_S = 10.0  # at the records; the page in a browser reloads as often


def watch(renew: Callable[[Any], tuple[Any, bool]]) -> None:
    """Calls renew(seen) until it says that no trial is to come, or Ctrl-C. It returns what it saw, given back at the next
    call so that it may skip what has not changed, and whether trials are still to come."""
    seen, coming = renew(None)
    while coming:
        time.sleep(POLL_EVERY_S)
        seen, coming = renew(seen)
