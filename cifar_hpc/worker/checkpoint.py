"""checkpoint.pt: a member's state on disk, written atomically, read without running any code from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cifar_hpc.errors import RecordError
from cifar_hpc.records.store import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Raises OSError, a full disk included; the former checkpoint then stands."""
    compact = _compact(state)
    try:
        write_atomic(path, lambda stream: torch.save(compact, stream))
    except RuntimeError as error:  # torch trips over the half-written file and hides what the disk said
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state on the CPU; None where there is none.

    Raises RecordError where it is torn or holds anything but tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch raises many kinds on a torn file
        raise RecordError(f"{path}: not a checkpoint ({error})") from error
    return state


def _compact(value: Any) -> Any:
    """The value with every view of a larger tensor copied, since torch.save would write the larger one."""
    if isinstance(value, torch.Tensor):
        whole = value.untyped_storage().nbytes() == value.nbytes
        return value if whole else value.clone()
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_compact(item) for item in value)
    return value
