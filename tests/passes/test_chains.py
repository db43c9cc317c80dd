"""Chains of pointwise convolutions: what becomes one Region, what does not, and that the results stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.lowering import lowered_of, ort_outputs
from support.plans import plan_engine

from ingot.errors import YES, Answer, No
from ingot.graph.region import Kind, Region
from ingot.passes import chains
from ingot.simulate.simulator import Simulator


@pytest.fixture(autouse=True)
def small_tensors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "LARGE", 1)


def bottlenecks(*, stride: int = 1, dtype: int = TensorProto.FLOAT16, middle: int = 1) -> onnx.ModelProto:
    """Two ends of residual blocks: widen, add, Relu, narrow (``middle`` taps a side), twice, and an average."""
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    rng = np.random.default_rng(5)
    weights = []

    def weight(name: str, *shape: int) -> None:
        w = (rng.standard_normal(shape) / max(np.prod(shape[1:]), 1) ** 0.5).astype(kind)
        weights.append(numpy_helper.from_array(w, name))

    for i in (0, 1):
        weight(f"v{i}", 32, 16, 1, 1)
        weight(f"w{i}", 16, 32, middle, middle)
        weight(f"b{i}", 32)
    pads = dict(pads=[middle // 2] * 4)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=dtype),
        helper.make_node("Cast", ["r"], ["r0"], to=dtype),
        helper.make_node("Conv", ["h", "v0", "b0"], ["a0"], name="widen0"),
        helper.make_node("Add", ["a0", "r0"], ["s0"]),
        helper.make_node("Relu", ["s0"], ["y0"]),
        helper.make_node("Conv", ["y0", "w0"], ["z0"], name="narrow0", strides=[stride, stride], **pads),
        helper.make_node("Relu", ["z0"], ["n0"]),
    ]
    last = "n0"
    if stride == 1:
        nodes += [
            helper.make_node("Conv", ["n0", "v1", "b1"], ["a1"], name="widen1"),
            helper.make_node("Add", ["a1", "y0"], ["s1"]),
            helper.make_node("Relu", ["s1"], ["y1"]),
            helper.make_node("Conv", ["y1", "w1"], ["n1"], name="narrow1", **pads),
        ]
        last = "n1"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    nodes.append(helper.make_node("Cast", ["mean"], ["out"], to=TensorProto.FLOAT))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 16, 6, 5])
    r = helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 32, 6, 5])
    y = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "blocks", [x, r], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def kinds(model: onnx.ModelProto, accepts: object = None) -> list[Kind]:
    lowered = lowered_of(model) if accepts is None else lowered_of(model, (), accepts)  # type: ignore[arg-type]
    return [region.kind for region in lowered.regions if region.kind is not Kind.MAP]


def test_both_ends_become_chains_and_results_stay() -> None:
    model = bottlenecks()
    lowered = lowered_of(model)
    joined = [region for region in lowered.regions if region.kind is Kind.CHAIN]
    # widen0+narrow0, then widen1+narrow1: narrow0 is already taken when widen1 is looked at.
    assert [[op.op for op in region.ops if op.op == "Conv"] for region in joined] == [["Conv", "Conv"]] * 2
    assert len(joined[0].outputs) == 2 and len(joined[1].outputs) == 1, "y0 is a residual too, y1 is not"
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((2, 16, 6, 5)), "r": rng.standard_normal((2, 32, 6, 5))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    made = Simulator(plan_engine(lowered)).run(feeds)
    np.testing.assert_allclose(made["out"], ort_outputs(model, feeds)["out"], rtol=5e-3, atol=5e-3)


def test_what_is_refused_is_cut_apart() -> None:
    def none(region: Region) -> Answer:
        return No("no chains") if region.kind is Kind.CHAIN else YES

    assert kinds(bottlenecks(), none) == [Kind.CONV] * 4 + [Kind.REDUCE]


def test_other_convolutions_are_left_alone() -> None:
    assert Kind.CHAIN not in kinds(bottlenecks(stride=2))
    assert Kind.CHAIN not in kinds(bottlenecks(middle=3))
    assert Kind.CHAIN not in kinds(bottlenecks(dtype=TensorProto.FLOAT))


def test_small_tensors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "LARGE", 2 * 2 * 32 * 6 * 5 + 1)
    assert Kind.CHAIN not in kinds(bottlenecks())
    monkeypatch.setattr(chains, "LARGE", 2 * 2 * 32 * 6 * 5)
    assert kinds(bottlenecks()).count(Kind.CHAIN) == 2


def branches(*, stride: int = 2, gate: bool = False, output: bool = False, narrow: bool = False) -> onnx.ModelProto:
    """The end of a residual block whose other branch has a convolution of its own; ``narrow``: one more behind it."""
    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) / shape[-3] ** 0.5).astype(np.float16), name)
        for name, shape in (("u", (32, 16, 1, 1)), ("v", (32, 8, 1, 1)), ("w", (8, 32, 1, 1)))
    ]
    weights += [numpy_helper.from_array(rng.standard_normal(32).astype(np.float16), name) for name in ("bu", "bv")]
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["r"], ["g"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["g", "v", "bv"], ["a"], name="main"),
        helper.make_node("Conv", ["h", "u", "bu"], ["d"], name="branch", strides=[stride, stride]),
        helper.make_node("Mul" if gate else "Add", ["a", "d"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
        *([helper.make_node("Conv", ["y", "w"], ["n"], name="narrow")] if narrow else []),
        helper.make_node("Cast", ["n" if narrow else "y"], ["out"], to=TensorProto.FLOAT),
    ]
    size = [6, 5] if stride == 1 else [3, 3]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 16, 6, 5])
    r = helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 8, *size])
    results = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    results += [helper.make_tensor_value_info("a", TensorProto.FLOAT16, None)] if output else []
    graph = helper.make_graph(nodes, "branches", [x, r], results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("stride, narrow", [(1, False), (2, False), (2, True), (1, True)])
def test_two_branches_become_a_sum(stride: int, narrow: bool) -> None:
    model = branches(stride=stride, narrow=narrow)
    lowered = lowered_of(model)
    chained = narrow and stride == 1
    (region,) = [region for region in lowered.regions if region.kind is (Kind.CHAIN if chained else Kind.SUM)]
    assert [op.op for op in region.ops[:4]] == ["Conv", "Conv", "Add", "Relu"]
    assert sum(op.op == "Conv" for op in region.ops) == 2 + chained
    size = (6, 5) if stride == 1 else (3, 3)
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((2, 16, 6, 5)), "r": rng.standard_normal((2, 8, *size))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    made = Simulator(plan_engine(lowered)).run(feeds)
    np.testing.assert_allclose(made["out"], ort_outputs(model, feeds)["out"], rtol=5e-3, atol=5e-3)


def test_what_is_no_sum_or_read_elsewhere_stays_apart() -> None:
    assert Kind.SUM not in kinds(branches(gate=True))
    assert Kind.SUM not in kinds(branches(output=True))

    def none(region: Region) -> Answer:
        return No("no sums") if region.kind is Kind.SUM else YES

    assert kinds(branches(), none).count(Kind.CONV) == 2
