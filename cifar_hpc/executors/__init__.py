"""Executors start jobs and know their state. One file each; only that file imports its backend."""

from __future__ import annotations

from importlib import import_module

from cifar_hpc.executors.base import Executor

EXECUTORS = {
    "inline": ("cifar_hpc.executors.inline", "InlineExecutor"),
    "ray": ("cifar_hpc.executors.ray.executor", "RayTuneExecutor"),
}


def open_executor(name: str) -> Executor:
    """The executor of that name, one of EXECUTORS; a backend is imported only once a job starts."""
    module, kind = EXECUTORS[name]
    executor: Executor = getattr(import_module(module), kind)()
    return executor
