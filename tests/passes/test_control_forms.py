"""Control flow in forms that a library behind Ingot does not take by itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from ingot.builder.api import build_engine, build_hollow
from ingot.errors import IngotError
from ingot.importer.load import import_model
from ingot.measure.reference import Reference
from ingot.options import BuildOptions
from ingot.runtime.engine import Engine
from ingot.simulate.simulator import Simulator

# Its condition is left out; the body ends it after the third of five turns.
BARE_LOOP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 4] x) => (y, n) <int64 m = {5}, int64 last = {2}, int64 none = {0}> {
    y, n = Loop (m, "", x, none) <body = turn (int64 i, bool c, float[2, 4] s, int64 k) =>
            (bool d, float[2, 4] t, int64 j) {
        d = Less (i, last)
        t = Sin (s)
        j = Add (i, last)
    }>
}"""
# What the outer body makes comes from the inner loop, whose shapes ONNX Runtime does not infer.
_TURNS = """
y, ys = Scan <num_scan_inputs = 1, body = turn (float[3] s, float[3] a) => (float[3] t, float[3] o) {
    b = Loop (m, "", a) <body = inner (int64 i, bool c, float[3] v) => (bool d, float[3] w) {
        d = Identity (c)
        w = Sin (v)
    }>
    t = Identity (b)
    o = Add (b, s)
}> (h, x)
"""
SCAN_AROUND_LOOP = f"""<ir_version: 8, opset_import: ["" : 17]>
net (float[5, 3] x, float[3] h) => (y, ys) <int64 m = {{2}}> {{ {_TURNS} }}"""
IN_A_BRANCH = f"""<ir_version: 8, opset_import: ["" : 17]>
net (float[5, 3] x, float[3] h, bool c) => (z) <int64 m = {{2}}> {{
    z = If (c) <
        then_branch = a () => (float[5, 3] p) {{
            {_TURNS}
            p = Add (ys, y)
        }},
        else_branch = b () => (float[5, 3] q) {{ q = Exp (x) }}
    >
}}"""


CONSTANT_BRANCH = """<ir_version: 8, opset_import: ["" : 17]>
net (float[3] x, bool c) => (z) {
    z = If (c) <
        then_branch = a () => (float[3] p) {
            two = Constant <value = float[3] {1, 2, 3}> ()
            p = Add (two, two)
        },
        else_branch = b () => (float[3] q) { q = Exp (x) }
    >
}"""


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {n: rng.standard_normal(s).astype(np.float32) if s else np.asarray(True) for n, s in shapes.items()}


@pytest.mark.parametrize("text", [BARE_LOOP, SCAN_AROUND_LOOP, IN_A_BRANCH], ids=["loop", "scan", "branch"])
@pytest.mark.parametrize("unroll", [2000, 1], ids=["opened", "whole"])
def test_runs_as_in_onnx_runtime(text: str, unroll: int) -> None:
    model = parser.parse_model(text)
    feeds = feeds_of(model)
    wanted = Reference(model).run(feeds)
    simulated = Simulator(build_hollow(model, BuildOptions("sm_90", unroll=unroll))).run(feeds)
    hosted = Engine(build_engine(model, BuildOptions("cpu", opt_level=0))).context().run(feeds)
    for made in (simulated, hosted):
        assert made.keys() == wanted.keys()
        for name, array in wanted.items():
            assert made[name].shape == array.shape
            assert np.allclose(made[name], array, rtol=1e-5, atol=1e-5), name


def test_a_condition_that_is_left_out_is_true_under_a_free_name() -> None:
    model = parser.parse_model(BARE_LOOP.replace("none", "taken"))
    model.graph.initializer[-1].name = "ingot/goes_on"
    model.graph.node[0].input[3] = "ingot/goes_on"
    graph = import_model(model).model.graph
    condition = graph[0].inputs[1]
    assert condition is not None and condition.name == "ingot/goes_on_"
    assert condition.const_value is not None and bool(condition.const_value.numpy())


def test_a_branch_that_is_a_constant_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    model = parser.parse_model(CONSTANT_BRANCH)
    engine = build_hollow(model, BuildOptions("sm_90"))
    feeds = feeds_of(model)
    assert np.array_equal(Simulator(engine).run(feeds)["z"], np.array([2, 4, 6], np.float32))
    assert not caplog.records


@pytest.mark.parametrize("op", ["MatMulNBits <K = 3, N = 4, bits = 4, block_size = 32>", "FusedMatMul"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_op_of_another_domain_without_its_inputs_is_an_error_that_names_it(op: str, inside: bool) -> None:
    text = CONSTANT_BRANCH.replace("Add (two, two)", f"com.microsoft.{op} (two)")
    if not inside:
        text = text.replace("z = If", f"w = com.microsoft.{op} (x)  z = If").replace("=> (z)", "=> (z, w)")
    text = text.replace('["" : 17]', '["" : 17, "com.microsoft" : 1]')
    with pytest.raises(IngotError, match="then_branch" if inside else op.split()[0]):
        build_hollow(parser.parse_model(text), BuildOptions("sm_90"))


def test_a_scan_along_an_axis_that_is_not_there_stays_and_says_so() -> None:
    text = SCAN_AROUND_LOOP.replace("num_scan_inputs = 1", "num_scan_inputs = 1, scan_input_axes = [2]")
    engine = build_hollow(parser.parse_model(text), BuildOptions("sm_90"))
    assert any("an axis that it reads along is not there" in reason for reason in engine.plan.reasons)
