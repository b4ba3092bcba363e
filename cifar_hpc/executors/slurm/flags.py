"""What one job asks of Slurm: the flags of sbatch and srun that follow from the profile and from what the job needs.

Pure. Owns: how GPUs, shards, CPUs and memory are asked for at a site. Nothing is sent that neither says: no wckey, no comment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cifar_hpc.executors.slurm.profile import SlurmProfile

GPU_CPUS = 4  # of a job with a GPU where neither spec nor profile says a number: one core and 2 GB kill a CUDA process at once


def cpus_of(profile: SlurmProfile, asked: int, gpus: float) -> int:
    """CPUs on each node. asked: what the spec asks for, one for each GPU where it says nothing; gpus: of each node."""
    least = profile.cpus_per_gpu or (GPU_CPUS if asked <= max(1, gpus) else 0)
    return max(asked, math.ceil(gpus * least)) if gpus else asked


def memory_gb_of(profile: SlurmProfile, asked: float | None, gpus: float) -> float | None:
    """Memory on each node, GB; None: what the cluster gives."""
    if asked is None and gpus and profile.memory_per_gpu_gb:
        return profile.memory_per_gpu_gb * gpus
    return asked or profile.memory_gb


def shards_of(profile: SlurmProfile, gpus: float) -> int:
    """Shards that a job with a share of a GPU asks for; 0 where it asks for whole ones."""
    return math.ceil(gpus * profile.shards) if profile.shards and 0 < gpus < 1 else 0


def sbatch_flags(
    profile: SlurmProfile, *, nodes: int, gpus: int, cpus: int, memory_gb: float | None, shards: int = 0, exclude: str = ""
) -> dict[str, str | int | bool]:
    """The flags without their dashes. gpus, cpus, memory_gb, shards: of each node; exclude: nodes that failed."""
    flags: dict[str, str | int | bool | None] = {
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cpus,
        "mem": f"{round(memory_gb * 1024)}M" if memory_gb else None,
        "partition": profile.gpu_partition if gpus else profile.cpu_partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": ",".join(filter(None, (profile.exclude, exclude))) or None,
        "reservation": profile.reservation,
        "licenses": profile.licenses,
        "comment": profile.comment,
        "wckey": profile.wckey,
        "mail-user": profile.mail_user,
        "mail-type": profile.mail_type,
        "requeue" if profile.requeue else "no-requeue": True,
        **_gpu_flags(profile, gpus, shards),
        **profile.sbatch,
    }
    return {flag: value for flag, value in flags.items() if value not in (None, False)}


def _gpu_flags(profile: SlurmProfile, gpus: int, shards: int) -> Mapping[str, str]:
    if not gpus or profile.gres is None:
        return {}
    if shards:
        return {"gres": f"shard:{shards}"}
    if profile.gpus == "gres":
        return {"gres": f"{profile.gres}:{gpus}"}
    kind = profile.gres.partition(":")[2]
    return {profile.gpus: f"{kind}:{gpus}" if kind else str(gpus)}


def srun_flags(profile: SlurmProfile) -> list[str]:
    """As words of a command line."""
    return [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in profile.srun.items() if value is not False]


def mps_lines() -> list[str]:
    """Shell lines that start the service for the trials of this job; it ends with the job."""
    return [
        'export CUDA_MPS_PIPE_DIRECTORY="$(mktemp -d)" && export CUDA_MPS_LOG_DIRECTORY="$CUDA_MPS_PIPE_DIRECTORY"',
        'nvidia-cuda-mps-control -d || { echo "the Multi-Process Service did not start: trials share the GPU without it";'
        " unset CUDA_MPS_PIPE_DIRECTORY; }",
    ]
