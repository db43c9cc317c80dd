"""What, beside the Region and the target, decides the machine code of a variant."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable

_TRITON = ("triton", "pytorch-triton")
_NVRTC = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12")


@cache
def compilers() -> str:
    """Such as ``triton-3.6 nvrtc-13.0 kernels-1f0c...``: the compilers' versions and a digest of Ingot's kernels.

    Read from package metadata: importing the compilers takes a second that a warm build has not got.
    """
    return f"triton-{_version(_TRITON)} nvrtc-{_version(_NVRTC)} kernels-{_kernels()}"


def _version(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return ".".join(metadata.version(name).split(".")[:2])
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _kernels() -> str:
    """Digest of every source that generates kernels: times and code of other sources are not reused."""
    digest = hashlib.sha256()
    for package in ("graph", "kernels"):
        for path, content in sorted(_sources(resources.files("ingot") / package, package)):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _sources(folder: Traversable, name: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for item in folder.iterdir():
        path = f"{name}/{item.name}"
        if item.is_dir():
            found += _sources(item, path)
        elif item.name.endswith((".py", ".cuh", ".cu", ".h")):
            found.append((path, item.read_bytes()))
    return found
