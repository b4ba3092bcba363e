"""What the kernels of the simulated GPU would compute, done by those of the CPU on the same memory; and what a step costs.

`Device()`, as a context in a process that build.py's environment has prepared, answers every operation on tensors of cuda:0. It
knows where the host waits (`waits`, by the line of the project that asks), how many kernels were launched (`launches`), and
raises where tensors of two devices meet. Knows no NCCL, no CUDA graphs, no times.
"""

from __future__ import annotations

import collections
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

# Operations whose kernels are counted here and not launched: libraries that are not there would be asked.
COUNTED = {
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "convolution", "addmv", "mv", "dot"), 1),
    **dict.fromkeys(("native_batch_norm", "native_batch_norm_backward", "convolution_backward"), 2),
    **dict.fromkeys(("cudnn_batch_norm", "cudnn_batch_norm_backward", "_batch_norm_with_update", "batch_norm_backward"), 2),
    **dict.fromkeys(("native_dropout", "bernoulli_", "_to_copy", "copy_", "linalg_vector_norm"), 1),
}
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
    "unique_consecutive",
    "bincount",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
CROSSING = {"copy_", "_to_copy", "set_", "lift_fresh", *INDEXING}  # what may take tensors of two devices
MAKING = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted", "resize_", "set_"}
PASSED_ON = {"record_stream", "is_pinned", "pin_memory", "_pin_memory", "detach", "alias", "detach_", *MAKING}
DRAWING = {"native_dropout", "bernoulli_", "uniform_", "normal_", "random_", "rand", "randn", "bernoulli", "randperm"}


def runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(os.environ["SIMULATED_GPU_RUNTIME"])
    library.simulated_launches.restype = library.simulated_bytes.restype = ctypes.c_long
    return library


class Device(TorchDispatchMode):
    """Operations on cuda:0. waits, launches: since the last `reset`."""

    def __init__(self, *, count_launches: bool = False) -> None:
        super().__init__()
        self._runtime = runtime()
        self._count = count_launches
        self.reset()

    def reset(self) -> None:
        self.waits: collections.Counter[str] = collections.Counter()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        flat, shape = tree_flatten((args, kwargs))
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        here = [x for x in flat if _is_here(x)]
        elsewhere = not here and (target is None or target.type != "cuda")
        if elsewhere or (target is not None and target.type == "meta"):
            return func(*args, **kwargs)
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if name in PASSED_ON or (views and name not in ("_to_copy", "contiguous", "reshape")):
            return func(*args, **kwargs)
        strangers = [x for x in flat if isinstance(x, Tensor) and x.device.type == "cpu" and x.ndim > 0]
        if here and strangers and name not in CROSSING:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name}) at {_place()}"
            )
        self._note(name, args, kwargs, target)
        if self._count:
            self.launches += self._launched(func, name, args, kwargs)
        if name in DRAWING:
            _seed_as_device()
        if self._count and name in ("bmm", "baddbmm") and here[0].dtype is torch.bfloat16:
            left_BRC, right_BCK = args[-2:]  # not computed: Muon's iterations cost minutes here, and no count depends on them
            return left_BRC.new_zeros(*left_BRC.shape[:2], right_BCK.shape[2])
        return self._compute(func, flat, shape, target)

    def _note(self, name: str, args: Any, kwargs: Any, target: torch.device | None) -> None:
        """Where the host would wait for the device."""
        if name in WAITING:
            self._waits(name)
        elif name in INDEXING:
            for index in args[1]:
                if index is not None and index.device.type == "cpu" and _is_here(args[0]):
                    self._waits(f"{name} by an index of the host")
                elif index is not None and index.dtype in (torch.bool, torch.uint8):
                    self._waits(f"{name} by a mask")
        elif name == "_to_copy":
            leaves = _is_here(args[0]) and target is not None and target.type == "cpu"
            if leaves or (not _is_here(args[0]) and not kwargs.get("non_blocking")):
                self._waits("a copy to the host" if leaves else "a blocking copy to the device")
        elif (
            name == "copy_" and _is_here(args[0]) != _is_here(args[1]) and not (kwargs.get("non_blocking") or True in args[2:])
        ):
            self._waits("a blocking copy")

    def _waits(self, what: str) -> None:
        self.waits[f"{what} at {_place()}"] += 1

    def _launched(self, func: Any, name: str, args: Any, kwargs: Any) -> int:
        if name in COUNTED or name in WAITING or name in INDEXING:
            return COUNTED.get(name, 1)
        before = self._runtime.simulated_launches()
        try:
            func(*args, **kwargs)  # the real one, whose kernels do nothing
        except Exception:  # a library that is not there
            return 1
        return int(self._runtime.simulated_launches() - before)

    def _compute(self, func: Any, flat: list[Any], shape: Any, target: torch.device | None) -> Any:
        """With the CPU's kernels on the same memory; what is new lies on the device afterwards."""
        own: dict[int, Tensor] = {}

        def there(value: Any) -> Any:
            if _is_here(value):
                alias = _on_cpu(value)
                own[id(alias)] = value
                return alias
            return torch.device("cpu") if value == target and isinstance(value, torch.device) else value

        args, kwargs = tree_unflatten([there(value) for value in flat], shape)
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        out = func(*args, **kwargs)
        stays_away = target is not None and target.type == "cpu"
        results, out_shape = tree_flatten(out)
        return tree_unflatten([self._back(value, own, stays_away) for value in results], out_shape)

    def _back(self, value: Any, own: dict[int, Tensor], stays_away: bool) -> Any:
        if not isinstance(value, Tensor) or stays_away:
            return value
        if id(value) in own:
            return own[id(value)]
        made = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cuda")
        if value.numel():
            _on_cpu(made).copy_(value)
        return made


def _is_here(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _on_cpu(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of the CPU."""
    storage = tensor.untyped_storage()
    if not storage.nbytes() or not tensor.numel():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_byte * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    whole = whole[: storage.nbytes() // tensor.element_size() * tensor.element_size()].view(tensor.dtype)
    return whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def _seed_as_device() -> None:
    """The CPU draws from where the device's own generator stands, which then goes on."""
    own = torch.cuda.default_generators[0]
    offset = own.get_offset()
    torch.default_generator.manual_seed((own.initial_seed() * 1000003 + offset) % 2**63)
    own.set_offset(offset + 4)


def _frames() -> Iterator[str]:
    frame = sys._getframe(1)
    while frame is not None:
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]


def _place() -> str:
    """The innermost line of the project."""
    return next((place.split("/cifar_hpc/")[-1] for place in _frames() if "/cifar_hpc/" in place), "a backward pass")
