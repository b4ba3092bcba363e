"""The profile of a Slurm site: its keys, reading it, finding it. Holds what a spec must not: partitions, accounts, paths.

Knows nothing of jobs. A profile is read as strictly as a spec: every problem with its line, what is allowed and the nearest
right key.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar_hpc.config.keys import spec_key
from cifar_hpc.errors import CifarHpcError, Problem, SpecError, nearest
from cifar_hpc.spec.keyed import read_keys
from cifar_hpc.spec.problems import by_line
from cifar_hpc.spec.yaml_tree import YamlTree, read_yaml

PROFILE_VARIABLE = "CIFAR_HPC_PROFILE"
_FLAG = re.compile(r"[a-z][a-z-]*")
_OWNED_FLAGS = {  # sbatch flags that have a key, or that a sweep sets by itself
    "account": "account",
    "array": None,
    "constraint": "constraint",
    "dependency": None,
    "error": None,
    "gres": "gres",
    "job-name": None,
    "mail-type": "mail_type",
    "mail-user": "mail_user",
    "mem": None,
    "output": None,
    "partition": "gpu_partition or cpu_partition",
    "qos": "qos",
    "requeue": "requeue",
    "no-requeue": "requeue",
    "signal": "signal_s",
    "time": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmProfile:
    """How one site wants its jobs. Every key has a default: an empty profile takes what the cluster takes by itself."""

    name: str = "default"
    gpu_partition: str | None = spec_key("partition of jobs with a GPU; several with commas; null: the cluster's default", None)
    cpu_partition: str | None = spec_key("partition of jobs without a GPU; null: the cluster's default", None)
    account: str | None = spec_key("account that pays; null: your default", None)
    qos: str | None = spec_key("quality of service; null: your default", None)
    constraint: str | None = spec_key("features that a node must have, such as a100|h100", None)
    exclude: str | None = spec_key("nodes never to use, such as gpu[03,17]", None)
    gres: str | None = spec_key("how GPUs are asked for: gpu, or gpu:TYPE; null: this site has none", "gpu")
    setup: tuple[str, ...] = spec_key("shell lines before the job, such as module load cuda/12", ())
    environment: dict[str, str] = field(default_factory=dict, metadata={"doc": "variables of every job"})
    container: str | None = spec_key("command that stands before python, such as apptainer exec --nv image.sif", None)
    python: str | None = spec_key("python of the jobs; null: the one that submits", None)
    mail_user: str | None = spec_key("address that Slurm writes to", None)
    mail_type: str | None = spec_key("events that it writes of, such as FAIL", None)
    minutes: float = spec_key("time of a trial whose spec names none, minutes", 60.0, gt=0)
    max_minutes: float | None = spec_key("longest time limit that the partition grants, minutes; null: none", None, gt=0)
    job_minutes: float = spec_key("short trials are packed into jobs of about this length, minutes", 60.0, gt=0)
    memory_gb: float | None = spec_key("memory of a job whose spec names none, GB; null: the cluster's default", None, gt=0)
    share_gpus: bool = spec_key("whether trials that need a share of a GPU (resources.gpus below 1) run several at once", False)
    parallel: int | None = spec_key("most jobs of one array that run at once; null: no limit", None, ge=1)
    max_submit: int | None = spec_key("most jobs of yours in the queue at once; null: what Slurm says", None, ge=1)
    requeue: bool = spec_key("whether a job may put itself back into the queue to go on after its time limit", True)
    signal_s: int = spec_key("how long before the time limit a job begins to save, seconds", 120, ge=30)
    max_attempts: int = spec_key("starts of a trial after failures that are not its own (memory, node, no progress)", 3, ge=1)
    sbatch: dict[str, str | int | bool] = field(
        default_factory=dict, metadata={"doc": "further sbatch flags without their dashes"}
    )


def load_profile(path: Path) -> SlurmProfile:
    """Reads a profile. Raises SpecError with all its problems."""
    tree, _ = read_yaml(path)
    keys, problems = {}, _flag_problems(tree)
    try:
        keys = read_keys(tree, SlurmProfile, "profile")
    except SpecError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise SpecError(by_line(problems))
    profile = SlurmProfile(name=path.stem, **keys)
    if profile.max_minutes is not None and profile.max_minutes * 60 <= profile.signal_s:
        allowed = f"more than signal_s, {profile.signal_s} s: a job would begin to save before it begins to train"
        raise SpecError([Problem(tree.where(("max_minutes",)), f"{profile.max_minutes:g} minutes", allowed)])
    return profile


def find_profile(name: str | None) -> SlurmProfile | None:
    """The profile called `name` (or $CIFAR_HPC_PROFILE), or the only one there is; None where none is named and none found.

    `name` is a path, or the stem of a file in slurm/ or in the user's configuration folder. Raises CifarHpcError where the
    named one is not found, or where several could be meant.
    """
    wanted = name or os.environ.get(PROFILE_VARIABLE)
    known = {path.stem: path for folder in reversed(profile_folders()) for path in sorted(folder.glob("*.yaml"))}
    known.pop("example", None)
    if wanted is None:
        if len(known) > 1:
            raise CifarHpcError(f"several profiles: {', '.join(sorted(known))}; name one with --profile or ${PROFILE_VARIABLE}")
        return load_profile(next(iter(known.values()))) if known else None
    if wanted.endswith((".yaml", ".yml")):
        return load_profile(Path(wanted))
    if wanted not in known:
        near = nearest(wanted, known)
        hint = f" Did you mean {near!r}?" if near else ""
        places = " and ".join(str(folder) for folder in profile_folders())
        known_words = f"known: {', '.join(sorted(known))}" if known else "`cifar-hpc doctor` writes one"
        raise CifarHpcError(f"no profile {wanted!r} in {places}; {known_words}.{hint}")
    return load_profile(known[wanted])


def profile_folders() -> tuple[Path, Path]:
    """Where profiles lie: slurm/ of the working directory, then the user's configuration folder."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return Path("slurm"), config / "cifar-hpc" / "slurm"


def profile_text(keys: dict[str, Any], notes: Iterable[str] = ()) -> str:
    """A profile file with every key, its docstring and default as comments; `keys` are set, all others commented out."""
    lines = [f"# {note}" for note in notes]
    for f in dataclasses.fields(SlurmProfile):
        if f.metadata:
            default = {} if f.default is dataclasses.MISSING else f.default
            lines += ["", f"# {f.metadata['doc']}"]
            lines.append(f"{f.name}: {_yaml(keys[f.name])}" if f.name in keys else f"# {f.name}: {_yaml(default)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _flag_problems(tree: YamlTree) -> list[Problem]:
    problems = []
    flags = tree.value.get("sbatch") if isinstance(tree.value, dict) else None
    for flag in flags if isinstance(flags, dict) else ():
        where = tree.where(("sbatch", flag))
        if not _FLAG.fullmatch(flag):
            near = flag.lstrip("-")
            allowed = "an sbatch flag's long name without dashes before it"
            problems.append(Problem(where, f"the flag {flag!r}", allowed, near if _FLAG.fullmatch(near) else None))
        elif flag in _OWNED_FLAGS:
            key = _OWNED_FLAGS[flag]
            problems.append(Problem(where, f"the flag {flag!r}", f"use the key {key}" if key else "the sweep itself sets it"))
    return problems


def _yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return "[" + ", ".join(map(_yaml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
        case str() if not re.fullmatch(r"[A-Za-z][\w./-]*", value) or value in ("true", "false", "null"):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
