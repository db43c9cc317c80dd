"""MobileNetV3: inverted residuals with hard-swish and squeeze-and-excitation (Howard et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder

Stage = tuple[int, int, int, int, bool, bool]
"""Kernel, hidden channels, output channels, stride, whether it squeezes, hard-swish in place of ReLU."""

_LARGE: tuple[Stage, ...] = (
    (3, 16, 16, 1, False, False),
    (3, 64, 24, 2, False, False),
    (3, 72, 24, 1, False, False),
    (5, 72, 40, 2, True, False),
    (5, 120, 40, 1, True, False),
    (5, 120, 40, 1, True, False),
    (3, 240, 80, 2, False, True),
    (3, 200, 80, 1, False, True),
    (3, 184, 80, 1, False, True),
    (3, 184, 80, 1, False, True),
    (3, 480, 112, 1, True, True),
    (3, 672, 112, 1, True, True),
    (5, 672, 160, 2, True, True),
    (5, 960, 160, 1, True, True),
    (5, 960, 160, 1, True, True),
)


@dataclass(frozen=True)
class MobileNetV3:
    """Sizes of one network."""

    stages: tuple[Stage, ...] = _LARGE
    stem: int = 16
    head: int = 960
    inner: int = 1280
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _squeeze_excite(b: ModelBuilder, x: str, channels: int) -> str:
    """Scales each channel by a hard-sigmoid gate computed from the channel means."""
    squeezed = -(-channels // 4 // 8) * 8
    y = b.op("Relu", b.conv(b.op("GlobalAveragePool", x), (channels, squeezed), 1, bias=True))
    gate = b.op("HardSigmoid", b.conv(y, (squeezed, channels), 1, bias=True), alpha=1.0 / 6.0, beta=0.5)
    return b.op("Mul", gate, x)


def _block(b: ModelBuilder, x: str, c_in: int, stage: Stage) -> str:
    kernel, hidden, c_out, stride, squeezes, swish = stage
    activation, y = "HardSwish" if swish else "Relu", x
    if hidden != c_in:
        y = b.op(activation, b.batch_norm(b.conv(y, (c_in, hidden), 1), hidden))
    y = b.op(activation, b.batch_norm(b.conv(y, (hidden, hidden), kernel, stride, group=hidden), hidden))
    if squeezes:
        y = _squeeze_excite(b, y, hidden)
    y = b.batch_norm(b.conv(y, (hidden, c_out), 1), c_out, gain=0.8)  # keeps sums over many blocks small
    return b.op("Add", x, y) if stride == 1 and c_in == c_out else y


def build(sizes: MobileNetV3, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = b.op("HardSwish", b.batch_norm(b.conv(x, (3, sizes.stem), 3, 2), sizes.stem))
    channels = sizes.stem
    for stage in sizes.stages:
        x = _block(b, x, channels, stage)
        channels = stage[2]
    x = b.op("HardSwish", b.batch_norm(b.conv(x, (channels, sizes.head), 1), sizes.head))
    x = b.op("HardSwish", b.classifier(x, sizes.head, sizes.inner))
    weight, bias = b.normal((sizes.classes, sizes.inner), sizes.inner**-0.5), b.normal((sizes.classes,), 0.02)
    b.output(b.op("Gemm", x, weight, bias, transB=1), "logits", [BATCH, sizes.classes])
    return b.model()
