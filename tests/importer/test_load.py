"""What import_model makes of models that are right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_text import fixed, model, run

from ingot.importer.load import import_model

RELU = "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"


def test_path_bytes_and_proto_give_the_same(tmp_path: Path) -> None:
    proto = model(RELU)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    content = path.read_bytes()
    for source in (path, str(path), content, proto):
        imported = import_model(source)
        assert imported.sha256 == hashlib.sha256(content).hexdigest()
        assert imported.ranges == () and imported.notes == ()
        assert [node.op_type for node in imported.model.graph] == ["Relu"]


def test_a_proto_is_not_changed() -> None:
    proto = model("g (float[N,3] x) => (float[N,3] y) { y = Softmax <axis = 1> (x) }", opset=11)
    before = proto.SerializeToString(deterministic=True)
    import_model(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_same_file_gives_the_same_model() -> None:
    proto = model("g (float[N,3,?] x) => (y) { a = Softmax <axis = 1> (x) y = Relu (a) }", opset=11)
    texts = {ir.to_proto(import_model(proto, any_size=True).model).SerializeToString() for _ in range(3)}
    assert len(texts) == 1


def test_functions_are_inlined_in_subgraphs_too() -> None:
    text = (
        """
    g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (float[2] a) { a = f.twice (x) },
            else_branch = e () => (float[2] b) { n = Neg (x) b = f.twice (n) }
        >
    }
    <domain: "f", opset_import: ["" : 21, "f" : 1]>
    twice (p) => (q) { q = g.double (p) }
    """.replace("g.double", "f.double")
        + """
    <domain: "f", opset_import: ["" : 21]>
    double (p) => (q) { q = Add (p, p) }
    """
    )
    proto = model(text, extra=', "f" : 1')
    imported = import_model(proto)
    assert not imported.model.functions
    assert {node.domain for node in imported.model.graph.all_nodes()} == {""}
    assert set(imported.model.opset_imports) == {""}
    feeds = {"x": np.array([1, 2], np.float32), "c": np.array(False)}
    np.testing.assert_array_equal(run(ir.to_proto(imported.model), feeds)[0], [-2, -4])


def test_functions_of_another_opset_are_inlined() -> None:
    text = """
    g (float[2,3] x) => (float[2,3] y) { y = f.soft (x) }
    <domain: "f", opset_import: ["" : 11]>
    soft (p) => (q) { q = Softmax <axis = 0> (p) }
    """
    proto = model(text, opset=18, extra=', "f" : 1')
    x = np.random.default_rng(0).random((2, 3), np.float32)
    found = run(ir.to_proto(import_model(proto).model), {"x": x})[0]
    np.testing.assert_allclose(found, np.exp(x) / np.exp(x).sum(), rtol=1e-5)


def test_initialisers_among_the_inputs_become_constants() -> None:
    proto = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }", ir_version=3)
    imported = import_model(proto, (("x", fixed(2)),))
    assert [value.name for value in imported.model.graph.inputs] == ["x"]
    assert list(imported.model.graph.initializers) == ["w"]
    assert any("w" in note and "constant" in note for note in imported.notes)


def test_names_become_unique_and_outputs_keep_theirs() -> None:
    names = ["a:0", "b c", '{"1": "x"}']
    nodes = [helper.make_node("Relu", ["x"], [name], name="same") for name in names]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", *names)]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 21)]
    )
    proto.ir_version = 10
    graph = import_model(proto).model.graph
    assert [value.name for value in graph.outputs] == names
    assert len({node.name for node in graph}) == 3
    assert all(node.name for node in graph)


def test_same_names_in_two_branches_become_unique() -> None:
    text = """
    g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (float[2] r) { a = Neg (x) r = Relu (a) },
            else_branch = e () => (float[2] r) { a = Abs (x) r = Relu (a) }
        >
    }
    """
    imported = import_model(model(text))
    names = [v.name for node in imported.model.graph.all_nodes() for v in node.outputs]
    nodes = [node.name for node in imported.model.graph.all_nodes()]
    assert len(set(names)) == len(names) and len(set(nodes)) == len(nodes)


def test_unused_opsets_are_dropped_and_foreign_ops_noted() -> None:
    text = "g (float[2] x) => (float[2] y) { y = com.acme.Magic (x) }"
    imported = import_model(model(text, extra=', "com.acme" : 1, "com.microsoft" : 1, "ai.onnx.ml" : 3'))
    assert set(imported.model.opset_imports) == {"", "com.acme"}
    assert any("com.acme.Magic" in note for note in imported.notes)


def test_the_default_domain_has_one_name() -> None:
    proto = model(RELU)
    proto.opset_import[0].domain = "ai.onnx"
    proto.graph.node[0].domain = "ai.onnx"
    imported = import_model(proto).model
    assert dict(imported.opset_imports) == {"": 21} and imported.graph[0].domain == ""


def test_unsorted_nodes_are_sorted() -> None:
    proto = model("g (float[2] x) => (float[2] y) { a = Neg (x) b = Abs (a) y = Relu (b) }")
    reverse = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(reverse)
    assert [node.op_type for node in import_model(proto).model.graph] == ["Neg", "Abs", "Relu"]


def test_nodes_sort_behind_what_their_subgraphs_read() -> None:
    text = """
    g (float[2] x, bool c) => (float[2] y) {
        a = Neg (x)
        y = If (c) <
            then_branch = t () => (float[2] r) { r = Relu (a) },
            else_branch = e () => (float[2] s) { s = Identity (a) }
        >
    }
    """
    proto = model(text)
    reverse = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(reverse)
    assert [node.op_type for node in import_model(proto).model.graph] == ["Neg", "If"]


def test_wrong_declared_output_shapes_are_dropped_with_a_note() -> None:
    imported = import_model(model("g (float[2,3] x) => (float[4,3] y) { y = Relu (x) }"))
    assert imported.model.graph.outputs[0].shape == ir.Shape([2, 3])
    assert any("'y'" in note and "declared" in note for note in imported.notes)


def test_wrong_declared_inner_shapes_are_dropped() -> None:
    imported = import_model(model("g (float[2,3] x) => (float[2,3] y) <float[7] a> { a = Relu (x) y = Neg (a) }"))
    assert imported.model.graph[0].outputs[0].shape == ir.Shape([2, 3])


def test_declared_sizes_stay_where_nothing_is_inferred() -> None:
    imported = import_model(
        model("g (float[2] x) => (float[4,N] y) { y = com.acme.Magic (x) }", extra=', "com.acme" : 1')
    )
    shape = imported.model.graph.outputs[0].shape
    assert shape is not None and shape[0] == 4 and len(shape) == 2


def test_odd_inputs_are_kept_and_noted() -> None:
    proto = model("g (float x, seq(float[2]) s, float[2] t) => (float y, float[2] z) { y = Relu (x) z = Relu (t) }")
    proto.graph.input[2].type.tensor_type.ClearField("shape")
    imported = import_model(proto)
    assert [value.name for value in imported.model.graph.inputs] == ["x", "s", "t"]
    notes = "\n".join(imported.notes)
    assert "'x' is a scalar" in notes and "'s' is not a tensor" in notes and "'t' has no known rank" in notes


def test_external_data_is_loaded_and_hashed(tmp_path: Path) -> None:
    weights = np.arange(2000, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2000])],
        [numpy_helper.from_array(weights, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="sub data.bin", size_threshold=0)
    first = import_model(path)
    data = bytearray((tmp_path / "sub data.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "sub data.bin").write_bytes(data)
    tensor = first.model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), weights)
    assert import_model(path).sha256 != first.sha256


def test_linked_cache_layout_is_read(tmp_path: Path) -> None:
    proto = model("g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = Add (x, w) }")
    blobs, shown = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    shown.mkdir()
    onnx.save(proto, blobs / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    for name in ("m.onnx", "w.bin"):
        (shown / name).symlink_to(Path("..") / "blobs" / name)
    tensor = import_model(shown / "m.onnx").model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), [1, 2, 3, 4])


@pytest.mark.parametrize("ir_version", [3, 4, 7, 8, 9, 10, 13])
def test_ir_versions(ir_version: int) -> None:
    imported = import_model(model(RELU, ir_version=ir_version, opset=13))
    assert imported.model.opset_imports[""] == 21
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(run(ir.to_proto(imported.model), {"x": x})[0], np.maximum(x, 0))


@pytest.mark.parametrize("opset", [22, 25, onnx.defs.onnx_opset_version()])
def test_newer_opsets_stay(opset: int) -> None:
    assert import_model(model(RELU, opset=opset)).model.opset_imports[""] == opset


def test_default_domain_ops_that_onnx_lacks_survive_an_upgrade() -> None:
    text = "g (float[2,3] x, float[3] s) => (float[2,3] y) { a = SimplifiedLayerNormalization (x, s) y = Softmax (a) }"
    imported = import_model(model(text, opset=11))
    ops = [(node.domain, node.op_type) for node in imported.model.graph]
    assert imported.model.opset_imports[""] == 21 and ("", "SimplifiedLayerNormalization") in ops


def test_outputs_that_are_inputs_constants_or_listed_twice() -> None:
    text = "g (float[2] x) => (float[2] x, float[2] w, float[2] y, float[2] y) <float[2] w = {1, 2}> { y = Relu (x) }"
    proto = model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Relu (x) }")
    for name in ("x", "w", "y"):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]))
    del text
    assert [value.name for value in import_model(proto).model.graph.outputs] == ["y", "x", "w", "y"]
