"""What `cifar-hpc doctor` finds out: what a cluster says of itself, and what one short job on two nodes finds there.

Owns: the sentences on both, and which keys of a profile follow. Prints nothing. What runs on the nodes is `probe_node`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.executors.slurm import probe_node
from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.flags import cpus_of, memory_gb_of, sbatch_flags, srun_flags
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.site import Partition, read_limits
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import Layout, results_root

PROBE_MINUTES = 5
MEMORY_FRAC = 0.95  # of a node's memory that jobs may share: the rest is the system's
SKEW_S = 5.0  # beyond it what one node wrote looks as if it were of another time
SLOW_IMPORT_S = 30.0


def cluster_facts(config: Mapping[str, str]) -> list[str]:
    """What the configuration means for a sweep, a sentence each."""
    accounting = "slurmdbd" in config.get("AccountingStorageType", "")
    preempted = config.get("PreemptMode", "OFF")
    lines = [
        f"cluster {config.get('ClusterName', '?')}, Slurm {config.get('SLURM_VERSION', '?')}",
        f"MaxArraySize {config.get('MaxArraySize', '?')}, MaxJobCount {config.get('MaxJobCount', '?')}",
        f"accounting: {'yes' if accounting else 'no; how a job ended is known for ' + config.get('MinJobAge', '300 sec')}",
        f"requeue by default: {'yes' if config.get('JobRequeue') == '1' else 'no'}; preemption: {preempted}",
    ]
    if preempted not in ("OFF", "CANCEL") and "send_user_signal" not in config.get("SlurmctldParameters", ""):
        lines.append("a preempted job gets SIGTERM only: it saves, and Slurm starts it again")
    return lines


def gpu_types(partitions: Sequence[Partition]) -> Mapping[str, int]:
    """GPUs of the cluster by type, most first; a node in several partitions counts in each."""
    counts: dict[str, int] = {}
    for partition in partitions:
        for kind, n in partition.gpu_types.items():
            if kind:
                counts[kind] = counts.get(kind, 0) + n * partition.nodes
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def suggest(partitions: Sequence[Partition], gpu_type: str | None = None) -> dict[str, Any]:
    """Keys of a profile for these partitions: the default one, or the one with most GPUs; no GPUs anywhere: gres null.

    gpu_type: the only type of GPU to use; None: any. CPUs and memory are a GPU's share of its node.
    """
    ranked = sorted(partitions, key=lambda p: (not p.is_default, -p.nodes))
    with_gpus = [p for p in ranked if (p.gpu_types.get(gpu_type) if gpu_type else p.gpus)]
    keys: dict[str, Any] = {}
    if with_gpus:
        chosen = with_gpus[0]
        same = [p for p in with_gpus if p.name == chosen.name]
        keys["gpu_partition"] = chosen.name
        if gpu_type:
            keys["gres"] = f"gpu:{gpu_type}"
        keys["parallel"] = sum(p.nodes * (p.gpu_types[gpu_type] if gpu_type else p.gpus) for p in same)
        if (cpus := min(p.cpus // p.gpus for p in same)) >= 1:
            keys["cpus_per_gpu"] = cpus
        if (memory_gb := int(min(p.memory_gb * MEMORY_FRAC / p.gpus for p in same))) >= 1:
            keys["memory_per_gpu_gb"] = memory_gb
        if chosen.shards > chosen.gpus:
            keys["shards"] = chosen.shards // chosen.gpus
    else:
        keys["gres"] = None
    cpu_only = [partition for partition in ranked if not partition.gpus] or ranked
    if cpu_only:
        keys["cpu_partition"] = cpu_only[0].name
    limits = [p.minutes for p in (with_gpus[:1] or cpu_only[:1]) if p.minutes is not None]
    if limits:
        keys["max_minutes"] = limits[0]
    return keys


def grants_less_time(config: Mapping[str, str], profile: SlurmProfile) -> bool:
    """Whether the scheduler begins a job earlier that can do with less time, and sbatch takes the flag. Submits nothing."""
    if not config.get("SchedulerType", "").endswith("backfill"):
        return False
    gpus = 1 if profile.gres else 0
    flags = sbatch_flags(
        profile, nodes=1, gpus=gpus, cpus=cpus_of(profile, 1, gpus), memory_gb=memory_gb_of(profile, None, gpus)
    )
    flags |= {"time": PROBE_MINUTES, "time-min": 1}
    try:
        run_slurm(["sbatch", "--test-only", *_words(flags), "--wrap", "true"])
    except SlurmError:
        return False
    return True


def partition_text(partition: Partition) -> str:
    """One partition in a sentence."""
    longest = f"at most {partition.minutes:g} min" if partition.minutes is not None else "no time limit"
    gpus = f", {partition.gpus} GPUs ({partition.gres})" if partition.gpus else ", no GPU"
    default = " (default)" if partition.is_default else ""
    return (
        f"partition {partition.name}{default}: {partition.nodes} nodes of {partition.cpus} CPUs, "
        f"{partition.memory_gb:.0f} GB{gpus}; {longest}"
    )


def limits_text(profile: SlurmProfile) -> str:
    """How many jobs this user may still submit."""
    limits = read_limits(profile)
    return f"room for {limits.room} more jobs of yours: {limits.why}" if limits.room is not None else "no submit limit is told"


def probe(profile: SlurmProfile, nodes: int, wait_s: int) -> list[str]:
    """What one short job with two tasks, on two nodes where the partition has them, finds on results, locks, clocks, network
    and packages."""
    root = results_root()
    folder = root / f".probe-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    token = uuid.uuid4().hex
    (folder / "token").write_text(token)
    shutil.copy(probe_node.__file__, folder / "probe_node.py")
    partition = profile.gpu_partition if profile.gres else profile.cpu_partition
    try:
        handle = _send(profile, folder, min(nodes, 2))
    except SlurmError as error:
        shutil.rmtree(folder)
        return [f"probe: refused: {error}"]
    queue, end = SlurmQueue(Layout(root).queue), time.monotonic() + wait_s
    try:
        while time.monotonic() < end:
            answers = [facts for task in range(2) if (facts := _read_facts(folder / f"out-{task}")) is not None]
            if len(answers) == 2:
                return probe_text(answers, token, partition)
            seen = queue.look([handle], fresh_s=2)
            entry = seen.get(handle) if seen else None
            if seen is not None and (entry is None or (entry.job_state is JobState.GONE and entry.state != "COMPLETED")):
                outputs = sorted(folder.glob("out*"))
                said = [line for path in outputs for line in path.read_text(errors="replace").strip().splitlines()[-2:]]
                shared = "" if outputs else f"; nothing stands in {root}: is that folder shared with the nodes?"
                return [f"probe: ended without an answer ({entry.state if entry else 'gone'}) {' '.join(said)}{shared}"]
            time.sleep(1)
        reason = f" ({entry.state}, {entry.reason})" if entry else ""
        return [f"probe: no answer within {wait_s} s{reason}; it was cancelled"]
    finally:
        queue.cancel([handle])
        shutil.rmtree(folder, ignore_errors=True)


def _send(profile: SlurmProfile, folder: Path, nodes: int) -> str:
    gpus = 1 if profile.gres else 0
    flags = sbatch_flags(
        profile, nodes=nodes, gpus=gpus, cpus=cpus_of(profile, 1, gpus), memory_gb=memory_gb_of(profile, None, gpus)
    )
    written = str(folder).replace("%", "%%")
    flags |= {"ntasks-per-node": 2 // nodes, "time": PROBE_MINUTES, "output": f"{written}/out"}
    python = profile.python or shlex.quote(sys.executable)
    python = f"{profile.container_command(folder.parent) or ''} {python}".strip()
    srun = shlex.join(["srun", f"--output={written}/out-%t", *srun_flags(profile)])
    task = f"{python} {shlex.quote(str(folder / 'probe_node.py'))} {shlex.quote(str(folder))} $SLURM_PROCID"
    lines = ["export SLURM_EXPORT_ENV=ALL", *profile.setup, f"{srun} bash -c {shlex.quote('exec ' + task)}"]
    command = ["sbatch", "--parsable", "-J", "cifar-hpc-doctor", *_words(flags), "--wrap", "\n".join(lines)]
    return run_slurm(command).strip().split(";")[0]


def _words(flags: Mapping[str, str | int | bool]) -> list[str]:
    return [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in flags.items()]


def _read_facts(out: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(out.read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
    return facts if isinstance(facts, dict) else None


def probe_text(answers: Sequence[Mapping[str, Any]], token: str, partition: str | None) -> list[str]:
    """What the two tasks found, a sentence each. token: what stands in the folder where it is the same one."""
    hosts = list(dict.fromkeys(facts["host"] for facts in answers))
    lines = [f"probe: two tasks on {' and '.join(hosts)} (partition {partition or 'default'}), {answers[0]['cpus']} CPUs each"]
    lines.append(f"results folder {results_root()}: {_shared(answers, token)}")
    if len(hosts) > 1:
        lines.append(f"file locks hold across nodes: {answers[1].get('flock', 'not tried')}")
    if (clocks := _clocks(answers)) is not None:
        lines.append(clocks)
    if tried := [facts["network"] for facts in answers if "network" in facts]:
        lines.append(f"nodes reach the network: {'yes' if all(tried) else 'no; fetch data and weights here before a sweep'}")
    return [*lines, *dict.fromkeys(_torch_text(facts) for facts in answers)]


def _shared(answers: Sequence[Mapping[str, Any]], token: str) -> str:
    blind = [facts["host"] for facts in answers if facts["token"] != token]
    if blind:
        return f"NOT the same folder on {' and '.join(blind)}: choose a shared one"
    if any(facts.get("sees") is None for facts in answers):
        return "the nodes see it, but NOT what another node writes there: choose another one"
    return "shared with the nodes"


def _clocks(answers: Sequence[Mapping[str, Any]]) -> str | None:
    ahead = [facts["clock_s"] for facts in answers if facts.get("clock_s") is not None]
    worst = max(ahead, key=abs, default=None)
    if worst is None:
        return None
    how = "too much: times in logs and claims mislead; the site's NTP is at fault" if abs(worst) > SKEW_S else "which is enough"
    return f"clocks agree with the file server within {abs(worst):.1f} s, {how}"


def _torch_text(facts: Mapping[str, Any]) -> str:
    if "error" in facts:
        return f"python on {facts['host']} cannot import cifar_hpc and torch: {facts['error']}"
    if "torch" not in facts:
        return f"nothing is known of python on {facts['host']}: it does not see the results folder ({facts.get('files', '')})"
    gpus = ", ".join(facts["gpus"]) or "no GPU"
    slow = " (slow: put the environment on a faster file system)" if facts["import_s"] > SLOW_IMPORT_S else ""
    return f"torch {facts['torch']}, imported in {facts['import_s']:g} s{slow}, sees {gpus}"
