"""What a Slurm cluster says of itself: its configuration, its partitions, the limits of this user. Starts nothing.

Every figure that a cluster does not tell is None, never a guess.
"""

from __future__ import annotations

import contextlib
import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.profile import SlurmProfile

DEFAULT_ARRAY_SIZE = 1001


@dataclass(frozen=True, slots=True)
class Limits:
    """max_array_size: the largest index of an array is one less. room: jobs that may be added now; why: what bounds it."""

    max_array_size: int
    room: int | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Partition:
    """A line of sinfo. minutes: its longest time limit, None where it has none; gres: such as gpu:a100:4, of one node."""

    name: str
    is_default: bool
    minutes: float | None
    nodes: int
    cpus: int
    memory_gb: float
    gres: str | None

    @property
    def gpus(self) -> int:
        """GPUs of one node."""
        counts = [re.fullmatch(r"gpu(?::[^:(]+)?:(\d+)", part) for part in re.sub(r"\([^)]*\)", "", self.gres or "").split(",")]
        return sum(int(match[1]) for match in counts if match)


def read_config() -> Mapping[str, str]:
    """`scontrol show config` as a mapping. Raises SlurmError."""
    lines = (line.partition("=") for line in run_slurm(["scontrol", "show", "config"]).splitlines())
    return {key.strip(): value.strip() for key, sign, value in lines if sign}


def read_limits(profile: SlurmProfile) -> Limits:
    """The limits that hold now for this user under this profile. Raises SlurmError where Slurm does not answer."""
    config = read_config()
    size = _number(config.get("MaxArraySize")) or DEFAULT_ARRAY_SIZE
    bounds = [(bound, f"{bound} jobs (max_submit of the profile)") for bound in [profile.max_submit] if bound is not None]
    if count := _number(config.get("MaxJobCount")):
        bounds.append((count, f"{count} jobs (MaxJobCount of the cluster)"))
    if "slurmdbd" in config.get("AccountingStorageType", ""):
        bounds += _association_limits(profile)
    if not bounds:
        return Limits(size, None)
    bound, why = min(bounds)
    mine = len(run_slurm(["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i"]).splitlines())
    return Limits(size, max(0, bound - mine), f"{why}; {mine} are in the queue")


def read_partitions() -> list[Partition]:
    """Every partition that this user may see, the default one marked. Raises SlurmError."""
    partitions = []
    for line in run_slurm(["sinfo", "-h", "-o", "%P|%l|%D|%c|%m|%G"]).splitlines():
        name, limit, nodes, cpus, memory_mb, gres = (line.split("|") + [""] * 6)[:6]
        partitions.append(
            Partition(
                name=name.rstrip("*"),
                is_default=name.endswith("*"),
                minutes=parse_minutes(limit),
                nodes=_number(nodes) or 0,
                cpus=_number(cpus) or 0,
                memory_gb=(_number(memory_mb) or 0) / 1024,
                gres=None if gres in ("", "(null)") else gres,
            )
        )
    return partitions


def parse_minutes(text: str) -> float | None:
    """Slurm's [days-]hours:minutes:seconds or minutes:seconds; None for infinite, n/a and UNLIMITED."""
    days, dash, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    if dash:
        parts += ["0"] * (3 - len(parts))  # days-hours[:minutes[:seconds]]
    numbers = [0] * (3 - len(parts)) + [int(part) for part in parts]
    return int(days or 0) * 1440 + numbers[0] * 60 + numbers[1] + numbers[2] / 60


def _association_limits(profile: SlurmProfile) -> list[tuple[int, str]]:
    """Submit limits of this user's associations and of the QOS that would hold; none where sacctmgr does not tell."""
    found: list[tuple[int, str]] = []
    with contextlib.suppress(SlurmError):
        fields = "Account,MaxSubmitJobs,GrpSubmitJobs,DefaultQOS,QOS"
        command = ["sacctmgr", "-n", "-P", "show", "assoc", "where", f"user={getpass.getuser()}", f"format={fields}"]
        qos: set[str] = {profile.qos} if profile.qos else set()
        for line in run_slurm(command).splitlines():
            account, max_submit, group_submit, default_qos, all_qos = (line.split("|") + [""] * 5)[:5]
            if profile.account and account != profile.account:
                continue
            for text, key in ((max_submit, "MaxSubmitJobs"), (group_submit, "GrpSubmitJobs")):
                if (bound := _number(text)) is not None:
                    found.append((bound, f"{bound} jobs ({key} of account {account})"))
            if not profile.qos:
                qos.add(default_qos or all_qos.split(",")[0])
        for line in run_slurm(["sacctmgr", "-n", "-P", "show", "qos", "format=Name,MaxSubmitJobsPerUser"]).splitlines():
            name, _, text = line.partition("|")
            if name in qos and (bound := _number(text)) is not None:
                found.append((bound, f"{bound} jobs (MaxSubmitJobsPerUser of QOS {name})"))
    return found


def _number(text: str | None) -> int | None:
    """The leading whole number of text; None where there is none ('UNLIMITED', '(null)', '')."""
    match = re.match(r"\d+", (text or "").strip())
    return int(match[0]) if match else None
