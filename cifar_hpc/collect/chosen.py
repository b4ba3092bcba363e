"""Which trials who reads means: sweeps by name, and a filter."""

from __future__ import annotations

import re
from dataclasses import replace

from cifar_hpc.collect.scan import Pool, scan
from cifar_hpc.collect.trials import Trial, Unfinished
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout
from cifar_hpc.status.query import OWN_KEYS, parse_filter, values_there
from cifar_hpc.status.state import Queue


def chosen_pool(layout: Layout, names: list[str], terms: str, queue: Queue | None = None) -> Pool:
    """Raises CifarHpcError where there is nothing, or nothing that the filter accepts."""
    pool = scan(layout, names, queue)
    if not pool.trials and not pool.unfinished and not pool.rejected:
        if names:
            raise CifarHpcError(f"{', '.join(names)}: no trial is planned yet")
        raise CifarHpcError(
            f"no trial under {layout.root}: `cifar-hpc sweep SPEC` trains some; ${RESULTS_VARIABLE} names another place"
        )
    return _filtered(pool if re.search(r"\bstage\s*[!=]", terms) else pool.without_earlier_stages(), terms)


def _filtered(pool: Pool, terms: str) -> Pool:
    if not terms:
        return pool
    everyone: tuple[Trial | Unfinished, ...] = (*pool.trials, *pool.unfinished)
    chosen = parse_filter(terms, {*OWN_KEYS, *(key for trial in everyone for key in trial.config)})
    found = pool.where(lambda trial: chosen.matches(trial.facts))
    if not found.trials and not found.unfinished:
        left = [one for one in pool.earlier_stages if all(trial.config.get("stage") != one for trial in everyone)]
        stages = "".join(f"; stage {one}, from which others start, is looked into with stage={one}" for one in left)
        there = values_there((trial.facts for trial in everyone), chosen)
        raise CifarHpcError(f"no trial matches {terms!r}; {there}{stages}")
    return replace(found, to_come=0)  # nobody knows which of them it will accept
