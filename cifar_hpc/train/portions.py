"""A batch that the memory does not hold whole, taken in halves. For what treats every image by itself."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor


class Portions:
    """Applies what treats every image by itself to a whole batch, or in the largest halves that the memory holds.

    Once a batch was too large, later ones are not tried whole again.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, function: Callable[[Tensor], dict[int, Tensor]], x: Tensor) -> dict[int, Tensor]:
        """function: from a tensor, images first, to such tensors. Raises OutOfMemoryError where not even one image fits."""
        while True:
            size = min(self.most or len(x), len(x))
            try:
                if size == len(x):
                    return function(x)
                parts = [function(part) for part in x.split(size)]  # type: ignore[no-untyped-call]
                return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            self.most = (size + 1) // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of a device, or pinned memory of the host, ran out: torch's allocator says so by its own error; a library
    that cannot make its handle or workspace, a context, NCCL and cudaHostAlloc by others."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


_WORDS = (
    *("CUDA error: out of memory", "cudaErrorMemoryAllocation", "CUDA out of memory", "HIP out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED"),
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "Cuda failure 2 'out of memory'",  # NCCL's
)


def give_back() -> None:
    """Returns to the device what this process took of it and does not need any more. Networks cut into blocks hold themselves,
    and cuBLAS keeps a workspace for each stream."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
