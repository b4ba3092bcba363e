"""The errors that a user can cause. Each says where, what was found, what is allowed and the nearest right one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = re.compile(r"[0-9]+")


class CifarHpcError(Exception):
    """A mistake or a lack that the user can mend: printed without a traceback, exit status 2."""


class DataError(CifarHpcError):
    """Images or weights that are missing, corrupt or not of the expected form."""


class RecordError(CifarHpcError):
    """A file under results/ that cannot be read as what its name says. mend: what to type, where the reader knows that."""

    def __init__(self, found: str, mend: str = "") -> None:
        super().__init__(f"{found}; {mend}" if mend else found)
        self.found, self.mend = found, mend


class OtherVersionError(RecordError):
    """A file that is whole, but that another version of this program wrote: that one reads it. without: what to type to do
    without it all the same, where the reader knows that; no part of the message."""

    def __init__(self, found: str, mend: str = "", without: str = "") -> None:
        super().__init__(found, mend)
        self.without = without


class UnusableError(CifarHpcError):
    """A value of the right form that cannot be used. key: of the spec; found, allowed, near: as in Problem."""

    def __init__(self, key: str, found: str, allowed: str, near: str | None = None) -> None:
        super().__init__(f"{key}: {found}; {allowed}.{did_you_mean(near)}")
        self.key, self.found, self.allowed, self.near = key, found, allowed, near


class UnknownNameError(UnusableError, KeyError):
    """A name that is not among those that there are."""

    def __init__(self, what: str, name: object, names: Iterable[str]) -> None:
        names = tuple(names)
        super().__init__(what, repr(name), f"one of {', '.join(names) or 'none'}", nearest(name, names))

    __str__ = Exception.__str__  # not KeyError's, which quotes


class UnusableArchError(UnusableError):
    """A `timm/NAME`, or a network of the user's own, that cannot be had."""

    def __init__(self, found: str, allowed: str, near: str | None = None) -> None:
        super().__init__("arch", found, allowed, near)


class Interrupted(Exception):  # noqa: N818 - not an error: an orderly stop on request
    """The job was asked to stop; every member was saved before."""


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
        return f"{self.where}: {self.found}; {self.allowed}.{did_you_mean(self.nearest)}"


class SpecError(CifarHpcError):
    """All problems of one file, told at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(near: object) -> str:
    """The end of a message, with a space before it; empty where nothing is near."""
    return f" Did you mean {near!r}?" if near else ""


def nearest(word: object, allowed: Iterable[str]) -> str | None:
    """The allowed word most like `word`, or None where none is near (difflib ratio below 0.6).

    Of words that differ from it in a number alone, that with the nearest number: resnet19 means resnet18, not resnet9.
    """
    given, words = str(word).lower(), list(allowed)
    matches = difflib.get_close_matches(given, words, n=1)
    alike = [other for other in words if _NUMBER.split(other) == _NUMBER.split(given)]
    cut_short = matches and (matches[0].startswith(given) or given.startswith(matches[0]))  # or a digit too long
    if alike and not cut_short:
        return min(alike, key=lambda other: _distance(given, other))
    return matches[0] if matches else None


def _distance(one: str, other: str) -> tuple[int, ...]:
    return tuple(abs(int(a) - int(b)) for a, b in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True))
