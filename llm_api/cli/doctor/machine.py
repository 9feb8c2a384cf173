"""The machine, where a model computes on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ...backends.local.model import absolute
from ...runtime.cores import lines_of, usable_cores
from ...settings import Settings
from ...web.service import Service
from .finding import Finding

CPUINFO = Path("/proc/cpuinfo")
# NVIDIA's, AMD's, Windows' for Linux.
GPUS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
WHEEL = "install its wheel for that GPU: docs/local-model.md"
COMPUTES_ON_GPU = {
    "xllamacpp": "any('GPU' in str(device['type']) for device in xllamacpp.get_device_info())",
    "torch": "torch.cuda.is_available()",
}
# The kernel's names (/proc/cpuinfo) for llama.cpp's, of those that its sums take most from.
INSTRUCTIONS = {
    **{"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI"},
    **{"amx_int8": "AMX_INT8", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE"},
}


def check(service: Service) -> Iterator[Finding]:
    """Yield what is found of its cores, and where a local model is among the backends, of what computes that."""
    settings = service.settings
    yield from _threads(settings)
    if any(backend.name == "huggingface" for backend, _ in service.chain.links) and settings.hf_mode == "local":
        yield from _gpu(settings)
        yield from _instructions(settings)


def _threads(settings: Settings) -> Iterator[Finding]:
    cores = usable_cores()
    if (settings.hf_threads or 0) > cores:
        what = f"HF_THREADS={settings.hf_threads}, but {cores} cores may be used: threads wait for each other"
        yield Finding("warning", what, "leave HF_THREADS unset")


def _gpu(settings: Settings) -> Iterator[Finding]:
    if not any(Path(device).exists() for device in GPUS):
        return
    package = _package(settings)
    if "True" in _said(package, COMPUTES_ON_GPU[package]):
        yield Finding("ok", f"{package} computes on the GPU")
    else:
        yield Finding("warning", f"this machine has a GPU, but {package} computes without it", WHEEL)


def _instructions(settings: Settings) -> Iterator[Finding]:
    has = next((line.split() for line in lines_of(CPUINFO) if line.startswith(("flags", "Features"))), [])
    said = _said("xllamacpp", "xllamacpp.get_system_info()") if has and _package(settings) == "xllamacpp" else ""
    if not said:
        return
    if missing := [ours for name, ours in INSTRUCTIONS.items() if name in has and f"{ours} = 1" not in said]:
        what = f"xllamacpp computes without {', '.join(missing)}, which this processor has"
        how = "its wheel is for all machines; its README (Installation) says how to build it for this one"
        yield Finding("warning", what, how)
    else:
        yield Finding("ok", "xllamacpp computes with the best instructions of this processor")


def _package(settings: Settings) -> str:
    name = settings.hf_model or "gguf"
    folder = absolute(name)
    # after a colon a hub's name has one of its GGUF files
    is_file = ":" in name or "gguf" in name.lower()
    is_gguf = any(folder.glob("*.gguf")) if os.path.isdir(folder) else is_file  # noqa: PTH112  (a long name)
    return "xllamacpp" if is_gguf else "torch"


def _said(package: str, expression: str) -> str:
    command = [sys.executable, "-c", f"import {package}; print({expression})"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  (none from outside)
