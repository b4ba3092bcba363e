"""What the cluster's own accounting says that jobs took: one sacct for all jobs of a sweep. Knows no trials.

A cluster without accounting, or one that does not answer, says nothing: no figure of ours stands in for its.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.handles import job_of

FIELDS = "JobID,State,ElapsedRaw,AllocCPUS,AllocTRES"
_OPEN = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING")
_GPUS = re.compile(r"(?:^|,)gres/gpu(?P<kind>:[^=,]+)?=(?P<count>\d+)")


@dataclass(frozen=True, slots=True)
class Allocation:
    """One start of a job or array task, or one that waits for its first. job: the id of the job, or of the whole array; gpus:
    None where the cluster counts none, which is Slurm's default (AccountingStorageTRES)."""

    job: str
    state: str
    seconds: int
    cpus: int
    gpus: int | None

    @property
    def began(self) -> bool:
        return self.seconds > 0 or not self.state.startswith("PENDING")

    @property
    def ended(self) -> bool:
        return not self.state.startswith(_OPEN)


def read_allocations(job_ids: Iterable[str]) -> list[Allocation] | None:
    """Every start of these jobs and of their array tasks; None where there is no accounting or it does not answer."""
    ids = sorted(set(job_ids))
    if not ids:
        return []
    try:
        return parse_allocations(run_slurm(["sacct", "-n", "-P", "-X", "-D", "-j", ",".join(ids), "-o", FIELDS]))
    except SlurmError:
        return None


def parse_allocations(text: str) -> list[Allocation]:
    """Of sacct's lines; a line that is none is left out, as is a task that never began."""
    found = []
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) < 5 or not parts[2].isdigit() or not parts[3].isdigit():
            continue
        if int(parts[2]) or parts[1].startswith(_OPEN):
            found.append(Allocation(job_of(parts[0]), parts[1], int(parts[2]), int(parts[3]), _gpus(parts[4])))
    return found


def _gpus(tres: str) -> int | None:
    """Of 'billing=4,cpu=4,gres/gpu:a100=2,gres/gpu=2': the untyped count, else the typed ones added up."""
    counts = [(match["kind"], int(match["count"])) for match in _GPUS.finditer(tres)]
    untyped = [count for kind, count in counts if not kind]
    if not counts:
        return None
    return untyped[0] if untyped else sum(count for _, count in counts)
