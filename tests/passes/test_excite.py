"""Squeeze-and-excitation blocks become one Region where all of it is theirs, and are fused as any ops elsewhere."""

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
from ingot.graph.region import Kind, Region
from ingot.options import BuildOptions
from ingot.simulate.simulator import Simulator
from ingot.zoo import architectures


def model(
    *, extra: Sequence[onnx.NodeProto] = (), outputs: Sequence[str] = ("y",), last: Sequence[str] = ("g", "x"),
    constant: bool = True, mean: str = "GlobalAveragePool",
) -> onnx.ModelProto:  # fmt: skip
    """A convolution makes x (2, 16, 5, 6): mean, 16 -> 4, SiLU, 4 -> 16, Sigmoid, times x; then a 1 x 1 convolution."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.standard_normal((4, 16, 1, 1)), "b1": rng.standard_normal(4), "b2": rng.standard_normal(16),
        "w2": rng.standard_normal((16, 4, 1, 1)), "w3": rng.standard_normal((8, 16, 1, 1)),
        "w0": rng.standard_normal((16, 8, 1, 1)),
    }  # fmt: skip
    weights = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    weights.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    first = helper.make_node(mean, ["x", *(["axes"] if mean == "ReduceMean" else [])], ["m"], name="mean")
    inputs = [helper.make_tensor_value_info("in", TensorProto.FLOAT, [2, 8, 5, 6])]
    if not constant:
        weights = [w for w in weights if w.name != "w2"]
        inputs.append(helper.make_tensor_value_info("w2", TensorProto.FLOAT, [16, 4, 1, 1]))
    nodes = [
        helper.make_node("Conv", ["in", "w0"], ["x"], name="before"),
        first,
        helper.make_node("Conv", ["m", "w1", "b1"], ["h"], name="down"),
        helper.make_node("Sigmoid", ["h"], ["hs"]),
        helper.make_node("Mul", ["h", "hs"], ["ha"]),
        helper.make_node("Conv", ["ha", "w2", "b2"], ["o"], name="up"),
        helper.make_node("Sigmoid", ["o"], ["g"]),
        *extra,
        helper.make_node("Mul", list(last), ["e"]),
        helper.make_node("Conv", ["e", "w3"], ["y"], name="project"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "excite", inputs, values, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def accepts_all(region: Region) -> Answer:
    return YES


def kinds(made: onnx.ModelProto, accepts=accepts_all) -> list[Kind]:  # type: ignore[no-untyped-def]
    return [region.kind for region in lowered_of(made, (), accepts).regions]


@pytest.mark.parametrize("mean", ["GlobalAveragePool", "ReduceMean"])
@pytest.mark.parametrize("last", [("g", "x"), ("x", "g")])
def test_a_block_is_one_region_and_computes_the_same(mean: str, last: tuple[str, str]) -> None:
    made = model(mean=mean, last=last)
    lowered = lowered_of(made, (), accepts_all)
    assert Kind.EXCITE in [r.kind for r in lowered.regions]
    (region,) = (r for r in lowered.regions if r.kind is Kind.EXCITE)
    assert [op.op for op in region.ops] == [mean, "Conv", "Sigmoid", "Mul", "Conv", "Sigmoid", "Mul"]
    assert region.inputs[0] == "x" and region.input_specs[0].strides[1] == 1
    feeds = {"in": np.random.default_rng(1).standard_normal((2, 8, 5, 6)).astype(np.float32)}
    got = Simulator(plan_engine(lowered)).run(feeds)["y"]
    np.testing.assert_allclose(got, ort_outputs(made, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_a_refused_block_is_fused_as_any_ops() -> None:
    def no_excite(region: Region) -> Answer:
        return No("no clusters") if region.kind is Kind.EXCITE else YES

    lowered = lowered_of(model(), (), no_excite)
    found = [region for region in lowered.regions if region.kind not in (Kind.VIEW, Kind.MAP)]
    assert [r.kind for r in found] == [Kind.CONV, Kind.REDUCE, Kind.CONV, Kind.CONV, Kind.CONV]
    assert [op.op for op in found[2].ops] == ["Conv", "Sigmoid", "Mul"]  # with its arithmetic, not op by op


@pytest.mark.parametrize(
    "other",
    [
        model(outputs=("y", "g")),
        model(outputs=("y", "m")),
        model(constant=False),
        model(extra=[helper.make_node("Exp", ["x"], ["z"])], last=("g", "z")),
        model(extra=[helper.make_node("Neg", ["h"], ["k"])], outputs=("y", "k")),
    ],
    ids=["gate read", "mean read", "weights computed", "another tensor gated", "hidden read"],
)
def test_what_others_read_or_make_is_no_block(other: onnx.ModelProto) -> None:
    assert Kind.EXCITE not in kinds(other)


@pytest.mark.parametrize(("target", "blocks"), [("sm_90", 16), ("sm_80", 0)])
def test_efficientnet(target: str, blocks: int) -> None:
    options = BuildOptions(target=target, fp16=True)
    made = lower_model(architectures.build("efficientnet_b0"), gpu_target(target), options)
    assert not isinstance(made, No)
    assert [region.kind for region in made.regions].count(Kind.EXCITE) == blocks
