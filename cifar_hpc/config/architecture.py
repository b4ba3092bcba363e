"""What is known of an architecture: the catalogue's entry, or for `timm/NAME` what timm itself says.

The catalogue does not list timm's models, which are thousands and change with its version. So a spec that names one, and no
other, costs an import of timm and torch and a build without memory. A trial's id never depends on what is found here: it is
the same where timm is not installed. Owns: architecture, known_architecture, misfit, TimmError. Imports neither until asked.
"""

from __future__ import annotations

import functools

from cifar_hpc.config.catalog import TIMM, ArchInfo
from cifar_hpc.config.catalog import architecture as catalogued
from cifar_hpc.errors import CifarHpcError


class TimmError(CifarHpcError):
    """A `timm/NAME` that cannot be had. found, allowed, near: as in Problem."""

    def __init__(self, found: str, allowed: str, near: str | None = None) -> None:
        super().__init__(f"arch: {found}; {allowed}" + (f". Did you mean {near!r}?" if near else ""))
        self.found, self.allowed, self.near = found, allowed, near


@functools.cache
def architecture(arch: str) -> ArchInfo | None:
    """The facts, None for a name beyond the catalogue. Raises TimmError where timm is not installed, knows no such model, or
    the model cannot be cut into blocks."""
    if not arch.startswith(TIMM):
        return catalogued(arch)
    from cifar_hpc.models.facts import find_timm_facts

    return find_timm_facts(arch)


def known_architecture(arch: str) -> ArchInfo | None:
    """The same, None too where timm or the model cannot be had: for estimates."""
    try:
        return architecture(arch)
    except TimmError:
        return None


@functools.cache
def misfit(arch: str, side: int) -> str | None:
    """Why an architecture of timm does not take images of this side, pixels; None: it takes them, or is none of timm's."""
    if not arch.startswith(TIMM) or known_architecture(arch) is None:
        return None
    from cifar_hpc.models.zoo import build_shapes

    try:
        build_shapes(arch, 10, side)
    except CifarHpcError as error:
        return str(error)
    return None
