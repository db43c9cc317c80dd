"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder

Stage = tuple[int, int, int, int]
"""Expansion, output channels, repeats, stride of the first."""

_STAGES: tuple[Stage, ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass(frozen=True)
class MobileNet:
    """Sizes of one network."""

    stages: tuple[Stage, ...] = _STAGES
    stem: int = 32
    head: int = 1280
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _unit(b: ModelBuilder, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, group: int = 1) -> str:
    return b.batch_norm(b.conv(x, channels, kernel, stride, group), channels[1])


def _inverted_residual(b: ModelBuilder, x: str, channels: tuple[int, int], expansion: int, stride: int) -> str:
    c_in, c_out = channels
    hidden, y = c_in * expansion, x
    if expansion != 1:
        y = b.relu6(_unit(b, y, (c_in, hidden), 1))
    y = b.relu6(_unit(b, y, (hidden, hidden), 3, stride, group=hidden))
    y = b.batch_norm(b.conv(y, (hidden, c_out), 1), c_out, gain=0.5)
    return b.op("Add", x, y) if stride == 1 and c_in == c_out else y


def build(sizes: MobileNet, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = b.relu6(_unit(b, x, (3, sizes.stem), 3, 2))
    channels = sizes.stem
    for expansion, c_out, repeats, stride in sizes.stages:
        for repeat in range(repeats):
            x = _inverted_residual(b, x, (channels, c_out), expansion, stride if repeat == 0 else 1)
            channels = c_out
    x = b.relu6(_unit(b, x, (channels, sizes.head), 1))
    b.output(b.classifier(x, sizes.head, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
