"""checkpoint.pt: a member's state on disk, written atomically and beside the training, read without running code from it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from cifar_hpc.errors import RecordError
from cifar_hpc.records.store import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Raises OSError, a full disk included; the former checkpoint then stands."""
    try:
        write_atomic(path, lambda stream: torch.save(state, stream))
    except RuntimeError as error:  # torch trips over the half-written file and hides what the disk said
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state on the CPU; None where there is none.

    Raises RecordError where it is corrupt or holds anything but tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch raises many kinds on a corrupt file
        raise RecordError(f"{path}: not a checkpoint ({error})") from error
    return state


class CheckpointWriter:
    """Writes the checkpoints of one trial beside its training: `write` copies the state and comes back, a thread does the rest.

    What the thread met is raised by the next call of `write` or `wait`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, state: dict[str, Any]) -> None:
        """Of the state as it is now. Raises what the former one met: see save_checkpoint."""
        self.wait()
        copied = torch.cuda.Event() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        own = _copied(state)
        if copied is not None:
            copied.record()
        self._thread = threading.Thread(target=self._save, args=(own, copied), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the last one is on disk. Raises what it met."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _save(self, state: dict[str, Any], copied: torch.cuda.Event | None) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            save_checkpoint(self._path, state)
        except BaseException as error:
            self._error = error


def _copied(value: Any) -> Any:
    """The value with every tensor copied, as it stands in the order of the device's work, into pinned memory where it is of a
    GPU. A view becomes a tensor of its own, since torch.save would write all that it is a view of."""
    if isinstance(value, torch.Tensor):
        if value.is_cuda:
            own = torch.empty_like(value, device="cpu", pin_memory=True)  # in the same order in memory
            return own.copy_(value.detach(), non_blocking=True)
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
