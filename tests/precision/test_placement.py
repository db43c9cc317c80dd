"""Where Q/DQ nodes stand: what kernels fuse stays whole, what only moves numbers is passed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from support.eight_bit import conv, prepared, residual_net
from support.rewrites import Net

from ingot.precision.layers import first_and_last
from ingot.precision.placement import Placement, place


def _ops(model: ir.Model, placed: Placement) -> list[tuple[str, int]]:
    """Op and position of every quantized input, in the order of the graph."""
    kinds = {str(node.name): node.op_type for node in model.graph}
    order = {str(node.name): index for index, node in enumerate(model.graph)}
    return [(kinds[name], position) for name, position in sorted(placed.edges, key=lambda e: (order[e[0]], e[1]))]


def test_residual_branches_one_or_both() -> None:
    model = prepared(residual_net(blocks=2))
    placed = place(model)
    # The last add is read by a pooling that is not quantized; the kernel of the branch's last layer adds the other.
    adds = [node for node in model.graph if node.op_type == "Add"]
    assert set(placed.adds) == {(str(adds[0].name), 1)}
    assert placed.adds[str(adds[0].name), 1] == adds[0].inputs[1].name
    both = place(model, both_branches=True)
    assert set(both.adds) == {(str(adds[0].name), 0), (str(adds[0].name), 1)}
    assert len(placed.layers) == 6 and not placed.refused


def test_an_add_behind_an_activation_of_its_layer() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 8, 8]), 3, 8))
    y = conv(net, x, 8, 8)
    y = net.op("Add", net.op("Mul", y, net.op("Sigmoid", y)), x)
    net.output(conv(net, y, 8, 8))
    model = prepared(net)
    placed = place(model)
    assert [placed.adds[edge] for edge in placed.adds] == ["v1_0"]


def test_adds_of_a_transformer_stay() -> None:
    net = Net()
    x = net.input("x", ["N", 6, 16])
    h = net.op("LayerNormalization", x, net.const(np.ones(16)), net.const(np.zeros(16)))
    y = net.op("Add", net.op("MatMul", h, net.normal(16, 16)), x)
    h = net.op("LayerNormalization", y, net.const(np.ones(16)), net.const(np.zeros(16)))
    net.output(net.op("Add", net.op("MatMul", h, net.normal(16, 16)), y))
    model = prepared(net)
    assert _ops(model, place(model)) == [("MatMul", 0), ("MatMul", 0)]


def test_attention_products_are_left_as_they_are() -> None:
    net = Net()
    x = net.input("x", ["N", 4, 8])
    q, k, v = (net.op("MatMul", x, net.normal(8, 8)) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    out = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1])
    out = net.op("Reshape", net.op("Transpose", out, perm=[0, 2, 1]), net.const([0, 4, 8], "int64"))
    net.output(net.op("MatMul", out, net.normal(8, 8)))
    model = prepared(net)
    placed = place(model)
    assert len(placed.layers) == 4
    assert [str(no) for no in placed.refused.values()] and all(
        "activations" in n.reason for n in placed.refused.values()
    )
    # Nothing stands between the product and what moves its result to the next layer.
    assert _ops(model, placed) == [("MatMul", 0)] * 4


def test_moves_share_a_scale_with_what_they_move() -> None:
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 8, 8]), 3, 8))
    small = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    scales = net.const([1, 1, 2, 2])
    back = net.op("Resize", small, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    net.output(conv(net, net.op("Concat", x, back, axis=1), 16, 4))
    model = prepared(net)
    placed = place(model)
    assert _ops(model, placed) == [
        ("Conv", 0), ("MaxPool", 0), ("Resize", 0), ("Concat", 0), ("Concat", 1), ("Conv", 0)
    ]  # fmt: skip
    groups = list(placed.groups().values())
    assert sorted(len(group) for group in groups) == [1, 4]


def test_a_concat_of_very_different_ranges_stays() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 8, 8])
    a, b = net.op("Relu", conv(net, x, 3, 8)), net.op("Sigmoid", conv(net, x, 3, 8))
    joined = net.op("Concat", a, b, axis=1)
    net.output(conv(net, joined, 16, 4))
    model = prepared(net)
    near, far = {a: 2.0, b: 1.0}, {a: 9.0, b: 1.0}
    assert ("Concat", 1) in _ops(model, place(model, thresholds=near))
    placed = place(model, thresholds=far)
    assert _ops(model, placed) == [("Conv", 0)] * 3 and "differ too much" in placed.notes[0]


def test_what_cannot_be_a_layer() -> None:
    net = Net()
    x = net.input("x", ["N", 8, 8])
    left = net.op("MatMul", net.normal(8, 8), x)
    net.output(net.op("MatMul", left, left))
    placed = place(prepared(net))
    assert not placed.layers
    assert [no.reason for no in placed.refused.values()] == [
        "its weights are the left operand", "both operands are activations"
    ]  # fmt: skip


def test_single_pixels_stay() -> None:
    net = Net()
    x = conv(net, net.input("x", ["N", 3, 8, 8]), 3, 8)
    gate = net.op("Sigmoid", conv(net, net.op("GlobalAveragePool", x), 8, 8, 1))
    net.output(conv(net, net.op("Mul", x, gate), 8, 4))
    placed = place(prepared(net))
    assert len(placed.layers) == 2 and "single pixel" in next(iter(placed.refused.values())).reason


def test_first_and_last_layers() -> None:
    net = Net()
    image = net.input("x", ["N", 8, 8, 3])
    x = net.op("Transpose", net.op("Div", image, net.const(255.0)), perm=[0, 3, 1, 2])
    x = net.op("Relu", conv(net, x, 3, 8))
    x = net.op("Relu", conv(net, x, 8, 8))
    net.output(net.op("Softmax", conv(net, x, 8, 4)), net.op("Sigmoid", conv(net, x, 8, 2)))
    model = prepared(net)
    found = first_and_last(model.graph)
    names = [layer.name for layer in place(model).layers]
    assert found == {names[0]: "first layer", names[2]: "last layer", names[3]: "last layer"}


def test_keep() -> None:
    model = prepared(residual_net(1))
    names = [layer.name for layer in place(model).layers]
    assert [layer.name for layer in place(model, names[:2]).layers] == names[2:]


def test_what_is_kept_does_not_change_which_branch_of_an_add_is_8_bit() -> None:
    """Else a branch would be quantized whose range nobody has seen."""
    model = prepared(residual_net(3))
    everything = place(model)
    assert everything.adds
    for layer in everything.layers:
        some = place(model, [layer.name])
        assert set(some.adds) <= set(everything.adds), layer.name
        assert set(some.values) <= set(everything.values)
    pair = Net()
    x = pair.input("x", ["N", 4, 6, 6])
    joined = pair.op("Add", conv(pair, x, 4, 4), conv(pair, x, 4, 4))
    pair.output(conv(pair, str(joined), 4, 4))
    model = prepared(pair)
    (first, second, _), (branch,) = place(model).layers, place(model).adds
    for name in (first.name, second.name):
        assert list(place(model, [name]).adds) == [branch]
    assert not place(model, [first.name, second.name]).adds
