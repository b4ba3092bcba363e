"""Builds what a process must be started with to see the simulated GPU: the runtime to preload, and a driver library that torch
opens but in which nothing works. Needs gcc and the CUDA headers that come with triton."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

_ANSWERS = """
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDriverGetVersion(int *v) { *v = 13020; return 0; }
int cuGetErrorString(int e, const char **s) { *s = "simulated"; return 0; }
int cuGetProcAddress(const char *s, void **p, int v, unsigned long f) { *p = 0; return 500; }
int cuGetProcAddress_v2(const char *s, void **p, int v, unsigned long f, void *r) { *p = 0; return 500; }
"""


def why_not() -> str | None:
    """Why it cannot be built here; None where it can."""
    if shutil.which("gcc") is None:
        return "no gcc"
    import torch

    if torch.version.cuda is None:
        return "a torch without CUDA"
    return None if _headers() else "no CUDA headers: triton brings them"


def build(folder: Path) -> dict[str, str]:
    """Into the folder; returns the environment variables of a process that is to see the GPU."""
    here, headers = Path(__file__).parent, _headers()
    assert headers is not None
    flags = ["gcc", "-shared", "-fPIC", "-O1", "-w"]
    runtime = folder / "runtime.so"
    subprocess.run([*flags, f"-I{headers}", "-o", runtime, here / "runtime.c"], check=True)
    source = folder / "driver.c"
    silent = sorted(_driver_names() - set(re.findall(r"int (\w+)\(", _ANSWERS)))
    source.write_text(_ANSWERS + "".join(f"int {name}() {{ return 0; }}\n" for name in silent))
    subprocess.run([*flags, "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", source], check=True)
    return {"LD_PRELOAD": str(runtime), "LD_LIBRARY_PATH": str(folder), "SIMULATED_GPU_RUNTIME": str(runtime)}


def _headers() -> Path | None:
    packages = Path(sysconfig.get_paths()["purelib"])
    found = packages / "triton" / "backends" / "nvidia" / "include"
    return found if (found / "cuda_runtime_api.h").exists() else None


def _driver_names() -> set[str]:
    """The driver's functions that torch looks up by name."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    libraries = [Path(spec.origin).parent / "lib" / name for name in ("libc10_cuda.so", "libcaffe2_nvrtc.so")]
    content = b"".join(library.read_bytes() for library in libraries if library.exists())
    return {name.decode() for name in re.findall(rb"\0(cu[A-Z][A-Za-z0-9]+(?:_v\d)?)(?=\0)", content)}
