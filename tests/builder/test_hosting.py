"""What ONNX Runtime cannot run on the host, and types that the device lacks: through engines, files and contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from ingot.builder.api import build_engine, build_hollow
from ingot.builder.hosting import host
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.host_parts import HostPart, HostParts, decode, encode
from ingot.options import BuildOptions
from ingot.runtime.engine import Engine, load
from ingot.runtime.session import InferenceSession
from ingot.simulate.simulator import Simulator

CPU = BuildOptions(target="cpu", opt_level=0)
GPU = BuildOptions(target="sm_90", opt_level=0)
INFO = helper.make_tensor_value_info


def text_model(text: str, opset: int = 21, ir_version: int = 10) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{text}')


def both(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[tuple[EngineFile, dict[str, Any]]]:
    """The engine for the CPU, read back from its bytes, and the simulated one for a GPU."""
    cpu = EngineFile.from_bytes(build_engine(model, CPU).to_bytes())
    device = EngineFile.from_bytes(build_hollow(model, GPU).to_bytes())
    simulated = Simulator(device).run if device.plan.target != "cpu" else Engine(device).context().run
    return [(cpu, Engine(cpu).context().run(feeds)), (device, simulated(feeds))]


def test_a_node_that_onnx_runtime_lacks_leaves_the_others_to_it() -> None:
    """Det is ONNX Runtime's, Max of int16 is not: three parts, two of them with ONNX Runtime."""
    model = text_model(
        "g (float[2,3,3] x) => (float[2] y) { d = Det(x) i = Cast<to = 5>(d) m = Max(i, i) f = Cast<to = 1>(m)"
        " y = Cos(f) }"
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32) * 3
    hosted, function = host(model, "m")
    assert hosted.backend == "parts" and len(hosted.notes) == 1 and "Max" in hosted.notes[0]
    assert [part.backend for part in decode(hosted.content).parts] == ["onnxruntime", "reference", "onnxruntime"]
    want = np.cos(np.trunc(np.linalg.det(x)))
    np.testing.assert_allclose(function([x])[0], want, rtol=1e-4)
    for engine, made in both(model, {"x": x}):
        assert engine.plan.target != "cpu" or any("Max" in r and "evaluator" in r for r in engine.plan.reasons)
        np.testing.assert_allclose(made["y"], want, rtol=1e-4)


def test_parts_share_weights_and_captured_values() -> None:
    """An If whose branch reads a value of the graph, after a node of the evaluator."""
    model = text_model(
        "g (int16[3] x, bool c) => (float[3] y) <float[3] w = {1, 2, 3}> {"
        " m = Max(x, x) b = Cast<to = 1>(m) s = Add(b, w)"
        " y = If (c) <then_branch = t () => (float[3] p) { p = Mul(s, w) }, else_branch = e () => (float[3] q)"
        " { q = Sub(b, w) }> }"
    )
    x, w = np.int16([1, -2, 4]), np.float32([1, 2, 3])
    hosted, function = host(model, "m")
    assert hosted.backend == "parts"
    np.testing.assert_array_equal(function([x, np.array(True)])[0], (x + w) * w)
    np.testing.assert_array_equal(function([x, np.array(False)])[0], x - w)


def test_a_newer_operator_set_is_declared_as_an_older_one() -> None:
    """ONNX Runtime has Q/DQ kernels, but none for operator set 28, where they gained types only."""
    model = text_model(
        "g (float[4] x) => (float[4] y) <float s = {0.5}, uint8 z = {3}> { q = QuantizeLinear(x, s, z)"
        " y = DequantizeLinear(q, s, z) }",
        opset=28,
        ir_version=13,
    )
    hosted, function = host(model, "m")
    assert hosted.backend == "onnxruntime" and not hosted.notes
    np.testing.assert_array_equal(function([np.float32([0.1, 0.6, -9, 1])])[0], np.float32([0, 0.5, -1.5, 1]))


def test_results_that_onnx_runtime_gets_wrong_come_from_the_evaluator() -> None:
    model = text_model("g (float[1,8,1] x) => (float[1,8,2] y) <int64 a = {1}> { y = DFT(x, , a) }", opset=20)
    x = np.random.default_rng(1).standard_normal((1, 8, 1)).astype(np.float32)
    want = np.fft.fft(x[..., 0].astype(np.float64), axis=1)
    for _, made in both(model, {"x": x}):
        np.testing.assert_allclose(made["y"], np.stack([want.real, want.imag], -1), rtol=1e-6, atol=1e-6)


def test_a_model_that_nothing_runs_is_refused() -> None:
    model = text_model("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    model.graph.node[0].domain, model.graph.node[0].op_type = "nobody", "Knows"
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    with pytest.raises(IngotError, match=r"nobody.*evaluator"):
        host(model, "m")


def test_strings() -> None:
    model = text_model(
        'g (string[n] x) => (string[n] y, bool[n] same) <string[1] w = {"b"}> { y = StringConcat(x, x) same ='
        " Equal(x, w) }"
    )
    shapes = BuildOptions(target="cpu", opt_level=0)
    context = Engine(EngineFile.from_bytes(build_engine(model, shapes).to_bytes())).context()
    for x in (np.array(["a", "b"], object), np.array(["a", "b"]), ["a", "b"], np.array([b"a", b"b"])):
        made = context.run({"x": x})
        assert made["y"].tolist() == ["aa", "bb"] and made["same"].tolist() == [False, True]
    with pytest.raises(IngotError, match="input 'x'.*string"):
        context.run({"x": np.float32([1])})
    with pytest.raises(IngotError, match="elements of type int"):
        context.run({"x": np.array(["a", 1], object)})


def test_strings_beside_device_work() -> None:
    """Words go to an island, numbers to the device."""
    model = text_model(
        'g (string[2] x, float[2] v) => (float[2] y, string[2] z) <string[1] w = {"b"}> { e = Equal(x, w)'
        " f = Cast<to = 1>(e) g = Mul(f, v) y = Relu(g) z = StringConcat(x, x) }"
    )
    words, numbers = np.array(["a", "b"], object), np.float32([3, 4])
    engine = build_hollow(model, GPU)
    assert engine.plan.target == "sm_90" and any(step.kind == "kernel" for step in engine.plan.steps)
    for _, made in both(model, {"x": words, "v": numbers}):
        assert made["y"].tolist() == [0, 4] and made["z"].tolist() == ["aa", "bb"]


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"]
)
def test_small_types_pass_in_and_out(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    code = helper.np_dtype_to_tensor_dtype(dtype)
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "f"], ["g"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    ends = [INFO("x", code, [3])], [INFO("g", TensorProto.FLOAT, [3]), INFO("y", code, [3])]
    imports = [helper.make_opsetid("", 25)]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=imports, ir_version=13)
    x = np.array([1, 1, 0 if "8_e8" not in name else 4], np.float32).astype(dtype)
    for engine, made in both(model, {"x": x}):
        assert engine.plan.inputs[0].dtype == name
        np.testing.assert_array_equal(made["g"], 2 * x.astype(np.float32))
        assert made["y"].dtype == dtype and (made["y"] == x).all()


def test_sequences_and_optionals() -> None:
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    nodes = [
        helper.make_node("SequenceInsert", ["s", "x"], ["t"]),
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
    ]
    inputs = [
        helper.make_value_info("s", sequence),
        INFO("x", TensorProto.FLOAT, [2]),
        helper.make_value_info("o", optional),
    ]
    outputs = [helper.make_value_info("t", sequence), INFO("has", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x, long = np.float32([1, 2]), np.float32([3, 4, 5])
    for value in (None, x):
        for engine, made in both(model, {"s": [long], "x": x, "o": value}):
            assert [b.dtype for b in engine.plan.inputs] == ["sequence(float32)", "float32", "optional(float32)"]
            assert [a.tolist() for a in made["t"]] == [[3, 4, 5], [1, 2]] and bool(made["has"]) is (value is not None)
    session = InferenceSession(build_engine(model, CPU).to_bytes())
    assert [a.type for a in session.get_inputs()] == [
        "seq(tensor(float))", "tensor(float)", "optional(tensor(float))",
    ]  # fmt: skip
    assert [a.tolist() for a in session.run(["t"], {"s": [], "x": x, "o": None})[0]] == [[1, 2]]
    with pytest.raises(IngotError, match="input 's'.*sequence"):
        session.run(None, {"s": x, "x": x, "o": None})
    with pytest.raises(IngotError, match="input 's'.*float64"):
        session.run(None, {"s": [x.astype(np.float64)], "x": x, "o": None})


def classifier() -> onnx.ModelProto:
    """As scikit-learn's converter writes them: a label, and a list of maps from classes to probabilities."""
    maps = onnx.TypeProto()
    inner = maps.sequence_type.elem_type.map_type
    inner.key_type, inner.value_type.tensor_type.elem_type = TensorProto.INT64, TensorProto.FLOAT
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=[1.0, 2, 3, -1, 0, 1],
            intercepts=[0.0, 0.1], classlabels_ints=[4, 7], post_transform="SOFTMAX",
        ),
        helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[4, 7]),
    ]  # fmt: skip
    ends = (
        [INFO("x", TensorProto.FLOAT, [2, 3])],
        [INFO("label", TensorProto.INT64, [2]), helper.make_value_info("z", maps)],
    )
    imports = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=imports, ir_version=8)


def test_maps_of_classifiers() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    scores = x @ np.float32([[1, -1], [2, 0], [3, 1]]) + np.float32([0, 0.1])
    want = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for engine, made in both(classifier(), {"x": x}):
        assert engine.plan.outputs[1].dtype == "sequence(map(int64,float32))"
        assert made["label"].tolist() == np.where(want[:, 0] > want[:, 1], 4, 7).tolist()
        assert [list(row) for row in made["z"]] == [[4, 7], [4, 7]]
        np.testing.assert_allclose([list(row.values()) for row in made["z"]], want, rtol=1e-5)
    session = InferenceSession(build_engine(classifier(), CPU).to_bytes())
    assert session.get_outputs()[1].type == "seq(map(int64,tensor(float)))"


def test_maps_as_inputs() -> None:
    kind = onnx.TypeProto()
    kind.map_type.key_type = TensorProto.STRING
    kind.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    node = helper.make_node("DictVectorizer", ["m"], ["y"], domain="ai.onnx.ml", string_vocabulary=["b", "a", "c"])
    ends = [helper.make_value_info("m", kind)], [INFO("y", TensorProto.FLOAT, [1, 3])]
    imports = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph([node], "g", *ends), opset_imports=imports, ir_version=8)
    for _, made in both(model, {"m": {"a": 1.5, "c": 2.0}}):
        assert made["y"].tolist() == [[0, 1.5, 2]]


def test_the_command_takes_and_writes_strings_and_sequences(tmp_path: Path) -> None:
    from ingot.cli.build import Flags
    from ingot.cli.files import read_arrays
    from ingot.cli.run import run

    model = text_model(
        "g (seq(float[m]) s, string[2] x) => (seq(float[m]) t, string[2] z) { t = SequenceInsert(s, a)"
        " a = Constant<value = float[2] {7, 8}>() z = StringConcat(x, x) }".replace(
            "{ t = SequenceInsert(s, a) a = Constant<value = float[2] {7, 8}>()",
            "{ a = Constant<value = float[2] {7, 8}>() t = SequenceInsert(s, a)",
        )
    )
    path, feeds, out = tmp_path / "m.onnx", tmp_path / "in.npz", tmp_path / "out.npz"
    onnx.save(model, path)
    np.savez(feeds, **{"s.0": np.float32([1]), "s.1": np.float32([2, 3]), "x": np.array(["a", "b"])})
    run(str(path), Flags(target="cpu"), feeds, out, 0)
    made = read_arrays(out)
    assert made["t.2"].tolist() == [7, 8] and made["t.1"].tolist() == [2, 3] and made["z"].tolist() == ["aa", "bb"]


def test_saved_engines_keep_their_parts(tmp_path: Path) -> None:
    model = text_model("g (int16[2] x) => (int16[2] y) { y = Max(x, x) }")
    Engine(build_engine(model, CPU)).save(tmp_path / "e.ingot")
    made = load(tmp_path / "e.ingot").context().run({"x": np.int16([1, 2])})
    assert made["y"].tolist() == [1, 2]


def test_damaged_parts_are_refused() -> None:
    good = HostParts(["x"], ["y"], [HostPart("reference", ["x"], ["y"], b"")])
    assert decode(encode(good)) == good
    for bad in (
        b"INGOTPARTS1\xff",
        encode(HostParts(["x"], ["y"], [])),
        encode(HostParts(["x"], ["y"], [HostPart("reference", ["z"], ["y"], b"")])),
        encode(HostParts(["x"], ["y"], [HostPart("os.system", ["x"], ["y"], b"")])),
    ):
        with pytest.raises(IngotError, match="invalid engine"):
            decode(bad)


def test_float8_runs_in_onnx_runtime() -> None:
    """Its values pass as bits: no evaluator is needed."""
    model = text_model("g (float8e4m3fn[2] x) => (float[2] y) { y = Cast<to = 1>(x) }")
    hosted, function = host(model, "m")
    assert hosted.backend == "onnxruntime"
    x = np.array([1.5, -2], ml_dtypes.float8_e4m3fn)
    assert function([x])[0].tolist() == [1.5, -2]
    assert numpy_helper.from_array(x).data_type == TensorProto.FLOAT8E4M3FN
