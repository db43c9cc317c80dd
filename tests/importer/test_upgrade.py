"""An upgrade of the opset changes no result, and the shapes that are inferred are those that come out."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from support.old_ops import OldOp, old_ops
from support.onnx_text import Arrays, model, one_node, run

from ingot.graph.dims import evaluate, symbols
from ingot.importer.load import Imported, import_model
from ingot.importer.versions import OPSET, refusal

CASES = list(old_ops())


def _built(case: OldOp, opset: int) -> tuple[onnx.ModelProto, Arrays]:
    return one_node(case.op, opset, case.inputs, case.attributes, case.constants, case.outputs)


def _expect_same(imported: Imported, proto: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    assert imported.model.opset_imports[""] == OPSET, imported.notes
    wanted = run(proto, feeds)
    for want, got in zip(wanted, run(ir.to_proto(imported.model), feeds), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return wanted


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_stay(case: OldOp) -> None:
    for opset in case.opsets():
        proto, feeds = _built(case, opset)
        _expect_same(import_model(proto), proto, feeds)


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_stay_from_every_opset(case: OldOp) -> None:
    for opset in range(case.first, case.last + 1):
        proto, feeds = _built(case, opset)
        _expect_same(import_model(proto), proto, feeds)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_stay_inside_a_branch(case: OldOp) -> None:
    proto, feeds = _built(case, case.first)
    branch = onnx.GraphProto(name="branch", node=proto.graph.node, output=proto.graph.output)
    for value in branch.output:
        value.name = f"inner_{value.name}"
    for index, name in enumerate(branch.node[0].output):
        branch.node[0].output[index] = f"inner_{name}"
    outputs = [value.name for value in proto.graph.output]
    choice = helper.make_node("If", ["condition"], outputs, then_branch=branch, else_branch=branch)
    del proto.graph.node[:]
    proto.graph.node.append(choice)
    proto.graph.input.append(helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, []))
    for else_branch in (a.g for a in proto.graph.node[0].attribute if a.name == "else_branch"):
        for index, name in enumerate(else_branch.node[0].output):
            else_branch.node[0].output[index] = else_branch.output[index].name = name.replace("inner", "other")
    _expect_same(import_model(proto), proto, {**feeds, "condition": np.array(True)})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inferred_shapes_hold(case: OldOp) -> None:
    proto, feeds = _built(case, case.last)
    sizes = {}
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            sizes[f"{value.name}_{axis}"] = dim.dim_value
            dim.dim_param = f"{value.name}_{axis}"
    imported = import_model(proto, any_size=True)
    wanted = _expect_same(imported, proto, feeds)
    for value, array in zip(imported.model.graph.outputs, wanted, strict=True):
        if value.shape is None:
            continue
        assert len(value.shape) == array.ndim
        for dim, size in zip(value.shape, array.shape, strict=True):
            text = dim if isinstance(dim, int) else str(dim.value)
            if symbols(text) <= sizes.keys():
                assert evaluate(text, sizes) == size, value.shape


def test_a_batched_scan_stays_with_a_note() -> None:
    body = "b (float[2] s, float[2] e) => (float[2] t, float[2] r) { t = Add (s, e) r = Identity (t) }"
    text = f"""g (float[1,2] first, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z) {{
        y, z = Scan <num_scan_inputs = 1, body = {body}> ("", first, x)
    }}"""
    imported = import_model(model(text, opset=8, ir_version=4))
    assert imported.model.opset_imports[""] == 8
    assert any("stays at opset 8" in note and "Scan" in note for note in imported.notes)


def test_a_used_dropout_mask_stays_with_a_note() -> None:
    text = "g (float[2] x) => (float[2] y, bool[2] m) { y, m = Dropout <ratio = 0.5> (x) }"
    imported = import_model(model(text, opset=10))
    assert imported.model.opset_imports[""] == 10
    assert any("stays at opset 10" in note and "Dropout" in note for note in imported.notes)


def test_what_stays_old_is_not_compiled_for_a_gpu() -> None:
    text = "g (float[2] x) => (float[2] y, bool[2] m) {{ y, m = Dropout {} (x) }}"
    old = refusal(import_model(model(text.format("<ratio = 0.5>"), opset=10)).model)
    assert old is not None and "opset 10" in str(old)
    assert refusal(import_model(model(text.format(""), opset=13)).model) is None


def test_slopes_before_opset_7_go_along_the_channels() -> None:
    proto = model("g (float[2,3,4,3] x, float[3] slope) => (float[2,3,4,3] y) { y = PRelu (x, slope) }", opset=6)
    x, slope = np.random.default_rng(0).standard_normal((2, 3, 4, 3)).astype(np.float32), np.float32([0.1, 0.2, 0.3])
    (made,) = run(ir.to_proto(import_model(proto).model), {"x": x, "slope": slope})
    np.testing.assert_allclose(made, np.where(x < 0, x * slope[:, None, None], x), rtol=1e-6)


def test_softmax_over_the_last_axis_needs_no_reshapes() -> None:
    """Whatever shapes the file declares: the rank that the converter asks for is the inferred one."""
    text = "g (float[N,3] x) => (float[N,3,9] y) <float[1,2,3] a> { a = Relu (x) y = Softmax <axis = 1> (a) }"
    imported = import_model(model(text, opset=11))
    assert [node.op_type for node in imported.model.graph] == ["Relu", "Softmax"]


def test_declared_symbols_of_outputs_are_not_believed() -> None:
    """A U-Net was seen whose output is declared as (batch_size, 3, batch_size, 'w')."""
    proto = model("g (float[B,3,8,8] x) => (float[B,3,B,w] y) { y = Relu (x) }", opset=17)
    imported = import_model(proto, any_size=True)
    assert str(imported.model.graph.outputs[0].shape) == "[B,3,8,8]"
