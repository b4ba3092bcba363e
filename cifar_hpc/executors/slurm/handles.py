"""What we call a job of Slurm: '1000@alps', an array or a job of its own on the cluster alps; '1000_7@alps' array task 7 of it.

A job id means something on its own cluster alone, and results may lie where the login nodes of several see them. Before sbatch
has answered, the array has its name only: 'sweep-1a2b3c4d#@alps'. Handles of older sweeps name no cluster.
"""

from __future__ import annotations


def handle_of(local: str, cluster: str | None) -> str:
    """local: as Slurm writes it, such as 1000_7."""
    return f"{local}@{cluster}" if cluster else local


def local_part(handle: str) -> str:
    """What Slurm's own commands take: 1000_7."""
    return handle.partition("@")[0]


def cluster_of(handle: str) -> str | None:
    """None where the handle names none."""
    return handle.partition("@")[2] or None


def job_of(handle: str) -> str:
    """The id of the job or of the whole array: 1000."""
    return local_part(handle).partition("_")[0]


def place_of(name: str, cluster: str | None) -> str:
    """An array that has no id yet."""
    return handle_of(f"{name}#", cluster)


def is_place(handle: str) -> bool:
    """Whether it is such a one."""
    return "#" in handle


def name_of(place: str) -> str:
    """The name of the array."""
    return place.rpartition("#")[0]
