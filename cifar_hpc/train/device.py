"""The device and the precision that a trial trains in. Knows no records."""

from __future__ import annotations

import torch


def choose_device(gpus: float | None) -> torch.device:
    """The present CUDA device, or the CPU where there is none or gpus is 0.

    From then on cuDNN's kernels add in one order: by itself it takes float32 kernels that do not, and after three epochs the
    same ResNet-18 twice had logits that differed by a tenth. In bfloat16 that costs nothing (docs/measured.md).
    """
    if gpus == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", torch.cuda.current_device())


def choose_precision(asked: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on GPUs that compute it natively (compute capability 8.0 and up), else float32.

    A CPU stays with float32: without bf16 units autocast halves its speed.
    """
    if asked == "bf16":
        return torch.bfloat16
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if asked == "auto" and native else torch.float32


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products of this process may be rounded to TF32's 10 bits on a GPU: torch by itself does so in
    convolutions and not in matrix products."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def tf32_allowed() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32)
