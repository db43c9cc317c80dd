"""Small networks and data for tests of quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from support.rewrites import Net

from ingot.importer.load import import_model
from ingot.passes.pipeline import prepare_to_quantize
from ingot.precision.data import Data, open_data
from ingot.precision.inputs import inputs_of

Array = np.ndarray[Any, Any]


def prepared(net: Net) -> ir.Model:
    """The net as quantization takes it."""
    return prepare_to_quantize(import_model(net.proto(), any_size=True).model).model


def data_for(model: onnx.ModelProto | ir.Model, array: Array) -> Data:
    """Samples along the first axis of ``array``, for the only input."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return open_data(array, inputs_of(proto))


def pictures(count: int = 24, channels: int = 3, size: int = 12, seed: int = 0) -> Array:
    """Smooth random pictures with noise, float32."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((count, channels, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
    return np.asarray(coarse + 0.3 * random.standard_normal((count, channels, size, size)), np.float32)


def conv(net: Net, x: str, c_in: int, c_out: int, size: int = 3, **attributes: Any) -> str:
    """A convolution that keeps the size and the variance."""
    group = int(attributes.get("group", 1))
    fan = c_in // group * size * size
    weight = net.const(net.random.standard_normal((c_out, c_in // group, size, size)) * np.sqrt(2 / fan))
    return str(net.op("Conv", x, weight, net.normal(c_out, scale=0.1), pads=[size // 2] * 4, **attributes))


def residual_net(blocks: int = 2, width: int = 16) -> Net:
    """Stem, residual blocks, pooling, classifier."""
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 12, 12]), 3, width))
    for _ in range(blocks):
        y = conv(net, str(net.op("Relu", conv(net, str(x), width, width))), width, width)
        x = net.op("Relu", net.op("Add", y, x))
    flat = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(net.op("Gemm", flat, net.normal(width, 10, scale=0.3), net.normal(10)))
    return net
