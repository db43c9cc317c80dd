"""Lowering keeps what a model computes: every plan, in the simulator, gives ONNX Runtime's results."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from support.lowering import check_lowered, lowered_of
from support.random_graphs import RandomGraph

from ingot.errors import YES, Answer, No
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import Kind, Region
from ingot.zoo import architectures


def kinds(lowered: Lowered) -> Counter[Kind]:
    return Counter(region.kind for region in lowered.regions)


def ops(lowered: Lowered, kind: Kind) -> list[list[str]]:
    return [[op.op for op in region.ops] for region in lowered.regions if region.kind is kind]


def graph(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed: int) -> None:
    random = RandomGraph(seed)
    model = random.model()
    check_lowered(model, lowered_of(model), random.feeds())


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 1500))
def test_many_random_graphs(seed: int) -> None:
    random = RandomGraph(seed, steps=25)
    model = random.model()
    check_lowered(model, lowered_of(model), random.feeds(), seeds=3)


@pytest.mark.parametrize("seed", range(12))
def test_any_refusal_goes_to_an_island(seed: int) -> None:
    """Kernels that refuse at random: fused Regions are cut, single ops go to the host with the reason."""
    random = RandomGraph(100 + seed)
    model = random.model()

    def accepts(region: Region) -> Answer:
        small = len(region.ops) == 1 and region.ops[0].op in ("Softmax", "MatMul", "Conv", "Sigmoid")
        many = len(region.ops) > 2
        return No("too large") if many else No("not today") if small else YES

    lowered = lowered_of(model, accepts=accepts)
    check_lowered(model, lowered, random.feeds())
    hosts = [r for r in lowered.regions if r.kind is Kind.HOST]
    assert bool(hosts) == any("not today" in reason for reason in lowered.reasons)


@pytest.mark.parametrize("name", [n for n in architectures.names() if n.endswith("_tiny")])
def test_tiny_architectures(name: str) -> None:
    model = architectures.build(name)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 2
    check_lowered(model, lowered_of(model), architectures.sample_inputs(model, 2))


def test_convolution_takes_its_epilogue() -> None:
    model = graph(
        "g (float[1, 8, 6, 6] x, float[1, 16, 6, 6] r) => (float[1, 16, 6, 6] y)"
        " { c = Conv(x, w, b) s = Add(c, r) y = Clip(s, low, high) }",
        w=normal(16, 8, 1, 1), b=normal(16), low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert ops(lowered, Kind.CONV) == [["Conv", "Add", "Clip"]]
    check_lowered(model, lowered, {"x": normal(1, 8, 6, 6), "r": normal(1, 16, 6, 6)})


def test_channels_last_between_convolutions() -> None:
    model = graph(
        "g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)"
        " { a = Conv(x, w) b = Sigmoid(a) c = Conv(b, w) d = Tanh(c) y = Conv(d, w) }",
        w=normal(8, 8, 1, 1),
    )  # fmt: skip
    lowered = lowered_of(model)
    inner = {r.outputs[0]: lowered.values[r.outputs[0]] for r in lowered.regions[:-1] if r.kind is Kind.CONV}
    assert inner and all(value.strides[1] == 1 for value in inner.values())
    # The input is copied to channels-last once, and the output is written row-major by its convolution.
    assert kinds(lowered) == {Kind.CONV: 3, Kind.MAP: 1}
    check_lowered(model, lowered, {"x": normal(1, 8, 6, 6)})


def test_concat_is_written_in_place() -> None:
    model = graph(
        "g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)"
        " { a = Conv(x, w) b = Conv(x, v) c = Concat <axis = 1> (a, b) y = Conv(c, u) }",
        w=normal(8, 8, 1, 1), v=normal(8, 8, 1, 1), u=normal(8, 16, 1, 1),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert lowered.windows["a"].parent == lowered.windows["b"].parent == "c"
    assert lowered.windows["b"].offset == 8
    assert all("Concat" not in names for names in ops(lowered, Kind.MAP))
    check_lowered(model, lowered, {"x": normal(1, 8, 6, 6)})


def test_feature_maps_are_written_as_pixels_of_a_concat() -> None:
    """The head of YOLOv8: maps of several sizes, one behind the other, whose channels are then read in groups."""
    model = graph(
        "g (float[2, 8, 6, 4] x, float[2, 8, 3, 2] z) => (float[2, 4, 2, 30] y)"
        " { a = Conv(x, w) b = Conv(z, w) s = Reshape(a, flat) t = Reshape(b, flat) c = Concat <axis = 2> (s, t)"
        " d = Reshape(c, groups) e = Transpose <perm = [0, 2, 1, 3]> (d) y = Softmax <axis = 1> (e) }",
        w=normal(8, 8, 1, 1), flat=np.array([0, 0, -1]), groups=np.array([2, 2, 4, 30]),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert lowered.windows["a"].parent == lowered.windows["b"].parent == "c"
    assert lowered.values["c"].strides == (240, 1, 8) and lowered.values["b"].strides == (240, 1, 16, 8)
    assert lowered.windows["b"].offset == 24 * 8
    assert all("Concat" not in names for names in ops(lowered, Kind.MAP))
    check_lowered(model, lowered, {"x": normal(2, 8, 6, 4), "z": normal(2, 8, 3, 2)})


def test_pixels_beside_other_rows_or_of_an_output_are_copied() -> None:
    model = graph(
        "g (float[2, 8, 6, 4] x, float[2, 8, 5] z) => (float[2, 8, 29] y)"
        " { a = Conv(x, w) s = Reshape(a, flat) t = Exp(z) y = Concat <axis = 2> (s, t) }",
        w=normal(8, 8, 1, 1), flat=np.array([0, 0, -1]),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert lowered.values["y"].strides == (232, 29, 1)
    check_lowered(model, lowered, {"x": normal(2, 8, 6, 4), "z": normal(2, 8, 5)})


def test_pixels_that_stand_in_a_concat_twice_are_copied() -> None:
    model = graph(
        "g (float[2, 8, 6, 4] x) => (float[2, 4, 2, 48] y)"
        " { a = Conv(x, w) s = Reshape(a, flat) c = Concat <axis = 2> (s, s) d = Reshape(c, groups)"
        " e = Transpose <perm = [0, 2, 1, 3]> (d) y = Softmax <axis = 1> (e) }",
        w=normal(8, 8, 1, 1), flat=np.array([0, 0, -1]), groups=np.array([2, 2, 4, 48]),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert lowered.values["c"].strides == (384, 1, 8) and "a" not in lowered.windows
    check_lowered(model, lowered, {"x": normal(2, 8, 6, 4)})


def test_split_and_concat_of_the_same_tensor_share_memory() -> None:
    """The block of YOLOv8: both halves of a tensor and what is made of one of them, side by side."""
    model = graph(
        "g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)"
        " { a = Conv(x, w) l, r = Split <axis = 1> (a, sizes) b = Conv(r, v) c = Concat <axis = 1> (l, r, b)"
        " y = Conv(c, u) }",
        w=normal(16, 8, 1, 1), v=normal(8, 8, 1, 1), u=normal(8, 24, 1, 1), sizes=np.array([8, 8]),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert lowered.windows["a"].parent == "c" and lowered.windows["l"].parent == lowered.windows["r"].parent == "a"
    assert [r.inputs for r in lowered.regions if r.kind is Kind.MAP] == [("x",)]
    check_lowered(model, lowered, {"x": normal(1, 8, 6, 6)})


def test_a_tensor_that_stands_in_a_concat_twice_once_in_parts_is_copied_once() -> None:
    model = graph(
        "g (float[2, 8, 4] x) => (float[4, 8, 4] c)"
        " { a = Exp(x) l, r = Split <axis = 0> (a, sizes) c = Concat <axis = 0> (l, r, a) }",
        sizes=np.array([1, 1]),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert [r.outputs for r in lowered.regions if r.kind is Kind.MAP] == [("a",), ("c/part2",)]
    check_lowered(model, lowered, {"x": normal(2, 8, 4)})


def test_views_move_nothing() -> None:
    model = graph(
        "g (float[2, 6, 4] x) => (float[2, 2, 12] y)"
        " { e = Exp(x) t = Transpose <perm = [0, 2, 1]> (e) s = Slice(e, one, three, axes) r = Reshape(s, shape)"
        " y = Tanh(r) unused = Identity(t) }",
        one=np.array([1]), three=np.array([3]), axes=np.array([1]), shape=np.array([2, 1, 8]),
    )  # fmt: skip
    model.graph.output[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1, 8]).type.tensor_type.shape
    )
    lowered = lowered_of(model)
    assert kinds(lowered) == {Kind.MAP: 2, Kind.VIEW: 2}
    check_lowered(model, lowered, {"x": normal(2, 6, 4)})


def test_softmax_of_a_product_reads_it_once() -> None:
    model = graph(
        "g (float[2, 4, 8] q, float[2, 8, 4] k) => (float[2, 4, 4] y)"
        " { p = MatMul(q, k) s = Mul(p, scale) y = Softmax(s) }",
        scale=np.float32(0.3),
    )  # fmt: skip
    lowered = lowered_of(model)
    assert ops(lowered, Kind.GEMM) == [["MatMul", "Mul"]]
    assert ops(lowered, Kind.ROWWISE) == [["Softmax"]]
    check_lowered(model, lowered, {"q": normal(2, 4, 8), "k": normal(2, 8, 4)})


def test_decomposed_layer_norm_is_one_row_kernel() -> None:
    model = graph(
        "g (float[2, 4, 8] x) => (float[2, 4, 8] y)"
        " { m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps)"
        " s = Sqrt(e) y = Div(d, s) }",
        axes=np.array([-1]), eps=np.float32(1e-5),
    )  # fmt: skip
    check_lowered(model, lowered_of(model), {"x": normal(2, 4, 8)})


@pytest.mark.parametrize("sizes", [(1, 3), (2, 5), (4, 8)])
def test_symbolic_dimensions(sizes: tuple[int, int]) -> None:
    model = graph(
        "g (float[n, 8, h, 6] x) => (float[n, k] y)"
        " { c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(c) s = Add(r, x) f = Flatten(s) z = ReduceMean(f, axes)"
        " y = Sub(f, z) }",
        w=normal(8, 8, 3, 3), axes=np.array([1]),
    )  # fmt: skip
    lowered = lowered_of(model, (SymbolRange("n", 1, 2, 4), SymbolRange("h", 3, 5, 8)))
    assert kinds(lowered)[Kind.HOST] == 0
    check_lowered(model, lowered, {"x": normal(sizes[0], 8, sizes[1], 6)})


def test_data_dependent_op_is_an_island_with_its_reason() -> None:
    model = graph(
        "g (float[2, 8] x) => (float[2, 8] y)"
        " { i = NonZero(x) c = Cast <to = 1> (i) s = ReduceSum <keepdims = 0> (c) e = Exp(x) y = Add(e, s) }"
    )
    lowered = lowered_of(model)
    assert kinds(lowered)[Kind.HOST] == 1
    assert any("NonZero has no device kernel" in reason for reason in lowered.reasons)
    check_lowered(model, lowered, {"x": normal(2, 8)})


def test_subgraph_captures_are_inputs_of_the_island() -> None:
    then = helper.make_graph(
        [helper.make_node("Exp", ["e"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, [2, 4])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["e"], ["o"])], "else", [], [helper.make_tensor_value_info("o", 1, [2, 4])]
    )
    nodes = [
        helper.make_node("Tanh", ["x"], ["e"]),
        helper.make_node("If", ["flag"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Mul", ["i", "e"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info("x", 1, [2, 4]), helper.make_tensor_value_info("flag", 9, [])]
    made = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", 1, [2, 4])])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    lowered = lowered_of(model)
    assert kinds(lowered)[Kind.HOST] == 1
    for flag in (True, False):
        check_lowered(model, lowered, {"x": normal(2, 4), "flag": np.asarray(flag)})


def test_scalar_constants_keep_their_rank_in_islands() -> None:
    row = helper.make_tensor_value_info("t", 1, [4])
    then = helper.make_graph([helper.make_node("Gather", ["e", "zero"], ["t"])], "then", [], [row])
    other = helper.make_graph([helper.make_node("Gather", ["e", "one"], ["t"])], "else", [], [row])
    nodes = [
        helper.make_node("Tanh", ["x"], ["e"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
    ]
    infos = [helper.make_tensor_value_info("x", 1, [2, 4]), helper.make_tensor_value_info("flag", 9, [])]
    weights = [numpy_helper.from_array(np.array(i), name) for i, name in enumerate(("zero", "one"))]
    made = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", 1, [4])], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    lowered = lowered_of(model)
    for flag in (True, False):
        check_lowered(model, lowered, {"x": normal(2, 4), "flag": np.asarray(flag)})


@pytest.mark.parametrize("indices", [np.array([[1]]), np.array([[[2]]]), np.array([[1, -1]])])
def test_the_rank_of_indices_is_a_part_of_the_results(indices: np.ndarray) -> None:
    text = "g (float[3, 4, 5] x) => (y) { s = Sin (x) r = Gather <axis = 1> (s, i) y = Exp (r) }"
    model = onnx.shape_inference.infer_shapes(graph(text, i=indices))
    check_lowered(model, lowered_of(model), {"x": normal(3, 4, 5)})
