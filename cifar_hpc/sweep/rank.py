"""`search: {order: rank}`: the promising networks of a grid are trained first, and none is left out.

Owns: when their promise is measured, and that it is measured once a sweep.
"""

from __future__ import annotations

import dataclasses

from cifar_hpc.config.features import features_id, told_apart
from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.config.words import plural
from cifar_hpc.executors.base import promises_on_node
from cifar_hpc.planning.plan import Plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan
from cifar_hpc.status.words import percent_text
from cifar_hpc.sweep.listener import Listener
from cifar_hpc.sweep.preflight import check_there
from cifar_hpc.sweep.where import Where


def with_promise(layout: Layout, plan: Plan, where: Where, listener: Listener) -> Plan:
    """The plan with what each network promises, as the plan before says it or measured here. Where Slurm trains, nothing is
    measured: that is no work for a login node, and the order stays the usual one."""
    if plan.spec.order is None:
        return plan
    before = known_plan(layout, plan.spec.name)
    known = dict(before.promise) if before else {}
    ranked = {features_id(c): c for c in plan.trials if c.weights and not c.weights.startswith(PARENT_PREFIX)}
    missing = {name: config for name, config in ranked.items() if name not in known}
    if missing and where.slurm() is not None:
        listener.note(
            "search.order: rank has no effect: networks are not looked at on a login node (`cifar-hpc arch --rank SPEC` does)"
        )
        return plan
    if len(ranked) > 1 and missing:
        check_there(layout, list(missing.values()))  # what is missing is told before any network has passed its images
        listener.note(f"order: rank: one pass of the labelled images through {plural(len(missing), 'network')}")
        known |= promises_on_node(list(missing.values()))
    first = sorted(ranked, key=lambda name: -known.get(name, 0.0))
    if len(ranked) > 1:
        words = [
            " ".join(str(as_text(value)) for value in values.values()) for values in told_apart([ranked[n] for n in first])
        ]
        told = (f"{word} {percent_text(known[name], 1)} %" for name, word in zip(first, words, strict=True) if name in known)
        listener.note(f"order: rank: {', '.join(told)}")
    return dataclasses.replace(plan, promise={name: value for name, value in known.items() if name in ranked})
