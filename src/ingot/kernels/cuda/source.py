"""What the generators of large kernels have in common: their result, and the CUDA C++ that lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from ingot.graph.dims import Dim
from ingot.kernels.api import Argument


@dataclass(frozen=True)
class Source:
    """The text, and how to launch what it compiles to."""

    text: str
    grid: Dim
    arguments: tuple[Argument, ...]


@lru_cache(maxsize=16)
def template(path: str) -> str:
    """Text of a file of this package, such as ``hopper/ptx.cuh``."""
    return resources.files("ingot.kernels.cuda").joinpath(path).read_text()


def constants(values: Mapping[str, Dim], flags: Mapping[str, bool] | None = None) -> str:
    """Declarations of the numbers and flags that a template calls ``kName``."""
    lines = [f"constexpr int k{name} = {value};" for name, value in values.items()]
    lines += [f"constexpr bool k{name} = {str(value).lower()};" for name, value in (flags or {}).items()]
    return "\n".join(lines)
