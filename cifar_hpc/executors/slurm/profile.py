"""The profile of a Slurm site: its keys, reading it, finding it. Holds what a spec must not: partitions, accounts, paths.

Knows nothing of jobs. A profile is read as strictly as a spec: every problem with its line, what is allowed and the nearest
right key.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar_hpc.config.keys import spec_key
from cifar_hpc.errors import CifarHpcError, Problem, SpecError, did_you_mean, nearest
from cifar_hpc.spec.keyed import read_keys
from cifar_hpc.spec.problems import by_line
from cifar_hpc.spec.yaml_tree import YamlTree, read_yaml

PROFILE_VARIABLE = "CIFAR_HPC_PROFILE"
_FLAG = re.compile(r"[a-z][a-z-]*")
_GRES = re.compile(r"[A-Za-z]\w*(:[A-Za-z0-9][\w.+-]*)?")  # gpu, gpu:a100, gpu:1g.10gb
_GPU_KEYS = "gres, gpus and gpu shares of the profile, or resources.gpus of the spec"
_CPU_KEYS = "cpus_per_gpu of the profile, or resources.cpus_per_gpu of the spec"
_MEMORY_KEYS = "memory_gb or memory_per_gpu_gb of the profile, or resources.memory_gb of the spec"
_OWNED_FLAGS = {  # sbatch flags that have a key, or that a sweep sets by itself
    **{flag: flag for flag in ("account", "constraint", "exclude", "qos", "reservation", "licenses", "comment", "wckey")},
    **dict.fromkeys(("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu"), _GPU_KEYS),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), _CPU_KEYS),
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), _MEMORY_KEYS),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), "resources.nodes and resources.processes of the spec"),
    **dict.fromkeys(("cpu-bind", "gpu-bind", "mpi"), "srun"),
    **dict.fromkeys(("export", "export-file", "get-user-env"), "environment"),
    **dict.fromkeys(("requeue", "no-requeue"), "requeue"),
    "time": "minutes or max_minutes of the profile, or resources.minutes of the spec",
    "time-min": "time_min",
    **dict.fromkeys(("array", "dependency", "kill-on-invalid-dep", "error", "output", "input", "open-mode", "job-name"), None),
    **dict.fromkeys(
        ("chdir", "wrap", "parsable", "test-only", "wait", "wait-all-nodes", "clusters", "quiet", "ignore-pbs"), None
    ),
    "mail-type": "mail_type",
    "mail-user": "mail_user",
    "partition": "gpu_partition or cpu_partition",
    "signal": "signal_s",
}
_OWNED_SRUN = (
    "output",
    "error",
    "open-mode",
    "unbuffered",
    "nodes",
    "ntasks",
    "cpus-per-task",
    "export",
    "kill-on-bad-exit",
    "wait",
)
_BINDS = {  # the container's command -> its word before the image that takes a folder, and how a folder is written there
    "apptainer": ("exec", "--bind", "{0}"),
    "singularity": ("exec", "--bind", "{0}"),
    "podman": ("run", "--volume", "{0}:{0}"),
    "docker": ("run", "--volume", "{0}:{0}"),
    "ch-run": ("ch-run", "--bind", "{0}:{0}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteClass:
    """Jobs that a site treats apart: how large they may be, and what holds for them in place of the profile's own keys."""

    up_to_minutes: float | None = spec_key("jobs of at most so many minutes, which is then their limit; null: any", None, gt=0)
    up_to_gpus: int | None = spec_key("jobs of at most so many GPUs on each node; null: any", None, ge=0)
    up_to_nodes: int | None = spec_key("jobs of at most so many nodes; null: any", None, ge=1)
    up_to_memory_gb: float | None = spec_key("jobs of at most so much memory on each node, GB; null: any", None, gt=0)
    partition: str | None = spec_key("their partition", None)
    account: str | None = spec_key("account that pays for them", None)
    qos: str | None = spec_key("their quality of service", None)
    constraint: str | None = spec_key("features that their nodes must have", None)
    reservation: str | None = spec_key("reservation that they run in", None)
    gres: str | None = spec_key("how their GPUs are called", None)
    parallel: int | None = spec_key("most of them that run at once", None, ge=1)


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
    reservation: str | None = spec_key("reservation that jobs run in", None)
    licenses: str | None = spec_key("licences that a job holds, such as matlab:1", None)
    comment: str | None = spec_key("comment of every job", None)
    wckey: str | None = spec_key("workload characterization key of every job", None)
    gres: str | None = spec_key("how GPUs are called: gpu, gpu:TYPE, gpu:MIG_PROFILE; null: this site has none", "gpu")
    gpus: str = spec_key("the flag that asks for them", "gres", choices=("gres", "gpus-per-node", "gpus-per-task"))
    shards: int | None = spec_key(
        "shards that the site cuts a GPU into: a trial that needs a share of a GPU asks for so many of them; null: none",
        None,
        ge=2,
    )
    cpus_per_gpu: int | None = spec_key("least CPUs of a job for each of its GPUs; null: what the spec asks for", None, ge=1)
    memory_per_gpu_gb: float | None = spec_key(
        "memory of a job whose spec names none for each of its GPUs, GB; null: memory_gb", None, gt=0
    )
    setup: tuple[str, ...] = spec_key("shell lines before the job, such as module load cuda/12", ())
    environment: dict[str, str] = field(default_factory=dict, metadata={"doc": "variables of every job"})
    scratch: str | None = spec_key(
        "folder on each node's own disk, such as $TMPDIR, to which jobs copy images and weights once; null: none", None
    )
    container: str | None = spec_key("command that stands before python, such as apptainer exec --nv image.sif", None)
    binds: tuple[str, ...] = spec_key("folders that the container shows, beside that of the results: data, scratch", ())
    python: str | None = spec_key("python of the jobs; null: the one that submits", None)
    srun: dict[str, str | int | bool] = field(
        default_factory=dict, metadata={"doc": "srun flags without their dashes, such as cpu-bind: none, container-image: FILE"}
    )
    mail_user: str | None = spec_key("address that Slurm writes to", None)
    mail_type: str | None = spec_key("events that it writes of, such as FAIL", None)
    minutes: float = spec_key(
        "longest time of a trial whose spec names none, until epochs of trials like it were measured, minutes", 60.0, gt=0
    )
    max_minutes: float | None = spec_key("longest time limit that the partition grants, minutes; null: none", None, gt=0)
    job_minutes: float = spec_key("short trials are packed into jobs of about this length, minutes", 60.0, gt=0)
    time_min: bool = spec_key(
        "whether Slurm may give a job less time than it asks for (--time-min), where it begins earlier so", False
    )
    memory_gb: float | None = spec_key("memory of a job whose spec names none, GB; null: the cluster's default", None, gt=0)
    share_gpus: bool = spec_key("whether trials that need a share of a GPU (resources.gpus below 1) run several at once", False)
    mps: bool = spec_key("whether trials that share a GPU do so through NVIDIA's Multi-Process Service", False)
    parallel: int | None = spec_key("most jobs of one array that run at once; null: no limit", None, ge=1)
    max_submit: int | None = spec_key("most jobs of yours in the queue at once; null: what Slurm says", None, ge=1)
    requeue: bool = spec_key("whether a job may put itself back into the queue to go on after its time limit", True)
    signal_s: int = spec_key("how long before the time limit a job begins to save, seconds", 120, ge=30)
    max_attempts: int = spec_key(
        "starts of a trial that may come to nothing: time limit, memory, a dead process; a dead node counts none", 3, ge=1
    )
    sbatch: dict[str, str | int | bool] = field(
        default_factory=dict, metadata={"doc": "further sbatch flags without their dashes"}
    )
    classes: dict[str, SiteClass] = field(
        default_factory=dict,
        metadata={"doc": "jobs with keys of their own, by name: the first class that a job fits into has it; the rest none"},
    )

    @property
    def by_this_python(self) -> bool:
        """Whether jobs run with the Python that submits, and its packages: no other one, and no container by whichever key."""
        return self.python is None and self.container is None and not {"container", "container-image"} & set(self.srun)

    def container_command(self, results: Path) -> str | None:
        """What stands before python, with the folders that it shows."""
        folders = [str(results), *self.binds]
        return (bound(self.container, folders) or self.container) if self.container else None

    def class_of(self, *, nodes: int, gpus: float, memory_gb: float | None, minutes: float) -> str:
        """The first class that such a job fits into; '' for none. gpus, memory_gb: of each node."""
        for name, found in self.classes.items():
            bounds = (
                (found.up_to_nodes, nodes),
                (found.up_to_gpus, gpus),
                (found.up_to_memory_gb, memory_gb or 0.0),
                (found.up_to_minutes, minutes),
            )
            if all(most is None or size <= most for most, size in bounds):
                return name
        return ""

    def of_class(self, name: str) -> SlurmProfile:
        """The profile as it holds for the jobs of a class; '': for those of none."""
        if not name:
            return self
        found = self.classes[name]
        own: dict[str, Any] = {"max_minutes": found.up_to_minutes, "gpu_partition": found.partition}
        own["cpu_partition"] = found.partition
        own |= {key: getattr(found, key) for key in ("account", "qos", "constraint", "reservation", "gres", "parallel")}
        return dataclasses.replace(self, classes={}, **{key: value for key, value in own.items() if value is not None})


def load_profile(path: Path) -> SlurmProfile:
    """Reads a profile. Raises SpecError with all its problems."""
    tree, _ = read_yaml(path)
    keys, problems = {}, _flag_problems(tree)
    try:
        keys = read_keys(tree, SlurmProfile, "profile")
    except SpecError as error:
        problems = [*error.problems, *problems]
    if not problems:
        profile = SlurmProfile(name=path.stem, **keys)
        problems = _contradictions(profile, tree)
    if problems:
        raise SpecError(by_line(problems))
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
        places = " and ".join(str(folder) for folder in profile_folders())
        known_words = f"known: {', '.join(sorted(known))}" if known else "`cifar-hpc doctor` writes one"
        raise CifarHpcError(f"no profile {wanted!r} in {places}; {known_words}.{did_you_mean(near)}")
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


def bound(command: str, folders: Iterable[str]) -> str | None:
    """The container's command with the folders that it is to show; None where it is not known how it shows one."""
    words = shlex.split(command)
    place = next((n for n, word in enumerate(words) if Path(word).name in _BINDS), None)
    if place is None:
        return None
    word, flag, form = _BINDS[Path(words[place]).name]
    at = next((n for n in range(place, len(words)) if Path(words[n]).name == word), place)
    shown = [part for folder in dict.fromkeys(folders) for part in (flag, form.format(folder))]
    return shlex.join([*words[: at + 1], *shown, *words[at + 1 :]])


def _flag_problems(tree: YamlTree) -> list[Problem]:
    problems = []
    for section in ("sbatch", "srun"):
        flags = tree.value.get(section) if isinstance(tree.value, dict) else None
        for flag in flags if isinstance(flags, dict) else ():
            where = tree.where((section, flag))
            if not _FLAG.fullmatch(flag):
                near = flag.lstrip("-")
                allowed = f"the long name of a flag of {section}, without dashes before it"
                problems.append(Problem(where, f"the flag {flag!r}", allowed, near if _FLAG.fullmatch(near) else None))
            elif section == "srun" and flag in _OWNED_SRUN:
                problems.append(Problem(where, f"the flag {flag!r}", "the sweep itself sets it"))
            elif section == "sbatch" and flag in _OWNED_FLAGS:
                key = _OWNED_FLAGS[flag]
                allowed = (f"use {key}" if " " in key else f"use the key {key}") if key else "the sweep itself sets it"
                problems.append(Problem(where, f"the flag {flag!r}", allowed))
    return problems


def _contradictions(profile: SlurmProfile, tree: YamlTree) -> list[Problem]:
    """Keys that do not go together, or say what cannot be."""
    found: list[tuple[tuple[str, ...], str, str]] = []
    gres = [(("gres",), profile.gres), *((("classes", name, "gres"), one.gres) for name, one in profile.classes.items())]
    found += [
        (path, repr(name), "gpu or another GRES, with a colon its type: gpu:a100, gpu:1g.10gb; the number is the spec's")
        for path, name in gres
        if name is not None and not _GRES.fullmatch(name)
    ]
    limits: list[tuple[tuple[str, ...], float | None]] = [(("max_minutes",), profile.max_minutes)]
    limits += [(("classes", name, "up_to_minutes"), one.up_to_minutes) for name, one in profile.classes.items()]
    found += [
        (path, f"{n:g} minutes", f"more than signal_s, {profile.signal_s} s: a job would save before it trains")
        for path, n in limits
        if n is not None and n * 60 <= profile.signal_s
    ]
    if profile.gpus != "gres" and profile.gres is not None and profile.gres.split(":")[0] != "gpu":
        found.append((("gpus",), f"{profile.gpus} with gres {profile.gres}", "other GRES than gpu are asked for by gres"))
    if profile.shards and profile.share_gpus:
        found.append((("shards",), "shards with share_gpus: true", "Slurm shares a GPU by its shards, or a job does by itself"))
    if profile.mps and not profile.share_gpus:
        found.append((("mps",), "true without share_gpus: true", "it serves trials of one job that share a GPU"))
    if profile.binds and not (profile.container and bound(profile.container, ())):
        allowed = (
            f"they are folders that a container shows: {', '.join(_BINDS)}; others have flags of their own, as Pyxis in srun"
        )
        found.append((("binds",), f"binds with container {profile.container or 'null'}", allowed))
    open_ = [
        name
        for name, one in profile.classes.items()
        if (one.up_to_minutes, one.up_to_gpus, one.up_to_nodes, one.up_to_memory_gb) == (None,) * 4
    ]
    if any(name != list(profile.classes)[-1] for name in open_):
        found.append((("classes", open_[0]), "a class that takes any job, before others", "it stands last"))
    return [Problem(tree.where(path), what, allowed) for path, what, allowed in found]


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
        case SiteClass():
            return _yaml({f.name: kept for f in dataclasses.fields(value) if (kept := getattr(value, f.name)) is not None})
    return str(value)
