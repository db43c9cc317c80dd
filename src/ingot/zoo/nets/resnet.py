"""Residual networks (He et al. 2015; the stride sits on the 3x3 convolution) and ResNeXt (Xie et al. 2016)."""

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
    basic: bool = False
    """Blocks of two 3x3 convolutions in place of bottlenecks."""
    groups: int = 1
    """Of the bottlenecks' 3x3 convolutions."""
    widening: int = 1
    """What these are wider by than ``width``."""
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _unit(
    b: ModelBuilder, x: str, channels: tuple[int, int], kernel: int, stride: int, gain: float = 1.0, group: int = 1
) -> str:
    return b.batch_norm(b.conv(x, channels, kernel, stride, group), channels[1], gain)


def _bottleneck(b: ModelBuilder, x: str, c_in: int, width: int, stride: int, sizes: ResNet) -> str:
    c_out, inner = width * _EXPANSION, width * sizes.widening
    y = b.op("Relu", _unit(b, x, (c_in, inner), 1, 1))
    y = b.op("Relu", _unit(b, y, (inner, inner), 3, stride, group=sizes.groups))
    # A small gain on the branch keeps the sum over many blocks in the range of float16.
    y = _unit(b, y, (inner, c_out), 1, 1, gain=0.25)
    return _joined(b, x, y, (c_in, c_out), stride)


def _basic(b: ModelBuilder, x: str, c_in: int, width: int, stride: int) -> str:
    y = b.op("Relu", _unit(b, x, (c_in, width), 3, stride))
    return _joined(b, x, _unit(b, y, (width, width), 3, 1, gain=0.25), (c_in, width), stride)


def _joined(b: ModelBuilder, x: str, y: str, channels: tuple[int, int], stride: int) -> str:
    """The branch ``y`` and the shortcut from ``x``, added."""
    c_in, c_out = channels
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
            stride = 2 if block == 0 and stage > 0 else 1
            if sizes.basic:
                x, channels = _basic(b, x, channels, width, stride), width
            else:
                x, channels = _bottleneck(b, x, channels, width, stride, sizes), width * _EXPANSION
    b.output(b.classifier(x, channels, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
