"""Inverted residual blocks: what becomes one Region, what does not, and that the results stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.lowering import lowered_of, ort_outputs
from support.plans import plan_engine

from ingot.builder.api import lower_model
from ingot.builder.targets import gpu_target
from ingot.errors import YES, Answer, No
from ingot.graph.lowered import SymbolRange
from ingot.graph.region import Kind, Region
from ingot.options import BuildOptions
from ingot.passes import inverted
from ingot.simulate.simulator import Simulator
from ingot.zoo import architectures


def blocks(
    *, dtype: int = TensorProto.FLOAT16, extra: Sequence[onnx.NodeProto] = (), outputs: Sequence[str] = (),
    group: int = 32, stride: int = 1, first_stride: int = 1, computed: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """A block of 16, 32 and 16 channels with its residual, one of 16, 32 and 8, both with ReLU, and an average."""
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    rng = np.random.default_rng(5)
    weights = []

    def weight(name: str, *shape: int) -> None:
        w = (rng.standard_normal(shape) / max(np.prod(shape[1:]), 1) ** 0.5).astype(kind)
        weights.append(numpy_helper.from_array(w, name))

    nodes = [helper.make_node("Cast", ["in"], ["x0"], to=dtype)]
    for i, cols in enumerate((16, 8)):
        weight(f"u{i}", 32, 16, 1, 1)
        weight(f"d{i}", 32, 32 // group, 3, 3)
        weight(f"v{i}", cols, 32, 1, 1)
        weight(f"b{i}", 32)
        last = f"x{i + 1}" if i else "p0"
        narrow = "vc" if computed else f"v{i}"
        nodes += [
            helper.make_node("Conv", [f"x{i}", f"u{i}", f"b{i}"], [f"e{i}"], name=f"widen{i}",
                             strides=[first_stride] * 2),
            helper.make_node("Relu", [f"e{i}"], [f"ea{i}"]),
            helper.make_node("Conv", [f"ea{i}", f"d{i}", f"b{i}"], [f"s{i}"], name=f"spread{i}", group=group,
                             pads=[1] * 4, strides=[stride if i else 1] * 2),
            helper.make_node("Relu", [f"s{i}"], [f"sa{i}"]),
            helper.make_node("Conv", [f"sa{i}", narrow if not i else f"v{i}"], [last], name=f"narrow{i}"),
        ]  # fmt: skip
        if not i:
            beside = "x0" if first_stride == 1 else "p0"
            nodes.append(helper.make_node("Add", ["p0", beside], ["x1"]))
    inputs = [helper.make_tensor_value_info("in", TensorProto.FLOAT, [2, 16, 6, 5])]
    if computed:
        inputs.append(helper.make_tensor_value_info("vf", TensorProto.FLOAT, [16, 32, 1, 1]))
        nodes.insert(0, helper.make_node("Cast", ["vf"], ["vc"], to=dtype))
    nodes += [
        *extra,
        helper.make_node("GlobalAveragePool", ["x2"], ["mean"]),
        helper.make_node("Cast", ["mean"], ["out"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("out", *outputs)]
    graph = helper.make_graph(nodes, "blocks", inputs, values, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def joined(model: onnx.ModelProto, *ranges: SymbolRange) -> list[int]:
    """Convolutions of each block that is one Region."""
    found = (region for region in lowered_of(model, ranges).regions if region.kind is Kind.INVERTED)
    return [sum(op.op == "Conv" for op in region.ops) for region in found]


def test_blocks_are_one_region_each_and_compute_the_same() -> None:
    model = blocks(stride=2)
    lowered = lowered_of(model)
    first, second = (region for region in lowered.regions if region.kind is Kind.INVERTED)
    assert [op.op for op in first.ops] == ["Conv", "Relu", "Conv", "Relu", "Conv", "Add"]
    assert [op.op for op in second.ops] == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    assert first.inputs[0] == "x0" and first.outputs == ("x1",) and second.inputs[0] == "x1"
    assert all(spec.strides[1] == 1 for spec in (first.input_specs[0], first.output_specs[0]))
    feeds = {"in": np.random.default_rng(1).standard_normal((2, 16, 6, 5)).astype(np.float32)}
    got = Simulator(plan_engine(lowered)).run(feeds)["out"]
    np.testing.assert_allclose(got, ort_outputs(model, feeds)["out"], rtol=5e-3, atol=5e-3)


def test_what_is_refused_is_cut_apart() -> None:
    def none(region: Region) -> Answer:
        return No("no room") if region.kind is Kind.INVERTED else YES

    found = [r.kind for r in lowered_of(blocks(), (), none).regions if r.kind not in (Kind.MAP, Kind.VIEW)]
    assert found == [Kind.CONV] * 6 + [Kind.REDUCE]


@pytest.mark.parametrize(
    ("other", "left"),
    [
        (blocks(extra=[helper.make_node("Cast", ["sa1"], ["k"], to=TensorProto.FLOAT)], outputs=["k"]), [3]),
        (blocks(extra=[helper.make_node("Cast", ["ea0"], ["k"], to=TensorProto.FLOAT)], outputs=["k"]), [2, 3]),
        (blocks(extra=[helper.make_node("Cast", ["p0"], ["k"], to=TensorProto.FLOAT)], outputs=["k"]), [3]),
        (blocks(computed=True), [3]),
        (blocks(group=8), []),
        (blocks(first_stride=2), [2, 2]),
        (blocks(dtype=TensorProto.FLOAT), []),
    ],
    ids=["spread read", "hidden read", "sum read", "weights computed", "grouped", "strided", "float32"],
)
def test_what_others_read_or_are_is_no_part_of_a_block(other: onnx.ModelProto, left: list[int]) -> None:
    assert joined(other) == left


def test_large_hidden_tensors_are_left_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted, "MEASURED", 2 * 2 * 32 * 6 * 5 + 1)
    assert joined(blocks()) == [3, 3]
    monkeypatch.setattr(inverted, "MEASURED", 2 * 2 * 32 * 6 * 5)
    assert joined(blocks()) == []


def test_blocks_of_many_multiplications_are_left_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = 2 * 30 * 32 * (16 + 16), 2 * 30 * 32 * (16 + 8)
    for limit, left in ((first, [3, 3]), (first - 1, [3]), (second, [3]), (second - 1, [])):
        monkeypatch.setattr(inverted, "MULTIPLIED", limit)
        assert joined(blocks()) == left, limit


def test_sizes_are_those_of_the_usual_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted, "MEASURED", 2 * 2 * 32 * 6 * 5 + 1)
    model = blocks()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert joined(model, SymbolRange("N", 1, 2, 4)) == [3, 3]
    assert joined(model, SymbolRange("N", 1, 3, 4)) == []


def test_what_a_body_on_the_host_reads_is_no_part_of_a_block() -> None:
    def body(op: str) -> onnx.GraphProto:
        nodes = [helper.make_node("Cast", ["ea0"], [f"{op}/x"], to=TensorProto.FLOAT)]
        nodes.append(helper.make_node(op, [f"{op}/x"], [op]))
        return helper.make_graph(nodes, op, [], [helper.make_tensor_value_info(op, TensorProto.FLOAT, None)])

    chosen = helper.make_node("If", ["flag"], ["k"], then_branch=body("Relu"), else_branch=body("Neg"))
    model = blocks(extra=[chosen], outputs=["k"])
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    assert joined(model) == [2, 3]


@pytest.mark.parametrize(
    ("name", "target", "count"),
    [("mobilenet_v2", "sm_90", 17), ("mobilenet_v2", "sm_80", 11), ("mobilenet_v3", "sm_90", 7)],
)
def test_networks(name: str, target: str, count: int) -> None:
    made = lower_model(architectures.build(name), gpu_target(target), BuildOptions(target=target, fp16=True))
    assert not isinstance(made, No)
    assert [region.kind for region in made.regions].count(Kind.INVERTED) == count
