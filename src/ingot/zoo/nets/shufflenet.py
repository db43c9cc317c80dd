"""ShuffleNetV2: half of the channels pass by, the rest is shuffled among them (Ma et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder


@dataclass(frozen=True)
class ShuffleNet:
    """Sizes of one network: per stage the channels and the number of units."""

    stages: tuple[tuple[int, int], ...] = ((116, 4), (232, 8), (464, 4))
    stem: int = 24
    head: int = 1024
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _unit(b: ModelBuilder, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, group: int = 1) -> str:
    return b.batch_norm(b.conv(x, channels, kernel, stride, group), channels[1])


def _branch(b: ModelBuilder, x: str, channels: tuple[int, int], stride: int) -> str:
    c_in, c_out = channels
    y = b.op("Relu", _unit(b, x, (c_in, c_out), 1))
    # A gain below one on the depthwise layer, which no ReLU follows, keeps many blocks in the range of float16.
    y = b.batch_norm(b.conv(y, (c_out, c_out), 3, stride, c_out), c_out, gain=0.7)
    return b.op("Relu", _unit(b, y, (c_out, c_out), 1))


def _shuffled(b: ModelBuilder, parts: tuple[str, str], channels: int, side: int) -> str:
    """Both parts side by side, their channels taken in turns."""
    x = b.op("Concat", *parts, axis=1)
    x = b.op("Reshape", x, b.constant([0, 2, channels // 2, side, side]))
    return b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1, 3, 4]), b.constant([0, channels, side, side]))


def _halves(b: ModelBuilder, x: str, half: int) -> tuple[str, str]:
    low = b.op("Slice", x, b.constant([0]), b.constant([half]), b.constant([1]))
    return low, b.op("Slice", x, b.constant([half]), b.constant([2 * half]), b.constant([1]))


def build(sizes: ShuffleNet, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = b.op("Relu", _unit(b, x, (3, sizes.stem), 3, 2))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels, side = sizes.stem, sizes.image // 4
    for width, count in sizes.stages:
        half, side = width // 2, side // 2
        first = b.op("Relu", _unit(b, _unit(b, x, (channels, channels), 3, 2, channels), (channels, half), 1))
        x = _shuffled(b, (first, _branch(b, x, (channels, half), 2)), width, side)
        for _ in range(count - 1):
            low, high = _halves(b, x, half)
            x = _shuffled(b, (low, _branch(b, high, (half, half), 1)), width, side)
        channels = width
    x = b.op("Relu", _unit(b, x, (channels, sizes.head), 1))
    b.output(b.classifier(x, sizes.head, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
