"""Which blocks of a network train in which epoch, and at what learning rate: the plans that a spec's trials follow.

Owns: which trials follow one plan, and which epochs tell it. The rates: config/schedule.py. Knows no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cifar_hpc.config.architecture import known_architecture
from cifar_hpc.config.keys import Role
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.schedule import block_rates
from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.trial import TrialConfig

_SHOWN_EPOCHS = 8
_DECIDING = keys_with(Role.RATES)


def plans_of(configs: Iterable[TrialConfig], arch: str | None) -> list[TrialConfig]:
    """A trial of each plan that those of known networks follow, of one architecture where it is named."""
    known = [c for c in configs if c.trains and known_architecture(c.network) and arch in (None, c.arch)]
    return list({tuple(facts_of(config).values()): config for config in reversed(known)}.values())[::-1]


def facts_of(config: TrialConfig) -> Mapping[str, Any]:
    """What a plan of rates depends on, as a spec spells it."""
    return {"arch": config.arch, **{key: as_text(getattr(config, key)) for key in _DECIDING}}


def blocks_of(config: TrialConfig) -> tuple[str, ...]:
    """Their names in forward order; none where the network is not known without building it."""
    info = known_architecture(config.network)
    return info.blocks if info else ()


def rates_at(config: TrialConfig, epoch: int) -> tuple[float | None, ...]:
    """As block_rates has them."""
    info = known_architecture(config.network)
    assert info is not None  # plans_of has left the others out
    return block_rates(config, info, epoch)


def telling_epochs(config: TrialConfig) -> list[int]:
    """Where something begins or ends, and epochs evenly spread between."""
    last, unfreeze = config.epochs, config.unfreeze_epoch or 0
    marks = {1, unfreeze, unfreeze + 1, *(start for start, _ in config.unfreeze or ()), last}
    steps = _SHOWN_EPOCHS - len(marks)
    spread = {round(1 + (last - 1) * i / max(1, steps)) for i in range(steps)}
    return sorted(epoch for epoch in marks | spread if 1 <= epoch <= last)


def rates_records(config: TrialConfig) -> list[dict[str, Any]]:
    """For programs: a record for each epoch and block."""
    names = blocks_of(config)
    return [
        {**facts_of(config), "epoch": epoch, "number": number, "block": name, "rate": rate}
        for epoch in range(1, config.epochs + 1)
        for number, (name, rate) in enumerate(zip(names, rates_at(config, epoch), strict=True), 1)
    ]
