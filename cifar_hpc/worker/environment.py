"""With what a trial ran: hardware and versions, for its result."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import socket
import subprocess
from pathlib import Path

import torch
import torchvision

import cifar_hpc
from cifar_hpc.config.catalog import TIMM
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.records.layout import SOURCE_FILE
from cifar_hpc.records.schema import Hardware, Provenance
from cifar_hpc.train.device import tf32_allowed


def describe_hardware(
    device: torch.device, precision: torch.dtype, world_size: int, graphs: str, gpus: float | None = None
) -> Hardware:
    """peak_memory_gb is the device allocator's high-water mark since its statistics were reset, before these trials; None on a
    CPU. graphs: what was captured; gpus: as spec.parts.Resources has them."""
    on_gpu = device.type == "cuda"
    return Hardware(
        device=device.type,
        name=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        host=socket.gethostname(),
        world_size=world_size,
        threads=torch.get_num_threads(),
        precision="bf16" if precision is torch.bfloat16 else "tf32" if on_gpu and tf32_allowed() else "fp32",
        peak_memory_gb=round(torch.cuda.max_memory_allocated(device) / 2**30, 3) if on_gpu else None,
        gpu_share=gpu_share(gpus) if on_gpu else None,
        graphs=graphs if on_gpu else None,
    )


def gpu_share(gpus: float | None) -> float | None:
    """Of its GPU, 0..1, where a job asks for no whole one; gpus: as spec.parts.Resources has them."""
    return gpus if gpus is not None and 0 < gpus < 1 else None


def describe_provenance(config: TrialConfig, data_sha256: str | None, weights_sha256: str | None) -> Provenance:
    """The versions of this process and the commit of the package's own checkout."""
    commit, diff = _checkout()
    return Provenance(
        cifar_hpc=cifar_hpc.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        commit=commit,
        diff_sha256=diff,
        data_sha256=data_sha256,
        weights_sha256=weights_sha256,
        timm=importlib.metadata.version("timm") if config.arch.startswith(TIMM) else None,
        sources=tuple(source.label for source in config.sources or ()),
    )


@functools.cache
def _checkout() -> tuple[str | None, str | None]:
    package = Path(cifar_hpc.__file__).parent
    copied = package.parent / SOURCE_FILE
    if copied.exists():  # a copy made for a cluster
        source = json.loads(copied.read_text())
        return source["commit"], source["diff_sha256"]

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", package, *arguments], capture_output=True, check=True, timeout=30).stdout

    try:
        if not git("ls-files", "--", str(package / "__init__.py")):
            return None, None
        diff = git("diff", "HEAD", "--", str(package))
        return git("rev-parse", "HEAD").decode().strip(), hashlib.sha256(diff).hexdigest() if diff else None
    except (OSError, subprocess.SubprocessError):
        return None, None


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
