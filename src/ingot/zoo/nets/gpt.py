"""GPT-2 decoders (Radford et al. 2019), pre-normalised, over a whole sequence at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from ingot.zoo.nets.builder import BATCH, ModelBuilder

_EPSILON = 1e-5
_MASKED = -10000.0


@dataclass(frozen=True)
class Gpt:
    """Sizes of one decoder; ``seq`` is the fixed number of tokens."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    vocabulary: int = 50257
    seq: int = 128
    seed: int = 0


def _gelu(b: ModelBuilder, x: str) -> str:
    """GELU by its tanh approximation, as GPT-2 has it."""
    cube = b.op("Mul", b.op("Pow", x, b.constant(3.0)), b.constant(0.044715))
    inner = b.op("Mul", b.op("Add", x, cube), b.constant(math.sqrt(2.0 / math.pi)))
    gate = b.op("Add", b.op("Tanh", inner), b.constant(1.0))
    return b.op("Mul", b.op("Mul", x, b.constant(0.5)), gate)


def _attention(b: ModelBuilder, x: str, sizes: Gpt, mask: str) -> str:
    """One product for queries, keys and values; every token sees those before it."""
    hidden, tokens, size = sizes.hidden, sizes.seq, sizes.hidden // sizes.heads
    joint = b.linear(x, (hidden, 3 * hidden))
    parts = [
        b.op("Slice", joint, b.constant([i * hidden]), b.constant([(i + 1) * hidden]), b.constant([2]))
        for i in range(3)
    ]
    split = b.constant([0, tokens, sizes.heads, size])
    query, key, value = (b.op("Reshape", part, split) for part in parts)
    query, value = (b.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
    key = b.op("Transpose", key, perm=[0, 2, 3, 1])
    scores = b.op("Add", b.op("Div", b.op("MatMul", query, key), b.constant(math.sqrt(size))), mask)
    context = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    merged = b.op("Reshape", b.op("Transpose", context, perm=[0, 2, 1, 3]), b.constant([0, tokens, hidden]))
    return b.linear(merged, (hidden, hidden), gain=0.5)


def build(sizes: Gpt, name: str) -> onnx.ModelProto:
    """Input ``input_ids`` (N, seq) int64, output ``logits`` (N, vocabulary) for the token after the last."""
    b = ModelBuilder(name, sizes.seed)
    hidden = sizes.hidden
    ids = b.input("input_ids", [BATCH, sizes.seq], TensorProto.INT64)
    words = b.op("Gather", b.normal((sizes.vocabulary, hidden), 0.5), ids, axis=0)
    x = b.op("Add", words, b.normal((sizes.seq, hidden), 0.2))
    later = np.triu(np.full((1, 1, sizes.seq, sizes.seq), _MASKED, np.float32), 1)
    mask = b.weight(later)
    for _ in range(sizes.layers):
        x = b.op("Add", x, _attention(b, b.layer_norm(x, hidden, _EPSILON), sizes, mask))
        inner = _gelu(b, b.linear(b.layer_norm(x, hidden, _EPSILON), (hidden, 4 * hidden)))
        x = b.op("Add", x, b.linear(inner, (4 * hidden, hidden), gain=0.5))
    x = b.layer_norm(x, hidden, _EPSILON)
    last = b.op("Slice", x, b.constant([sizes.seq - 1]), b.constant([sizes.seq]), b.constant([1]))
    product = b.op("MatMul", b.op("Squeeze", last, b.constant([1])), b.normal((hidden, sizes.vocabulary), hidden**-0.5))
    b.output(product, "logits", [BATCH, sizes.vocabulary])
    return b.model()
