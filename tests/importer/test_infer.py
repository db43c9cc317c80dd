"""Shape inference says nothing that does not hold, in the places where the library guessed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.onnx_text import model, run

from ingot.errors import IngotError
from ingot.graph.dims import evaluate
from ingot.importer.infer import infer_shapes
from ingot.importer.load import import_model

BRANCHES = """
g (float[N,4] x, bool c) => (y) {
    y = If (c) <
        then_branch = t () => (float[N,4] r) { r = Relu (x) },
        else_branch = e () => (s) { s = acme.Magic (x) }
    >
}
"""
GROWING = """
g (float[N] x, int64 n) => (y) {
    one = Constant <value = bool {1}> ()
    y = Loop (n, one, x) <body = b (int64 i, bool go, float[M] a) => (bool stay, float[K] more) {
        stay = Identity (go)
        more = Concat <axis = 0> (a, a)
    }>
}
"""
STEADY = GROWING.replace("Concat <axis = 0> (a, a)", "Neg (a)")


def shape(text: str, *, extra: str = "") -> ir.Shape | None:
    return import_model(model(text, extra=extra), any_size=True).model.graph.outputs[0].shape


def known(text: str) -> list[str]:
    """The dimensions of the output: ``?`` where a symbol was made up."""
    found = shape(text)
    assert found is not None
    return ["?" if str(dim).startswith("_") else str(dim) for dim in found]


@pytest.mark.parametrize(
    ("text", "dims"),
    [
        ("g (float[N,8] x, int64[2] s) => (y, z) { y, z = Split <axis = 1> (x, s) }", ["N", "?"]),
        (
            "g (float[N,8] x) => (y, z) { s = Constant <value_ints = [3, 5]> () y, z = Split <axis = 1> (x, s) }",
            ["N", "3"],
        ),
        ("g (float[8,N] x, int64[1] b) => (y) { e = Constant <value_ints = [6]> () y = Slice (x, b, e) }", ["?", "?"]),
    ],
)
def test_computed_parameters(text: str, dims: list[str]) -> None:
    assert known(text) == dims


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,1,4] x, int64[1] a) => (y) { y = Squeeze (x, a) }",
        "g (float[N,1,4] x) => (y) { y = Squeeze (x) }",
    ],
)
def test_squeeze_of_unknown_axes_has_no_rank(text: str) -> None:
    assert shape(text) is None


def test_squeeze_of_known_sizes() -> None:
    assert known("g (float[2,1,4] x) => (y) { y = Squeeze (x) }") == ["2", "4"]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 8, 9, 30])
@pytest.mark.parametrize(
    "bounds", [(0, 6, 1), (2, 7, 2), (0, 1, 1), (-1, 1 << 62, 1), (-3, 1 << 31, 1), (0, 1000000000, 1), (3, 2, 1)]
)
def test_slices_of_symbolic_size(size: int, bounds: tuple[int, int, int]) -> None:
    start, end, step = (f"<value_ints = [{bound}]>" for bound in bounds)
    text = f"""g (float[N] x) => (y) {{
        b = Constant {start} () e = Constant {end} () s = Constant {step} ()
        a = Constant <value_ints = [0]> () y = Slice (x, b, e, a, s)
    }}"""
    found = shape(text)
    assert found is not None and not str(found[0]).startswith("_")
    wanted = run(model(text), {"x": np.zeros(size, np.float32)})[0]
    dim = found[0] if isinstance(found[0], int) else str(found[0])
    assert (evaluate(dim, {"N": size}),) == wanted.shape


@pytest.mark.parametrize("size", range(3, 14))
@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [2], strides = [2], ceil_mode = 1",
        "kernel_shape = [3], strides = [2], pads = [1, 1], ceil_mode = 1",
        "kernel_shape = [1], strides = [3], ceil_mode = 1",
        "kernel_shape = [2], strides = [3], pads = [1, 1], ceil_mode = 1",
        'kernel_shape = [3], strides = [2], auto_pad = "SAME_UPPER"',
        'kernel_shape = [3], strides = [2], auto_pad = "SAME_LOWER"',
        'kernel_shape = [3], strides = [2], auto_pad = "VALID"',
        "kernel_shape = [3], strides = [2], pads = [1, 0]",
    ],
)
def test_pools_of_symbolic_size(size: int, attributes: str) -> None:
    text = f"g (float[1,1,N] x) => (y) {{ y = MaxPool <{attributes}> (x) }}"
    found = shape(text)
    assert found is not None and not str(found[2]).startswith("_")
    wanted = run(model(text), {"x": np.zeros((1, 1, size), np.float32)})[0]
    assert evaluate(str(found[2]), {"N": size}) == wanted.shape[2]


def test_a_branch_of_unknown_shape_makes_the_result_unknown() -> None:
    assert shape(BRANCHES, extra=', "acme" : 1') is None


def test_a_dead_branch_that_does_not_fit_is_passed_over() -> None:
    """Exporters keep both branches; at fixed sizes one of them may make no sense."""
    text = """
    g (float[2,4] x, bool c) => (y, float[2,4] z) {
        z = Relu (x)
        y = If (c) <
            then_branch = t () => (float[2] r) { a = Constant <value_ints = [1]> () r = Squeeze (x, a) },
            else_branch = e () => (float[2,4] s) { s = Neg (z) }
        >
    }
    """
    imported = import_model(model(text))
    assert imported.model.graph.outputs[0].shape is None
    assert imported.model.graph.outputs[1].shape == ir.Shape([2, 4])
    (choice,) = [node for node in imported.model.graph if node.op_type == "If"]
    assert choice.domain == "" and list(choice.attributes) == ["then_branch", "else_branch"]


def test_a_loop_that_grows_has_no_shape_and_a_steady_one_has() -> None:
    assert shape(GROWING) is None
    assert known(STEADY) == ["N"]


def test_shapes_inside_control_flow_are_not_kept() -> None:
    imported = import_model(model(GROWING), any_size=True)
    (body,) = imported.model.graph.subgraphs()
    assert all(value.shape is None for node in body for value in node.outputs)


def test_unique_along_an_axis_keeps_the_rank() -> None:
    assert known("g (float[N,3] x) => (y) { y = Unique <axis = 0> (x) }") == ["?", "3"]


def test_sizes_that_keep_the_aspect_ratio_are_not_the_result() -> None:
    text = """g (float[1,1,N,M] x) => (y) {
        s = Constant <value_ints = [7, 8]> ()
        y = Resize <axes = [2, 3], keep_aspect_ratio_policy = "not_larger", mode = "nearest"> (x, "", "", s)
    }"""
    assert known(text) == ["1", "1", "?", "?"]


def test_inference_starts_afresh() -> None:
    """Symbols of an earlier run are not taken for names that mean something."""
    text = "g (float[N,8] x, int64[2] s) => (y) { y, z = Split <axis = 1> (x, s) }"
    imported = import_model(model(text), any_size=True).model
    before = str(imported.graph.outputs[0].shape)
    constant = ir.Value(name="k", const_value=ir.tensor(np.array([3, 5])), type=ir.TensorType(ir.DataType.INT64))
    imported.graph.register_initializer(constant)
    node = next(node for node in imported.graph if node.op_type == "Split")
    node.replace_input_with(1, constant)
    infer_shapes(imported)
    assert "_d" in before and str(imported.graph.outputs[0].shape) == "[N,3]"


def test_a_node_without_its_inputs_is_refused() -> None:
    broken = ir.from_proto(model("g (float[2] x) => (y) { y = Add (x) }"))
    with pytest.raises(IngotError, match="shape"):
        infer_shapes(broken)


def test_import_notes_what_inference_cannot_do() -> None:
    imported = import_model(model("g (float[2,3] x) => (y) { y = MatMul (x, x) }"))
    assert any("no shapes" in note for note in imported.notes)


def test_a_type_that_a_file_leaves_undefined_is_inferred() -> None:
    proto = model("g (float[2] x) => (y) { a = Identity (x) y = Sin (a) }")
    proto.graph.value_info.add(name="a").type.tensor_type.elem_type = 0
    first = import_model(proto).model.graph[0]
    assert first.op_type == "Identity" and first.outputs[0].dtype == ir.DataType.FLOAT


def test_a_rank_that_a_file_declares_in_a_scan_gives_way_to_the_inferred_one() -> None:
    proto = model(
        "g (float[3] x) => (y) { y = Scan <num_scan_inputs: int = 1,"
        " body = b (float s) => (float[2,2] r) { r = Sin (s) }> (x) }"
    )
    (sin,) = (node for node in import_model(proto).model.graph.all_nodes() if node.op_type == "Sin")
    shape = sin.outputs[0].shape
    assert shape is not None and shape.rank() == 0
