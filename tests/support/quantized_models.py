"""Explicitly quantized ONNX models as calibration tools write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
INT8_ZERO = np.int8(0)


class QuantizedNet:
    """A model under construction; activations have one scale, weights one for each output channel."""

    def __init__(self, zero: Any = INT8_ZERO) -> None:
        self.zero = np.asarray(zero)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(5)

    def const(self, array: Any) -> str:
        """An initializer."""
        name = f"c{len(self.weights)}"
        array = np.asarray(array)
        if array.dtype == FLOAT8:
            raw = helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, array.shape, array.tobytes(), raw=True)
            self.weights.append(raw)
        else:
            self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node; the name of its output."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n_{name}", **attributes))
        return name

    def quantized(self, x: str, scale: float) -> str:
        """QuantizeLinear, then DequantizeLinear, of an activation."""
        pair = (self.const(np.float32(scale)), self.const(self.zero))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *pair), *pair)

    def weight(self, array: np.ndarray, axis: int | None, *, stored: bool = True, dtype: Any = np.int8) -> str:
        """A dequantized weight: quantized here, or (not ``stored``) by a QuantizeLinear in the model."""
        most = 448.0 if np.dtype(dtype) == FLOAT8 else 127.0
        others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis % array.ndim)
        scale = (np.abs(array).max(axis=others) / most).astype(np.float32)
        shape = () if axis is None else [-1 if i == axis % array.ndim else 1 for i in range(array.ndim)]
        zero = self.const(np.zeros(scale.shape, dtype))
        names = (self.const(scale), zero)
        attributes = {} if axis is None else {"axis": axis}
        if stored:
            quotient = array / scale.reshape(shape)
            whole = quotient if np.dtype(dtype) == FLOAT8 else np.rint(quotient)
            return self.node("DequantizeLinear", self.const(whole.astype(dtype)), *names, **attributes)
        inner = self.node("QuantizeLinear", self.const(array.astype(np.float32)), *names, **attributes)
        return self.node("DequantizeLinear", inner, *names, **attributes)

    def conv(self, x: str, shape: Sequence[int], *, kind: Any = np.int8, stored: bool = True, **attributes: Any) -> str:
        """A convolution with bias; padding keeps the size at stride 1."""
        array = self.random.standard_normal(shape) / np.prod(shape[1:]) ** 0.5
        bias = self.const((self.random.standard_normal(shape[0]) * 0.2).astype(np.float32))
        pads = [shape[2] // 2] * 4
        return self.node(
            "Conv", x, self.weight(array, 0, stored=stored, dtype=kind), bias, **({"pads": pads} | attributes)
        )

    def model(self, inputs: Mapping[str, Sequence[int | str]], *outputs: str, opset: int = 21) -> onnx.ModelProto:
        """The model, with float32 inputs and outputs."""
        ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "quantized", ins, outs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def residual_block(zero: Any = INT8_ZERO, batch: int | str = 2) -> onnx.ModelProto:
    """A ResNet bottleneck with its residual, a strided 3x3 convolution behind it, and a global pooling."""
    net = QuantizedNet(zero)
    x = net.quantized("x", 0.03)
    a = net.quantized(net.node("Relu", net.conv(x, (32, 64, 1, 1))), 0.02)
    b = net.quantized(net.node("Relu", net.conv(a, (32, 32, 3, 3))), 0.02)
    y = net.quantized(net.node("Relu", net.node("Add", net.conv(b, (64, 32, 1, 1)), x)), 0.03)
    z = net.quantized(net.node("Relu", net.conv(y, (48, 64, 3, 3), strides=[2, 2])), 0.02)
    return net.model({"x": [batch, 64, 13, 14]}, net.node("GlobalAveragePool", z))


def mobile_block(zero: Any = INT8_ZERO) -> onnx.ModelProto:
    """An inverted residual: expansion, depthwise convolution with Relu6, projection, sum of quantized tensors.

    No two scales of the sum have a simple ratio: else its results lie on halves between two steps, and which step
    they become is a matter of the last bit.
    """
    net = QuantizedNet(zero)

    def relu6(x: str) -> str:
        return net.node("Clip", x, net.const(np.float32(0)), net.const(np.float32(6)))

    x = net.quantized("x", 0.03)
    a = net.quantized(relu6(net.conv(x, (96, 16, 1, 1))), 0.02)
    b = net.quantized(relu6(net.conv(a, (96, 1, 3, 3), group=96)), 0.02)
    c = net.quantized(net.conv(b, (16, 96, 1, 1)), 0.0217)
    return net.model({"x": [2, 16, 12, 12]}, net.quantized(net.node("Add", x, c), 0.04))


def encoder(kind: Any = np.int8, zero: Any = INT8_ZERO) -> onnx.ModelProto:
    """Products as in a transformer's block: Gemm, MatMul with weights, MatMul of activations, a softmax between."""
    net = QuantizedNet(zero)
    weight = [net.random.standard_normal(s) / 8 for s in ((96, 64), (64, 64), (64, 48))]
    x = net.quantized("x", 0.03 if kind == np.int8 else 0.01)
    scale = 0.03 if kind == np.int8 else 0.01
    flat = net.node("Reshape", x, net.const(np.asarray([-1, 64])))
    bias = net.const((net.random.standard_normal(96) * 0.1).astype(np.float32))
    gemm = net.node("Gemm", flat, net.weight(weight[0], 0, dtype=kind), bias, transB=1, alpha=0.5)
    q = net.quantized(net.node("MatMul", x, net.weight(weight[1], 1, dtype=kind)), scale)
    k = net.node("Transpose", x, perm=[0, 2, 1])
    p = net.node("Softmax", net.node("MatMul", q, k))
    out = net.node("MatMul", net.quantized(net.node("MatMul", p, x), scale), net.weight(weight[2], None, dtype=kind))
    return net.model({"x": [2, 10, 64]}, gemm, out)
