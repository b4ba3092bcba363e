"""What is known of an architecture: the catalogue's entry, for `timm/NAME` what timm itself says, for the user's own its build.

The catalogue does not list timm's models, which are thousands and change with its version. So a spec that names one, and no
other, costs an import of timm and torch and a build without memory. A trial's id never depends on what is found here: it is
the same where timm is not installed. Imports neither until asked. Owns: architecture, known_architecture, misfit,
starving_norm.
"""

from __future__ import annotations

import functools

from cifar_hpc.config.catalog import TIMM, ArchInfo
from cifar_hpc.config.catalog import architecture as catalogued
from cifar_hpc.config.own import OwnNetwork
from cifar_hpc.errors import CifarHpcError


@functools.cache
def architecture(network: str | OwnNetwork) -> ArchInfo | None:
    """The facts, None for a name beyond the catalogue. Raises UnusableArchError where timm is not installed or knows no such
    model, where the user's own cannot be made, or where it cannot be cut into blocks."""
    if isinstance(network, OwnNetwork):
        from cifar_hpc.models.facts import find_own_facts

        return find_own_facts(network)
    if not network.startswith(TIMM):
        return catalogued(network)
    from cifar_hpc.models.facts import find_timm_facts

    return find_timm_facts(network)


def known_architecture(network: str | OwnNetwork) -> ArchInfo | None:
    """The same, None too where the model cannot be had: for estimates."""
    try:
        return architecture(network)
    except CifarHpcError:
        return None


@functools.cache
def misfit(network: str | OwnNetwork, side: int) -> str | None:
    """Why an architecture of timm does not take images of this side, pixels; None: it takes them, or is none of timm's."""
    if isinstance(network, OwnNetwork) or not network.startswith(TIMM) or known_architecture(network) is None:
        return None
    from cifar_hpc.models.zoo import build_shapes

    try:
        build_shapes(network, 10, side)
    except CifarHpcError as error:
        return str(error)
    return None


@functools.cache
def starving_norm(network: str | OwnNetwork, side: int) -> str | None:
    """What BatchNorm needs that a batch of one image of this side, pixels, does not give; None: it does, there is no BatchNorm,
    or the network cannot be had."""
    info = known_architecture(network)
    if info is None:
        return None
    needs = f"BatchNorm of {network} trains on two images or more at image_size {side}"
    if isinstance(network, OwnNetwork) or network.startswith(TIMM):
        from cifar_hpc.models.facts import feeds_norms

        return None if feeds_norms(network, side) else needs
    return None if side >= info.norm_side else f"{needs}, and on one from {info.norm_side} on"
