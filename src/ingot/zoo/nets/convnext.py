"""ConvNeXt: 7x7 depthwise convolutions, layer normalisation, GELU (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder

_EPSILON = 1e-6


@dataclass(frozen=True)
class ConvNext:
    """Sizes of one network."""

    blocks: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    patch: int = 4
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _patches(b: ModelBuilder, x: str, channels: tuple[int, int], size: int) -> str:
    """A convolution over patches that do not overlap."""
    c_in, c_out = channels
    weight = b.normal((c_out, c_in, size, size), (c_in * size * size) ** -0.5)
    return b.op("Conv", x, weight, b.normal((c_out,), 0.02), kernel_shape=[size, size], strides=[size, size])


def _normalised(b: ModelBuilder, x: str, width: int) -> str:
    """Layer normalisation over the channels of (N, C, H, W)."""
    y = b.layer_norm(b.op("Transpose", x, perm=[0, 2, 3, 1]), width, _EPSILON)
    return b.op("Transpose", y, perm=[0, 3, 1, 2])


def _block(b: ModelBuilder, x: str, width: int) -> str:
    y = b.conv(x, (width, width), 7, group=width, bias=True)
    y = b.layer_norm(b.op("Transpose", y, perm=[0, 2, 3, 1]), width, _EPSILON)
    y = b.linear(b.gelu(b.linear(y, (width, 4 * width))), (4 * width, width))
    y = b.op("Mul", b.uniform((width,), 0.2, 0.4), y)
    return b.op("Add", x, b.op("Transpose", y, perm=[0, 3, 1, 2]))


def build(sizes: ConvNext, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    channels = 3
    for stage, (width, count) in enumerate(zip(sizes.widths, sizes.blocks, strict=True)):
        if stage == 0:
            x = _normalised(b, _patches(b, x, (channels, width), sizes.patch), width)
        else:
            x = _patches(b, _normalised(b, x, channels), (channels, width), 2)
        channels = width
        for _ in range(count):
            x = _block(b, x, width)
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    pooled = b.layer_norm(pooled, channels, _EPSILON)
    weight, bias = b.normal((sizes.classes, channels), channels**-0.5), b.normal((sizes.classes,), 0.02)
    b.output(b.op("Gemm", pooled, weight, bias, transB=1), "logits", [BATCH, sizes.classes])
    return b.model()
