"""A small builder of ONNX models with seeded random weights."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
BATCH = "N"
"""Name of the symbolic batch dimension of every architecture."""

Attribute = int | float | str | list[int]
Shape = list[int | str]


class ModelBuilder:
    """Collects nodes and weights in order, and gives every value a name from its operator."""

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._random = name, np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape, element: int = TensorProto.FLOAT) -> str:
        """Declares a graph input."""
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Makes ``value`` a float32 graph output called ``name``."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"{name}_out"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, array: npt.NDArray[np.generic]) -> str:
        """A new initializer holding ``array``."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def constant(self, value: float | list[int]) -> str:
        """A small constant: a float is a float32 scalar, a list is int64. Equal ones share one initializer."""
        array = np.asarray(value, np.int64 if isinstance(value, list) else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(array)
        return self._constants[key]

    def normal(self, shape: tuple[int, ...], std: float, mean: float = 0.0) -> str:
        """Gaussian weights."""
        return self.weight(self._random.standard_normal(shape, np.float32) * np.float32(std) + np.float32(mean))

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> str:
        """Weights uniform in [low, high)."""
        return self.weight(self._random.uniform(low, high, shape).astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        """Adds one node with one output and gives the name of the output."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        node = helper.make_node(kind, list(inputs), [name], name=f"n_{name}")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(node)
        return name

    def conv(
        self, value: str, channels: tuple[int, int], kernel: int, stride: int = 1, group: int = 1, bias: bool = False
    ) -> str:
        """Convolution of ``channels`` = (in, out) with same-like padding and He-initialised weights."""
        c_in, c_out = channels
        fan = c_in // group * kernel * kernel
        inputs = [value, self.normal((c_out, c_in // group, kernel, kernel), math.sqrt(2.0 / fan))]
        if bias:
            inputs.append(self.normal((c_out,), 0.02))
        pad = kernel // 2
        return self.op(
            "Conv",
            *inputs,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            dilations=[1, 1],
            group=group,
        )

    def batch_norm(self, value: str, channels: int, gain: float = 1.0) -> str:
        """Batch normalisation as inference sees it: statistics near (0, 1), scale near ``gain``."""
        shape = (channels,)
        scale = self.uniform(shape, 0.8 * gain, 1.2 * gain)
        bias, mean = self.normal(shape, 0.1), self.normal(shape, 0.1)
        return self.op("BatchNormalization", value, scale, bias, mean, self.uniform(shape, 0.7, 1.3), epsilon=1e-5)

    def linear(self, value: str, size: tuple[int, int], gain: float = 1.0) -> str:
        """``value @ W + b`` over the last axis, as exporters write it: MatMul, Add. ``size`` = (in, out)."""
        product = self.op("MatMul", value, self.normal(size, gain / math.sqrt(size[0])))
        return self.op("Add", self.normal((size[1],), 0.02), product)

    def layer_norm(self, value: str, width: int, epsilon: float) -> str:
        """Layer normalisation over the last axis."""
        scale, bias = self.uniform((width,), 0.8, 1.2), self.normal((width,), 0.05)
        return self.op("LayerNormalization", value, scale, bias, axis=-1, epsilon=epsilon)

    def gelu(self, value: str) -> str:
        """Exact GELU, spelled with Erf as exporters do."""
        inner = self.op("Erf", self.op("Div", value, self.constant(math.sqrt(2.0))))
        gate = self.op("Add", inner, self.constant(1.0))
        return self.op("Mul", self.op("Mul", value, gate), self.constant(0.5))

    def silu(self, value: str) -> str:
        """``x * sigmoid(x)``."""
        return self.op("Mul", value, self.op("Sigmoid", value))

    def relu6(self, value: str) -> str:
        """Clip to [0, 6]."""
        return self.op("Clip", value, self.constant(0.0), self.constant(6.0))

    def classifier(self, value: str, width: int, classes: int) -> str:
        """Global average pooling and a fully connected layer: ``value`` is (N, width, H, W)."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", value), axis=1)
        weight = self.normal((classes, width), 1.0 / math.sqrt(width))
        return self.op("Gemm", flat, weight, self.normal((classes,), 0.02), alpha=1.0, beta=1.0, transB=1)

    def model(self) -> onnx.ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        model.producer_name = "ingot.zoo"
        onnx.checker.check_model(model)
        return model
