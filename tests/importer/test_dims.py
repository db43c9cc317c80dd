"""Dimensions of the inputs: what is asked for, what is assumed, and what is refused."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from support.onnx_text import fixed, model

from ingot.errors import IngotError
from ingot.graph.lowered import SymbolRange
from ingot.importer.load import Imported, import_model
from ingot.options import Range

TWO = "g (float[N,C,8] x, float[N,C,8] z) => (float[N,C,8] y) { y = Add (x, z) }"
ONE = "g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu (x) }"


def dims(imported: Imported, index: int = 0) -> list[int | str]:
    shape = imported.model.graph.inputs[index].shape
    assert shape is not None
    return [dim if isinstance(dim, int) else str(dim.value) for dim in shape]


def with_dims(*sizes: int | str | None) -> onnx.ModelProto:
    proto = model("g (float[1] x) => (y) { y = Relu (x) }")
    shape = proto.graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for size in sizes:
        dim = shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
    return proto


def test_fixed_sizes_replace_the_symbol_everywhere() -> None:
    imported = import_model(model(TWO), (("x", fixed(4, 3, 8)),))
    assert dims(imported, 0) == dims(imported, 1) == [4, 3, 8]
    assert imported.ranges == ()
    assert imported.model.graph.outputs[0].shape == ir.Shape([4, 3, 8])


def test_ranges_stay_symbolic() -> None:
    ranges = (Range(1, 4, 8), Range(3, 3, 3), Range(8, 8, 8))
    imported = import_model(model(TWO), (("x", ranges),))
    assert dims(imported, 0) == dims(imported, 1) == ["N", 3, 8]
    assert imported.ranges == (SymbolRange("N", 1, 4, 8),)


def test_batch_is_one_unless_asked_for() -> None:
    imported = import_model(model("g (float[N,8] x) => (float[N,8] y) { y = Relu (x) }"))
    assert dims(imported) == [1, 8]
    assert any("dimension 0 (N)" in note and "1" in note for note in imported.notes)


def test_other_symbols_need_a_shape() -> None:
    with pytest.raises(IngotError, match=r"input 'x': dimension 2 \(H\).*--shapes x=1x3x224x224"):
        import_model(model(ONE))


def test_any_size_needs_none() -> None:
    imported = import_model(model(ONE), any_size=True)
    assert dims(imported) == ["N", 3, "H", "W"]
    assert imported.ranges == tuple(SymbolRange(name, 1, 1, 65536) for name in "NHW")


def test_any_size_keeps_what_is_asked() -> None:
    imported = import_model(model(ONE), (("x", (*fixed(1, 3, 32), Range(1, 2, 3))),), any_size=True)
    assert dims(imported) == [1, 3, 32, "W"]
    assert imported.ranges == (SymbolRange("W", 1, 2, 3),)


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ((None, None, 3), ["x_dim0", "x_dim1", 3]),
        (("?", "?"), ["x_dim0", "x_dim1"]),
        ((-1, 3), ["x_dim0", 3]),
        (("p2o.DynamicDimension.0", "p2o.DynamicDimension.1"), ["p2o_DynamicDimension_0", "p2o_DynamicDimension_1"]),
        (("a b", "a_b", "a.b"), ["a_b_1", "a_b", "a_b_2"]),
        (("max", "lambda", "_d0"), ["dim_max", "dim_lambda", "d0"]),
        (("2", "größe", ""), ["dim_2", "gr_e", "x_dim2"]),
        (("N", "N"), ["N", "N"]),
        (("N", "max(N)", "N/0", "mod(N)"), ["N", "max_N", "N_0", "mod_N"]),
        (("x_dim1", None), ["x_dim1", "x_dim1_1"]),
        ((0, 5), [0, 5]),
    ],
)
def test_symbols_become_identifiers(sizes: tuple[int | str | None, ...], names: list[int | str]) -> None:
    assert dims(import_model(with_dims(*sizes), any_size=True)) == names


def test_expressions_over_other_dimensions_stay() -> None:
    text = "g (float[B,P] x, float[B,T] z, float[B,1] m) => (float[B,P] y) { y = Add (x, m) }"
    proto = model(text)
    proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "P + T"
    proto.graph.output.add().CopyFrom(proto.graph.input[2])
    proto.graph.output[1].name = "k"
    proto.graph.node.append(onnx.helper.make_node("Relu", ["m"], ["k"]))
    del proto.graph.node[0].input[1]
    proto.graph.node[0].op_type = "Relu"
    some = (("x", (*fixed(2), Range(0, 5, 9))), ("z", fixed(2, 3)), ("m", (*fixed(2), Range(3, 8, 12))))
    imported = import_model(proto, some)
    assert dims(imported, 2) == [2, "P + 3"] and imported.ranges == (SymbolRange("P", 0, 5, 9),)
    assert dims(import_model(proto, (("x", fixed(2, 5)), ("z", fixed(2, 3)))), 2) == [2, 8]
    with pytest.raises(IngotError, match=r"input 'm': dimension 1 \(P \+ T\) is 8, but 9 is given"):
        import_model(proto, (("x", fixed(2, 5)), ("z", fixed(2, 3)), ("m", fixed(2, 9))))


def test_a_symbol_that_only_an_expression_has_is_a_symbol() -> None:
    assert dims(import_model(with_dims("N", "seq + past"), any_size=True)) == ["N", "seq_past"]


def test_unknown_rank_is_what_is_given() -> None:
    proto = model("g (float[1] x) => (y) { y = Relu (x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    imported = import_model(proto, (("x", (*fixed(2), Range(1, 2, 3))),))
    assert dims(imported) == [2, "x_dim1"]
    assert imported.model.graph.inputs[0].shape is not None
    unknown = import_model(proto)
    assert unknown.model.graph.inputs[0].shape is None


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (ONE, (("q", fixed(1)),), "no input 'q'.*inputs are: x"),
        (ONE, (("x", fixed(1, 3, 8)),), "input 'x': has 4 dimensions.*3 are given"),
        (ONE, (("x", fixed(1, 4, 8, 8)),), "input 'x': dimension 1 is 3 in the model, but 4.*give 3"),
        (ONE, (("x", (*fixed(1), Range(1, 2, 3), *fixed(8, 8))),), "dimension 1 is 3 in the model, but 1:2:3"),
        (ONE, (("x", fixed(1, 3, 8, 8)), ("x", fixed(1, 3, 8, 8))), "given twice"),
        (ONE, (("x", (Range(2, 1, 3), *fixed(3, 8, 8))),), "min <= opt <= max"),
        (ONE, (("x", fixed(-1, 3, 8, 8)),), "min <= opt <= max"),
        (TWO, (("x", fixed(1, 2, 8)), ("z", fixed(2, 2, 8))), r"input 'z': dimension 0 \(N\) is 2, but 1 elsewhere"),
        ("g (float x) => (float y) { y = Relu (x) }", (("x", fixed(1)),), "0 dimensions.*scalar"),
        ("g (seq(float[2]) x, float[2] z) => (float[2] y) { y = Relu (z) }", (("x", fixed(2)),), "not a tensor"),
    ],
)
def test_shapes_that_do_not_fit(text: str, shapes: tuple[tuple[str, tuple[Range, ...]], ...], message: str) -> None:
    with pytest.raises(IngotError, match=message):
        import_model(model(text), shapes)
