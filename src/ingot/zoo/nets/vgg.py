"""VGG: plain 3x3 convolutions and three large linear layers (Simonyan and Zisserman 2014)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder


@dataclass(frozen=True)
class Vgg:
    """Sizes of one network: per stage the channels and the number of convolutions."""

    stages: tuple[tuple[int, int], ...] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    hidden: int = 4096
    image: int = 224
    classes: int = 1000
    seed: int = 0


def build(sizes: Vgg, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    channels, side = 3, sizes.image
    for width, count in sizes.stages:
        for _ in range(count):
            x = b.op("Relu", b.conv(x, (channels, width), 3, bias=True))
            channels = width
        x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        side //= 2
    x = b.op("Flatten", x, axis=1)
    for c_in, c_out in ((channels * side * side, sizes.hidden), (sizes.hidden, sizes.hidden)):
        x = b.op(
            "Relu", b.op("Gemm", x, b.normal((c_out, c_in), (2 / c_in) ** 0.5), b.normal((c_out,), 0.02), transB=1)
        )
    weight, bias = b.normal((sizes.classes, sizes.hidden), sizes.hidden**-0.5), b.normal((sizes.classes,), 0.02)
    b.output(b.op("Gemm", x, weight, bias, transB=1), "logits", [BATCH, sizes.classes])
    return b.model()
