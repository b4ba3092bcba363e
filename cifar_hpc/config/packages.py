"""Packages that only some trials need, told before any of them starts. Imports none of them. Owns: augment_missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from cifar_hpc.config import catalog
from cifar_hpc.config.trial import AugmentOp

# Operations of the catalogue whose pixel work is kornia's.
KORNIA_OPS = ("contrast", "saturation", "hue", "gray", "blur", "randaugment", "trivialaugment", "autoaugment")


def augment_missing(augment: str | Sequence[AugmentOp]) -> str | None:
    """What to install before images can be augmented so; None where nothing is missing."""
    names = catalog.AUGMENTATIONS.get(augment, ()) if isinstance(augment, str) else [op.name for op in augment]
    needing = [name for name in names if name in KORNIA_OPS]
    if not needing or find_spec("kornia") is not None:
        return None
    chosen = augment if isinstance(augment, str) else ", ".join(needing)
    return f"augment {chosen}: kornia, which computes it, is not installed here: pip install 'kornia>=0.8'"
