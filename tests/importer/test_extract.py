"""Parts of models: they run in ONNX Runtime and give what the whole gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.onnx_text import model

from ingot.errors import IngotError
from ingot.importer import extract as subject
from ingot.importer.extract import extract, save
from ingot.zoo import architectures

CHAIN = """g (float[N, 4] x, float[4] z) => (float[N, 4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{
    a = Mul(x, w)
    b = Relu(a)
    c = Add(b, z)
    y = Sigmoid(c)
}"""


def values(network: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Values inside a model."""
    whole = onnx.ModelProto()
    whole.CopyFrom(network)
    outer = {o.name for o in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in outer)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds))


def test_a_part_computes_what_the_whole_computes(tmp_path: Path) -> None:
    network = architectures.build("resnet_tiny")
    inner = [name for node in network.graph.node for name in node.output]
    start, end = inner[2], inner[len(inner) // 2]
    feeds = architectures.sample_inputs(network)
    known = values(network, feeds, [start, end])
    part = extract(network, [start], [end])
    save(part, tmp_path / "part.onnx")
    onnx.checker.check_model(tmp_path / "part.onnx", full_check=True)
    assert 0 < len(part.graph) < len(network.graph.node)
    np.testing.assert_allclose(run(tmp_path / "part.onnx", {start: known[start]})[0], known[end], rtol=1e-4, atol=1e-5)


def test_a_branch_that_ends_in_an_outer_value_is_one_clear_error() -> None:
    text = """g (float[4] x, bool c) => (float[4] y) {
        h = Relu (x)
        k = Tanh (h)
        [choice] z = If (c) <
            then_branch = t () => (float[4] h) { },
            else_branch = e () => (float[4] s) { s = Neg (h) }
        >
        y = Relu (z)
    }"""
    with pytest.raises(IngotError, match=r"choice: output 'h' of a graph inside it.*Identity"):
        extract(model(text), ["h", "c"], ["y"])
    assert len(extract(model(text), ["x"], ["k"]).graph) == 2


def test_left_out_ends_are_those_of_the_model(tmp_path: Path) -> None:
    head = extract(model(CHAIN), [], ["b"])
    assert [v.name for v in head.graph.inputs] == ["x"] and [v.name for v in head.graph.outputs] == ["b"]
    assert str(head.graph.outputs[0].shape) == "[N,4]" and list(head.graph.initializers) == ["w"]
    tail = extract(model(CHAIN), ["b", "z"], [])
    assert [v.name for v in tail.graph.outputs] == ["y"] and [n.op_type for n in tail.graph] == ["Add", "Sigmoid"]
    save(tail, tmp_path / "t.onnx")
    (y,) = run(tmp_path / "t.onnx", {"b": np.zeros((1, 4), np.float32), "z": np.zeros(4, np.float32)})
    assert np.all(y == 0.5)


def test_an_unknown_value_is_told_with_names_like_it() -> None:
    network = architectures.build("resnet_tiny")
    name = network.graph.node[3].output[0]
    with pytest.raises(IngotError, match="no such Value") as caught:
        extract(network, [], [f"{name}x"])
    assert name in caught.value.fix


@pytest.mark.parametrize(
    ("starts", "ends", "reason", "fix"),
    [
        (["b"], ["y"], "also need z", "--from z"),
        (["x", "z"], ["b"], "no output needs it", "leave it out"),
        (["b"], ["b"], "where the part begins and where it ends", "another"),
    ],
)
def test_ends_that_do_not_fit(starts: list[str], ends: list[str], reason: str, fix: str) -> None:
    with pytest.raises(IngotError, match=reason) as caught:
        extract(model(CHAIN), starts, ends)
    assert fix in caught.value.fix


def test_what_nested_graphs_read_is_part_of_it(tmp_path: Path) -> None:
    network = model("""g (bool c, float[4] x, float[4] z) => (float[4] y)
    {
        a = Relu(x)
        b = Neg(z)
        d = If (c) <
            then_branch = t () => (float[4] t1) { t1 = Add(a, b) },
            else_branch = e () => (float[4] e1) { e1 = Sub(a, b) }
        >
        y = Neg(d)
    }""")
    part = extract(network, ["c", "a", "z"], ["d"])
    assert [n.op_type for n in part.graph] == ["Neg", "If"]
    save(part, tmp_path / "p.onnx")
    ones = np.ones(4, np.float32)
    assert np.all(run(tmp_path / "p.onnx", {"c": np.array(True), "a": ones, "z": ones})[0] == 0)
    with pytest.raises(IngotError, match="also need z"):
        extract(network, ["c", "a"], ["d"])


def test_functions_that_are_called_go_along(tmp_path: Path) -> None:
    network = model(
        """g (float[4] x) => (float[4] y) { a = Relu(x) b = local.twice(a) y = Neg(b) }
    <domain: "local", opset_import: ["" : 21]> twice (p) => (q) { q = Add(p, p) }
    <domain: "local", opset_import: ["" : 21]> unused (p) => (q) { q = Neg(p) }""",
        extra=', "local" : 1',
    )
    part = extract(network, ["a"], ["y"])
    assert [f.name for f in part.functions.values()] == ["twice"]
    save(part, tmp_path / "p.onnx")
    assert np.all(run(tmp_path / "p.onnx", {"a": np.ones(4, np.float32)})[0] == -2)


@pytest.mark.parametrize("inline", [1 << 30, 0])
def test_external_data_inside_or_beside_the_part(tmp_path: Path, inline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_INLINE_BYTES", inline)
    network = architectures.build("resnet_tiny")
    feeds = architectures.sample_inputs(network)
    end = network.graph.node[len(network.graph.node) // 2].output[0]
    known = values(network, feeds, [end])[end]
    (tmp_path / "whole").mkdir()
    onnx.save(network, tmp_path / "whole/m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "part").mkdir()
    save(extract(tmp_path / "whole/m.onnx", [], [end]), tmp_path / "part/p.onnx")
    assert (tmp_path / "part/p.onnx.data").exists() == (inline == 0)
    np.testing.assert_allclose(run(tmp_path / "part/p.onnx", feeds)[0], known, rtol=1e-4, atol=1e-5)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(IngotError, match="cannot be read"):
        extract(tmp_path / "bad.onnx", [], ["y"])
    with pytest.raises(IngotError, match="cannot be written"):
        save(extract(model(CHAIN), [], ["b"]), tmp_path / "no/such/folder/p.onnx")
