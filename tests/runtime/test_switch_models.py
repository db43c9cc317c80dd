"""Models switched between more shapes than a Context keeps: launches in clusters, cooperative ones, tensor maps.

Where a graph is updated the driver keeps a node's cluster, its cooperation and its edges, and takes everything else.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support import tiny

from ingot.builder.api import build_engine
from ingot.engine.file import EngineFile
from ingot.options import BuildOptions, parse_shapes
from ingot.runtime import device_context
from ingot.runtime.engine import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tiny.HAVE_GPU or tiny.FAKE, reason="needs a GPU"),
]


def weight(name: str, *shape: int, terms: int) -> onnx.TensorProto:
    """Random, so that sums of ``terms`` products are about as large as what they are made of."""
    array = np.random.default_rng(len(name) + sum(shape)).standard_normal(shape) / np.sqrt(terms)
    return numpy_helper.from_array(array.astype(np.float32), name)


def model(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], x: list[int | str], y: list[int | str]
) -> onnx.ModelProto:
    """A model from x to y."""
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def convolutions() -> onnx.ModelProto:
    """Few pixels and many channels: sums are split over the blocks of clusters. Batch, height and width are free."""
    sizes = [(256, 16, 3), (320, 256, 3), (256, 320, 3), (1024, 256, 1), (256, 1024, 1), (16, 256, 3)]
    weights = [weight(f"w{i}", to, of, k, k, terms=of * k * k) for i, (to, of, k) in enumerate(sizes)]
    nodes, last = [], "x"
    for i, (_, _, k) in enumerate(sizes):
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], kernel_shape=[k, k], pads=[k // 2] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    nodes[-1].output[0] = "y"
    return model(nodes, weights, ["b", 16, "h", "w"], ["b", 16, "h", "w"])


def recurrent(hidden: int) -> onnx.ModelProto:
    """One layer, over a free time and batch."""
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=hidden)
    weights = [weight("W", 1, 4 * hidden, 64, terms=64), weight("R", 1, 4 * hidden, hidden, terms=hidden)]
    return model([node], weights, ["t", "b", 64], ["t", 1, "b", hidden])


def built(source: onnx.ModelProto, shapes: str) -> EngineFile:
    """An engine for the GPU that is there."""
    return build_engine(source, BuildOptions(fp16=True, opt_level=1, shapes=parse_shapes([shapes])))


def compare(source: onnx.ModelProto, file: EngineFile, shapes: list[tuple[int, ...]]) -> None:
    """At each shape in turn, the same bits as a new Context gives, and what ONNX Runtime gives."""
    engine = Engine(file)
    context = engine.context()
    session = ort.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    for number, shape in enumerate(shapes):
        x = np.random.default_rng(number).standard_normal(shape).astype(np.float32)
        made = context.run({"x": x})["y"]
        assert np.array_equal(made, engine.context().run({"x": x})["y"]), shape
        (want,) = session.run(None, {"x": x})
        assert np.abs(made - want).max() <= 0.02 * np.abs(want).max(), shape


def test_clusters_and_tensor_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_context, "_PROGRAMS", 2)
    source = convolutions()
    file = built(source, "x=1x16x8x8:2x16x8x8:8x16x16x16")
    if file.plan.target == "sm_90":
        assert any(step.cluster > 1 for step in file.plan.steps)
    a, b, c, d = (1, 16, 8, 8), (8, 16, 16, 16), (3, 16, 9, 16), (2, 16, 11, 8)
    compare(source, file, [a, b, c, a, d, c, b, b, a, d, a])


@pytest.mark.parametrize("hidden", [512, 1280])
def test_recurrent_layers(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an H100 the smaller layer is one cluster of 16 blocks, the larger one a cooperative launch."""
    monkeypatch.setattr(device_context, "_PROGRAMS", 2)
    source = recurrent(hidden)
    file = built(source, "x=2x1x64:8x4x64:32x8x64")
    if file.plan.target == "sm_90":
        assert any(step.cooperative if hidden == 1280 else step.cluster > 1 for step in file.plan.steps)
    a, b, c = (2, 1, 64), (32, 8, 64), (7, 3, 64)
    compare(source, file, [a, b, c, a, c, b, a])
