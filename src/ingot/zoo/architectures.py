"""Standard architectures with seeded random weights, for speed and for tests: no accuracy is claimed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ingot.errors import IngotError
from ingot.files import write_atomically
from ingot.zoo.nets import (
    bert,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    gpt,
    mobilenet,
    mobilenet_v3,
    resnet,
    shufflenet,
    vgg,
    vit,
)
from ingot.zoo.nets.builder import BATCH

_TINY_MOBILE: tuple[mobilenet.Stage, ...] = ((1, 8, 1, 1), (4, 16, 2, 2))
_TINY_EFFICIENT: tuple[efficientnet.Stage, ...] = ((1, 8, 1, 1, 3), (4, 16, 2, 2, 5))
_TINY_V3: tuple[mobilenet_v3.Stage, ...] = ((3, 16, 8, 1, True, False), (5, 24, 16, 2, True, True))
_TINY_BLOCKS: tuple[googlenet.Block, ...] = ((8, 8, 16, 4, 8, 8), (16, 8, 16, 4, 8, 8))

_TABLE: dict[str, tuple[Callable[[Any, str], onnx.ModelProto], Any]] = {
    "resnet50": (resnet.build, resnet.ResNet()),
    "mobilenet_v2": (mobilenet.build, mobilenet.MobileNet()),
    "efficientnet_b0": (efficientnet.build, efficientnet.EfficientNet()),
    "bert_base": (bert.build, bert.Bert()),
    "vit_b16": (vit.build, vit.Vit()),
    "resnet18": (resnet.build, resnet.ResNet(blocks=(2, 2, 2, 2), basic=True)),
    "resnet34": (resnet.build, resnet.ResNet(basic=True)),
    "resnet101": (resnet.build, resnet.ResNet(blocks=(3, 4, 23, 3))),
    "resnext50": (resnet.build, resnet.ResNet(groups=32, widening=2)),
    "mobilenet_v3": (mobilenet_v3.build, mobilenet_v3.MobileNetV3()),
    "vgg16": (vgg.build, vgg.Vgg()),
    "densenet121": (densenet.build, densenet.DenseNet()),
    "shufflenet_v2": (shufflenet.build, shufflenet.ShuffleNet()),
    "convnext_t": (convnext.build, convnext.ConvNext()),
    "googlenet": (googlenet.build, googlenet.GoogLeNet()),
    "gpt2": (gpt.build, gpt.Gpt()),
    "resnet_tiny": (resnet.build, resnet.ResNet(blocks=(1, 2), width=16, image=32, classes=10)),
    "mobilenet_tiny": (
        mobilenet.build,
        mobilenet.MobileNet(stages=_TINY_MOBILE, stem=8, head=32, image=32, classes=10),
    ),
    "efficientnet_tiny": (
        efficientnet.build,
        efficientnet.EfficientNet(stages=_TINY_EFFICIENT, stem=8, head=32, image=32, classes=10),
    ),
    "bert_tiny": (
        bert.build,
        bert.Bert(layers=2, hidden=64, heads=4, inner=128, vocabulary=100, positions=32, seq=16),
    ),
    "resnext_tiny": (resnet.build, resnet.ResNet((1, 1), 16, groups=8, widening=2, image=32, classes=10)),
    "resnet_basic_tiny": (resnet.build, resnet.ResNet((1, 2), 16, basic=True, image=32, classes=10)),
    "mobilenet_v3_tiny": (
        mobilenet_v3.build,
        mobilenet_v3.MobileNetV3(_TINY_V3, stem=8, head=32, inner=48, image=32, classes=10),
    ),
    "vgg_tiny": (vgg.build, vgg.Vgg(((8, 1), (16, 2)), hidden=32, image=32, classes=10)),
    "densenet_tiny": (densenet.build, densenet.DenseNet((2, 2), 8, 16, image=32, classes=10)),
    "shufflenet_tiny": (shufflenet.build, shufflenet.ShuffleNet(((16, 2), (32, 1)), 8, 32, image=32, classes=10)),
    "convnext_tiny": (convnext.build, convnext.ConvNext((1, 1), (16, 32), image=32, classes=10)),
    "googlenet_tiny": (googlenet.build, googlenet.GoogLeNet((_TINY_BLOCKS,), 8, image=32, classes=10)),
    "gpt_tiny": (gpt.build, gpt.Gpt(layers=2, hidden=64, heads=4, vocabulary=100, seq=16)),
    "vit_tiny": (vit.build, vit.Vit(layers=2, hidden=64, heads=4, inner=128, patch=8, image=32, classes=10)),
}


def names() -> tuple[str, ...]:
    """Names of all architectures, standard ones first."""
    return tuple(_TABLE)


def sizes_of(name: str, **params: int) -> Any:
    """The frozen sizes object of ``name`` with ``params`` replaced; raises :class:`IngotError`."""
    if name not in _TABLE:
        raise IngotError(f"there is no architecture {name!r}", fix=f"take one of: {', '.join(_TABLE)}")
    sizes = _TABLE[name][1]
    known = [field.name for field in dataclasses.fields(sizes)]
    for param in params:
        if param not in known:
            raise IngotError(f"{name} has no parameter {param!r}", fix=f"take one of: {', '.join(known)}")
    return dataclasses.replace(sizes, **params)


def build(name: str, **params: int) -> onnx.ModelProto:
    """The model ``name`` with a symbolic batch ``N``; the same parameters give the same bytes.

    ``params`` replace fields of the architecture's sizes, such as ``seq`` (tokens), ``image`` (pixels),
    ``classes``, ``layers`` or ``seed``. Raises :class:`IngotError` for an unknown name or parameter.
    """
    sizes = sizes_of(name, **params)
    return _TABLE[name][0](sizes, name)


def save(name: str, path: Path | str, **params: int) -> Path:
    """Writes the model ``name`` to ``path``, by write-then-rename, and gives the path."""
    target = Path(path)
    write_atomically(target, build(name, **params).SerializeToString(deterministic=True))
    return target


def sample_inputs(model: onnx.ModelProto, batch: int = 1, seed: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    """A feed for a model of this module: pictures of smooth patches, tokens in the vocabulary.

    The attention mask hides the last quarter of the tokens of every second sequence.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(batch if dim.dim_param == BATCH else dim.dim_value for dim in dims)
        if value.name == "input_ids":
            feeds[value.name] = random.integers(0, _vocabulary(model), shape, dtype=np.int64)
        elif value.name == "attention_mask":
            mask = np.ones(shape, np.int64)
            mask[1::2, shape[1] - shape[1] // 4 :] = 0
            feeds[value.name] = mask
        else:
            feeds[value.name] = _pictures(random, shape)
    return feeds


def _pictures(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Coarse patches with some noise, each picture of its own contrast: white noise would average to one answer."""
    batch, channels, height, width = shape
    cell = max(1, height // 7)
    coarse = random.standard_normal((batch, channels, -(-height // cell), -(-width // cell)), np.float32)
    patches = coarse.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, :height, :width]
    contrast = random.uniform(0.5, 2.0, (batch, 1, 1, 1)).astype(np.float32)
    noise = random.standard_normal(shape, np.float32) * np.float32(0.25)
    return np.asarray(patches * contrast + noise, np.float32)


def _vocabulary(model: onnx.ModelProto) -> int:
    """Rows of the table that ``input_ids`` index."""
    table = next(
        node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[1] == "input_ids"
    )
    return int(next(weight.dims[0] for weight in model.graph.initializer if weight.name == table))
