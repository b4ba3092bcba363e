"""Features of all labelled images, computed once, from which the folds of cross-validation take those of their own images.

Owns: Pool. A fold alone computes them as its company does, so that its numbers are the same; and what it takes is, as all kept
features are, what it would have computed itself: on a CPU to the last bit, at every size of batch that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from cifar_hpc.train.features import Feed

_SAMPLES = 2  # shuffled batches of a size on which kept features must equal computed ones


class Pool:
    """The kept features of a trunk. make_feed: of all labelled images, kept, at some depths."""

    def __init__(self, make_feed: Callable[[Collection[int]], Feed]) -> None:
        self._make_feed = make_feed
        self._feeds: dict[int, Feed] = {}  # by depth
        self._fits: dict[tuple[int, int], bool] = {}  # by depth and size of batch
        self.filled_s = 0.0

    def fill(self, depths: Collection[int]) -> None:
        """Computes what is missing at these depths, in one pass."""
        missing = set(depths) - {0} - set(self._feeds)
        if missing:
            feed = self._make_feed(missing)
            feed.fill_unchecked()
            self.filled_s += feed.filled_s
            self._feeds |= dict.fromkeys(missing, feed)

    def rows(self, depth: int, rows_N: Tensor, sizes: Sequence[int]) -> Tensor | None:
        """The features of those images, a copy; None where they are not kept, or are not what batches of these sizes would
        compute."""
        self.fill({depth})
        kept = self._feeds[depth].kept(depth)
        if kept is None or not all(self._fit(depth, size) for size in sizes):
            return None
        return kept[rows_N.to(kept.device)]

    def pooled(self, rows_N: Tensor) -> dict[int, Tensor]:
        """What the passes noted of those images, see Feed."""
        return {depth: rows[rows_N] for feed in self._feeds.values() for depth, rows in feed.pooled().items()}

    def _fit(self, depth: int, size: int) -> bool:
        if (depth, size) not in self._fits:
            feed = self._feeds[depth]
            samples = _SAMPLES if size <= feed.batch_size else 1  # large ones are those of evaluation
            orders = [torch.randperm(len(feed), generator=torch.Generator().manual_seed(i)) for i in range(samples)]
            self._fits[depth, size] = all(feed.agrees_at(depth, order[:size]) for order in orders)
        return self._fits[depth, size]
