"""The batches gathered from a split: augmented, normalised, resized. A split lives whole on its device as uint8, unless a GPU
has no room for it; and one that is a map on disk not on a CPU either: then each batch is gathered by the host.

Owns: residency, the windowed flip and crop, normalisation, resizing. Knows nothing of epochs, shuffling or models.

Order: flip and crop on uint8 (bit-equal to torchvision for the same draws), the other operations on float32 in 0..1 at the
stored size, normalisation, resizing, mixing. All draws come from the given CPU generator, so that a batch does not depend on
the device that it is made on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cifar_hpc.config.packages import augment_missing
from cifar_hpc.config.plugins import operations_of
from cifar_hpc.config.registry import AugmentInfo
from cifar_hpc.config.trial import AugmentOp, TrialConfig
from cifar_hpc.data import augment as augmentation
from cifar_hpc.data.dataset import Split
from cifar_hpc.data.pixels import Draws, move, per_image
from cifar_hpc.data.staged import Staged
from cifar_hpc.errors import CifarHpcError

DEVICE_FRAC = 0.5  # of a GPU's free memory that the images of a split may take


def batches_for(
    config: TrialConfig,
    split: Split,
    *,
    classes_n: int,
    channels: int,
    normalisation: tuple[Sequence[float], Sequence[float]],
    device: torch.device,
    augmented: bool = False,
) -> Batches:
    """A split as a trial's network sees it. channels: that the network takes; augmented: as training images are."""
    assert config.image_size is not None  # a spec fills it in
    mean, std = normalisation
    return Batches(
        split,
        image_size=config.image_size,
        in_channels=channels,
        mean=mean,
        std=std,
        augment=config.augment if augmented else "none",
        operations=operations_of(config.sources) if augmented else None,
        num_classes=classes_n,
        device=device,
    )


class Batches:
    """A split on its device.

    image_size: side of the batches, pixels; where it is not the stored side, bilinear resizing on the device, antialiased where
    it shrinks (not bit-equal to PIL's). in_channels: 1, or 3 with gray images repeated. mean, std: per channel, in 0..1.
    augment: a name of catalog.AUGMENTATIONS or operations of catalog.AUGMENT_OPS, and of `operations` beyond these.
    """

    def __init__(
        self,
        split: Split,
        *,
        image_size: int,
        in_channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: str | tuple[AugmentOp, ...] = "none",
        operations: Mapping[str, AugmentInfo] | None = None,
        num_classes: int,
        device: torch.device,
    ) -> None:
        channels = split.images_NCHW.shape[1]
        if channels not in (1, in_channels) or len(mean) not in (1, in_channels) or len(std) != len(mean):
            raise ValueError(
                f"{channels}-channel images, {in_channels} channels asked, {len(mean)} means, {len(std)} deviations"
            )
        chosen = augmentation.resolve(augment, operations)
        if missing := augment_missing(augment):
            raise CifarHpcError(missing)
        self.image_size = image_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.device = device
        self.side = split.images_NCHW.shape[-1]
        self._geometry = augmentation.leading_window(chosen, self.side)
        self._pixel_ops = augmentation.pixel_operations(chosen[self._geometry.operations_n :])
        self._mix = augmentation.mix_operation(chosen)
        self._split = split
        self._staged: dict[int, Staged] = {}  # for each number of images
        # The zero border is stored with the images, so that a crop is a window view and one gather.
        padded_NCHW = _resident(split, self._geometry.pad, device)
        self._windows = None if padded_NCHW is None else self._cut(padded_NCHW)  # None: gathered batch by batch
        self.labels_N = split.labels_N.to(device)
        # (x / 255 - mean) / std as one multiplication and one addition
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self._gain = (1 / std_C).float().view(1, -1, 1, 1).to(device)
        self._gain_of_bytes = self._gain / 255
        self._offset = (-mean_C / std_C).float().view(1, -1, 1, 1).to(device)
        # what a blanked pixel becomes: 0 after normalisation, for gray images on average
        fill_C = mean_C if len(mean) == channels else mean_C.mean(0, keepdim=True)
        self._mean_pixel = fill_C.float().view(1, -1, 1, 1).to(device)

    def __len__(self) -> int:
        return len(self.labels_N)

    def draw(self, count: int, generator: torch.Generator) -> list[Draws]:
        """All that is random in one batch of `count` augmented images, on the CPU, operation by operation. generator: a CPU
        generator, the only source of draws."""
        draws = [self._geometry.draw(count, generator)]
        draws += [operation.draw(count, self.side, generator) for operation in self._pixel_ops]
        if self._mix is not None:
            mix, alpha = self._mix
            draws.append(mix.draw(alpha, count, self.image_size, generator))
        return draws

    def make(self, index_B: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
        """The augmented images at `index_B` and their targets, all on the split's device; waits for nothing, and on a GPU its
        shapes depend on the number of images alone.

        Returns x_NCHW float32, normalised, image_size x image_size; y_N int64, or y_NK float32 (rows sum to 1) where the
        augmentation mixes images.
        """
        x_NCHW = self._gather(index_B, draws[0])
        y_N = self.labels_N[index_B]
        if self._pixel_ops:
            x_NCHW = x_NCHW.float().div_(255)
            for operation, drawn in zip(self._pixel_ops, draws[1:], strict=False):
                x_NCHW = operation.change(x_NCHW, drawn, self._mean_pixel)
        x_NCHW = self._finish(x_NCHW, self._gain if self._pixel_ops else self._gain_of_bytes)
        return (x_NCHW, y_N) if self._mix is None else self._mix[0].mix(x_NCHW, y_N, draws[-1], self.num_classes)

    def train_batch(self, index_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`make` with draws from the generator. index_B: CPU int64, positions in the split."""
        draws = self.draw(len(index_B), generator)
        self.stage(index_B)
        return self.make(move(index_B, self.device), [tuple(move(t, self.device) for t in drawn) for drawn in draws])

    def eval_batch(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `index_B` as they are: x_NCHW float32, normalised and resized, and y_N int64."""
        pad, here_B = self._geometry.pad, index_B
        if index_B.device != self.device:
            here_B = move(index_B, self.device)
        x_NCHW = self._streamed(index_B) if self._windows is None else self._windows[:, :, pad, pad][here_B]
        return self._finish(x_NCHW, self._gain_of_bytes), self.labels_N[here_B]

    @property
    def resident(self) -> bool:
        """Whether the images are on the device; else each batch is gathered by the host."""
        return self._windows is not None

    def stage(self, index_B: Tensor) -> None:
        """Brings the images of the next batch to their place on a GPU where they are not resident, without waiting for them.
        index_B: CPU int64."""
        if self._windows is not None or self.device.type != "cuda":
            return
        if len(index_B) not in self._staged:
            shape = (len(index_B), *self._split.images_NCHW.shape[1:])
            self._staged[len(index_B)] = Staged(self._read, shape, torch.uint8, self.device)
        self._staged[len(index_B)].load(index_B)

    def _read(self, index_B: Tensor, out: Tensor) -> None:
        out.copy_(self._split.images(index_B))

    def _streamed(self, index_B: Tensor) -> Tensor:
        """The images at an index of the host; at one of the device those that were staged, which has as many."""
        if self.device.type != "cuda":
            return self._split.images(index_B)
        if index_B.device.type == "cpu":
            self.stage(index_B)
        return self._staged[len(index_B)].rows

    def _cut(self, padded_NCHW: Tensor) -> Tensor:
        return padded_NCHW.unfold(2, self.side, 1).unfold(3, self.side, 1)  # N C 2p+1 2p+1 H W

    def _gather(self, index_B: Tensor, draws: Draws) -> Tensor:
        windows, at_B = self._windows, index_B
        if windows is None:
            windows = self._cut(functional.pad(self._streamed(index_B), (self._geometry.pad,) * 4))
            at_B = torch.arange(len(index_B), device=self.device)
        if not draws:
            return windows[:, :, 0, 0][at_B]
        top_B, left_B, flip_B = draws
        x_NCHW = windows[at_B, :, top_B, left_B]
        return torch.where(per_image(flip_B), x_NCHW.flip(-1), x_NCHW)

    def _finish(self, x_NCHW: Tensor, gain: Tensor) -> Tensor:
        """Pixels of any type and range -> float32, in_channels, x * gain + offset, image_size."""
        x_NCHW = x_NCHW.expand(-1, self.in_channels, -1, -1).to(torch.float32, memory_format=torch.channels_last)
        x_NCHW = torch.addcmul(self._offset, x_NCHW, gain)
        if self.image_size == self.side:
            return x_NCHW
        return functional.interpolate(
            x_NCHW, size=(self.image_size, self.image_size), mode="bilinear", antialias=self.image_size < self.side
        )


def _resident(split: Split, pad: int, device: torch.device) -> Tensor | None:
    """All images with a zero border, on the device; None where they are better left where they are."""
    count, (channels, side) = len(split.labels_N), split.images_NCHW.shape[1:3]
    shape = (count, channels, side + 2 * pad, side + 2 * pad)
    if device.type != "cuda":
        return functional.pad(split.images_NCHW, (pad,) * 4).to(device) if split.rows_N is None else None
    size, free = torch.Size(shape).numel(), torch.cuda.mem_get_info(device)[0]
    if size > DEVICE_FRAC * free:
        text = "{} images of {:.1f} GB stay with the host, which hands on each batch: the GPU has {:.1f} GB free"
        print(text.format(count, size / 1e9, free / 1e9), file=sys.stderr, flush=True)
        return None
    padded_NCHW = torch.zeros(shape, dtype=torch.uint8, device=device)
    start = 0
    for chunk_NCHW in split.chunks():
        inner_NCHW = padded_NCHW[start : start + len(chunk_NCHW), :, pad : pad + side, pad : pad + side]
        inner_NCHW.copy_(chunk_NCHW)
        start += len(chunk_NCHW)
    return padded_NCHW
