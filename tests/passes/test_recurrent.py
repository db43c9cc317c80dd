"""Splitting LSTM, GRU and RNN: what becomes of them, and that the simulator computes what ONNX Runtime does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.lowering import check_lowered, lowered_of
from support.plans import plan_engine
from support.recurrent import Case, expected, inputs_of

from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.recurrent import GATES
from ingot.graph.region import Kind
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.simulate.simulator import Simulator
from ingot.tune.candidates import first_acceptance

_SIZE, _DEPTH = 6, 5
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def layer(
    op: str,
    *,
    steps: int | str = 4,
    batch: int | str = 3,
    fed: tuple[str, ...] = (),
    known: tuple[str, ...] = ("W", "R", "B"),
    constants: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("Y", "Y_h"),
    turned: bool = False,
    dtype: int = TensorProto.FLOAT,
    **attrs: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one op, and what to feed it; ``turned``: X comes through a Transpose, with the batch first."""
    rng = np.random.default_rng(5)
    count, width = _DIRECTIONS[attrs.get("direction", "forward")], GATES[op] * _SIZE
    numbers = {k: v if isinstance(v, int) else 3 for k, v in (("steps", steps), ("batch", batch))}
    shapes: dict[str, tuple[int | str, ...]] = {
        "X": (batch, steps, _DEPTH) if attrs.get("layout", 0) else (steps, batch, _DEPTH),
        "W": (count, width, _DEPTH),
        "R": (count, width, _SIZE),
        "B": (count, 2 * width),
        "sequence_lens": (batch,),
        "initial_h": (batch, count, _SIZE) if attrs.get("layout", 0) else (count, batch, _SIZE),
        "initial_c": (count, batch, _SIZE),
        "P": (count, 3 * _SIZE),
    }

    def number(dim: int | str) -> int:
        return dim if isinstance(dim, int) else numbers["steps" if dim == steps else "batch"]

    arrays = {
        name: (rng.standard_normal([number(d) for d in shape]) * 0.5).astype(helper.tensor_dtype_to_np_dtype(dtype))
        for name, shape in shapes.items()
    }
    arrays["sequence_lens"] = np.arange(1, number(batch) + 1, dtype=np.int32)
    arrays |= constants or {}
    there = {"X", *fed, *known, *(constants or {})}
    names = [name if name in there else "" for name in shapes][: 8 if op == "LSTM" else 6]
    inputs = [n for n in shapes if n in there and n not in known and n not in (constants or {})]
    nodes = [helper.make_node(op, names, list(outputs), "layer", hidden_size=_SIZE, **attrs)]
    if turned:
        nodes.insert(0, helper.make_node("Transpose", ["T"], ["X"], "turn", perm=[1, 0, 2]))
        inputs[0] = "T"
        shapes["T"], arrays["T"] = (batch, steps, _DEPTH), arrays["X"].swapaxes(0, 1)
    infos = [
        helper.make_tensor_value_info(n, TensorProto.INT32 if n == "sequence_lens" else dtype, shapes[n])
        for n in inputs
    ]
    made = [helper.make_tensor_value_info(n, dtype, None) for n in outputs if n]
    held = [numpy_helper.from_array(arrays[n], n) for n in shapes if n in known or n in (constants or {})]
    graph = helper.make_graph(nodes, "g", infos, made, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model), {n: arrays[n] for n in inputs}


def lowered(model: onnx.ModelProto, ranges: tuple[SymbolRange, ...] = ()) -> Lowered:
    return lowered_of(model, ranges, lambda region: first_acceptance(region, Target(90), TACTICS))


def recurrent(found: Lowered) -> list[str]:
    return [region.ops[0].op for region in found.regions if region.kind is Kind.RECURRENT]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("more", [(), ("sequence_lens", "initial_h")], ids=["", "fed"])
def test_layers(op: str, direction: str, more: tuple[str, ...]) -> None:
    model, feeds = layer(op, fed=more, direction=direction)
    found = lowered(model)
    assert not found.reasons
    assert recurrent(found) == [op]
    assert any(region.kind is Kind.GEMM for region in found.regions)
    check_lowered(model, found, feeds)


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("LSTM", {"fed": ("initial_h", "initial_c", "P"), "outputs": ("Y", "Y_h", "Y_c")}),
        ("LSTM", {"outputs": ("", "", "Y_c"), "clip": 0.3}),
        ("LSTM", {"input_forget": 1, "activations": ["HardSigmoid", "Tanh", "Softsign"], "activation_alpha": [0.3]}),
        ("GRU", {"linear_before_reset": 1, "fed": ("initial_h",), "turned": True}),
        ("GRU", {"outputs": ("", "Y_h"), "known": ("W", "R")}),
        ("RNN", {"activations": ["Relu"], "turned": True}),
        ("RNN", {"fed": ("W", "R"), "known": ("B",), "steps": 1}),
    ],
)
def test_options(op: str, options: dict[str, Any]) -> None:
    model, feeds = layer(op, **options)
    found = lowered(model)
    assert not found.reasons
    assert recurrent(found) == [op]
    check_lowered(model, found, feeds)


def test_the_batch_may_come_first() -> None:
    """ONNX Runtime has no such layers: the truth is in float64."""
    model, feeds = layer("GRU", fed=("initial_h",), layout=1, direction="reverse")
    found = lowered(model)
    assert recurrent(found) == ["GRU"]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    case = Case("GRU", 4, 3, _SIZE, ("b", "h0"), attrs=(("layout", 1), ("direction", "reverse")))
    region = case.region()
    given = [feeds["X"] @ held["W"][0].T, held["R"], held["B"], feeds["initial_h"]]
    assert [a.shape for a in given] == [a.shape for a in inputs_of(case, region)]
    made = Simulator(plan_engine(found)).run(feeds)
    for result, truth in zip(made.values(), expected(case, region, given), strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_batch_in_front_costs_no_copy(direction: str) -> None:
    """Exporters write X and Y with the batch first and transposes around the layer."""
    model, feeds = layer("GRU", turned=True, outputs=("Y",), direction=direction)
    count = _DIRECTIONS[direction]
    made, size = "Y", count * _SIZE
    nodes = [helper.make_node("Transpose", ["Y"], ["wide"], "across", perm=[0, 2, 1, 3])]
    nodes.append(helper.make_node("Reshape", ["wide", "sizes"], ["rows"], "rows"))
    if count == 1:
        nodes = [helper.make_node("Squeeze", [made, "one"], ["rows"], "squeeze")]
    nodes.append(helper.make_node("Transpose", ["rows"], ["front"], "front", perm=[1, 0, 2]))
    nodes.append(helper.make_node("MatMul", ["front", "weight"], ["out"], "product"))
    model.graph.node.extend(nodes)
    weight = np.random.default_rng(1).standard_normal((size, 4)).astype(np.float32)
    sizes = {"one": np.array([1]), "sizes": np.array([4, 3, size]), "weight": weight}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in sizes.items())
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, (3, 4, 4)))
    found = lowered(onnx.shape_inference.infer_shapes(model))
    kinds = [region.kind for region in found.regions if region.kind is not Kind.VIEW]
    assert kinds == [Kind.GEMM, Kind.RECURRENT, Kind.GEMM]
    if count == 1:
        (last,) = (region for region in found.regions if region.ops[0].op == "MatMul" and "out" in region.outputs)
        assert last.input_specs[0].dense()
    check_lowered(model, found, feeds)


def test_any_steps_and_batch() -> None:
    ranges = (SymbolRange("t", 1, 4, 9), SymbolRange("n", 1, 2, 5))
    model, feeds = layer("LSTM", steps="t", batch="n", fed=("initial_h",), direction="bidirectional")
    found = lowered(model, ranges)
    assert recurrent(found) == ["LSTM"]
    check_lowered(model, found, feeds)


def test_zeros_and_lengths_of_all_steps_are_nothing_to_read() -> None:
    zeros = np.zeros((1, 3, _SIZE), np.float32)
    model, feeds = layer("GRU", constants={"initial_h": zeros, "sequence_lens": np.full(3, 4, np.int32)})
    found = lowered(model)
    (region,) = (region for region in found.regions if region.kind is Kind.RECURRENT)
    assert region.inputs == ("layer/projected", "R", "B")
    check_lowered(model, found, feeds)
    model, feeds = layer("GRU", constants={"initial_h": zeros + 1, "sequence_lens": np.array([4, 3, 4], np.int32)})
    found = lowered(model)
    (region,) = (region for region in found.regions if region.kind is Kind.RECURRENT)
    assert region.inputs == ("layer/projected", "R", "B", "sequence_lens", "initial_h")
    check_lowered(model, found, feeds)


def test_what_has_no_kernel_is_an_island() -> None:
    model, _ = layer("RNN", dtype=TensorProto.DOUBLE)
    model.graph.node.append(helper.make_node("Identity", ["Y"], ["copy"], "copy"))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.DOUBLE, None))
    found = lowered(onnx.shape_inference.infer_shapes(model))
    assert not recurrent(found)
    assert any("float64" in reason for reason in found.reasons), found.reasons
    assert [region.ops[0].op for region in found.regions if region.kind is Kind.HOST] == ["RNN"]


@pytest.mark.parametrize("name", ["W", "R", "B", "initial_h", "P"])
def test_operands_of_other_shapes_keep_a_layer_on_the_host(name: str) -> None:
    known = ("W", "R", "B", "initial_h", "initial_c", "P")
    model, _ = layer("LSTM", known=known)
    assert recurrent(lowered(model))
    wrong = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor = numpy_helper.to_array(wrong)
    wrong.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.repeat(tensor, 2, axis=0)), name))
    found = lowered(model)
    assert not recurrent(found)
    assert any(f"{name} has shape" in reason for reason in found.reasons), found.reasons
