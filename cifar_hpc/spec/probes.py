"""`start: probe`: a trial whose classifier begins as the solved linear probe of its network (LP-FT, Kumar et al. 2022,
arXiv:2202.10054), before all that it trains is tuned.

The probe is a trial like any other, classifier: logreg on the features of the same images; it is trained once for all that
start from it, and they start from its weights as from those of any parent. Owns: which probe a point has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cifar_hpc.config.architecture import known_architecture
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.errors import UnusableError
from cifar_hpc.spec.expand import Point
from cifar_hpc.spec.parents import STARTED_BY
from cifar_hpc.spec.resolve import Resolver
from cifar_hpc.spec.sections import DEFAULTS

PROBE = "logreg"  # the classifier that is solved


def start_from_probes(points: Sequence[Point], resolver: Resolver) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """The probes that the points need, each once, and the points, those with `start: probe` as children of theirs."""
    probes: dict[str, Point] = {}
    started: list[Point] = []
    for point in points:
        if point.get("start") is None or not CLASSIFIERS[_value(point, "classifier")].trained:
            started.append(point)
            continue
        probe = {**point, "start": None, "classifier": PROBE, "freeze": "all"}
        try:
            config = resolver.config(probe)
        except UnusableError:  # so is the point itself, where it is told of
            started.append(point)
            continue
        info = known_architecture(config.network)
        if info is not None and not info.linear_head:  # as above: no word of a classifier that nobody typed
            started.append(point)
            continue
        probes.setdefault(config.trial_id, probe)
        weights = point.get(STARTED_BY, point.get("weights"))  # what a table shows: where the probe's network is from
        parent = {"weights": f"{PARENT_PREFIX}{config.trial_id}", "weights_point": config.point_id, STARTED_BY: weights}
        started.append({**point, **parent})
    return tuple(probes.values()), tuple(started)


def _value(point: Point, key: str) -> Any:
    return point.get(key, DEFAULTS.get(key))
