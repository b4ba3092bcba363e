"""What sbatch's refusals mean: no room in the queue, no answer, or a job that this cluster does not take, and why.

Owns: Slurm's words for each, over its versions, and which key of spec or profile answers to them. Only limits on the number of
submitted jobs are room. Sends nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NO_ROOM = re.compile(
    r"MaxSubmitJob|GrpSubmitJob|MaxJobCount|temporarily unable to accept job|Resource temporarily unavailable",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"timed out|Unable to contact|Connection refused|Zero Bytes|Communication connection failure|slurm_receive_msg",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """pattern: in Slurm's line; keys: what answers to it."""

    pattern: str
    keys: str


_KINDS = (
    _Kind(
        r"MaxWall|time limit is invalid|TimeLimit",
        "minutes or max_minutes of the profile, or resources.minutes of the spec",
    ),
    _Kind(
        r"(?-i:GRES)|generic resource|M(?:in|ax)TRES",
        "gres or gpus of the profile, or resources.gpus of the spec",
    ),
    _Kind(r"MinCpu|MaxCpu|GrpCpu|CPU count", "cpus_per_gpu of the profile, or resources.cpus_per_gpu of the spec"),
    _Kind(r"MaxMem|MinMem|GrpMem|memory", "memory_gb or memory_per_gpu_gb of the profile, or resources.memory_gb of the spec"),
    _Kind(r"MaxNode|MinNode|GrpNode|node count", "resources.nodes of the spec"),
    _Kind(
        r"invalid account",
        "account, partition and qos of the profile, which must belong together",
    ),
    _Kind(r"invalid qos", "qos of the profile"),
    _Kind(r"partition", "gpu_partition or cpu_partition of the profile"),
    _Kind(r"feature", "constraint of the profile"),
    _Kind(r"reservation", "reservation of the profile"),
    _Kind(r"wckey", "wckey of the profile"),
    _Kind(r"license", "licenses of the profile"),
    _Kind(
        r"node configuration is not available",
        "gres, constraint, cpus_per_gpu or memory_gb of the profile, or resources of the spec",
    ),
)


def is_room(words: str) -> bool:
    """Whether a place in the queue is all that is missing. words: all lines of sbatch."""
    return _NO_ROOM.search(words) is not None


def is_silence(words: str) -> bool:
    """Whether Slurm may not have heard it, or may have without being heard."""
    return _NO_ANSWER.search(words) is not None


def keys_to_change(words: str) -> str | None:
    """Which keys of spec or profile answer to the refusal; None where Slurm's words name none."""
    return next((kind.keys for kind in _KINDS if re.search(kind.pattern, words, re.IGNORECASE)), None)
