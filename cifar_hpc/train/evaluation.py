"""What the members of a cohort make of a whole split: the trunk runs once for all, batch after batch and epoch after epoch; a
GPU replays its batch where the split lies there whole.

Owns: Evaluator, evaluate. Knows no epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cifar_hpc.train.features import Feed
from cifar_hpc.train.graphs import Captured, Graphs
from cifar_hpc.train.member import Member
from cifar_hpc.train.probes import SideBySide

EVAL_BATCH_SIZE = 500


class Evaluator:
    """Logits of some members at their present depths on one split, again and again."""

    def __init__(self, members: Sequence[Member], split: Feed, graphs: Graphs | None = None) -> None:
        """graphs: where batches are captured; None: nowhere."""
        self.side_by_side = SideBySide(members)
        self._depths = set(self.side_by_side.depths)
        self._split = split
        self._captured: Captured | None = None
        if graphs is not None and graphs.on and len(split) >= EVAL_BATCH_SIZE:
            split.fill()
            if split.lies_on_device(self._depths):
                self._captured = Captured(graphs, self._compute, self._compute)
                device = split.labels_N.device
                self._start = torch.zeros(1, dtype=torch.int64, device=device)
                self._rows_B = torch.arange(EVAL_BATCH_SIZE, device=device)
                self._batch_MNK = self._room(EVAL_BATCH_SIZE)

    def serves(self, members: Sequence[Member], split: Feed) -> bool:
        here = self._split is split and self.side_by_side.members == list(members)
        return here and self.side_by_side.depths == [member.depth for member in members]

    @torch.no_grad()
    def logits(self, look: Callable[[], None]) -> Tensor:
        """MNK, float32, of the weights that the members have now. look: see `evaluate`."""
        split, side_by_side = self._split, self.side_by_side
        side_by_side.begin()
        span = split.world.span(len(split))
        common_n = len(split) // split.world.size  # images that every process has
        own_MNK = self._room(len(span))
        for start in range(span.start, span.stop, EVAL_BATCH_SIZE):
            if 0 < start - span.start < common_n:
                look()
            stop = min(start + EVAL_BATCH_SIZE, span.stop)
            batch_MNK = own_MNK[:, start - span.start : stop - span.start]
            if self._captured is not None and stop - start == EVAL_BATCH_SIZE:
                self._start.fill_(start)
                self._captured.prepare()
                self._captured.run()
                batch_MNK.copy_(self._batch_MNK)
            else:
                side_by_side.put_logits(split.eval_batch(start, stop, self._depths), batch_MNK)
        if split.world.size > 1:
            own_MNK = split.world.join_rows(own_MNK.transpose(0, 1).contiguous(), len(split)).transpose(0, 1)
        return side_by_side.in_order(own_MNK)

    def _room(self, images_n: int) -> Tensor:
        """MNK, which lies as products make it: the images of a class one after another."""
        classes_n, device = self._split.batches.num_classes, self._split.labels_N.device
        return torch.empty(len(self.side_by_side.members), classes_n, images_n, device=device).transpose(1, 2)

    def _compute(self) -> None:
        features = self._split.eval_batch_at(self._start + self._rows_B, self._depths)
        self.side_by_side.put_logits(features, self._batch_MNK)


def evaluate(
    members: Sequence[Member], split: Feed, look: Callable[[], None] = lambda: None, evaluator: Evaluator | None = None
) -> Tensor:
    """Logits MNK, float32, of every member over a whole split, in its order.

    look: called between two batches; it may raise Interrupted. Processes of a world, whose spans may differ by an image, call
    it equally often, so that they can agree there. evaluator: one that serves the members.

    Each process of a world computes its span of the split, and all get all. Of an empty split: M x 0 x 0.
    """
    if not members or not len(split):
        return torch.zeros(len(members), 0, 0, device=split.labels_N.device)
    return (evaluator or Evaluator(members, split)).logits(look)
