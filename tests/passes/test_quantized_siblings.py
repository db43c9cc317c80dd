"""Quantized convolutions of one tensor: when they become one, and that every part keeps its own steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser
from support.quantized_models import INT8_ZERO, QuantizedNet

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise

from .test_quantized import accepted, check, lowered_of


def heads(
    *,
    scales: tuple[float, float] = (0.021, 0.034),
    channels: tuple[int, int] = (32, 64),
    zero: Any = INT8_ZERO,
    gated: tuple[bool, bool] = (True, True),
    strides: tuple[int, int] = (1, 1),
    added: bool = False,
) -> onnx.ModelProto:
    """Two convolutions of one tensor, an activation and a quantization behind each, and a convolution of either."""
    net = QuantizedNet(zero)
    x = net.quantized("x", 0.03)
    parts = []
    for scale, width, gate, stride in zip(scales, channels, gated, strides, strict=True):
        y = net.conv(x, (width, 16, 3, 3), strides=[stride] * 2)
        y = net.node("Mul", y, net.node("Sigmoid", y)) if gate else net.node("Relu", y)
        parts.append(net.quantized(y, scale))
    ends = [net.conv(part, (16, width, 1, 1)) for part, width in zip(parts, channels, strict=True)]
    if added:
        ends.append(net.node("GlobalAveragePool", net.node("Add", parts[0], parts[0])))
    return net.model({"x": [2, 16, 9, 10]}, *ends)


def joined(lowered: Lowered) -> list[int]:
    """Channels of the convolutions of the input."""
    first = [r for r in lowered.regions if r.kind is Kind.CONV and r.shape(r.inputs[0])[1] == 16]
    return sorted(int(r.shape(r.outputs[0])[1]) for r in first)


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-5), np.uint8(7)], ids=lambda z: f"{z.dtype}-{z}")
@pytest.mark.parametrize("fp16", [False, True])
def test_siblings_are_one_convolution(zero: Any, fp16: bool) -> None:
    model = heads(zero=zero)
    lowered = lowered_of(model, accepts=accepted, fp16=fp16)
    assert joined(lowered) == [96]
    assert not [r for r in lowered.regions if r.kind is Kind.MAP and r.inputs[0] != "x"], "parts are windows"
    check(model, lowered, 0.02, shares=0.5 if fp16 else 0.02)


def test_one_scale_needs_no_factors() -> None:
    model = heads(scales=(0.03, 0.03))
    lowered = lowered_of(model, accepts=accepted)
    assert joined(lowered) == [96]
    assert sum(op.op == "Mul" for r in lowered.regions if r.kind is Kind.CONV for op in r.ops) == 2 + 2
    check(model, lowered, 0.02, shares=0.02)


@pytest.mark.parametrize(
    "options",
    [{"channels": (32, 48)}, {"gated": (True, False)}, {"strides": (1, 2)}, {"added": True}, {"channels": (128, 160)}],
    ids=["odd channels", "another activation", "another stride", "read by others", "too wide"],
)
def test_what_stays_apart(options: dict[str, Any]) -> None:
    model = heads(**options)
    lowered = lowered_of(model, accepts=accepted)
    assert len(joined(lowered)) == 2
    check(model, lowered, 0.02, shares=0.02)


def with_a_loop() -> onnx.ModelProto:
    """Siblings, and a Loop of as many turns as data say, whose body reads what one of them makes before its steps."""
    net = QuantizedNet(INT8_ZERO)
    x = net.quantized("x", 0.03)
    made = [net.node("Relu", net.conv(x, (32, 16, 3, 3))) for _ in range(2)]
    ends = [net.conv(net.quantized(y, scale), (16, 32, 1, 1)) for y, scale in zip(made, (0.021, 0.034), strict=True)]
    body = parser.parse_graph(
        f"turn (int64 i, bool c, float[2, 16, 1, 1] v) => (bool d, float[2, 16, 1, 1] w)"
        f" {{ d = Identity(c) mean = ReduceMean<keepdims = 1>({made[0]}) w = Add(v, mean) }}"
    )
    turns = net.node("Cast", net.node("ReduceMax", "x", keepdims=0), to=onnx.TensorProto.INT64)
    loop = net.node("Loop", turns, net.const(np.bool_(True)), net.node("GlobalAveragePool", "x"), body=body)
    return net.model({"x": [2, 16, 9, 10]}, *ends, loop)


def test_what_a_body_on_the_host_reads_stays() -> None:
    model = with_a_loop()
    lowered = lower(canonicalise(ir.from_proto(model), fp16=False).model, (), accepted)
    assert isinstance(lowered, Lowered), str(lowered)
    assert any(region.kind is Kind.HOST for region in lowered.regions)
    assert joined(lowered) == [32, 32]
    check(model, lowered, 0.02, shares=0.02)
