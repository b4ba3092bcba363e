"""What classes count in the training loss. Owns: weights_of_classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cifar_hpc.config.trial import TrialConfig


def weights_of_classes(config: TrialConfig, labels_N: Tensor, classes: Sequence[str]) -> Tensor | None:
    """K float32, of the training images' labels: what each part of a target counts by its class, which is all of an image's
    loss without label_smoothing, mixup and cutmix. None where all count alike.

    balanced: N / (K n_k), which is 1 on average over the images (King and Zeng 2001), K the classes that have images.
    """
    if config.class_weights is None:
        return None
    if isinstance(config.class_weights, tuple):
        given = dict(config.class_weights)
        return torch.tensor([given.get(name, 1.0) for name in classes], dtype=torch.float32)
    counts_K = torch.bincount(labels_N.cpu(), minlength=len(classes)).double()
    weight_K = len(labels_N) / ((counts_K > 0).sum() * counts_K.clamp_min(1))
    return torch.where(counts_K > 0, weight_K, 1.0).float()
