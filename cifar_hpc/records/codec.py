"""The one codec of everything on disk that is a record: pydantic reads the dataclasses themselves, strictly.

Owns: Record, SealedRecord, and the kinds of values that records share. Knows no record and no file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from cifar_hpc.errors import OtherVersionError, RecordError

SCHEMA_VERSION = 1

Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what a table's column can hold; a stranger's file may hold any number
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(ge=1, lt=2**63)]  # of an epoch, an attempt; or how many of what there is at least one
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]  # of seconds, hours, gigabytes; a loss
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]  # what becomes part of a path, as layout.is_name
MOST_DEPTH = 40
_DIGEST = "digest"
_SEAL_BYTES = 100  # at the end of a file
_SEALED = re.compile(rb',"digest":"([0-9a-f]{64})"}\s*\Z')


def _plain(value: Any, depth: int = 0) -> Any:
    """A value without a form of its own (a config, axes): of few levels, with numbers that any reader can hold."""
    kind = type(value)
    if kind is dict or kind is list:
        if depth >= MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH}")
        for item in value.values() if kind is dict else value:
            _plain(item, depth + 1)
    elif kind is float and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    elif kind is int and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number beyond 2^63")
    return value


Plain = Annotated[dict[str, Any], AfterValidator(_plain)]


class Record:
    """A dataclass that maps to a JSON object: unknown keys are kept out, missing ones must have a default.

    Values are of their field's type and of no other (whole numbers may stand for floats), numbers are finite.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json", warnings=False)
        return plain

    def encode(self) -> bytes:
        """The record as JSON on one line. Raises ValueError on a number that is not finite."""
        return json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """What `encode` gave. Raises RecordError where it is not JSON, a key is missing or a value is of another type,
        OtherVersionError where the schema_version is newer than this program."""
        try:
            record: Self = _adapter(cls).validate_json(data)
        except ValidationError as error:
            _refuse_newer(data)
            raise RecordError(_first_of(error.errors(include_url=False), cls)) from error
        if getattr(record, "schema_version", 0) > SCHEMA_VERSION:
            _refuse_newer(data)
        return record

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The record from its JSON object; raises as `decode`."""
        return cls.decode(json.dumps(data).encode())


class SealedRecord(Record):
    """A record of numbers that nobody is to change: its JSON ends with a digest of all that stands before it, so that a number
    corrected by hand is noticed whatever it is. One without a digest is older than this.

    It keeps no secret: who wants to deceive can make another.
    """

    def encode(self) -> bytes:
        body = super().encode()
        return body[:-1] + f',"{_DIGEST}":"{hashlib.sha256(body).hexdigest()}"}}'.encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """As a Record's; raises RecordError where it is not what was written, too, and OtherVersionError where it is, but is
        no record of this version."""
        try:
            record = super().decode(data)
        except OtherVersionError:
            raise
        except RecordError as error:
            if _digest_holds(data):
                raise OtherVersionError(f"{error}; its digest holds, so another version of this program wrote it") from error
            raise
        if _digest_holds(data) is False:
            raise RecordError("was edited by hand: its content is not what was written", record.mend())
        return record

    def mend(self) -> str:
        """What to type where it was changed."""
        raise NotImplementedError


def _digest_holds(data: bytes) -> bool | None:
    """Whether a record's own digest is of all the rest, white space apart; None where it has none."""
    if f'"{_DIGEST}"'.encode() not in data:
        return None
    before = max(0, len(data) - _SEAL_BYTES)
    if found := _SEALED.search(data, before):
        body_sum = hashlib.sha256(memoryview(data)[: found.start()])
        body_sum.update(b"}")
        return body_sum.hexdigest() == found[1].decode()
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or (digest := plain.pop(_DIGEST, None)) is None:
        return None
    body = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
    return bool(hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest() == digest)


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # of each record class, made at its first use: that takes longer than reading one


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _refuse_newer(data: bytes) -> None:
    """Raises RecordError where the file says that a newer program wrote it."""
    try:
        value = from_json(data)
    except ValueError:
        return
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise OtherVersionError(f"schema_version {version} is newer than this program's {SCHEMA_VERSION}: update cifar-hpc")


def _first_of(errors: list[ErrorDetails], kind: type[Record]) -> str:
    """The first thing that is wrong, for a person; the others of a corrupt file say no more."""
    first, more = errors[0], f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    words = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return "not JSON: " + first["msg"].removeprefix("Invalid JSON: ")
    if first["type"] == "value_error":  # of a check of our own
        where = ".".join(map(str, first["loc"]))
        return f"no {kind.__name__}: {f'{where}: ' if where else ''}{first['ctx']['error']}{more}"
    if not first["loc"]:
        return f"no {kind.__name__}: expected a JSON object, found {type(first['input']).__name__}"
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"no {kind.__name__}: {where} is missing{more}"
    return f"no {kind.__name__}: {where}: {words}, found {first['input']!r:.60}{more}"
