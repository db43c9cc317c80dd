"""Two small networks trained on CIFAR-10, whose weights are part of Ingot: a ResNet, and one with depthwise layers.

``benchmarks/cifar/train.py`` trained them; the layer lists here follow its modules.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ingot.errors import IngotError
from ingot.zoo.nets.builder import BATCH, ModelBuilder

NAMES = ("cifar_resnet", "cifar_mobilenet")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_RESNET = ((3, 1), (3, 2), (3, 2))
"""Per stage: blocks, stride of the first."""
_MOBILENET = ((2, 1), (3, 2), (3, 2))
Weights = dict[str, np.ndarray[Any, Any]]


def build(name: str, weights: Path | None = None) -> onnx.ModelProto:
    """The network ``name``: ``input`` (N, 3, 32, 32) float32 normalised by ``MEAN`` and ``STD``, ``logits`` (N, 10).

    ``weights``: another file of the training script than the one that is part of Ingot. Raises IngotError for an
    unknown name.
    """
    if name not in NAMES:
        raise IngotError(f"there is no network {name!r}", fix=f"take one of: {', '.join(NAMES)}")
    net = _Net(name, _loaded(name, weights))
    x = net.b.input("input", [BATCH, 3, 32, 32])
    x = net.residual(x) if name == "cifar_resnet" else net.inverted(x)
    pooled = net.b.op("Flatten", net.b.op("GlobalAveragePool", x), axis=1)
    arrays = [net.b.weight(net.weights[f"classifier.{part}"]) for part in ("weight", "bias")]
    net.b.output(net.b.op("Gemm", pooled, *arrays, alpha=1.0, beta=1.0, transB=1), "logits", [BATCH, 10])
    return net.b.model()


def normalised(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pictures as the networks read them: uint8 [n, 32, 32, 3] to float32 [n, 3, 32, 32]."""
    scaled = (images.astype(np.float32) / 255 - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _loaded(name: str, path: Path | None) -> Weights:
    source = resources.files("ingot.zoo") / "data" / f"{name}.npz" if path is None else path
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key].astype(np.float32) for key in arrays.files}


class _Net:
    """One network being written."""

    def __init__(self, name: str, weights: Weights) -> None:
        self.b, self.weights, self.name = ModelBuilder(name, 0), weights, name

    def conv(self, x: str, layer: str, stride: int = 1) -> str:
        weight, bias = self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"]
        size = weight.shape[2]
        depthwise = weight.shape[1] == 1 and weight.shape[0] > 1
        return self.b.op(
            "Conv", x, self.b.weight(weight), self.b.weight(bias), kernel_shape=[size, size], strides=[stride, stride],
            pads=[size // 2] * 4, dilations=[1, 1], group=weight.shape[0] if depthwise else 1,
        )  # fmt: skip

    def residual(self, x: str) -> str:
        x = self.b.op("Relu", self.conv(x, "stem"))
        for layer, stride in _blocks(_RESNET):
            y = self.b.op("Relu", self.conv(x, f"{layer}.first", stride))
            skip = self.conv(x, f"{layer}.shortcut", stride) if f"{layer}.shortcut.weight" in self.weights else x
            x = self.b.op("Relu", self.b.op("Add", self.conv(y, f"{layer}.second"), skip))
        return x

    def inverted(self, x: str) -> str:
        x = self.b.relu6(self.conv(x, "stem"))
        for layer, stride in _blocks(_MOBILENET):
            y = self.b.relu6(self.conv(x, f"{layer}.expand"))
            y = self.conv(self.b.relu6(self.conv(y, f"{layer}.depthwise", stride)), f"{layer}.project")
            same = self.weights[f"{layer}.expand.weight"].shape[1] == self.weights[f"{layer}.project.weight"].shape[0]
            x = self.b.op("Add", y, x) if same and stride == 1 else y
        return self.b.relu6(self.conv(x, "head"))


def _blocks(stages: tuple[tuple[int, int], ...]) -> list[tuple[str, int]]:
    strides = [stride if i == 0 else 1 for count, stride in stages for i in range(count)]
    return [(f"blocks.{index}", stride) for index, stride in enumerate(strides)]
