"""BERT encoders (Devlin et al. 2018), post-normalised."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ingot.zoo.nets.attention import feed_forward, self_attention
from ingot.zoo.nets.builder import BATCH, ModelBuilder

_EPSILON = 1e-12
_MASKED = -10000.0
"""Added to the score of a padded token; in the range of float16."""


@dataclass(frozen=True)
class Bert:
    """Sizes of one encoder; ``seq`` is the fixed number of tokens."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    seq: int = 128
    mask: bool = True
    seed: int = 0


def _embeddings(b: ModelBuilder, ids: str, sizes: Bert) -> str:
    words = b.op("Gather", b.normal((sizes.vocabulary, sizes.hidden), 0.5), ids, axis=0)
    table = b.normal((sizes.positions, sizes.hidden), 0.2)
    # A constant slice, as exporters leave it.
    positions = b.op("Slice", table, b.constant([0]), b.constant([sizes.seq]), b.constant([0]))
    segment = b.normal((sizes.hidden,), 0.1)
    summed = b.op("Add", b.op("Add", words, segment), positions)
    return b.layer_norm(summed, sizes.hidden, _EPSILON)


def _score_mask(b: ModelBuilder, mask: str) -> str:
    """(N, seq) of 1 for a token and 0 for padding, to an addend of (N, 1, 1, seq)."""
    spread = b.op("Cast", b.op("Unsqueeze", mask, b.constant([1, 2])), to=TensorProto.FLOAT)
    return b.op("Mul", b.op("Sub", b.constant(1.0), spread), b.constant(_MASKED))


def build(sizes: Bert, name: str) -> onnx.ModelProto:
    """Inputs ``input_ids`` and (where ``mask``) ``attention_mask``, both (N, seq) int64.

    Outputs ``last_hidden_state`` (N, seq, hidden) and ``pooler_output`` (N, hidden).
    """
    b = ModelBuilder(name, sizes.seed)
    ids = b.input("input_ids", [BATCH, sizes.seq], TensorProto.INT64)
    mask = b.input("attention_mask", [BATCH, sizes.seq], TensorProto.INT64) if sizes.mask else ""
    x = encoder(b, ids, mask, sizes)
    b.output(x, "last_hidden_state", [BATCH, sizes.seq, sizes.hidden])
    first = b.op("Squeeze", b.op("Slice", x, b.constant([0]), b.constant([1]), b.constant([1])), b.constant([1]))
    weight = b.normal((sizes.hidden, sizes.hidden), sizes.hidden**-0.5)
    pooled = b.op("Tanh", b.op("Gemm", first, weight, b.normal((sizes.hidden,), 0.02), transB=1))
    b.output(pooled, "pooler_output", [BATCH, sizes.hidden])
    return b.model()


def encoder(b: ModelBuilder, ids: str, mask: str, sizes: Bert) -> str:
    """The layers over ``ids`` (N, seq): (N, seq, hidden). ``mask``, if any: (N, seq), 1 for a token, 0 for padding."""
    scores = _score_mask(b, mask) if mask else ""
    x = _embeddings(b, ids, sizes)
    for _ in range(sizes.layers):
        attended = self_attention(b, x, sizes.hidden, sizes.heads, sizes.seq, mask=scores)
        x = b.layer_norm(b.op("Add", attended, x), sizes.hidden, _EPSILON)
        x = b.layer_norm(b.op("Add", feed_forward(b, x, sizes.hidden, sizes.inner), x), sizes.hidden, _EPSILON)
    return x
