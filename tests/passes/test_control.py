"""Control flow that is opened when building: the turns of loops, and branches whose condition is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from ingot.builder.api import build_hollow
from ingot.builder.check import check_model
from ingot.engine.file import EngineFile
from ingot.importer.load import import_model
from ingot.measure.reference import Reference
from ingot.options import BuildOptions, Range
from ingot.passes.pipeline import canonicalise
from ingot.simulate.simulator import Simulator

OPTIONS = BuildOptions("sm_90")
CONTROL = {"If", "Loop", "Scan", "SequenceMap"}

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 4] x, float[4, 4] w) => (y, ys) <int64 m = {3}, bool go = {1}> {
    y, ys = Loop (m, go, x) <body = turn (int64 i, bool c, float[2, 4] s) => (bool d, float[2, 4] t, float[2, 4] o) {
        d = Identity (c)
        p = MatMul (s, w)
        j = Cast <to = 1> (i)
        q = Add (p, j)
        t = Sin (q)
        o = Identity (p)
    }>
}"""
WHILE = """<ir_version: 8, opset_import: ["" : 17]>
net (float[3] x) => (y) <bool go = {1}, int64 none = {0}> {
    y, k = Loop ("", go, x, none) <body = turn (int64 i, bool c, float[3] s, int64 n) =>
            (bool d, float[3] t, int64 k) {
        one = Constant <value = int64 {1}> ()
        most = Constant <value = int64 {5}> ()
        k = Add (n, one)
        d = Less (k, most)
        t = Sin (s)
    }>
}"""
NEVER = """<ir_version: 8, opset_import: ["" : 17]>
net (float[3] x) => (y, z) <int64 m = {0}, bool go = {1}> {
    y, ys = Loop (m, go, x) <body = turn (int64 i, bool c, float[3] s) => (bool d, float[3] t, float[3] o) {
        d = Identity (c)
        t = Sin (s)
        o = Cos (s)
    }>
    z = Concat <axis = 0> (ys, ys)
}"""
SCAN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 3] h, float[2, 5, 3] x, float[5, 2, 3] u, float[3] w) => (last, all, turned) {
    last, all, turned = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [0, 1],
            scan_output_axes = [1, -1], scan_output_directions = [0, 1],
            body = turn (float[2, 3] s, float[2, 3] a, float[2, 3] b) =>
            (float[2, 3] t, float[2, 3] o, float[2, 3] q) {
        m = Mul (s, w)
        n = Add (m, a)
        t = Tanh (n)
        o = Sub (t, b)
        q = Identity (t)
    }> (h, x, u)
}"""
NESTED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 4] x) => (y) <int64 m = {3}, bool go = {1}> {
    y = Loop (m, go, x) <body = turn (int64 i, bool c, float[2, 4] s) => (bool d, float[2, 4] t) {
        d = Identity (c)
        two = Constant <value = int64 {1}> ()
        first = Less (i, two)
        t = If (first) <then_branch = a () => (float[2, 4] p) {
            n = Add (i, two)
            p = Loop (n, c, s) <body = inner (int64 k, bool g, float[2, 4] v) => (bool e, float[2, 4] q) {
                e = Identity (g)
                q = Add (v, x)
            }>
        }, else_branch = b () => (float[2, 4] r) { r = Mul (s, x) }>
    }>
}"""
MAP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 4] a, float[3, 4] b, float[4] w) => (y) {
    parts = SequenceConstruct (a, b)
    done = SequenceMap (parts, w) <body = each (float[n, 4] e, float[4] f) => (float[n, 4] g) {
        h = Mul (e, f)
        g = Exp (h)
    }>
    y = ConcatFromSequence <axis = 0> (done)
}"""
GATHERED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[6, 4] x) => (y, n) <int64 m = {3}, bool go = {1}, int64 two = {2}> {
    parts = SplitToSequence <axis = 0> (x, two)
    none = SequenceEmpty ()
    s = Loop (m, go, none) <body = turn (int64 i, bool c, seq(float[2, 4]) s) => (bool d, seq(float[2, 4]) t) {
        d = Identity (c)
        e = SequenceAt (parts, i)
        f = Sigmoid (e)
        t = SequenceInsert (s, f)
    }>
    y = ConcatFromSequence <axis = 1> (s)
    n = SequenceLength (s)
}"""
OPEN = {"loop": LOOP, "while": WHILE, "never": NEVER, "scan": SCAN, "nested": NESTED, "map": MAP, "gathered": GATHERED}


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        v.name: rng.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in model.graph.input
    }


def ops(model: onnx.ModelProto, unroll: int = 2000) -> list[str]:
    found = canonicalise(import_model(model).model, fp16=False, unroll=unroll)
    return [node.op_type for node in found.model.graph]


def check(engine: EngineFile, model: onnx.ModelProto, seed: int = 0) -> None:
    feeds = feeds_of(model, seed)
    made, wanted = Simulator(engine).run(feeds, seed=seed), Reference(model).run(feeds)
    assert made.keys() == wanted.keys()
    for name, array in wanted.items():
        assert made[name].shape == array.shape and made[name].dtype == array.dtype
        assert np.allclose(made[name], array, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("name", OPEN)
def test_the_turns_of_a_loop_run_on_the_device(name: str) -> None:
    model = parser.parse_model(OPEN[name])
    assert not CONTROL & set(ops(model))
    engine = EngineFile.from_bytes(build_hollow(model, OPTIONS).to_bytes())
    hosts = [region.ops for region in engine.plan.regions if region.kind == "host"]
    assert not hosts, hosts
    check(engine, model)


def reason(model: onnx.ModelProto, options: BuildOptions = OPTIONS) -> tuple[str, str]:
    """Why the only control flow of a model stays on the host, and what would change that."""
    report = check_model(model, options)
    rows = [report.whole] if report.whole is not None else [row for one in report.islands for row in one.reasons]
    (row,) = rows
    assert row is not None
    return row.reason, row.fix


def test_too_many_turns_stay_a_loop_and_say_so() -> None:
    model = parser.parse_model(LOOP.replace("m = {3}", "m = {500}"))
    why, fix = reason(model, BuildOptions("sm_90", unroll=1999))
    assert why == "500 turns of 4 nodes are more than the 1999 nodes that unrolling may make"
    assert fix == "build with --unroll 2000"
    assert "Loop" in ops(model, 1999) and "Loop" not in ops(model, 2000)
    check(build_hollow(model, BuildOptions("sm_90", unroll=1999)), model)


def test_loops_share_what_unrolling_may_make() -> None:
    twice = LOOP.replace("y, ys = Loop (m, go, x)", "z, zs = Loop (m, go, x)").rstrip("}")
    twice = twice.replace("(y, ys)", "(y, ys)") + LOOP[LOOP.index("    y, ys = Loop") :].replace("go, x)", "go, z)")
    model = parser.parse_model(twice)
    assert "Loop" not in ops(model, 24)
    assert ops(model, 23).count("Loop") == 1
    check(build_hollow(model, BuildOptions("sm_90", unroll=23)), model)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("w) => (y, ys) <int64 m = {3}, ", "w, int64 m) => (y, ys) <", "its number of turns is computed from data"),
        (
            "d = Identity (c)",
            "e = ReduceMax <keepdims = 0> (s) f = Cast <to = 7> (e) d = Less (i, f)",
            "whether it goes on",
        ),
    ],
)
def test_a_loop_whose_turns_depend_on_data_says_so(old: str, new: str, why: str) -> None:
    model = parser.parse_model(LOOP.replace(old, new))
    assert ops(model)[-1:] == ["Loop"]
    assert reason(model)[0].startswith(why)


def test_a_scan_over_a_symbolic_length_says_so() -> None:
    model = parser.parse_model(SCAN.replace("[2, 5, 3] x", "[2, T, 3] x").replace("[5, 2, 3] u", "[T, 2, 3] u"))
    fixed = tuple((name, tuple(Range(n, n, n) for n in dims)) for name, dims in (("h", (2, 3)), ("w", (3,))))
    long = tuple(Range(1, 4, 8) if n == 5 else Range(n, n, n) for n in (2, 5, 3))
    shapes = (*fixed, ("x", long), ("u", (long[1], long[0], long[2])))
    why, fix = reason(model, BuildOptions("sm_90", shapes=shapes))
    assert why == "its number of turns depends on a shape that is not fixed" and "--shapes" in fix


def test_what_the_host_does_anyway_is_not_unrolled() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[3] x, string[2] s) => (y, z) <int64 m = {2}, bool go = {1}> {
        y = Exp (x)
        z = Loop (m, go, s) <body = turn (int64 i, bool c, string[2] s) => (bool d, string[2] t) {
            d = Identity (c)
            t = StringNormalizer (s)
        }>
    }"""
    assert reason(parser.parse_model(text))[0] == "nothing in its body has a device kernel"


def test_a_body_that_is_undone_leaves_the_graph_as_it_was() -> None:
    model = parser.parse_model(WHILE)
    assert ops(model, 6) == ["Loop"]
    found = canonicalise(import_model(model).model, fp16=False, unroll=6).model
    assert sorted(found.graph.initializers) == ["go", "none"]
