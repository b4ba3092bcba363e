"""The index of finished trials: one Parquet file, so that each result.json is parsed once.

Owns: the file's columns. A row stands while the result's (mtime, size) is the same.
A lost, corrupt or older index is rebuilt; two collectors at once each write a whole one and the last stands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cifar_hpc.collect.trials import CURVES, Curves, Trial, trial_of
from cifar_hpc.config.identity import ID_SCHEME
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Outcome, TrialResult
from cifar_hpc.records.store import write_atomic
from cifar_hpc.records.ties import read_valid
from cifar_hpc.status.query import config_text, flat_config

INDEX_VERSION = f"8/{ID_SCHEME}"  # raise it when the columns, or what makes a result valid, change
_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "int | None": pa.int64(), "float | None": pa.float64()}
_ARROW |= {"str | None": pa.string(), "Outcome": pa.string(), "tuple[str, ...]": pa.list_(pa.string())}
_ROW = {field.name: _ARROW.get(str(field.type), pa.string()) for field in fields(Trial)}  # config: its canonical JSON
_SCHEMA = pa.schema(
    {"mtime_ns": pa.int64(), "size": pa.int64(), **_ROW, **{f"curve_{name}": pa.list_(pa.float32()) for name in CURVES}},
    metadata={"index_version": INDEX_VERSION},
)
_BLOCK = 2000  # rows that become columns at once
_KEY = ("trial_id", "mtime_ns", "size")
Stamp = tuple[int, int]  # mtime in ns and size of a result.json


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is not what its name says. It is left out of every number."""

    path: str
    reason: str


def read_finished(
    layout: Layout, stamps: Mapping[str, Stamp], *, whole_pool: bool
) -> tuple[list[Trial], Curves, list[Rejected]]:
    """The trials with a valid result, in the order of `stamps`; what is not in the index is read and put there.

    stamps: trial id -> stamp of its result.json. whole_pool: rows of trials that are not in `stamps` leave the index.
    """
    old = _load(layout)
    known = {i: (mtime, size) for i, mtime, size in zip(*(old[c].to_pylist() for c in _KEY), strict=True)}
    new: list[dict[str, Any]] = []
    read: list[pa.Table] = []
    rejected: list[Rejected] = []
    for trial_id, stamp in stamps.items():
        if known.get(trial_id) == stamp:
            continue
        files = layout.trial(trial_id)
        try:
            new.append(_row(*read_valid(files, trial_id), stamp))
            if len(new) == _BLOCK:  # as Python's objects the rows take ten times the memory
                read.append(pa.Table.from_pylist(new, _SCHEMA))
                new = []
        except Exception as error:  # whatever one stranger's record makes of a reader, the others are read
            rejected.append(Rejected(str(files.result), str(error).removeprefix(f"{files.result}: ")))
    stays = [known[i] == stamps[i] if i in stamps else not whole_pool for i in known]
    table = old.filter(pa.array(stays, pa.bool_())) if old.num_rows else old
    if new or read or table.num_rows < old.num_rows:
        table = pa.concat_tables([table, *read, pa.Table.from_pylist(new, _SCHEMA)])
        with contextlib.suppress(OSError):  # a pool that one may only read has no index
            write_atomic(layout.index, lambda stream: _save(table, stream))
    row_of = {trial_id: row for row, trial_id in enumerate(table["trial_id"].to_pylist())}
    table = table.take(pa.array([row_of[i] for i in stamps if i in row_of], pa.int64()))
    return _trials(table), _curves(table), rejected


def _load(layout: Layout) -> pa.Table:
    """The index as it stands; an empty table where there is none, it is corrupt or of another version."""
    with contextlib.suppress(OSError, pa.ArrowException):
        table = pq.read_table(layout.index, page_checksum_verification=True)
        if (table.schema.metadata or {}).get(b"index_version") == INDEX_VERSION.encode() and table.schema.equals(_SCHEMA):
            return table
    return _SCHEMA.empty_table()


def _save(table: pa.Table, stream: BinaryIO) -> None:
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def _row(result: TrialResult, config: TrialConfig, stamp: Stamp) -> dict[str, Any]:
    trial = trial_of(result, config.point_id)
    row = {field.name: getattr(trial, field.name) for field in fields(Trial)}
    row |= {"config": config_text(result.config), "more": json.dumps(dict(trial.more)), "mtime_ns": stamp[0], "size": stamp[1]}
    return row | {f"curve_{name}": [getattr(epoch, name) for epoch in result.curves] for name in CURVES}


def _trials(table: pa.Table) -> list[Trial]:
    columns: dict[str, Iterable[Any]] = {name: table[name].to_pylist() for name in _ROW}
    columns["config"] = map(flat_config, columns["config"])
    columns["more"] = map(json.loads, columns["more"])
    columns["outcome"] = map(Outcome, columns["outcome"])
    columns["classes"], columns["warnings"] = map(tuple, columns["classes"]), map(tuple, columns["warnings"])
    return [Trial(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _curves(table: pa.Table) -> Curves:
    values = {}
    lengths = np.zeros(0, np.int64)
    for name in CURVES:
        lists = table[f"curve_{name}"].combine_chunks()
        lengths = np.diff(lists.offsets.to_numpy()) if len(lists) else lengths
        values[name] = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return Curves(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), values)
