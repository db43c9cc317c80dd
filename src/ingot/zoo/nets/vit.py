"""Vision transformers (Dosovitskiy et al. 2020), pre-normalised."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.attention import feed_forward, self_attention
from ingot.zoo.nets.builder import BATCH, ModelBuilder

_EPSILON = 1e-6


@dataclass(frozen=True)
class Vit:
    """Sizes of one network."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    inner: int = 3072
    patch: int = 16
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _tokens(b: ModelBuilder, x: str, sizes: Vit) -> str:
    """Patches as tokens behind a class token, with positions: (N, 1 + patches, hidden)."""
    hidden, patch = sizes.hidden, sizes.patch
    patches = (sizes.image // patch) ** 2
    kernel = b.normal((hidden, 3, patch, patch), (3 * patch * patch) ** -0.5)
    bias = b.normal((hidden,), 0.02)
    y = b.op("Conv", x, kernel, bias, kernel_shape=[patch, patch], strides=[patch, patch])
    y = b.op("Transpose", b.op("Reshape", y, b.constant([0, hidden, patches])), perm=[0, 2, 1])
    # The class token is repeated once per image, whose number is known only at run time.
    batch = b.op("Gather", b.op("Shape", x), b.constant([0]), axis=0)
    shape = b.op("Concat", batch, b.constant([1, hidden]), axis=0)
    token = b.op("Expand", b.normal((1, 1, hidden), 0.5), shape)
    return b.op("Add", b.op("Concat", token, y, axis=1), b.normal((1, patches + 1, hidden), 0.2))


def build(sizes: Vit, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    hidden, tokens = sizes.hidden, (sizes.image // sizes.patch) ** 2 + 1
    x = _tokens(b, b.input("input", [BATCH, 3, sizes.image, sizes.image]), sizes)
    for _ in range(sizes.layers):
        # A gain below one keeps the residual stream of an untrained network from growing with depth.
        attended = self_attention(b, b.layer_norm(x, hidden, _EPSILON), hidden, sizes.heads, tokens, gain=0.5)
        x = b.op("Add", x, attended)
        x = b.op("Add", x, feed_forward(b, b.layer_norm(x, hidden, _EPSILON), hidden, sizes.inner, gain=0.5))
    x = b.layer_norm(x, hidden, _EPSILON)
    first = b.op("Squeeze", b.op("Slice", x, b.constant([0]), b.constant([1]), b.constant([1])), b.constant([1]))
    weight, bias = b.normal((sizes.classes, hidden), hidden**-0.5), b.normal((sizes.classes,), 0.02)
    b.output(b.op("Gemm", first, weight, bias, transB=1), "logits", [BATCH, sizes.classes])
    return b.model()
