"""The least time that the hardware allows an engine's layers, each alone."""

from __future__ import annotations

from ingot.engine.describe import Description, Layer
from ingot.graph.region import PRODUCTS
from ingot.kernels.api import Target

_NO_WORK = frozenset({"view", "host"})
_HALF = ("float16", "bfloat16")
_BYTE = ("int8", "uint8", "float8_e4m3fn")


def layer_seconds(layer: Layer, target: Target) -> float:
    """The larger of the time for its bytes and the time for its operations; 0 for views and host steps."""
    if layer.kind in _NO_WORK:
        return 0.0
    return max(layer.bytes / target.bandwidth, layer.flops / peak(layer, target))


def peak(layer: Layer, target: Target) -> float:
    """Operations per second at the layer's precision: tensor cores only for products."""
    if layer.kind not in PRODUCTS:
        return target.flops_fp32
    reads = layer.precision.partition(" -> ")[0]
    if any(name in reads.split(",") for name in _BYTE):
        return 2 * target.flops
    if any(name in reads for name in _HALF):
        return target.flops
    return target.flops / 2 if target.tf32 else target.flops_fp32


def roofline_seconds(description: Description, target: Target) -> float:
    """Sum over the layers, since each reads and writes device memory as it was planned."""
    return sum(layer_seconds(layer, target) for layer in description.layers)
