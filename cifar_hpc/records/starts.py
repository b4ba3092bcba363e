"""How earlier starts of a trial under a scheduler ended, and how many of them came to nothing.

Owns: which ends are the trial's own. Its time limit, and the death of its process, are; a preemption, a node that died,
`scontrol requeue` and `scancel` are not, and neither is a start that left a newer checkpoint. Asks no scheduler: what it still
remembers is handed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime

from cifar_hpc.errors import RecordError
from cifar_hpc.records.claims import is_alive
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.schema import Claim
from cifar_hpc.records.store import read_record

TIME, ASKED = "time", "asked"  # why a claim was released
TOKEN_PREFIX = "slurm/"


def task_of(token: str | None) -> str | None:
    """The array task in a claim's restart_token, as Slurm calls it; None away from Slurm. After it stands which of several
    processes of the task it was."""
    return token.removeprefix(TOKEN_PREFIX).partition("/")[0] if token and token.startswith(TOKEN_PREFIX) else None


def is_beside_others(token: str | None) -> bool:
    """Whether its process was one of several of an array task, which train at the same time."""
    return task_of(token) is not None and "/" in (token or "").removeprefix(TOKEN_PREFIX)


def earlier_claims(files: TrialFiles) -> list[Claim]:
    """Of attempts that are over, the newest first."""
    found = []
    for path in reversed(files.claims()):
        with contextlib.suppress(OSError, RecordError):
            claim = read_record(path, Claim)
            if not is_alive(claim, path):
                found.append(claim)
    return found


def fruitless_starts(layout: Layout, trial_id: str, died: Callable[[str], bool] = lambda task: False) -> int:
    """How many starts since the newest checkpoint ended by the trial's own doing. died: what the scheduler remembers of how a
    task ended."""
    files = layout.trial(trial_id)
    try:
        kept_at = files.checkpoint.stat().st_mtime
    except OSError:
        kept_at = 0.0
    count = 0
    for claim in earlier_claims(files):
        if _claimed_at(claim) <= kept_at:
            break
        if not claim.waits:  # else others trained in its place
            count += claim.ended == TIME or (claim.released_at is None and _died_by_itself(layout, claim, died))
    return count


def _died_by_itself(layout: Layout, claim: Claim, died: Callable[[str], bool]) -> bool:
    """Whether its process ended without a word while its batch script lived on, which noted that; a node takes both."""
    task = task_of(claim.restart_token)
    if task is None:
        return False
    began = _claimed_at(claim)
    for path in layout.sweep(claim.job.partition("/")[0]).task_ends(task):
        with contextlib.suppress(OSError, ValueError):
            if any(float(line.split()[0]) >= began - 1 for line in path.read_text().splitlines() if line.strip()):
                return True
    return died(task)


def _claimed_at(claim: Claim) -> float:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(claim.claimed_at).timestamp()
    return 0.0
