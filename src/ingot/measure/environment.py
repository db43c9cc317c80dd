"""On what a figure was measured."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import msgspec

from ingot.device.device import DeviceInfo

_PACKAGES = (
    "ingot", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "triton", "nvidia-cuda-nvrtc",
    "cuda-bindings", "torch", "torchvision", "transformers",
)  # fmt: skip


class Environment(msgspec.Struct, frozen=True):
    """Hardware and versions."""

    device: str
    """The GPU's name, or the CPU's for engines of target cpu."""
    arch: str
    """``sm_90`` ..., or the machine's architecture."""
    sms: int
    memory_bytes: int
    cuda: str
    """CUDA version of the driver; empty without a GPU."""
    driver: str
    cpu: str
    cores: int
    """Cores that this process may use."""
    python: str
    system: str
    versions: dict[str, str]
    """Installed packages."""


def environment(info: DeviceInfo | None) -> Environment:
    """``info``: the GPU in use, None for the CPU."""
    cpu = _cpu()
    return Environment(
        device=info.name if info else cpu,
        arch=info.target if info else platform.machine(),
        sms=info.sms if info else 0,
        memory_bytes=info.memory_bytes if info else 0,
        cuda=f"{info.driver // 1000}.{info.driver % 1000 // 10}" if info else "",
        driver=_driver() if info else "",
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        python=platform.python_version(),
        system=platform.system(),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _driver() -> str:
    """The driver's own version, where the system tells."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return match.group() if match else ""
