"""First convolutions give what the convolution gives: as a Region of their own kind, and through overlapping rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.lowering import lowered_of, ort_outputs
from support.plans import plan_engine

from ingot.errors import YES, Answer, No
from ingot.graph.lowered import SymbolRange
from ingot.graph.region import Kind, Region
from ingot.simulate.simulator import Simulator


def stem_model(
    shape: tuple[int, int, int, int], weight: tuple[int, ...], batch: int | str, **attrs: object
) -> onnx.ModelProto:
    """Cast to float16, convolution with bias, Relu, Cast back."""
    rng = np.random.default_rng(sum(shape))
    w = (rng.standard_normal(weight) / np.prod(weight[1:]) ** 0.5).astype(np.float16)
    b = rng.standard_normal(weight[:1]).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "w", "b"], ["c"], name="stem", **attrs),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    graph = helper.make_graph(nodes, "stem", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CASES = [
    ((1, 3, 20, 22), (8, 3, 7, 7), dict(strides=[2, 2], pads=[3, 3, 3, 3])),
    ((2, 3, 17, 19), (16, 3, 3, 3), dict(strides=[2, 2], pads=[1, 1, 1, 1])),
    ((1, 1, 16, 16), (8, 1, 5, 5), dict(strides=[2, 2], pads=[0, 2, 1, 0])),
    ((1, 4, 16, 16), (8, 4, 4, 4), dict(strides=[4, 4])),
    ((1, 3, 15, 15), (8, 3, 3, 3), dict(strides=[2, 2], auto_pad="SAME_UPPER")),
    ((1, 3, 16, 15), (8, 3, 4, 2), dict(strides=[2, 2], auto_pad="SAME_LOWER")),
    ((1, 3, 15, 16), (8, 3, 3, 3), dict(strides=[1, 2], auto_pad="VALID", dilations=[2, 1])),
    ((1, 2, 30, 9), (8, 2, 3, 3), dict(strides=[3, 2], pads=[1, 1, 1, 1])),
]


def no_stem(region: Region) -> Answer:
    """As a target without a kernel for stems."""
    return No("no stem") if region.kind is Kind.STEM else YES


def check(model: onnx.ModelProto, shape: tuple[int, ...], ranges: tuple[SymbolRange, ...] = ()) -> None:
    lowered = lowered_of(model, ranges, no_stem)
    kinds = [region.kind for region in lowered.regions]
    assert kinds == [Kind.MAP, Kind.VIEW, Kind.CONV], kinds
    assert [op.op for op in lowered.regions[0].ops] == ["Cast", "Pad"]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    made = Simulator(plan_engine(lowered)).run(feeds)
    np.testing.assert_allclose(made["y"], ort_outputs(model, feeds)["y"], rtol=4e-3, atol=4e-3)
    whole = lowered_of(model, ranges)
    assert [region.kind for region in whole.regions] == [Kind.STEM]
    made = Simulator(plan_engine(whole)).run(feeds)
    np.testing.assert_allclose(made["y"], ort_outputs(model, feeds)["y"], rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("shape, weight, attrs", CASES)
def test_geometry(shape: tuple[int, int, int, int], weight: tuple[int, ...], attrs: dict[str, object]) -> None:
    check(stem_model(shape, weight, shape[0], **attrs), shape)


@pytest.mark.parametrize("batch", [1, 3])
def test_symbolic_batch(batch: int) -> None:
    model = stem_model((1, 3, 16, 16), (8, 3, 3, 3), "n", strides=[2, 2], pads=[1, 1, 1, 1])
    check(model, (batch, 3, 16, 16), (SymbolRange("n", 1, 2, 4),))


def test_stride_one_and_wide_inputs_are_left_alone() -> None:
    for shape, weight, stride in (((1, 3, 8, 8), (8, 3, 3, 3), 1), ((1, 8, 8, 8), (8, 8, 3, 3), 2)):
        lowered = lowered_of(stem_model(shape, weight, 1, strides=[stride, stride]), (), no_stem)
        assert all(op.op != "Pad" for region in lowered.regions for op in region.ops)


@pytest.mark.parametrize("refused", [Kind.MAP, Kind.CONV])
def test_refusal_brings_the_plain_convolution_back(refused: Kind) -> None:
    model = stem_model((1, 3, 16, 16), (8, 3, 3, 3), 1, strides=[2, 2])

    def accepts(region: Region) -> Answer:
        if not (answer := no_stem(region)):
            return answer
        shapes = [spec.shape for spec in region.input_specs + region.output_specs]
        return (
            No("not this one") if region.kind is refused and any(4 in s[1:2] or 16 in s[1:2] for s in shapes) else YES
        )

    lowered = lowered_of(model, accepts=accepts)
    assert all(op.op != "Pad" for region in lowered.regions for op in region.ops) and not lowered.reasons
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    made = Simulator(plan_engine(lowered)).run(feeds)
    np.testing.assert_allclose(made["y"], ort_outputs(model, feeds)["y"], rtol=4e-3, atol=4e-3)


def pooled_model(**more: bool) -> onnx.ModelProto:
    """Cast, convolution, Relu, MaxPool, Relu, Cast; ``skip``: the convolution's result is an output too."""
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array((rng.standard_normal((16, 3, 3, 3)) / 5).astype(np.float16), "w")]
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["p"], ["t"]),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["r"], ["z"], to=TensorProto.FLOAT),
    ]
    names = ["y", "z"] if more.get("skip") else ["y"]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 18, 21])
    graph = helper.make_graph(nodes if more.get("skip") else nodes[:-1], "pooled", [x], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("skip", [False, True])
def test_a_pooling_joins_where_nobody_else_reads_the_convolution(skip: bool) -> None:
    model = pooled_model(skip=skip)
    lowered = lowered_of(model)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 18, 21)).astype(np.float32)}
    stem = lowered.regions[0]
    assert stem.kind is Kind.STEM and ("MaxPool" in [op.op for op in stem.ops]) is not skip
    assert len(lowered.regions) == (2 if skip else 1)
    made = Simulator(plan_engine(lowered)).run(feeds)
    for name, array in ort_outputs(model, feeds).items():
        np.testing.assert_allclose(made[name], array, rtol=4e-3, atol=4e-3)


def test_weights_of_a_stem_lie_with_output_channels_innermost() -> None:
    lowered = lowered_of(pooled_model())
    assert lowered.regions[0].spec_of["w"].strides == (1, 16, 144, 48)


def test_a_cast_before_the_transpose_of_an_image_joins_the_stem() -> None:
    weights = [numpy_helper.from_array(np.random.default_rng(2).standard_normal((8, 3, 3, 3)).astype(np.float16), "w")]
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 15, 18, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "turned", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    lowered = lowered_of(model)
    assert [region.kind for region in lowered.regions] == [Kind.VIEW, Kind.STEM]
    assert lowered.regions[1].input_specs[0].strides == (810, 1, 54, 3)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 15, 18, 3)).astype(np.float32)}
    made = Simulator(plan_engine(lowered)).run(feeds)
    np.testing.assert_allclose(made["y"], ort_outputs(model, feeds)["y"], rtol=4e-3, atol=2e-2)
