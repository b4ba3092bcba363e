"""What `cifar-hpc doctor` finds out: what a cluster says of itself, and what one short job there finds.

Owns: the sentences on both, and which keys of a profile follow. Prints nothing; the job that it sends needs no package of ours.
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

from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.site import Partition, read_limits
from cifar_hpc.records.layout import Layout, results_root

PROBE = """\
import json, socket, sys
from pathlib import Path
facts = {"host": socket.gethostname(), "token": Path(sys.argv[1]).read_text() if Path(sys.argv[1]).exists() else None}
try:
    socket.create_connection(("example.org", 443), timeout=5).close()
    facts["network"] = True
except OSError:
    facts["network"] = False
try:
    import cifar_hpc, torch
    facts["torch"], facts["gpus"] = torch.__version__, torch.cuda.device_count()
except Exception as error:
    facts["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""


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


def suggest(partitions: Sequence[Partition]) -> dict[str, Any]:
    """Keys of a profile for these partitions: the default one, or the one with most GPUs; no GPUs anywhere: gres null."""
    ranked = sorted(partitions, key=lambda p: (not p.is_default, -p.nodes))
    with_gpus = [partition for partition in ranked if partition.gpus]
    keys: dict[str, Any] = {}
    if with_gpus:
        chosen = with_gpus[0]
        same = [partition for partition in partitions if partition.name == chosen.name]
        keys["gpu_partition"] = chosen.name
        keys["parallel"] = sum(partition.nodes * partition.gpus for partition in same)
    else:
        keys["gres"] = None
    cpu_only = [partition for partition in ranked if not partition.gpus] or ranked
    if cpu_only:
        keys["cpu_partition"] = cpu_only[0].name
    limits = [p.minutes for p in (with_gpus[:1] or cpu_only[:1]) if p.minutes is not None]
    if limits:
        keys["max_minutes"] = limits[0]
    return keys


def partition_text(partition: Partition) -> str:
    longest = f"at most {partition.minutes:g} min" if partition.minutes is not None else "no time limit"
    gpus = f", {partition.gpus} GPUs ({partition.gres})" if partition.gpus else ", no GPU"
    default = " (default)" if partition.is_default else ""
    return (
        f"partition {partition.name}{default}: {partition.nodes} nodes of {partition.cpus} CPUs, "
        f"{partition.memory_gb:.0f} GB{gpus}; {longest}"
    )


def limits_text(profile: SlurmProfile) -> str:
    limits = read_limits(profile)
    return f"room for {limits.room} more jobs of yours: {limits.why}" if limits.room is not None else "no submit limit is told"


def probe(profile: SlurmProfile, wait_s: int) -> list[str]:
    """One short job that reads a file of the results folder, imports the package and tries the network."""
    root = results_root()
    folder = root / f".probe-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    token = uuid.uuid4().hex
    (folder / "token").write_text(token)
    (folder / "probe.py").write_text(PROBE)
    partition = profile.gpu_partition if profile.gres else profile.cpu_partition
    flags = {"partition": partition, "account": profile.account, "qos": profile.qos, "constraint": profile.constraint}
    flags |= {"gres": f"{profile.gres}:1" if profile.gres else None, "time": "5", "output": str(folder / "out")}
    python = f"{profile.container or ''} {profile.python or shlex.quote(sys.executable)}".strip()
    lines = [*profile.setup, f"{python} {shlex.quote(str(folder / 'probe.py'))} {shlex.quote(str(folder / 'token'))}"]
    command = ["sbatch", "--parsable", "-J", "cifar-hpc-doctor", *(f"--{key}={value}" for key, value in flags.items() if value)]
    try:
        handle = run_slurm([*command, "--wrap", "\n".join(lines)]).strip().split(";")[0]
    except SlurmError as error:
        shutil.rmtree(folder)
        return [f"probe: refused: {error}"]
    queue, out, end = SlurmQueue(Layout(root).queue), folder / "out", time.monotonic() + wait_s
    try:
        while time.monotonic() < end:
            facts = _read_facts(out)
            if facts is not None:
                return _probe_text(facts, token, partition)
            entry = (queue.look([handle], fresh_s=2) or {}).get(handle)
            if entry is None or entry.state in ("FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"):
                said = out.read_text(errors="replace").strip().splitlines()[-1:] if out.exists() else []
                shared = "" if out.exists() else f"; nothing stands in {root}: is that folder shared with the nodes?"
                return [f"probe: ended without an answer ({entry.state if entry else 'gone'}) {' '.join(said)}{shared}"]
            time.sleep(1)
        reason = f" ({entry.state}, {entry.reason})" if entry else ""
        return [f"probe: no answer within {wait_s} s{reason}; it was cancelled"]
    finally:
        queue.cancel([handle])
        shutil.rmtree(folder, ignore_errors=True)


def _read_facts(out: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(out.read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
    return facts if isinstance(facts, dict) else None


def _probe_text(facts: Mapping[str, Any], token: str, partition: str | None) -> list[str]:
    shared = "shared with the nodes" if facts["token"] == token else "NOT the same folder on the nodes: choose a shared one"
    lines = [
        f"probe: ran on {facts['host']} (partition {partition or 'default'})",
        f"results folder {results_root()}: {shared}",
        f"nodes reach the network: {'yes' if facts['network'] else 'no; fetch data and weights here before a sweep'}",
    ]
    if "error" in facts:
        lines.append(f"python on the node cannot import cifar_hpc and torch: {facts['error']}")
    else:
        lines.append(f"torch {facts['torch']} sees {facts['gpus']} GPUs there")
    return lines
