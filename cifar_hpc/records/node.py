"""What a worker knows of where it runs: which task of which Slurm job it is, and how much of a node it was granted.

Owns: Node, which is made once, where a worker begins, and handed down; nobody else inside a job reads a variable of Slurm's.
Away from Slurm it is empty. Knows no queue and asks no cluster.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One task of a job: on several nodes there is one on each, and all of them do the same; task 0 leads.

    job_id: Slurm's number, another one for each array task; handle: the name of the same for squeue and scontrol, such as
    77_5; restarts: how often Slurm started it before; ends_at: its time limit in seconds since 1970. cpus, memory_bytes, gpus:
    what is granted on this node. None, of gpus an empty tuple: Slurm does not say.
    """

    job_id: str | None = None
    handle: str | None = None
    restarts: int = 0
    task: int = 0
    tasks: int = 1
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    ends_at: float | None = None

    @property
    def leads(self) -> bool:
        return self.task == 0

    @classmethod
    def here(cls, environment: Mapping[str, str] | None = None) -> Self:
        """By the variables of this process."""
        told = os.environ if environment is None else environment
        job_id = told.get("SLURM_JOB_ID")
        if job_id is None:
            return cls()
        array, index = told.get("SLURM_ARRAY_JOB_ID"), told.get("SLURM_ARRAY_TASK_ID")
        gpus = told.get("CUDA_VISIBLE_DEVICES") or told.get("SLURM_STEP_GPUS") or told.get("SLURM_JOB_GPUS") or ""
        return cls(
            job_id=job_id,
            handle=f"{array}_{index}" if array and index else job_id,
            restarts=_number(told, "SLURM_RESTART_COUNT") or 0,
            task=_number(told, "SLURM_PROCID") or 0,
            tasks=_number(told, "SLURM_STEP_NUM_TASKS") or 1,
            cpus=_number(told, "SLURM_CPUS_PER_TASK") or _number(told, "SLURM_CPUS_ON_NODE"),
            memory_bytes=_memory_bytes(told, len(gpus.split(","))),
            gpus=tuple(gpu for gpu in gpus.split(",") if gpu and gpu != "NoDevFiles"),
            ends_at=_number(told, "SLURM_JOB_END_TIME"),
        )


def _memory_bytes(told: Mapping[str, str], gpus_n: int) -> int | None:
    """0 is Slurm's word for all of the node's."""
    cpus_n = _number(told, "SLURM_CPUS_ON_NODE") or 1
    shares = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_GPU": gpus_n, "SLURM_MEM_PER_CPU": cpus_n}
    return next((each_mb * n * 2**20 for key, n in shares.items() if (each_mb := _number(told, key))), None)


def _number(told: Mapping[str, str], key: str) -> int | None:
    match = re.match(r"\d+", told.get(key, ""))
    return int(match[0]) if match else None
