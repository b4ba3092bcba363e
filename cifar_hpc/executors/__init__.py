"""Executors start jobs and know their state. One room each; only that one imports its backend."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cifar_hpc.executors.base import Executor
from cifar_hpc.records.layout import Layout

EXECUTORS = {
    "inline": ("cifar_hpc.executors.inline", "InlineExecutor"),
    "ray": ("cifar_hpc.executors.ray.executor", "RayTuneExecutor"),
    "slurm": ("cifar_hpc.executors.slurm.executor", "SlurmExecutor"),
}


def open_executor(name: str, layout: Layout, **site: Any) -> Executor:
    """The executor of that name, one of EXECUTORS, on one results folder; a backend is imported only once a job starts.

    site: what that one takes beside it, as SlurmExecutor its profile.
    """
    module, kind = EXECUTORS[name]
    executor: Executor = getattr(import_module(module), kind).open(layout, **site)
    return executor
