"""The plan of a sweep by the sweep's name. Owns: what is said to who names a sweep that is not there."""

from __future__ import annotations

from cifar_hpc.errors import CifarHpcError, nearest
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.store import read_record


def read_plan(layout: Layout, name: str) -> PlanRecord:
    """Raises CifarHpcError with the nearest name where there is none, RecordError where it cannot be read."""
    try:
        return read_record(layout.sweep(name).plan, PlanRecord)
    except FileNotFoundError:
        names = [sweep.name for sweep in layout.sweeps()]
        near = nearest(name, names)
        hint = f" Did you mean {near!r}?" if near else ""
        there = ", ".join(names) or "none yet"
        raise CifarHpcError(f"sweep: {name!r} is not under {layout.root}; there: {there}.{hint}") from None
