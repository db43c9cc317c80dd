"""Residual networks with bottleneck blocks (He et al. 2015; the stride sits on the 3x3 convolution)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder

_EXPANSION = 4


@dataclass(frozen=True)
class ResNet:
    """Sizes of one network."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _unit(b: ModelBuilder, x: str, channels: tuple[int, int], kernel: int, stride: int, gain: float = 1.0) -> str:
    return b.batch_norm(b.conv(x, channels, kernel, stride), channels[1], gain)


def _bottleneck(b: ModelBuilder, x: str, c_in: int, width: int, stride: int) -> str:
    c_out = width * _EXPANSION
    y = b.op("Relu", _unit(b, x, (c_in, width), 1, 1))
    y = b.op("Relu", _unit(b, y, (width, width), 3, stride))
    # A small gain on the branch keeps the sum over many blocks in the range of float16.
    y = _unit(b, y, (width, c_out), 1, 1, gain=0.25)
    shortcut = x if (c_in, stride) == (c_out, 1) else _unit(b, x, (c_in, c_out), 1, stride, gain=0.7)
    return b.op("Relu", b.op("Add", y, shortcut))


def build(sizes: ResNet, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = b.op("Relu", _unit(b, x, (3, sizes.width), 7, 2))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = sizes.width
    for stage, count in enumerate(sizes.blocks):
        width = sizes.width << stage
        for block in range(count):
            x = _bottleneck(b, x, channels, width, 2 if block == 0 and stage > 0 else 1)
            channels = width * _EXPANSION
    b.output(b.classifier(x, channels, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
