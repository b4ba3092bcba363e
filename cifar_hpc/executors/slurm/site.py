"""What a Slurm cluster says of itself: its configuration, its partitions, the limits of this user. Starts nothing.

Every figure that a cluster does not tell is None, never a guess.
"""

from __future__ import annotations

import contextlib
import getpass
import re
from collections.abc import Mapping, Sequence
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
        return sum(self.gpu_types.values())

    @property
    def gpu_types(self) -> Mapping[str, int]:
        """GPUs of one node by type, MIG profiles among them; '' where the site names none."""
        return _counts("gpu", self.gres)

    @property
    def shards(self) -> int:
        """Shards of all GPUs of one node; 0 where the site cuts none."""
        return sum(_counts("shard", self.gres).values())


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
        bounds += _association_limits(profile, config.get("ClusterName"))
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


def _counts(name: str, gres: str | None) -> dict[str, int]:
    """Of one GRES by type: gpu:a100:4(S:0-1),gpu:2,gpu:1g.10gb:7(IDX:0-6),gpu:no_consume:1 -> {a100: 4, '': 2, 1g.10gb: 7}."""
    found: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", gres or "").split(","):
        match = re.fullmatch(rf"{name}(?::([^:]+))??(?::(\d+))?", part.strip())
        if match and match[1] != "no_consume":
            found[match[1] or ""] = found.get(match[1] or "", 0) + int(match[2] or 1)
    return found


def _association_limits(profile: SlurmProfile, cluster: str | None) -> list[tuple[int, str]]:
    """Submit limits of the account that pays, on this cluster, and of the QOS that would hold; none where sacctmgr does not
    tell."""
    found: list[tuple[int, str]] = []
    with contextlib.suppress(SlurmError):
        user = getpass.getuser()
        where = [f"user={user}", *([f"cluster={cluster}"] if cluster else [])]
        fields = ("Account", "Partition", "MaxSubmitJobs", "GrpSubmitJobs", "DefaultQOS", "QOS")
        rows = [dict(zip(fields, row, strict=False)) for row in _sacctmgr("assoc", where, fields)]
        account = profile.account or _default_account(user, rows)
        mine = [row for row in rows if row["Account"] == account] or ([] if profile.account else rows)
        partitions = (profile.gpu_partition or profile.cpu_partition or "").split(",")
        own = [row for row in mine if row["Partition"] in partitions] or [row for row in mine if not row["Partition"]] or mine
        qos: set[str] = {profile.qos} if profile.qos else set()
        for row in own:
            for key in ("MaxSubmitJobs", "GrpSubmitJobs"):
                if (bound := _number(row[key])) is not None:
                    found.append((bound, f"{bound} jobs ({key} of account {row['Account']})"))
            if not profile.qos:
                qos.add(row["DefaultQOS"] or row["QOS"].split(",")[0])
        for name, per_user, group in _sacctmgr("qos", [], ("Name", "MaxSubmitJobsPerUser", "GrpSubmitJobs")):
            bounds = {"MaxSubmitJobsPerUser": _number(per_user), "GrpSubmitJobs": _number(group)}
            found += [(n, f"{n} jobs ({key} of QOS {name})") for key, n in bounds.items() if name in qos and n is not None]
    return found


def _default_account(user: str, rows: Sequence[Mapping[str, str]]) -> str | None:
    """The account that pays where a job names none. One account needs no question."""
    accounts = {row["Account"] for row in rows}
    if len(accounts) < 2:
        return next(iter(accounts), None)
    told = _sacctmgr("user", [f"name={user}"], ("DefaultAccount",))
    return told[0][0] if told and told[0][0] in accounts else None


def _sacctmgr(entity: str, where: Sequence[str], fields: Sequence[str]) -> list[list[str]]:
    """Rows of `sacctmgr show`, each with all the fields. Raises SlurmError."""
    command = ["sacctmgr", "-n", "-P", "show", entity, *(["where", *where] if where else []), f"format={','.join(fields)}"]
    lines = run_slurm(command).splitlines()
    return [(line.split("|") + [""] * len(fields))[: len(fields)] for line in lines if line.strip()]


def _number(text: str | None) -> int | None:
    """The leading whole number of text; None where there is none ('UNLIMITED', '(null)', '')."""
    match = re.match(r"\d+", (text or "").strip())
    return int(match[0]) if match else None
