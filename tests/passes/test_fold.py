"""What the simplifier removes, and what it must leave."""

from __future__ import annotations

import numpy as np
from onnx import parser
from support.rewrites import Net, kinds, rewritten

from ingot.importer.load import import_model
from ingot.passes.fold import fold


def test_static_shape_arithmetic_becomes_a_constant() -> None:
    net = Net()
    x = net.input("x", [2, 3, 4])
    first = net.op("Gather", net.op("Shape", x), net.const(0, "int64"), axis=0)
    first = net.op("Unsqueeze", first, net.const([0], "int64"))
    net.output(net.op("Relu", net.op("Reshape", x, net.op("Concat", first, net.const([-1], "int64"), axis=0))))
    assert kinds(rewritten(net, fold)[0]) == {"Reshape": 1, "Relu": 1}


def test_a_reshape_to_one_symbolic_size_needs_no_arithmetic() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 4])
    batch = net.op("Gather", net.op("Shape", x), net.const([0], "int64"), axis=0)
    net.output(net.op("Reshape", x, net.op("Concat", batch, net.const([12], "int64"), axis=0)))
    assert kinds(rewritten(net, fold)[0]) == {"Reshape": 1}


def test_a_reshape_that_keeps_symbolic_sizes_needs_no_arithmetic() -> None:
    net = Net()
    x = net.input("x", ["N", "S", 12])
    sizes = [net.op("Gather", net.op("Shape", x), net.const([i], "int64"), axis=0) for i in range(2)]
    net.output(net.op("Reshape", x, net.op("Concat", *sizes, net.const([3, 4], "int64"), axis=0)))
    assert kinds(rewritten(net, fold)[0]) == {"Reshape": 1}


def test_what_does_nothing_goes() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 1, 5])
    y = net.op("Identity", net.op("Dropout", net.op("Cast", x, to=1)))
    y = net.op("Transpose", net.op("Transpose", y, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    y = net.op("Div", net.op("Mul", y, net.const(1.0)), net.const([[1.0]]))
    y = net.op("Sub", net.op("Add", net.const(np.zeros((3, 1, 1))), y), net.const(0.0))
    y = net.op("Pad", net.op("Pow", y, net.const(1.0)), net.const([0] * 8, "int64"))
    net.output(net.op("Relu", net.op("Concat", y, axis=1)))
    assert kinds(rewritten(net, fold)[0]) == {"Relu": 1}


def test_a_choice_that_is_always_the_same_goes_unless_it_broadcasts() -> None:
    net = Net()
    x, row = net.input("x", [2, 3]), net.input("row", [1, 3])
    yes, no = net.const(True, "bool"), net.const([[False] * 3], "bool")
    net.output(net.op("Relu", net.op("Where", yes, net.op("Where", no, row, x), row)), net.op("Where", no, x, row))
    assert kinds(rewritten(net, fold)[0]) == {"Relu": 1, "Where": 1}


def test_neutral_elements_that_broadcast_or_are_not_exact_stay() -> None:
    net = Net()
    x = net.input("x", ["N", 1])
    wider = net.op("Mul", x, net.const(np.ones((1, 3))))
    higher = net.op("Add", net.op("Abs", x), net.const(np.zeros((1, 1, 1))))
    tiny = net.op("Add", net.op("Neg", x), net.const(1e-12))
    net.output(wider, higher, tiny)
    assert kinds(rewritten(net, fold)[0]) == {"Mul": 1, "Abs": 1, "Neg": 1, "Add": 2}


def test_repeated_expressions_are_computed_once() -> None:
    net = Net()
    x = net.input("x", ["N", 3])
    net.output(net.op("Add", net.op("Exp", x), net.op("Exp", x)))
    assert kinds(rewritten(net, fold)[0]) == {"Exp": 1, "Add": 1}


def test_weights_do_not_blow_up() -> None:
    net = Net()
    x = net.input("x", [1000, 1000])
    big = net.op("Expand", net.normal(1, 1000), net.const([1000, 1000], "int64"))
    fill = net.op("ConstantOfShape", net.const([1000, 1000], "int64"))
    net.output(net.op("Add", net.op("Mul", x, big), fill))
    model, _ = rewritten(net, fold)
    assert kinds(model)["Expand"] == 1
    assert sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value) < 10_000


def test_large_weights_are_transposed_once() -> None:
    net = Net()
    x = net.input("x", ["N", 300])
    net.output(net.op("MatMul", x, net.op("Transpose", net.normal(200, 300), perm=[1, 0])))
    assert kinds(rewritten(net, fold)[0]) == {"MatMul": 1}


def test_outputs_keep_their_names() -> None:
    net = Net()
    x = net.input("x", ["N", 3])
    y = net.op("Relu", x)
    net.output(y, net.op("Identity", y), net.op("Identity", x), net.op("Relu", x))
    model, _ = rewritten(net, fold)
    assert [v.name for v in model.graph.outputs] == ["v0_0", "v1_0", "v2_0", "v3_0"]


def test_a_constant_condition_takes_its_branch() -> None:
    from onnx import TensorProto, helper

    net = Net()
    x = net.input("x", ["N", 3])
    branches = [
        helper.make_graph(
            [helper.make_node(op, [x], [f"{op}_out"], name=f"{op}_inner")],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Exp")
    ]
    net.output(net.op("If", net.const(True, "bool"), then_branch=branches[0], else_branch=branches[1]))
    assert kinds(rewritten(net, fold)[0]) == {"Neg": 1}


def test_a_node_that_cannot_be_folded_stays() -> None:
    net = Net()
    parts = net.op("SplitToSequence", net.input("x", [3, 6]), net.const([2, 4], "int64"), axis=1, keepdims=1)
    net.output(net.op("SequenceAt", parts, net.const(0, "int64")))
    rewritten(net, fold)


def test_a_node_that_a_rule_trips_over_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[3, 6] x) => (y) <int64[1] a = {-1}, int64 scalar = {0}> { f = Reshape (x, a) y = Reshape (f, scalar) }"""
    model = import_model(parser.parse_model(text)).model
    fold(model)
    assert {node.op_type for node in model.graph} == {"Reshape"}
