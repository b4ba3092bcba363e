"""Population based training (Jaderberg et al. 2017, arXiv:1711.09846) in whole generations: what each place trains next.

A generation gives every place of the population some epochs. Each of these is a trial of its own, which starts from the weights
of a trial of the generation before: of the same place, or, where that one is among the worst, of one of the best, with settings
a little changed. So every result has a config that trains it again, and no clock has a say in it. What a trial does not hand
down is the state of its optimiser. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.search.samplers import TRIES, Tried, draw, rounded
from cifar_hpc.spec.search import Choice, Picks, Range, Search, replaced_n

FACTORS = (0.8, 1.2)  # of a number that is handed down, as in the paper
RESAMPLE = 0.25  # chance that an axis is drawn again instead, as in the paper


def survivors(search: Search, parents: Sequence[Tried], mode: str) -> tuple[list[int], list[int]]:
    """The places of the best, from which others go on, and of all that go on by themselves. parents: a generation, all ended,
    by place; mode: max or min."""
    assert search.scheduler is not None
    sign = 1.0 if mode == "min" else -1.0
    ranked = sorted(
        (i for i, tried in enumerate(parents) if tried.value is not None), key=lambda i: (sign * (parents[i].value or 0.0), i)
    )
    some = replaced_n(len(parents), search.scheduler.reduction)
    return ranked[:some], ranked[: len(parents) - some]


def propose_heir(
    search: Search, parents: Sequence[Tried], best: Sequence[int], generation: int, place: int
) -> Iterator[tuple[Picks, int]]:
    """Proposals of (settings, place of the parent) for a place that does not go on by itself; the caller takes the first one
    that is allowed and new."""
    for attempt in range(TRIES if best else 0):
        rng = np.random.default_rng(stream_seed(search.seed, "heir", generation, place, attempt))
        parent = best[int(rng.integers(len(best)))]
        yield {name: _explore(search.space.axes[name], pick, rng) for name, pick in parents[parent].picks.items()}, parent
    if search.space.size is not None:
        yield from ((picks, parent) for parent in best for picks in search.space.every_pick())


def _explore(axis: Range | Choice, pick: int | float, rng: np.random.Generator) -> int | float:
    if rng.random() < RESAMPLE:
        return draw(axis, rng)
    if isinstance(axis, Range):
        return rounded(axis, pick * FACTORS[int(rng.integers(2))])
    return min(max(int(pick) + int(rng.choice((-1, 1))), 0), axis.n - 1) if axis.ordered else pick
