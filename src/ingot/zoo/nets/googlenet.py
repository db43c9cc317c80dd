"""GoogLeNet: blocks of parallel convolutions side by side (Szegedy et al. 2014), with batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ingot.zoo.nets.builder import BATCH, ModelBuilder

Block = tuple[int, int, int, int, int, int]
"""Channels: of 1x1; before and of 3x3; before and of the second 3x3; behind the pooling."""

_BLOCKS: tuple[tuple[Block, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


@dataclass(frozen=True)
class GoogLeNet:
    """Sizes of one network: blocks by stage, with a pooling between stages."""

    blocks: tuple[tuple[Block, ...], ...] = _BLOCKS
    stem: int = 64
    image: int = 224
    classes: int = 1000
    seed: int = 0


def _unit(b: ModelBuilder, x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
    return b.op("Relu", b.batch_norm(b.conv(x, channels, kernel, stride), channels[1]))


def _pool(b: ModelBuilder, x: str, stride: int) -> str:
    return b.op("MaxPool", x, kernel_shape=[3, 3], strides=[stride, stride], pads=[1, 1, 1, 1])


def _block(b: ModelBuilder, x: str, c_in: int, block: Block) -> str:
    one, before, three, before_five, five, pooled = block
    branches = (
        _unit(b, x, (c_in, one), 1),
        _unit(b, _unit(b, x, (c_in, before), 1), (before, three), 3),
        _unit(b, _unit(b, x, (c_in, before_five), 1), (before_five, five), 3),
        _unit(b, _pool(b, x, 1), (c_in, pooled), 1),
    )
    return b.op("Concat", *branches, axis=1)


def build(sizes: GoogLeNet, name: str) -> onnx.ModelProto:
    """Input ``input`` (N, 3, image, image) float32, output ``logits`` (N, classes)."""
    b = ModelBuilder(name, sizes.seed)
    x = b.input("input", [BATCH, 3, sizes.image, sizes.image])
    x = _pool(b, _unit(b, x, (3, sizes.stem), 7, 2), 2)
    x = _unit(b, _unit(b, x, (sizes.stem, sizes.stem), 1), (sizes.stem, 3 * sizes.stem), 3)
    channels = 3 * sizes.stem
    for stage in sizes.blocks:
        x = _pool(b, x, 2)
        for block in stage:
            x = _block(b, x, channels, block)
            channels = block[0] + block[2] + block[4] + block[5]
    b.output(b.classifier(x, channels, sizes.classes), "logits", [BATCH, sizes.classes])
    return b.model()
