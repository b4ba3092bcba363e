"""The ensembles of refits that sweeps have: what was measured of them when they were made. Measures nothing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from cifar_hpc.collect.scan import Pool
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import EnsembleRecord
from cifar_hpc.records.store import read_record
from cifar_hpc.records.ties import check_members


@dataclass(frozen=True, slots=True)
class Refitted:
    """name: what `predict` takes. record: None where it tells nothing of its members as they are now; why: then the reason."""

    name: str
    record: EnsembleRecord | None
    why: str = ""


def refitted_ensembles(pool: Pool, layout: Layout) -> tuple[Refitted, ...]:
    """Those of the pool's sweeps whose members are among its trials."""
    found = []
    here = {trial.trial_id for trial in pool.trials}
    for sweep in pool.sweeps:
        name = f"{sweep}/ensemble"
        try:
            record = read_record(layout.sweep(sweep).ensemble, EnsembleRecord)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (CifarHpcError, OSError) as error:
            found.append(Refitted(name, None, str(error)))
            continue
        if not here.intersection(member.trial_id for member in record.members):
            continue
        try:
            check_members(layout, record.members, name)
        except CifarHpcError:
            again = shlex.join(read_plan(layout, sweep).command)
            found.append(
                Refitted(name, None, f"its members have not the predictions of which it was made: `{again}` makes it again")
            )
            continue
        found.append(Refitted(name, record))
    return tuple(found)
