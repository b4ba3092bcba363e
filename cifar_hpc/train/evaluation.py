"""A batch of a split through the trunk and all members, captured once and replayed, batch after batch and epoch after epoch.

Owns: Evaluator. Only for splits that lie on the device whole; what does not, `loop.evaluate` takes batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cifar_hpc.train.features import Feed
from cifar_hpc.train.graphs import Captured, Graphs
from cifar_hpc.train.member import Member
from cifar_hpc.train.probes import SideBySide


class Evaluator:
    """Logits of some members on batches of one size. The members are in evaluation mode."""

    def __init__(self, members: Sequence[Member], split: Feed, size: int, graphs: Graphs) -> None:
        self.members = list(members)
        self.depths = [member.depth for member in members]
        self.size = size
        self._split = split
        device = split.labels_N.device
        self._start = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows_B = torch.arange(size, device=device)
        self._logits: list[Tensor] = []
        self._side_by_side = SideBySide(members)
        self._captured = Captured(graphs, self._compute, self._compute)

    def serves(self, members: Sequence[Member], split: Feed) -> bool:
        here = self._split is split and self.members == list(members)
        return here and self.depths == [member.depth for member in members]

    def logits(self, start: int) -> list[Tensor]:
        """Of each member, NK float32, of the images from start on."""
        self._start.fill_(start)
        self._captured.prepare()
        self._captured.run()
        return [logits_NK.clone() for logits_NK in self._logits]

    def _compute(self) -> None:
        features = self._split.eval_batch_at(self._start + self._rows_B, set(self.depths))
        for i, logits_NK in enumerate(self._side_by_side.logits(features)):
            if i == len(self._logits):
                self._logits.append(torch.empty_like(logits_NK))
            self._logits[i].copy_(logits_NK)
