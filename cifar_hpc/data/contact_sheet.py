"""What the network sees: some training images and several augmented draws of each, as numbers. Draws no picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.batches import batches_for
from cifar_hpc.data.dataset import load_dataset_of


@dataclass(frozen=True)
class ContactSheet:
    """pixels_RMCHW: uint8; a row per image: first as it is, then its augmented draws. row_labels: the class of each row.

    targets_RMK: float32, share of each class in the target; not one class only where images are mixed.
    """

    pixels_RMCHW: Tensor
    targets_RMK: Tensor
    row_labels: tuple[str, ...]
    classes: tuple[str, ...]


def contact_sheet(config: TrialConfig, root: Path, *, rows: int = 8, draws: int = 8) -> ContactSheet:
    """The first training images, classes in turn, as `config` resizes and augments them, one batch for each draw.

    Raises DataError where the data is not under `root`, CifarHpcError where the config has no image size.
    """
    data = load_dataset_of(config, root)
    split, K = data.train, len(data.classes)
    batches = batches_for(
        config,
        split,
        classes_n=K,
        channels=data.channels,
        normalisation=(data.mean, data.std),
        device=torch.device("cpu"),
        augmented=True,
    )
    of_class = [torch.nonzero(split.labels_N == label)[:, 0] for label in range(K)]
    index_R = torch.stack([of_class[row % K][(row // K) % len(of_class[row % K])] for row in range(rows)])
    generator = torch.Generator().manual_seed(stream_seed(config.seed, "contact_sheet"))
    made = [batches.eval_batch(index_R)] + [batches.train_batch(index_R, generator) for _ in range(draws)]
    x_RMCHW = torch.stack([x_NCHW for x_NCHW, _ in made], 1)
    targets = [torch.nn.functional.one_hot(y, K).float() if y.dim() == 1 else y for _, y in made]
    mean_C11, std_C11 = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    pixels = ((x_RMCHW * std_C11 + mean_C11) * 255).round().clamp(0, 255).to(torch.uint8)
    row_labels = tuple(data.classes[int(label)] for label in split.labels_N[index_R])
    return ContactSheet(pixels, torch.stack(targets, 1), row_labels, data.classes)
