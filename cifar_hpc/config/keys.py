"""How a key of a spec is declared: a dataclass field that carries its words, its limits and, of a trial's keys, its roles.

Owns: Role, spec_key, trial_key. What a role means to a cohort, a table or a population is theirs to say; which keys have it is
said here alone, where the key is declared. Knows no key.
"""

from __future__ import annotations

import dataclasses
from enum import Flag, auto
from typing import Any


class Role(Flag):
    """What a trial key is to the rest of the package."""

    COMMON = auto()  # the members of a cohort have it in common ...
    MEMBER = auto()  # ... or may differ in it
    TRAINING = auto()  # steers training: a classifier that is fitted once to frozen features does not feel it
    FITTED = auto()  # has one value there: all that can be frozen is
    PBT = auto()  # the next epochs may have another value than those before
    BACKBONE = auto()  # has no value where the classifier is trained alone
    RATES = auto()  # decides which block trains when, and at what rate
    INHERITED = auto()  # a trial takes it over from that whose weights it starts from: they fit no other
    AS_WRITTEN = auto()  # a table shows it as the spec spells it ...
    AS_WRITTEN_IF_ACTING = auto()  # ... where it acts


def spec_key(doc: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A key of a spec: its docstring, default and limits (choices, ge, gt, le, lt), which spec/schema.py shows and enforces.

    also: a word that may stand in place of a number.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **limits})


def trial_key(doc: str, roles: Role, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A key of a trial. Raises ValueError where its roles do not say whether a cohort has it in common.

    derived=True: worked out while the spec is read, never written by a user. hashed=False: no part of the id. late=True: no
    part of the id while it has its default, so that a key which came later leaves the ids of older results as they are.
    """
    if (Role.COMMON in roles) == (Role.MEMBER in roles):
        raise ValueError(f"the roles of a trial key hold either COMMON or MEMBER: {roles} ({doc})")
    return spec_key(doc, default, roles=roles, **limits)


def part(roles: Role) -> dict[str, Any]:
    """The metadata of a field that is a mapping of keys of its own."""
    return {"part": True, "roles": roles}
