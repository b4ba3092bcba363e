"""cifar-hpc: transfer-learning sweeps on small image data sets.

    import cifar_hpc as ch

    sweep = ch.Sweep.load("sweeps/freeze_depth.yaml", set={"epochs": 2})
    outcome = sweep.run(on="inline")
    frame = ch.read_results().leaderboard(sweep.name)
    best = ch.read_results().best(sweep.name)
    best.predict("photos/")

What is named here is the public API; it is loaded once it is asked for, and torch only where a network is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar_hpc.api.results import Best as Best
    from cifar_hpc.api.results import Results as Results
    from cifar_hpc.api.results import read_results as read_results
    from cifar_hpc.api.sweep import Sweep as Sweep
    from cifar_hpc.config.plugins import register_augmentation as register_augmentation
    from cifar_hpc.config.plugins import register_objective as register_objective
    from cifar_hpc.config.plugins import register_optimizer as register_optimizer
    from cifar_hpc.config.plugins import register_schedule as register_schedule
    from cifar_hpc.errors import CifarHpcError as CifarHpcError
    from cifar_hpc.errors import SpecError as SpecError
    from cifar_hpc.sweep.listener import Silent
    from cifar_hpc.sweep.listener import SweepOutcome as SweepOutcome

    Listener = Silent

__version__ = "0.1.0"
_PUBLIC = {
    "Best": ("cifar_hpc.api.results", "Best"),
    "CifarHpcError": ("cifar_hpc.errors", "CifarHpcError"),
    "Listener": ("cifar_hpc.sweep.listener", "Silent"),
    "Results": ("cifar_hpc.api.results", "Results"),
    "SpecError": ("cifar_hpc.errors", "SpecError"),
    "Sweep": ("cifar_hpc.api.sweep", "Sweep"),
    "SweepOutcome": ("cifar_hpc.sweep.listener", "SweepOutcome"),
    "read_results": ("cifar_hpc.api.results", "read_results"),
    **{
        name: ("cifar_hpc.config.plugins", name)
        for name in ("register_augmentation", "register_objective", "register_optimizer", "register_schedule")
    },
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cifar_hpc' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    module, own_name = _PUBLIC[name]
    return getattr(import_module(module), own_name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
