"""Every way a file can be wrong gives one IngotError that names the place and the reason."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_text import model

from ingot.errors import IngotError
from ingot.importer.load import import_model

RELU = "g (float[2] x) => (float[2] y) { y = Relu (x) }"
WEIGHT = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"


def refused(source: Path | bytes | onnx.ModelProto, *words: str) -> IngotError:
    with pytest.raises(IngotError) as caught:
        import_model(source, any_size=True)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "none.onnx", "no file", "Fix")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "folder", "Fix")


def test_path_that_no_system_accepts() -> None:
    refused(Path("a\0b"), "cannot read")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"{}", b"\x00" * 100, b"\x08\x08", b"hello" * 50])
def test_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    refused(path, "x.onnx")
    refused(content)


def test_truncated() -> None:
    content = model(WEIGHT).SerializeToString()
    for length in range(len(content)):
        refused(content[:length])


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # takes no space on the disk
    refused(path, "big.onnx", "external data")


def test_model_without_graph_or_versions() -> None:
    refused(onnx.ModelProto(ir_version=8))
    refused(onnx.ModelProto())
    without_output = model(RELU)
    del without_output.graph.output[:]
    refused(without_output, "output")
    without_opset = model(RELU)
    del without_opset.opset_import[:]
    refused(without_opset, "operator set", "Fix")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m.opset_import[0], "version", 99), ("opset 99", "Fix")),
        (lambda m: setattr(m.opset_import[0], "version", 0), ("opset 0", "Fix")),
        (lambda m: setattr(m.opset_import[0], "version", -3), ("opset -3", "Fix")),
        (lambda m: setattr(m, "ir_version", 99), ("IR version 99", "Fix")),
        (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 20)), ("two versions", "21", "20")),
    ],
)
def test_versions(change: Callable[[onnx.ModelProto], None], words: tuple[str, ...]) -> None:
    proto = model(RELU)
    change(proto)
    refused(proto, *words)


def weight(proto: onnx.ModelProto) -> TensorProto:
    return proto.graph.initializer[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.dims.__setitem__(slice(None), [1 << 40]), ("1099511627776",)),
        (lambda t: t.dims.__setitem__(slice(None), [1 << 40, 1 << 40]), ("elements",)),
        (lambda t: t.dims.__setitem__(slice(None), [-2]), ("negative",)),
        (lambda t: t.dims.__setitem__(slice(None), [3]), ("12 bytes", "8")),
        (lambda t: t.dims.__setitem__(slice(None), [1]), ("4 bytes", "8")),
        (lambda t: setattr(t, "raw_data", b"\0" * 7), ("8 bytes", "7")),
        (lambda t: setattr(t, "raw_data", b""), ("8 bytes", "0")),
        (lambda t: setattr(t, "data_type", 99), ("data type 99", "Fix")),
        (lambda t: setattr(t, "data_type", 0), ("data type",)),
        (lambda t: setattr(t, "data_type", TensorProto.DOUBLE), ("16 bytes", "8")),
        (lambda t: setattr(t, "data_type", TensorProto.STRING), ("2 strings", "0")),
        (lambda t: t.ClearField("raw_data"), ("2 entries of float_data", "0")),
        (lambda t: t.segment.MergeFrom(TensorProto.Segment(begin=0, end=1)), ("segments",)),
        (lambda t: setattr(t, "name", ""), ("name",)),
    ],
)
def test_tensors(change: Callable[[TensorProto], None], words: tuple[str, ...]) -> None:
    proto = model(WEIGHT)
    weight(proto).CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    change(weight(proto))
    refused(proto, *words)


def test_typed_fields_that_are_too_short() -> None:
    for field, kind, count in (("int32_data", TensorProto.INT4, 2), ("int64_data", TensorProto.INT64, 3)):
        proto = model(WEIGHT)
        weight(proto).CopyFrom(TensorProto(name="w", data_type=kind, dims=[5]))
        getattr(weight(proto), field).extend([0] * count)
        refused(proto, field, "'w'")


def test_tensor_attributes_are_checked() -> None:
    proto = model("g (float[2] x) => (float[2] y) { w = Constant <value = float[2] {1, 2}> () y = Add (x, w) }")
    proto.graph.node[0].attribute[0].t.dims[0] = 5
    refused(proto, "attribute 'value'", "Constant")


def external(tmp_path: Path) -> tuple[Path, onnx.ModelProto]:
    path = tmp_path / "m.onnx"
    proto = model(WEIGHT)
    weight(proto).CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path, onnx.load(path, load_external_data=False)


def entry(proto: onnx.ModelProto, key: str, value: str) -> None:
    found = [e for e in weight(proto).external_data if e.key == key]
    (found[0] if found else weight(proto).external_data.add(key=key)).value = value


def test_missing_external_file(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    (tmp_path / "w.bin").unlink()
    refused(path, "'w'", "w.bin", "missing", "Fix")


def test_external_data_of_bytes_without_a_folder(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    refused(path.read_bytes(), "'w'", "w.bin", "Fix")


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "/etc/passwd",
        "a/../../w.bin",
        "C:\\w.bin",
        "..\\w.bin",
        "",
        "\\\\host\\w.bin",
        "w.bin\0",
        ".",
        "sub",
    ],
)
def test_escaping_locations(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 8)
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    path, proto = external(folder)
    entry(proto, "location", location)
    path.write_bytes(proto.SerializeToString())
    refused(path, "'w'")


def test_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    folder = tmp_path / "model"
    folder.mkdir()
    path, _ = external(folder)
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    refused(path, "'w'", "outside")


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "4"), ("offset", "-1"), ("offset", "x"), ("length", "9"), ("length", "4"), ("length", "1e3"),
     ("offset", "99999999999999999999"), ("length", "9223372036854775807"), ("offset", "٣")],
)  # fmt: skip
def test_external_bounds(key: str, value: str, tmp_path: Path) -> None:
    path, proto = external(tmp_path)
    entry(proto, key, value)
    path.write_bytes(proto.SerializeToString())
    refused(path, "'w'")


def test_external_file_that_is_too_short(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 5)
    refused(path, "'w'", "Fix")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("g (float[2] x) => (float[2] y) { y = Relu (z) }", ("'z'", "Relu", "nothing defines")),
        ("g (float[2] x) => (float[2] y) { z = Relu (x) }", ("output 'y'", "nothing")),
        ("g (float[2] x) => (float[2] y) { y = Relu (x) y = Neg (x) }", ("'y'", "Neg", "Relu")),
        ("g (float[2] x) => (float[2] y) { x = Relu (x) y = Neg (x) }", ("'x'", "Relu", "input")),
        ("g (float[2] x, float[2] x) => (float[2] y) { y = Neg (x) }", ("two inputs", "'x'")),
        ("g (float[2] x) => (float[2] y) { a = Neg (b) b = Neg (a) y = Add (a, x) }", ("cycle", "Neg")),
        ("g (float[2] x) => (float[2] y) { y = Add (y, x) }", ("cycle", "Add")),
    ],
)
def test_names(text: str, words: tuple[str, ...]) -> None:
    refused(model(text), *words)


def test_two_initialisers_of_one_name() -> None:
    proto = model(WEIGHT)
    proto.graph.initializer.append(weight(proto))
    refused(proto, "'w'", "two initialisers")


def test_undefined_name_in_a_subgraph() -> None:
    text = """
    g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (float[2] r) { r = Relu (nowhere) },
            else_branch = e () => (float[2] s) { s = Abs (x) }
        >
    }
    """
    refused(model(text), "'nowhere'", "Relu")


def test_cycle_through_a_subgraph() -> None:
    text = """
    g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (float[2] r) { r = Relu (z) },
            else_branch = e () => (float[2] s) { s = Abs (x) }
        >
        z = Neg (y)
    }
    """
    refused(model(text), "cycle")


def test_output_of_a_branch_that_is_from_outside() -> None:
    text = """
    g (float[2] x, bool c) => (float[2] y) {
        a = Neg (x)
        y = If (c) <then_branch = t () => (float[2] a) {}, else_branch = e () => (float[2] s) { s = Abs (x) }>
    }
    """
    refused(model(text), "output 'a'", "outside", "Identity")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: setattr(a, "type", 0), ("attribute 'axis'", "type")),
        (lambda a: setattr(a, "name", ""), ("attribute ''",)),
        (lambda a: setattr(a, "type", onnx.AttributeProto.STRING), ("Softmax", "opset 21", "axis")),
        (lambda a: setattr(a, "name", "axes"), ("Softmax", "axes")),
        (lambda a: (setattr(a, "type", onnx.AttributeProto.STRING), setattr(a, "s", b"\xff")), ("UTF-8",)),
    ],
)
def test_attributes(change: Callable[[onnx.AttributeProto], None], words: tuple[str, ...]) -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Softmax <axis = 0> (x) }")
    change(proto.graph.node[0].attribute[0])
    refused(proto, *words)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] y) { y = Add (x) }",
        "g (float[2] x) => (float[2] y) { y = Add (x, x, x) }",
        "g (float[2] x) => (float[2] y) { y, z = Relu (x) }",
        "g (float[2] x) => (float[2] y) { y = Concat (x, x) }",
    ],
)
def test_nodes_that_do_not_fit_their_op(text: str) -> None:
    proto = model(text)
    proto.graph.node[0].name = "culprit"
    refused(proto, "culprit", "does not fit", "Fix")


def test_names_that_are_not_text() -> None:
    proto = model(RELU)
    proto.graph.node[0].name = "culprit"
    refused(proto.SerializeToString().replace(b"culprit", b"cul\xff\xfeit"), "name", "UTF-8")


def test_node_without_op() -> None:
    proto = model(RELU)
    proto.graph.node[0].op_type = ""
    refused(proto, "op type")


def function(name: str, *calls: str) -> str:
    steps = [f"t{i + 1} = f.{call} (t{i})" for i, call in enumerate(calls)]
    body = " ".join(["t0 = Neg (p)", *steps, f"q = Relu (t{len(calls)})"])
    return f'<domain: "f", opset_import: ["" : 21, "f" : 1]> {name} (p) => (q) {{ {body} }}'


def calling(*functions: str) -> onnx.ModelProto:
    graph = "g (float[2] x) => (float[2] y) { y = f.a (x) }"
    return model("\n".join([graph, *functions]), extra=', "f" : 1')


def test_recursive_functions() -> None:
    refused(calling(function("a", "a")), "themselves", "a")
    refused(calling(function("a", "b"), function("b", "c"), function("c", "a")), "themselves", "b", "c")


def test_functions_that_grow_exponentially() -> None:
    names = [chr(ord("a") + i) for i in range(26)]
    functions = [function(name, *[after] * 4) for name, after in pairwise(names)]
    refused(calling(*functions, function("z")), "inlined")


def test_function_twice() -> None:
    refused(calling(function("a"), function("a")), "twice")


def test_function_that_reads_what_is_not_its_own() -> None:
    body = '<domain: "f", opset_import: ["" : 21]> a (p) => (q) { q = Add (p, x) }'
    refused(calling(body), "'x'", "Add")


def test_function_of_a_newer_opset() -> None:
    proto = calling(function("a"))
    proto.opset_import[0].version = 18
    refused(proto, "function 'a'", "21", "18", "Fix")


def nested(depth: int) -> onnx.ModelProto:
    """Built in place: copying a message serialises it, which ends at about 33 graphs."""
    proto = model("g (float[2] x, bool c) => (float[2] y) { y = Relu (x) }")
    relu, output, graph = proto.graph.node[0], proto.graph.output[0], proto.graph
    leaf = onnx.GraphProto(name="leaf", node=[relu], output=[output])
    del graph.node[:]
    for level in range(depth):
        node = graph.node.add(op_type="If", input=["c"], output=["y"])
        node.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(leaf)
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.name = f"level{level}"
        graph.output.add().CopyFrom(output)
    graph.node.append(leaf.node[0])
    return proto


def test_deep_nesting() -> None:
    assert import_model(nested(20)).model.graph
    refused(nested(80), "nest")
    assert import_model(nested(20).SerializeToString()).model.graph


def test_messages_quote_no_more_than_a_line() -> None:
    proto = model(RELU)
    proto.graph.node[0].input[0] = "n" * 100_000
    with pytest.raises(IngotError):
        import_model(proto)
