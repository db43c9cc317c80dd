"""Padding, constants, products in two axes, picks, softmax in other words, and moves that undo each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.sink import sink_moves
from ingot.passes.small import small_rewrites
from ingot.passes.softmax import simplify_softmax

Run = Callable[[ir.Model], list[str]]


def _image(net: Net) -> str:
    return net.input("x", ["N", 3, 6, 7])


def _pad(net: Net, x: str, *more: str, pads: tuple[int, ...] = (0, 0, 1, 0, 0, 0, 2, 1)) -> str:
    return str(net.op("Pad", x, net.const(list(pads), "int64"), *more))


@pytest.mark.parametrize("own", [None, [1, 1, 0, 0]])
def test_a_convolution_pads_itself(own: list[int] | None) -> None:
    net = Net()
    extra = {} if own is None else {"pads": own}
    net.output(net.op("Conv", _pad(net, _image(net), net.const(0.0)), net.normal(4, 3, 3, 3), **extra))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Conv": 1}


def test_padding_with_axes() -> None:
    net = Net()
    padded = net.op("Pad", _image(net), net.const([1, 2], "int64"), "", net.const([-1], "int64"))
    net.output(net.op("Conv", padded, net.normal(4, 3, 3, 3)))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Conv": 1}


@pytest.mark.parametrize("case", ["value", "reflect", "channels", "crop"])
def test_other_padding_stays(case: str) -> None:
    net = Net()
    x = _image(net)
    pads = net.const([0, 1 if case == "channels" else 0, 1, 1, 0, 0, -1 if case == "crop" else 1, 1], "int64")
    if case == "reflect":
        padded = net.op("Pad", x, pads, mode="reflect")
    else:
        padded = net.op("Pad", x, pads, net.const(1.0 if case == "value" else 0.0))
    net.output(net.op("Conv", padded, net.normal(4, 4 if case == "channels" else 3, 3, 3)))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Pad": 1, "Conv": 1}


@pytest.mark.parametrize(
    ("op", "fill", "before", "gone"),
    [
        ("AveragePool", 0.0, "", True),
        ("AveragePool", 1.0, "", False),
        ("MaxPool", -np.inf, "", True),
        ("MaxPool", 0.0, "Relu", True),
        ("MaxPool", 0.0, "", False),
    ],
)
def test_pools_pad_themselves(op: str, fill: float, before: str, gone: bool) -> None:
    net = Net()
    x = _image(net)
    x = net.op(before, x) if before else x
    net.output(net.op(op, _pad(net, x, net.const(fill)), kernel_shape=[3, 3], strides=[2, 2]))
    assert kinds(rewritten(net, small_rewrites)[0])["Pad"] == (0 if gone else 1)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_are_combined(op: str) -> None:
    net = Net()
    y = net.op(op, net.op(op, net.normal(3, 1, 1), _image(net)), net.normal(1, 7))
    net.output(net.op(op, y, net.const(2.0)))
    assert kinds(rewritten(net, small_rewrites)[0]) == {op: 1}


def test_constants_of_different_ops_or_of_shared_values_stay() -> None:
    net = Net()
    first = net.op("Add", _image(net), net.const(1.0))
    net.output(net.op("Mul", first, net.const(2.0)), net.op("Add", first, net.const(2.0)))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Add": 2, "Mul": 1}


@pytest.mark.parametrize("kind", ["gemm", "transposed gemm", "matmul", "matmul and bias"])
def test_products_lose_their_reshapes(kind: str) -> None:
    net = Net()
    flat = net.op("Reshape", net.input("x", ["N", 5, 8]), net.const([-1, 8], "int64"))
    if "gemm" in kind:
        transposed = int("transposed" in kind)
        weight = net.normal(4, 8) if transposed else net.normal(8, 4)
        y = net.op("Gemm", flat, weight, net.normal(4), transB=transposed)
    else:
        y = net.op("MatMul", flat, net.normal(8, 4))
        y = net.op("Add", y, net.normal(4)) if "bias" in kind else y
    net.output(net.op("Reshape", y, net.const([-1, 5, 4], "int64")))
    found = kinds(rewritten(net, small_rewrites)[0])
    assert found == {"MatMul": 1} | ({} if kind == "matmul" else {"Add": 1})


def test_a_reshape_that_mixes_rows_stays() -> None:
    net = Net()
    flat = net.op("Reshape", net.input("x", ["N", 5, 8]), net.const([-1, 8], "int64"))
    net.output(net.op("Reshape", net.op("MatMul", flat, net.normal(8, 4)), net.const([-1, 4, 5], "int64")))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Reshape": 2, "MatMul": 1}


@pytest.mark.parametrize(("index", "axis"), [(0, 0), (1, 1), (-1, -1)])
def test_picks_are_slices(index: int, axis: int) -> None:
    net = Net()
    net.output(net.op("Gather", net.input("x", [2, 3, 4]), net.const(index, "int64"), axis=axis))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Slice": 1, "Squeeze": 1}


def test_picks_of_several_or_of_computed_indices_stay() -> None:
    net = Net()
    x = net.input("x", [2, 3, 4])
    several = net.op("Gather", x, net.const([0, 2], "int64"), axis=1)
    net.output(several, net.op("Gather", x, net.input("i", [], "int64"), axis=2))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Gather": 2}


def test_concats_are_flattened() -> None:
    net = Net()
    x, z = net.input("x", ["N", 3]), net.input("z", ["N", 4])
    inner = net.op("Concat", x, z, axis=-1)
    net.output(net.op("Concat", z, inner, axis=1))
    assert kinds(rewritten(net, small_rewrites)[0]) == {"Concat": 1}


# -- softmax


def test_a_flattened_softmax() -> None:
    net = Net()
    x = net.input("x", ["N", 2, 3, 4])
    flat = net.op("Softmax", net.op("Flatten", x, axis=3), axis=-1)
    net.output(net.op("Reshape", flat, net.op("Shape", x)))
    assert kinds(rewritten(net, simplify_softmax)[0]) == {"Softmax": 1}


def test_a_softmax_over_flattened_axes_stays() -> None:
    net = Net()
    x = net.input("x", ["N", 2, 3, 4])
    flat = net.op("Softmax", net.op("Flatten", x, axis=2), axis=-1)
    net.output(net.op("Reshape", flat, net.op("Shape", x)))
    assert kinds(rewritten(net, simplify_softmax)[0])["Flatten"] == 1


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_softmax_in_arithmetic(keepdims: int, axis: int) -> None:
    net = Net()
    x, axes = net.input("x", ["N", 5, 5]), net.const([axis], "int64")
    top = net.op("ReduceMax", x, axes, keepdims=1)
    power = net.op("Exp", net.op("Sub", x, top))
    total = net.op("ReduceSum", power, axes, keepdims=keepdims)
    if not keepdims:
        total = net.op("Unsqueeze", total, axes)
    net.output(net.op("Div", power, total))
    assert kinds(rewritten(net, simplify_softmax)[0]) == {"Softmax": 1}


def test_a_sum_put_back_elsewhere_is_no_softmax() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 5])
    power = net.op("Exp", x)
    total = net.op("ReduceSum", power, net.const([1], "int64"), keepdims=0)
    net.output(net.op("Div", power, net.op("Unsqueeze", total, net.const([2], "int64"))))
    assert kinds(rewritten(net, simplify_softmax)[0])["Softmax"] == 0


# -- moves


def test_channels_last_arithmetic_between_convolutions() -> None:
    net = Net()
    y = net.op("Transpose", net.op("Conv", _image(net), net.normal(4, 3, 1, 1)), perm=[0, 2, 3, 1])
    y = net.op("Add", y, net.normal(4))
    y = net.op("Mul", net.op("Sigmoid", y), y)
    y = net.op("PRelu", net.op("Mul", y, net.const([[2.0]])), net.normal(1, 1, 4))
    net.output(net.op("Conv", net.op("Transpose", y, perm=[0, 3, 1, 2]), net.normal(2, 4, 1, 1)))
    assert "Transpose" not in kinds(rewritten(net, sink_moves)[0])


def test_arithmetic_behind_the_reshape_of_a_product() -> None:
    net = Net()
    y = net.op("Conv", _image(net), net.normal(4, 3, 1, 1))
    y = net.op("Transpose", net.op("Reshape", y, net.const([0, 4, -1], "int64")), perm=[0, 2, 1])
    net.output(net.op("Relu", net.op("Add", y, net.normal(1, 42, 4))))
    net.output(
        net.op(
            "Exp", net.op("Relu", net.op("Mul", net.op("Reshape", "x", net.const([0, -1], "int64")), net.const(2.0)))
        )
    )
    model, notes = rewritten(net, sink_moves)
    ops = [node.op_type for node in model.graph]
    assert ops.index("Add") < ops.index("Reshape")
    # There is nothing that the arithmetic on the input could join.
    assert notes == ["2 transposes and reshapes moved behind arithmetic"]


def test_arithmetic_before_elements_are_repeated() -> None:
    net = Net()
    x = net.op("Expand", net.input("x", ["N", 1, 1, 7]), net.const([1, 1, 5, 1], "int64"))
    y = net.op("Where", net.op("Greater", x, net.const(0.0)), net.const([-1e9]), net.op("Sub", net.const(1.0), x))
    net.output(net.op("Softmax", y, axis=-1))
    model, _ = rewritten(net, sink_moves)
    ops = [node.op_type for node in model.graph]
    assert ops.index("Expand") > ops.index("Where") and ops.count("Expand") == 1


def test_a_residual_of_two_transposed_values() -> None:
    net = Net()
    x, z = _image(net), net.input("z", ["N", 3, 6, 7])
    first, second = (net.op("Transpose", v, perm=[0, 2, 3, 1]) for v in (x, z))
    net.output(net.op("Transpose", net.op("Relu", net.op("Add", first, second)), perm=[0, 3, 1, 2]))
    assert kinds(rewritten(net, sink_moves)[0]) == {"Add": 1, "Relu": 1}


def test_moves_stay_before_what_is_not_moved() -> None:
    net = Net()
    x, z = _image(net), net.input("z", ["N", 6, 7, 3])
    moved = net.op("Transpose", x, perm=[0, 2, 3, 1])
    net.output(net.op("Add", moved, z), net.op("Softmax", moved, axis=-1))
    assert kinds(rewritten(net, sink_moves)[0]) == {"Transpose": 1, "Add": 1, "Softmax": 1}


def test_a_constant_that_raises_the_rank_stops_a_move() -> None:
    net = Net()
    moved = net.op("Transpose", net.input("x", [3, 4]), perm=[1, 0])
    net.output(net.op("Add", moved, net.normal(2, 4, 3)), net.op("Mul", moved, net.const([[[2.0]]])))
    assert kinds(rewritten(net, sink_moves)[0])["Transpose"] == 1


def test_reduced_axes_that_are_put_back() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    total = net.op("ReduceSum", x, net.const([1], "int64"), keepdims=0)
    mean = net.op("Mul", total, net.const(0.2))
    net.output(net.op("Sub", x, net.op("Unsqueeze", net.op("Sqrt", net.op("Abs", mean)), net.const([1], "int64"))))
    assert kinds(rewritten(net, sink_moves)[0]) == {"ReduceSum": 1, "Mul": 1, "Abs": 1, "Sqrt": 1, "Sub": 1}


@pytest.mark.parametrize("run", [sink_moves, small_rewrites, simplify_softmax])
def test_nothing_to_do(run: Run) -> None:
    net = Net()
    net.output(net.op("Relu", net.op("Conv", _image(net), net.normal(4, 3, 3, 3))))
    model, notes = rewritten(net, run)
    assert kinds(model) == {"Conv": 1, "Relu": 1} and notes == []
