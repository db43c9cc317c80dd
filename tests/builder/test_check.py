"""``check_model``: the answer of a build without the build."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.builder.api import build_engine
from ingot.builder.check import check_model
from ingot.engine.describe import describe
from ingot.errors import IngotError
from ingot.options import BuildOptions
from ingot.zoo import architectures

OPTIONS = BuildOptions(target="sm_90", fp16=True, opt_level=0)


def model(nodes: list[onnx.NodeProto], shape: list[int | str], out: list[int | str]) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_it_foresees_the_build() -> None:
    network = architectures.build("mobilenet_tiny")
    report, built = check_model(network, OPTIONS), describe(build_engine(network, OPTIONS))
    working = [layer for layer in built.layers if layer.kind != "view"]
    assert report.on_device and report.whole is None
    assert report.layers == len(working) and sum(report.kinds.values()) == report.layers
    assert 0 < report.arena_bytes <= built.summary.arena_bytes
    assert 0 < report.weights_bytes <= built.summary.weights_bytes
    assert sum(row.count for row in report.ops) == report.nodes == len(network.graph.node)
    assert report.precisions["float16"] > 0
    assert msgspec.json.decode(msgspec.json.encode(report))["target"] == "sm_90"


def test_an_island_has_the_reason_and_the_fix() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Det", ["a"], ["d"], name="determinant"),
        helper.make_node("Add", ["a", "d"], ["y"]),
    ]
    report = check_model(model(nodes, [4, 4], [4, 4]), OPTIONS)
    (island,) = report.islands
    assert not report.on_device and island.ops == ("Det",)
    assert island.reasons[0].node == "determinant" and "Det has no device kernel" in island.reasons[0].reason
    assert {row.op: (row.kind, row.host) for row in report.ops} == {
        "Det": ("host", 1), "Relu": ("map", 0), "Add": ("map", 0)
    }  # fmt: skip
    assert any("Det runs on the host" in line for line in report.float32)


def test_sizes_that_depend_on_data_say_what_to_do() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("NonZero", ["a"], ["i"], name="where"),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Relu", ["f"], ["y"], name="relu"),
    ]
    report = check_model(model(nodes, [8], [1, "n"]), OPTIONS)
    reasons = {r.node: r for island in report.islands for r in island.reasons}
    assert reasons or report.whole is not None
    assert all("end the model" in r.fix for r in reasons.values() if "depends on data" in r.reason)


def test_a_model_of_which_nothing_runs_on_the_device() -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.STRING, [2]) for n in ("x", "y")]
    nodes = [helper.make_node("StringConcat", ["x", "x"], ["y"])]
    strings = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    report = check_model(strings, OPTIONS)
    assert report.whole is not None and report.whole.reason and not report.on_device
    assert [(row.op, row.kind, row.host) for row in report.ops] == [("StringConcat", "host", 1)]


def test_an_unknown_target_is_told() -> None:
    with pytest.raises(IngotError, match="no target 'sm_7'"):
        check_model(model([helper.make_node("Relu", ["x"], ["y"])], [1], [1]), BuildOptions(target="sm_7"))


def test_the_cpu_needs_no_check() -> None:
    with pytest.raises(IngotError, match="ONNX Runtime runs the whole model"):
        check_model(model([helper.make_node("Relu", ["x"], ["y"])], [1], [1]), BuildOptions(target="cpu"))


def residual_blocks(count: int) -> onnx.ModelProto:
    """Ten nodes a block: convolutions, batch norms, a residual, and shape arithmetic that comes to nothing."""
    rng = np.random.default_rng(0)
    weights = {"zeros": np.zeros(4, np.float32), "ones": np.ones(4, np.float32), "flat": np.array([0, -1], np.int64)}
    nodes, last = [], "x"

    def node(op: str, inputs: list[str], **attrs: object) -> str:
        out = f"{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [out], name=out, **attrs))
        return out

    for i in range(count):
        start = last
        for part in ("a", "b"):
            weights[f"w{i}{part}"] = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
            last = node("Conv", [last, f"w{i}{part}"], pads=[1, 1, 1, 1])
            last = node("BatchNormalization", [last, "ones", "zeros", "zeros", "ones"])
            last = node("Relu", [last])
        last = node("Add", [last, start])
        last = node("Reshape", [last, node("Shape", [last])])
        last = node("Sigmoid", [last])
    found = model([*nodes, helper.make_node("Flatten", [last], ["y"])], [1, 4, 8, 8], [1, 256])
    found.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return found


def test_the_time_grows_with_the_nodes_and_no_faster() -> None:
    """1,501 nodes take 1 s of processor time; the bounds are for what grows by the square."""
    small, large = residual_blocks(30), residual_blocks(150)
    check_model(small, OPTIONS)
    times = []
    for network in (small, large):
        begin = time.process_time()
        report = check_model(network, OPTIONS)
        times.append(time.process_time() - begin)
        assert report.on_device and report.nodes == len(network.graph.node)
    assert times[1] < 15, times
    assert times[1] < 12 * times[0] + 1, f"five times the nodes took {times[1] / times[0]:.1f} times as long"
