"""Means over bins: the softmax, the weights and the sum are one kernel, quantized or not."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from support.lowering import check_lowered, lowered_of
from support.rewrites import Net, feeds_of, kinds, rewritten

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.passes.small import small_rewrites


def _net(**changes: object) -> Net:
    """Softmax over 8 channels of 3 rows of 5, and their mean by a convolution."""
    net = Net()
    x = net.op("Softmax", net.input("x", [2, 8, 3, 5]), axis=changes.get("axis", 1))
    if changes.get("quantized"):
        scale, zero = net.const(1 / 255.0), net.const(0, "uint8")
        x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)
    bias = [net.normal(changes.get("outputs", 1))] if changes.get("bias") else []
    if changes.get("read"):
        net.output(net.op("Neg", x))
    net.output(net.op("Conv", x, net.normal(changes.get("outputs", 1), 8, 1, 1), *bias))
    return net


def _kernels(lowered: Lowered) -> list[list[str]]:
    return [[op.op for op in region.ops] for region in lowered.regions if region.kind is not Kind.VIEW]


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"quantized": True, "bias": True}])
def test_one_kernel(changes: dict[str, object]) -> None:
    made, _ = rewritten(_net(**changes), small_rewrites)
    assert kinds(made)["Conv"] == 0 and kinds(made)["ReduceSum"] == 1
    proto = ir.to_proto(made)
    lowered = lowered_of(proto)
    (kernel,) = _kernels(lowered)
    assert kernel[0] == "Softmax" and "ReduceSum" in kernel
    check_lowered(proto, lowered, feeds_of(proto))


@pytest.mark.parametrize("changes", [{"axis": 2}, {"outputs": 2}, {"read": True}])
def test_other_convolutions_stay(changes: dict[str, object]) -> None:
    assert kinds(rewritten(_net(**changes), small_rewrites)[0])["Conv"] == 1


def test_a_sum_over_another_axis_is_a_kernel_of_its_own() -> None:
    net = Net()
    net.output(net.op("ReduceSum", net.op("Softmax", net.input("x", [2, 8, 3]), axis=1), net.const([2], "int64")))
    proto = ir.to_proto(net.model())
    lowered = lowered_of(proto)
    assert _kernels(lowered) == [["Softmax"], ["ReduceSum"]]
