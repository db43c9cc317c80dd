"""Float16 where it fits, float32 where it does not, and casts only where types meet."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from support.rewrites import Net, assert_same, feeds_of, kinds, run_any

from ingot.graph.verify import signature_of, verify
from ingot.passes.fold import tidy
from ingot.precision.autocast import autocast

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT


def cast(net: Net, rtol: float = 5e-3, **sizes: int) -> tuple[ir.Model, list[str]]:
    """The net after autocast, checked for strong types and compared with the original."""
    proto = net.proto()
    model = ir.from_proto(proto)
    tidy(model)
    signature = signature_of(model)
    notes = autocast(model)
    tidy(model)
    verify(model, signature)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    # Strict inference refuses operands whose declared types differ.
    onnx.shape_inference.infer_shapes(after, strict_mode=True, check_type=True, data_prop=True)
    feeds = feeds_of(proto, **sizes)
    assert_same(run_any(proto, feeds), run_any(after, feeds), rtol)
    return model, notes


def dtype_of(model: ir.Model, op_type: str) -> ir.DataType | None:
    """Type of the first result of the first node of a kind."""
    return next(node.outputs[0].dtype for node in model.graph if node.op_type == op_type)


def _conv(net: Net, x: str, c_in: int = 3, c_out: int = 4) -> str:
    return str(net.op("Conv", x, net.normal(c_out, c_in, 3, 3, scale=0.2), net.normal(c_out)))


def _image(net: Net) -> str:
    return net.input("x", ["N", 3, 8, 8])


def test_casts_stand_at_the_edges_only() -> None:
    net = Net()
    y = net.op("Relu", _conv(net, _image(net)))
    net.output(net.op("Add", _conv(net, y, 4), _conv(net, y, 4)), y)
    model, notes = cast(net)
    assert kinds(model)["Cast"] == 3 and notes == []
    assert dtype_of(model, "Conv") == HALF
    assert all(v.dtype == HALF for v in model.graph.initializers.values())
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)] == [FULL] * 3


def test_a_16_bit_model_passes_unchanged() -> None:
    net = Net()
    x = net.op("Cast", _image(net), to=TensorProto.FLOAT16)
    y = net.op("Conv", x, net.const(net.random.standard_normal((4, 3, 3, 3)), "float16"))
    net.output(net.op("Cast", y, to=TensorProto.FLOAT))
    before = net.model()
    model, notes = cast(net)
    assert kinds(model) == kinds(before)
    assert notes == ["the model already holds 16-bit weights: its types are kept"]


def test_arithmetic_without_products_stays() -> None:
    net = Net()
    net.output(net.op("Softmax", net.op("Mul", net.input("x", ["N", 8]), net.const(2.0)), axis=-1))
    model, notes = cast(net)
    assert kinds(model) == {"Mul": 1, "Softmax": 1} and notes == []


def test_exponentials_stay_until_something_bounds_them() -> None:
    net = Net()
    power = net.op("Exp", _conv(net, _image(net)))
    y = net.op("Div", power, net.op("ReduceSum", power, net.const([1], "int64")))
    net.output(_conv(net, net.op("Relu", y), 4))
    model, notes = cast(net)
    assert dtype_of(model, "Exp") == dtype_of(model, "ReduceSum") == dtype_of(model, "Div") == FULL
    assert dtype_of(model, "Relu") == HALF
    assert [note.rpartition(": ")[2] for note in notes] == [
        "Exp can exceed the range of float16",
        "its operand may exceed the range of float16",
    ]


def test_exponentials_below_a_maximum_are_small() -> None:
    net = Net()
    x = _conv(net, _image(net))
    power = net.op("Exp", net.op("Sub", x, net.op("ReduceMax", x, net.const([1], "int64"))))
    net.output(_conv(net, power, 4))
    model, notes = cast(net)
    assert dtype_of(model, "Exp") == HALF and notes == []


def test_squares_are_rooted_in_float32() -> None:
    net = Net()
    x = _conv(net, _image(net))
    y = net.op("Sqrt", net.op("Add", net.op("Mul", x, x), net.op("Pow", x, net.const(2.0))))
    net.output(_conv(net, y, 4))
    model, _ = cast(net)
    assert dtype_of(model, "Mul") == dtype_of(model, "Sqrt") == FULL
    assert [n.outputs[0].dtype for n in model.graph if n.op_type == "Conv"] == [HALF, HALF]


def test_a_layer_with_weights_ends_the_doubt() -> None:
    net = Net()
    y = net.op("Relu", net.op("MatMul", net.input("x", ["N", 8]), net.normal(8, 8)))
    net.output(net.op("MatMul", net.op("Mul", y, y), net.normal(8, 4)))
    model, _ = cast(net)
    assert [n.outputs[0].dtype for n in model.graph if n.op_type == "MatMul"] == [HALF, HALF]


def test_a_filter_bank_before_a_logarithm_stays() -> None:
    net = Net()
    y = _conv(net, _image(net))
    power = net.op("Pow", y, net.const(2.0))
    net.output(net.op("Log", net.op("Add", net.op("MatMul", power, net.const(np.full((6, 3), 0.1))), net.const(1e-3))))
    model, _ = cast(net)
    assert dtype_of(model, "MatMul") == dtype_of(model, "Log") == FULL


def test_weights_beyond_the_range_keep_their_node() -> None:
    net = Net()
    y = net.op("Mul", _conv(net, _image(net)), net.const(np.full((4, 1, 1), 1e5)))
    net.output(net.op("Sigmoid", y), _conv(net, net.op("Tanh", y), 4))
    model, notes = cast(net, rtol=2e-2)
    assert dtype_of(model, "Mul") == FULL
    assert any("a constant is beyond the range of float16" in note for note in notes)


def test_mask_constants_are_clamped() -> None:
    net = Net()
    scores = net.op("MatMul", net.input("x", ["N", 8, 8]), net.normal(8, 8))
    mask = net.op("Cast", net.input("mask", ["N", 1, 8], "int64"), to=TensorProto.FLOAT)
    lowest = float(np.finfo(np.float32).min)
    masked = net.op("Add", scores, net.op("Mul", net.op("Sub", net.const(1.0), mask), net.const(lowest)))
    chosen = net.op("Where", net.const(np.tril(np.ones((8, 8))) > 0, "bool"), masked, net.const(lowest))
    net.output(net.op("MatMul", net.op("Softmax", chosen, axis=-1), net.normal(8, 2)))
    proto = net.proto()
    model = ir.from_proto(proto)
    tidy(model)
    notes = autocast(model)
    assert len(notes) == 1 and notes[0].startswith("constants beyond the range of float16 were clamped: ")
    assert dtype_of(model, "Softmax") == HALF
    feeds = feeds_of(proto) | {"mask": np.ones((2, 1, 8), np.int64)}
    feeds["mask"][:, :, 4:] = 0
    assert_same(run_any(proto, feeds), run_any(ir.to_proto(model), feeds), 5e-3)


def test_infinite_constants_stay_infinite() -> None:
    net = Net()
    y = _conv(net, _image(net))
    net.output(net.op("Max", y, net.const(-np.inf)))
    model, notes = cast(net)
    assert dtype_of(model, "Max") == HALF and notes == []


def test_tiny_weights_are_reported() -> None:
    net = Net()
    weight = net.random.standard_normal((4, 3, 3, 3))
    weight[0] = 1e-9
    net.output(net.op("Conv", _image(net), net.const(weight)))
    _, notes = cast(net)
    assert notes == ["elements too small for float16 became zero: w0 (25.0%)"]


def test_numbers_that_keep_a_divisor_from_zero_do_not_vanish() -> None:
    net = Net()
    y = net.op("Relu", net.op("MatMul", net.input("x", ["N", 8]), net.const(np.zeros((8, 4)))))
    y = net.op("Div", y, net.op("Clip", net.op("ReduceMax", y, net.const([1], "int64")), net.const(1e-12)))
    net.output(net.op("MatMul", y, net.normal(4, 2)))
    model, notes = cast(net)
    assert dtype_of(model, "Clip") == HALF and notes == []


def test_factors_that_would_vanish_keep_their_node() -> None:
    net = Net()
    y = net.op("MatMul", net.input("x", ["N", 8]), net.normal(8, 4))
    net.output(net.op("Sigmoid", net.op("Mul", net.op("Mul", y, net.const(1e-9)), net.const(1e9))))
    model, notes = cast(net)
    assert dtype_of(model, "Mul") == FULL and any("a factor is too small" in note for note in notes)


def test_positions_and_sizes_stay_exact() -> None:
    net = Net()
    x = net.input("x", ["N", 8])
    y = net.op("MatMul", x, net.normal(8, 4))
    index = net.op("Cast", net.op("Floor", net.op("Abs", net.op("Mul", y, net.const(100.0)))), to=TensorProto.INT64)
    net.output(net.op("MatMul", y, net.normal(4, 2)))
    net.output(net.op("Mod", index, net.const(7, "int64")), dtype="int64")
    proto = net.proto()
    model = ir.from_proto(proto)
    tidy(model)
    notes = autocast(model)
    assert dtype_of(model, "Floor") == dtype_of(model, "Abs") == FULL and dtype_of(model, "MatMul") == HALF
    assert any("its result becomes an index, a size or an angle" in note for note in notes)


def test_integers_are_scaled_before_they_are_rounded() -> None:
    net = Net()
    samples = net.op("Cast", net.input("x", ["N", 8], "int64"), to=TensorProto.FLOAT)
    net.output(net.op("MatMul", net.op("Mul", samples, net.const(1 / 32768)), net.normal(8, 4)))
    model, notes = cast(net)
    assert dtype_of(model, "Mul") == FULL and dtype_of(model, "MatMul") == HALF and notes == []


def test_shapes_may_be_taken_of_float16() -> None:
    net = Net()
    y = _conv(net, _image(net))
    shape = net.op("Concat", net.op("Shape", y, start=0, end=1), net.const([-1], "int64"), axis=0)
    net.output(net.op("MatMul", net.op("Reshape", y, shape), net.normal(144, 3)))
    model, notes = cast(net)
    assert kinds(model)["Cast"] == 2 and notes == []


def test_resize_keeps_its_scales() -> None:
    net = Net()
    y = net.op("Resize", _conv(net, _image(net)), "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    net.output(_conv(net, y, 4))
    model, _ = cast(net)
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert resize.inputs[2] is not None and resize.inputs[2].dtype == FULL and resize.outputs[0].dtype == HALF


def test_host_ops_stay_with_views_between_them() -> None:
    net = Net()
    y = net.op("CumSum", _conv(net, _image(net)), net.const(1, "int64"))
    y = net.op("CumSum", net.op("Transpose", y, perm=[0, 2, 3, 1]), net.const(1, "int64"))
    net.output(_conv(net, net.op("Transpose", y, perm=[0, 3, 1, 2]), 4))
    model, notes = cast(net)
    assert notes == ["float32: n1, n3: CumSum runs on the host"]
    found = [n.outputs[0].dtype for n in model.graph if n.op_type == "Transpose"]
    assert found == [FULL, HALF]


@pytest.mark.parametrize("produced", [True, False])
def test_bodies_and_what_they_capture_stay(produced: bool) -> None:
    net = Net()
    y = _conv(net, _image(net)) if produced else net.normal(1, 4, 6, 6)
    branches = [
        helper.make_graph(
            [helper.make_node(op, [y], [f"{op}_out"], name=f"{op}_inner")],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Abs")
    ]
    z = net.op("If", net.input("c", [], "bool"), then_branch=branches[0], else_branch=branches[1])
    net.output(net.op("Add", _conv(net, z, 4), _conv(net, y, 4)))
    model, notes = cast(net)
    assert any(note.endswith("If runs on the host") for note in notes)
    assert dtype_of(model, "If") == FULL and dtype_of(model, "Add") == HALF
    bodies = [a.as_graph() for n in model.graph if n.op_type == "If" for a in n.attributes.values()]
    assert all(v.dtype == FULL for body in bodies for node in body for v in (*node.inputs, *node.outputs) if v)


def test_constants_of_shape_and_casts_change_their_attribute() -> None:
    net = Net()
    y = _conv(net, net.input("x", [2, 3, 8, 8]))
    fill = net.op("ConstantOfShape", net.op("Shape", y), value=helper.make_tensor("", TensorProto.FLOAT, [1], [0.5]))
    flag = net.op("Cast", net.op("Greater", y, fill), to=TensorProto.FLOAT)
    net.output(net.op("Mul", net.op("Add", y, fill), flag))
    model, _ = cast(net)
    assert dtype_of(model, "ConstantOfShape") == dtype_of(model, "Mul") == HALF


def test_attention_masks_may_be_either() -> None:
    net = Net(opset=23)
    q = net.op("MatMul", net.input("x", ["N", 6, 8]), net.normal(8, 8))
    mask = net.input("mask", ["N", 1, 6, 6])
    net.output(net.op("Attention", q, q, q, mask, q_num_heads=2, kv_num_heads=2))
    model, _ = cast(net)
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert [v.dtype for v in node.inputs if v] == [HALF, HALF, HALF, FULL]


def test_an_output_that_is_read_again_is_cast_once() -> None:
    net = Net()
    y = _conv(net, _image(net))
    net.output(y, net.op("CumSum", y, net.const(1, "int64")), _conv(net, y, 4))
    model, _ = cast(net)
    assert kinds(model)["Cast"] == 3


def test_outputs_that_only_move_are_cast_before_the_move() -> None:
    net = Net()
    y = net.op("Concat", _conv(net, _image(net)), _conv(net, "x"), axis=1)
    net.output(net.op("Transpose", y, perm=[0, 2, 3, 1]))
    model, notes = cast(net)
    ops = [node.op_type for node in model.graph]
    assert dtype_of(model, "Concat") == dtype_of(model, "Transpose") == FULL and notes == []
    assert ops[-1] == "Transpose" and kinds(model)["Cast"] == 3


def test_values_without_a_known_shape_stay() -> None:
    net = Net()
    y = net.op("MatMul", net.input("x", ["N", 8]), net.normal(8, 4))
    picked = net.op(
        "Compress",
        y,
        net.op("Greater", net.op("ReduceMax", y, net.const([1], "int64"), keepdims=0), net.const(0.0)),
        axis=0,
    )
    net.output(net.op("MatMul", net.op("Relu", picked), net.normal(4, 2)))
    proto = net.proto()
    model = ir.from_proto(proto)
    tidy(model)
    autocast(model)
    assert dtype_of(model, "Compress") == FULL


@pytest.mark.parametrize(
    ("activations", "wanted"), [(["Sigmoid", "Tanh"], HALF), (["Sigmoid", "Relu"], FULL)], ids=["bounded", "free"]
)
def test_a_recurrent_layer_is_half_where_its_state_is_bounded(activations: list[str], wanted: ir.DataType) -> None:
    net = Net()
    x = net.input("x", [5, "N", 6])
    weights = (net.normal(1, 12, 6, scale=0.4), net.normal(1, 12, 4, scale=0.4), net.normal(1, 24))
    y = net.op("GRU", x, *weights, hidden_size=4, activations=activations)
    net.output(net.op("MatMul", y, net.normal(4, 3)))
    model, notes = cast(net)
    assert dtype_of(model, "GRU") == wanted
    assert dtype_of(model, "MatMul") == HALF
    assert any("Relu its state can exceed" in note for note in notes) == (wanted == FULL)
