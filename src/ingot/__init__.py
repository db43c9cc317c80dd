"""Ingot turns an ONNX model into one engine file and runs it as one CUDA-graph launch.

``build`` compiles, ``load`` reads an engine, ``Engine.context().run(...)`` executes it, and
``InferenceSession`` stands in for ONNX Runtime's. Names are imported on first use: loading an engine
never loads the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingot.api import InferenceSession as InferenceSession
    from ingot.api import build as build
    from ingot.api import quantize as quantize
    from ingot.errors import IngotError as IngotError
    from ingot.options import BuildOptions as BuildOptions
    from ingot.runtime.engine import Engine as Engine
    from ingot.runtime.engine import load as load

_HOME = {
    "BuildOptions": "ingot.options",
    "Engine": "ingot.runtime.engine",
    "InferenceSession": "ingot.api",
    "IngotError": "ingot.errors",
    "build": "ingot.api",
    "load": "ingot.runtime.engine",
    "quantize": "ingot.api",
}
__all__ = ["BuildOptions", "Engine", "InferenceSession", "IngotError", "build", "load", "quantize"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ingot' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
