"""Multi-head self-attention as exporters write it."""

from __future__ import annotations

import math

from ingot.zoo.nets.builder import ModelBuilder


def self_attention(
    b: ModelBuilder, x: str, hidden: int, heads: int, tokens: int, *, mask: str = "", gain: float = 1.0
) -> str:
    """Self-attention over ``x`` (N, tokens, hidden), projected back; ``mask`` is added to the scores."""
    size = hidden // heads
    query, key, value = (b.linear(x, (hidden, hidden)) for _ in range(3))
    split = b.constant([0, tokens, heads, size])
    query = b.op("Transpose", b.op("Reshape", query, split), perm=[0, 2, 1, 3])
    key = b.op("Transpose", b.op("Reshape", key, split), perm=[0, 2, 3, 1])
    value = b.op("Transpose", b.op("Reshape", value, split), perm=[0, 2, 1, 3])
    scores = b.op("Div", b.op("MatMul", query, key), b.constant(math.sqrt(size)))
    if mask:
        scores = b.op("Add", scores, mask)
    context = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    merged = b.op("Reshape", b.op("Transpose", context, perm=[0, 2, 1, 3]), b.constant([0, tokens, hidden]))
    return b.linear(merged, (hidden, hidden), gain)


def feed_forward(b: ModelBuilder, x: str, hidden: int, inner: int, *, gain: float = 1.0) -> str:
    """Two linear layers with GELU between."""
    return b.linear(b.gelu(b.linear(x, (hidden, inner))), (inner, hidden), gain)
