"""The frozen trunk of a cohort and what flows out of it: computed batch by batch, or once for a whole split and kept.

Owns: Trunk, Feed, where kept features live. Knows nothing of members, losses or epochs.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from cifar_hpc.data.batches import Batches
from cifar_hpc.data.pixels import move
from cifar_hpc.data.staged import Staged
from cifar_hpc.distributed.world import World
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.freezing import freeze_blocks
from cifar_hpc.models.small_maps import SmallMapConv2d
from cifar_hpc.train.portions import Portions

KEEP_FRAC = 0.5  # share of the free device memory, host memory or disk that kept features may take, in this order of preference
ROUNDED = (nn.Conv2d, SmallMapConv2d, nn.Linear)  # and no layer that makes its weights of others
GPU_TOLERANCE = 1e-2  # relative; kept features of a GPU that differ by more from computed ones are not used


class Trunk:
    """The weights that all members of a cohort start from, frozen: run once a batch for all of them."""

    def __init__(self, model: BlockModel, precision: torch.dtype) -> None:
        self.model = model
        self.precision = precision
        self.portions = Portions()
        self._rounded: list[nn.Module] = []  # the first blocks with the weights that autocast would make of theirs each time
        freeze_blocks(model, len(model.blocks))
        model.eval()

    @torch.no_grad()
    def features(self, x_NCHW: Tensor, depths: Collection[int]) -> dict[int, Tensor]:
        """The output after each of the given numbers of blocks (0: the input itself), from one forward pass."""
        if not set(depths) - {0}:
            return {0: x_NCHW}
        features = self.portions(lambda x: self._features(x, depths), x_NCHW)
        return {depth: _as_features(_as_rows(tap).contiguous()) if depth else tap for depth, tap in features.items()}

    def _features(self, x_NCHW: Tensor, depths: Collection[int]) -> dict[int, Tensor]:
        features, reached = {0: x_NCHW}, 0
        with torch.autocast(x_NCHW.device.type, self.precision, enabled=self.precision is not torch.float32):
            for depth in sorted(set(depths) - {0}):
                x = features[reached]
                for block in self._blocks(x.is_cuda, reached, depth):
                    x = block(x)
                features[depth], reached = x, depth
        return features

    def _blocks(self, on_gpu: bool, start: int, stop: int) -> Sequence[nn.Module]:
        """On a GPU in bfloat16 rounded once: else each weight is a kernel more in each batch. The numbers are the same; they
        were not if norms were folded into weights: then features of a ResNet-18 err by 1.7 %, with this by 0.9 %."""
        if not on_gpu or self.precision is torch.float32:
            return list(self.model.blocks)[start:stop]
        while len(self._rounded) < stop:
            block = copy.deepcopy(self.model.blocks[len(self._rounded)])
            for layer in block.modules():
                if type(layer) in ROUNDED:
                    layer.to(self.precision)
            self._rounded.append(block)
        return self._rounded[start:stop]


class Source(Protocol):
    """Where kept features are taken from; see pool.py."""

    def rows(self, depth: int, rows_N: Tensor, sizes: Sequence[int]) -> Tensor | None: ...

    def pooled(self, rows_N: Tensor) -> dict[int, Tensor]: ...


class Feed:
    """One split as the members see it: its batches after each of some depths of the trunk.

    keep: compute the features of the whole split once, at first use, and gather from them. Only for a split that is not
    augmented. Then a batch costs no forward pass of the trunk. training: batches are shuffled, of batch_size or one less. On a
    CPU the features of a depth are kept only where they equal computed ones to the last bit; on a GPU within GPU_TOLERANCE.
    on_device: whether its memory may hold them; granted_bytes: of host memory to this job, None: no limit is known. source: the
    pool whose features are taken, and where in it this split's images are. glances: depths of which a mean over positions is
    noted where a pass that computes what is kept comes by.

    In a world of several processes a training batch is this one's share of the global batch, drawn whole by all alike; each
    keeps all features. batch_size: of the global batch.
    """

    def __init__(
        self,
        trunk: Trunk,
        batches: Batches,
        depths: Collection[int],
        batch_size: int,
        *,
        keep: bool,
        training: bool = False,
        world: World | None = None,
        on_device: bool = True,
        granted_bytes: int | None = None,
        source: tuple[Source, Tensor] | None = None,
        glances: Collection[int] = (),
    ) -> None:
        self.trunk = trunk
        self.batches = batches
        self.depths = sorted(set(depths) - {0})
        self.world = world or World()
        self.batch_size = -(-batch_size // self.world.size)
        self.labels_N = batches.labels_N
        self._keep = keep and bool(self.depths)
        self._on_device = on_device
        self._granted_bytes = granted_bytes
        self._source = source
        self._training = training
        self._kept: dict[int, Tensor] = {}
        self._glances = [depth for depth in glances if self.depths and 0 < depth <= max(self.depths)]
        self._pooled: dict[int, Tensor] = {}
        self._staged: dict[tuple[int, int], Staged] = {}
        self._draws_n: list[int] = []
        self._portions = Portions()
        self.filled_s = 0.0  # that computing what is kept has taken: of all who use it, whoever was first

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def kept_bytes(self) -> int:
        return sum(tap.nbytes for tap in self._kept.values())

    def values(self, index_B: Tensor, generator: torch.Generator) -> list[Tensor]:
        """What a training batch is made from, on the CPU: indices and draws. index_B: CPU int64, of the global batch."""
        draws = self.batches.draw(len(index_B), generator)
        self._draws_n = [len(drawn) for drawn in draws]
        return [index_B, *(tensor for drawn in draws for tensor in drawn)]

    def batch(self, values: Sequence[Tensor], depths: Collection[int]) -> tuple[dict[int, Tensor], Tensor]:
        """The features at the depths and the targets of one batch of the split. values: of `values`, on the device."""
        index_B, *drawn = values
        if self._kept:
            index_B = self.world.share(index_B)
            return self._taps_at(index_B, depths), self.labels_N[index_B]
        rest = iter(drawn)
        x_NCHW, target = self.batches.make(index_B, [tuple(next(rest) for _ in range(n)) for n in self._draws_n])
        return self.trunk.features(self.world.share(x_NCHW), depths), self.world.share(target)

    def train_batch(
        self, index_B: Tensor, generator: torch.Generator, depths: Collection[int]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """A batch at once. index_B: CPU int64, of the global batch."""
        self.fill()
        self.stage(index_B, depths)
        return self.batch([move(value, self.batches.device) for value in self.values(index_B, generator)], depths)

    def eval_batch(self, start: int, stop: int, depths: Collection[int]) -> dict[int, Tensor]:
        """The features at the depths of the images start..stop-1 of the split, without augmentation."""
        self.fill()
        if not self._kept_on_device(depths):
            index_B = torch.arange(start, stop)
            self._load(index_B, depths)
            return self._taps_at(index_B, depths)
        features = {d: _as_features(self._slice(d, start, stop)) for d in depths if d in self._kept}
        return features | self._computed(torch.arange(start, stop), set(depths) - set(features))

    def eval_batch_at(self, index_B: Tensor, depths: Collection[int]) -> dict[int, Tensor]:
        """The same of the images at index_B, int64 on the device, where all that it needs lies there."""
        return self._taps_at(index_B, depths)

    def fill(self) -> None:
        """Computes what is to be kept, where it was not done yet."""
        if self._keep:
            self._keep = False
            left = self.depths if self._source is None else self._take(*self._source)
            if left and not (self._training and self._source is not None):
                self._fill_as_needed(left)

    def fill_unchecked(self) -> None:
        """The same without a look at whether shuffled batches would give the same: who takes them looks by itself."""
        if self._keep:
            self._keep = False
            self._fill_evenly(self.depths)

    def kept(self, depth: int) -> Tensor | None:
        """The features of the whole split; None where they are computed batch by batch."""
        return self._kept.get(depth)

    def pooled(self) -> dict[int, Tensor]:
        """By depth, one row an image, on the CPU: what was noted where a pass came by."""
        return self._pooled

    def lies_on_device(self, depths: Collection[int]) -> bool:
        """Whether a batch needs nothing of the host but its values."""
        needs_images = self._keep or not set(depths) <= set(self._kept)
        return self._kept_on_device(depths) and (self.batches.resident or not needs_images)

    def _kept_on_device(self, depths: Collection[int]) -> bool:
        return not self._keep and all(self._kept[d].device == self.batches.device for d in depths if d in self._kept)

    def stage(self, index_B: Tensor, depths: Collection[int]) -> None:
        """Brings what the host keeps of the next training batch, features or images, to its place on the device, without
        waiting for it. index_B: CPU int64, of the global batch."""
        if self.lies_on_device(depths):
            return
        self._load(self.world.share(index_B), depths)
        if not set(depths) <= set(self._kept):
            self.batches.stage(index_B)

    def _load(self, index_B: Tensor, depths: Collection[int]) -> None:
        for depth in depths:
            if depth in self._kept and self._kept[depth].device != self.batches.device:
                key = depth, len(index_B)
                if key not in self._staged:
                    kept = self._kept[depth]
                    shape = (len(index_B), *kept.shape[1:])
                    self._staged[key] = Staged(partial(_rows_at, kept), shape, kept.dtype, self.batches.device)
                self._staged[key].load(index_B)

    def _taps_at(self, index_B: Tensor, depths: Collection[int]) -> dict[int, Tensor]:
        features = {depth: self._gather(depth, index_B) for depth in depths if depth in self._kept}
        return features | self._computed(index_B, set(depths) - set(features))

    def _slice(self, depth: int, start: int, stop: int) -> Tensor:
        """On a CPU in memory of its own, as computed ones are: kernels choose by the alignment of what they read."""
        rows = self._kept[depth][start:stop]
        return rows if rows.is_cuda else rows.clone()

    def _gather(self, depth: int, index_B: Tensor) -> Tensor:
        kept = self._kept[depth]
        if kept.device != self.batches.device:
            return _as_features(self._staged[depth, len(index_B)].rows)
        return _as_features(kept[index_B])

    def _computed(self, index_B: Tensor, depths: Collection[int]) -> dict[int, Tensor]:
        """Of images without augmentation, in parts where they do not fit the memory at their size."""
        if not depths:
            return {}
        return self._portions(lambda part_B: self.trunk.features(self.batches.eval_batch(part_B)[0], depths), index_B)

    def _take(self, pool: Source, rows_N: Tensor) -> list[int]:
        """Takes what the pool keeps; returns the depths at which it keeps nothing that batches of this split would compute."""
        n, size = len(self), min(self.batch_size, len(self))
        sizes = {size, max(1, size - 1)} if self._training else {min(n, size), n % size or size}
        for depth in self.depths:
            rows = pool.rows(depth, rows_N, sorted(sizes))
            if rows is not None:
                self._kept[depth] = rows
        self._pooled = pool.pooled(rows_N) if self._glances else {}
        return [depth for depth in self.depths if depth not in self._kept]

    def _fill(self, chunks: Iterable[range], depths: Sequence[int]) -> None:
        """Computes the features of the whole split once, chunk by chunk, at every depth for which there is room.

        Of what breaks off nothing is kept: a member may fail by it and others go on with this feed.
        """
        started = time.perf_counter()
        try:
            self._compute(chunks, list(depths))
        except BaseException:
            self._kept.clear()
            self._pooled.clear()
            raise
        self.filled_s += time.perf_counter() - started

    def _compute(self, chunks: Iterable[range], depths: list[int]) -> None:
        for chunk in chunks:
            if not depths:
                self._pooled.clear()
                return
            computed = self._computed(torch.arange(chunk.start, chunk.stop), [*depths, *self._glances])
            for depth in self._glances:
                rows = pooled(computed[depth]).cpu()
                self._pooled.setdefault(depth, rows.new_empty(len(self), rows.shape[1]))[chunk.start : chunk.stop] = rows
            for depth in list(depths):
                rows = _as_rows(computed[depth])
                if depth not in self._kept:
                    tensors_n = len(self.depths) * (1 if rows.is_cuda else self.world.size)  # at most so many on this host
                    shape = (len(self), *rows.shape[1:])
                    host_bytes = KEEP_FRAC * _free_host_bytes(self._granted_bytes)
                    on_device = self._on_device
                    room = _allocate(shape, rows.dtype, rows.device, host_bytes, share=tensors_n, on_device=on_device)
                    if room is None:
                        depths.remove(depth)
                        continue
                    self._kept[depth] = room
                self._kept[depth][chunk.start : chunk.stop] = rows

    def _fill_as_needed(self, depths: Sequence[int]) -> None:
        """For evaluation in the very batches that it takes. For training, whose batches are shuffled, in chunks as large as
        they are, since the size decides on the kernels and so on the last bit; and only where shuffled batches agree."""
        n, size = len(self), min(self.batch_size, len(self))
        if not self._training:
            spans = [self.world.span(n, rank) for rank in range(self.world.size)]
            self._fill(
                (range(i, min(i + size, span.stop)) for span in spans for i in range(span.start, span.stop, size)), depths
            )
            return
        self._fill_evenly(depths)
        for depth in list(self._kept):
            if not self._agrees(depth, size):
                del self._kept[depth]
                text = (
                    "features after block {} are computed for each batch, which is slower: on this machine their last bits"
                    " depend on the images beside them"
                )
                print(text.format(depth), file=sys.stderr)

    def _fill_evenly(self, depths: Sequence[int]) -> None:
        n, size = len(self), min(self.batch_size, len(self))
        starts = [*range(0, n - size, size), n - size]  # the last chunk overlaps the one before it
        self._fill((range(start, start + size) for start in starts), depths)

    def _agrees(self, depth: int, size: int) -> bool:
        """Whether gathered features equal those of shuffled batches of both sizes that training has, the last images too."""
        shuffled = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        last = torch.arange(len(self) - size, len(self))
        for index_B in (shuffled[:size], shuffled[-size:], shuffled[: max(1, size - 1)], last.flip(0), last[1:]):
            if len(index_B) and not self.agrees_at(depth, index_B):
                return False
        return True

    def agrees_at(self, depth: int, index_B: Tensor) -> bool:
        """Whether what is kept of these images is what they give as one batch. index_B: CPU int64."""
        kept = self._kept[depth]
        computed = self.trunk.features(self.batches.eval_batch(index_B)[0], [depth])[depth]
        gathered = _as_features(kept[index_B.to(kept.device)].to(self.batches.device))
        if gathered.is_cuda:
            return bool((gathered - computed).abs().max() <= GPU_TOLERANCE * computed.abs().max())
        return torch.equal(gathered, computed)


def pooled(x: Tensor) -> Tensor:
    """One row an image: maps are averaged over their positions (N C H W, or N H W C as Swin has them; they are square),
    sequences over their tokens (N T D)."""
    if x.ndim == 4:
        return x.float().mean((2, 3) if x.shape[2] == x.shape[3] else (1, 2))
    return x.float().mean(1) if x.ndim == 3 else x.float().flatten(1)


def _rows_at(kept: Tensor, index_B: Tensor, out: Tensor) -> None:
    torch.index_select(kept, 0, index_B, out=out)


def _as_rows(tap: Tensor) -> Tensor:
    """Feature maps as NHWC, in which kept images lie one after another; what is no map stays."""
    return tap.permute(0, 2, 3, 1) if tap.ndim == 4 else tap


def _as_features(rows: Tensor) -> Tensor:
    """The inverse: NCHW in the channels-last memory format, computed or kept, so that the same kernels meet both."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


def _allocate(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, host_bytes: float, *, share: int, on_device: bool
) -> Tensor | None:
    """Room on the device, else in host memory, else in a file that vanishes with the tensor; None where there is none.

    host_bytes: that the host has for all of them; share: how many such tensors will be asked for.
    """
    size = torch.Size(shape).numel() * dtype.itemsize * share
    if on_device and device.type == "cuda" and size <= KEEP_FRAC * torch.cuda.mem_get_info(device)[0]:
        return torch.empty(shape, dtype=dtype, device=device)
    if size <= host_bytes:
        return torch.empty(shape, dtype=dtype)
    if size <= KEEP_FRAC * shutil.disk_usage(tempfile.gettempdir()).free:
        with tempfile.NamedTemporaryFile(prefix="cifar-hpc-features-") as file:
            flat = torch.from_file(file.name, shared=True, size=torch.Size(shape).numel(), dtype=dtype)
        return flat.view(shape)
    return None


def _free_host_bytes(granted_bytes: int | None) -> int:
    """Memory that this process may still take: the machine's, or less where less was granted."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        available = next((line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")), None)
        free = int(available.split()[1]) * 1024 if available else free
    return free if granted_bytes is None else min(free, granted_bytes)
