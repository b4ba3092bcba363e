"""The errors that a user can cause. Each says where, what was found, what is allowed and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class CifarHpcError(Exception):
    """A mistake or a lack that the user can mend: printed without a traceback, exit status 2."""


class DataError(CifarHpcError):
    """Images or weights that are missing, torn or not of the expected form."""


class RecordError(CifarHpcError):
    """A file under results/ that cannot be read as what its name says."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a spec or a profile.

    where: 'sweeps/x.yaml:12: grid.freeze[1]'; found: what stands there; allowed: what may stand there; nearest: the
    likeliest intended word, None where nothing is near.
    """

    where: str
    found: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" Did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.where}: {self.found}; {self.allowed}.{hint}"


class SpecError(CifarHpcError):
    """All problems of one file, told at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def nearest(word: object, allowed: Iterable[str]) -> str | None:
    """The allowed word most like `word`, or None where none is near (difflib ratio below 0.6)."""
    matches = difflib.get_close_matches(str(word).lower(), list(allowed), n=1)
    return matches[0] if matches else None
