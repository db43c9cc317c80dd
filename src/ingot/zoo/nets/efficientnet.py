"""EfficientNet-B0: inverted residuals with squeeze-and-excitation and SiLU (Tan and Le 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder

Stage = tuple[int, int, int, int, int]
"""Expansion, output channels, repeats, stride of the first, kernel."""

_STAGES: tuple[Stage, ...] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


@dataclass(frozen=True)
class EfficientNet:
    """Sizes of one network."""

    stages: tuple[Stage, ...] = _STAGES
    stem: int = 32
    head: int = 1280
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _squeeze_excite(b: ModelBuilder, x: str, channels: int, squeezed: int) -> str:
    """Scales each channel by a gate computed from the channel means."""
    y = b.silu(b.conv(b.op("GlobalAveragePool", x), (channels, squeezed), 1, bias=True))
    return b.op("Mul", b.op("Sigmoid", b.conv(y, (squeezed, channels), 1, bias=True)), x)


def _block(b: ModelBuilder, x: str, channels: tuple[int, int], expansion: int, stride: int, kernel: int) -> str:
    c_in, c_out = channels
    hidden, y = c_in * expansion, x
    if expansion != 1:
        y = b.silu(b.batch_norm(b.conv(y, (c_in, hidden), 1), hidden))
    y = b.silu(b.batch_norm(b.conv(y, (hidden, hidden), kernel, stride, group=hidden), hidden))
    y = _squeeze_excite(b, y, hidden, max(1, c_in // 4))
    # The gate halves what passes and SiLU shrinks it, which trained statistics would undo.
    y = b.batch_norm(b.conv(y, (hidden, c_out), 1), c_out, gain=1.25)
    return b.op("Add", y, x) if stride == 1 and c_in == c_out else y


def build(sizes: EfficientNet, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = b.silu(b.batch_norm(b.conv(x, (3, sizes.stem), 3, 2), sizes.stem))
    channels = sizes.stem
    for expansion, c_out, repeats, stride, kernel in sizes.stages:
        for repeat in range(repeats):
            x = _block(b, x, (channels, c_out), expansion, stride if repeat == 0 else 1, kernel)
            channels = c_out
    x = b.silu(b.batch_norm(b.conv(x, (channels, sizes.head), 1), sizes.head))
    b.output(b.classifier(x, sizes.head, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
