"""Families of layers: how the library counts the kernels that it holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ingot.graph.region import Kind, Region

DEPTHWISE = "depthwise convolution"
ATTENTION_READY = "attention-ready GEMM"

_BY_KIND = {
    Kind.CONV: "convolution",
    Kind.STEM: "convolution",
    Kind.CHAIN: "convolution",
    Kind.SUM: "convolution",
    Kind.INVERTED: "convolution",
    Kind.GEMM: "GEMM",
    Kind.ATTENTION: "attention",
    Kind.ROWWISE: "reduction",
    Kind.REDUCE: "reduction",
    Kind.POOL: "pooling",
    Kind.MAP: "pointwise and moves",
}


def family_of(region: Region, for_attention: Collection[str] = ()) -> str:
    """The family of ``region``; ``for_attention`` are the values that attention reads (:func:`read_by_attention`).

    A product that attention reads is a family of its own: it makes queries, keys and values in one, where attention
    wants them. Kinds without a family of their own go by their own name.
    """
    if region.kind is Kind.CONV and _depthwise(region):
        return DEPTHWISE
    if region.kind is Kind.GEMM and not set(region.outputs).isdisjoint(for_attention):
        return ATTENTION_READY
    return _BY_KIND.get(region.kind, region.kind.value)


def read_by_attention(regions: Sequence[Region]) -> frozenset[str]:
    """Names of the values that attention of the same model reads, also through views."""
    found = {name for region in regions if region.kind is Kind.ATTENTION for name in region.inputs}
    for region in reversed(regions):
        if region.kind is Kind.VIEW and not found.isdisjoint(region.outputs):
            found |= set(region.inputs)
    return frozenset(found)


def _depthwise(region: Region) -> bool:
    """Whether every channel of the input has filters of its own."""
    groups, channels = region.anchor.attr("group", 1), region.shape(region.anchor.inputs[0])[1]
    return groups == channels and groups != 1
