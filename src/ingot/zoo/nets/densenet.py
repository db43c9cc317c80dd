"""DenseNet: every layer reads all before it in its block (Huang et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder


@dataclass(frozen=True)
class DenseNet:
    """Sizes of one network."""

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem: int = 64
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _norm_conv(b: ModelBuilder, x: str, channels: tuple[int, int], kernel: int) -> str:
    return b.conv(b.op("Relu", b.batch_norm(x, channels[0])), channels, kernel)


def build(sizes: DenseNet, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = b.op("Relu", b.batch_norm(b.conv(x, (3, sizes.stem), 7, 2), sizes.stem))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = sizes.stem
    for block, layers in enumerate(sizes.blocks):
        for _ in range(layers):
            y = _norm_conv(b, x, (channels, 4 * sizes.growth), 1)
            x = b.op("Concat", x, _norm_conv(b, y, (4 * sizes.growth, sizes.growth), 3), axis=1)
            channels += sizes.growth
        if block < len(sizes.blocks) - 1:
            x = _norm_conv(b, x, (channels, channels // 2), 1)
            x = b.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            channels //= 2
    x = b.op("Relu", b.batch_norm(x, channels))
    b.output(b.classifier(x, channels, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
