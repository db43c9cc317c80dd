"""Control flow that is opened when building: the turns of loops, and branches whose condition is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser
from support.plans import plan_engine

from ingot.builder.api import build_hollow
from ingot.builder.check import Reason, Report, check_model
from ingot.engine.file import EngineFile
from ingot.errors import Answer, IngotError, No
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind, Region
from ingot.importer.load import import_model
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.measure.reference import Reference
from ingot.options import BuildOptions, Range
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.plan.spec import conditions
from ingot.simulate.simulator import Simulator
from ingot.tune.candidates import first_acceptance

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


def rows(report: Report) -> list[Reason]:
    """Why nodes stay on the host."""
    return [report.whole] if report.whole is not None else [row for one in report.islands for row in one.reasons]


def reason(model: onnx.ModelProto, options: BuildOptions = OPTIONS) -> tuple[str, str]:
    """Why the only control flow of a model stays on the host, and what would change that."""
    (row,) = rows(check_model(model, options))
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


# Branches that data chooses.

CHEAP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4] x, bool c) => (y, z) {
    y, z = If (c) <then_branch = a () => (float[N, 4] p, float[N, 4] q) { p = Exp (x)  q = Neg (x) },
                   else_branch = b () => (float[N, 4] r, float[N, 4] s) { r = Sin (x)  s = Abs (r) }>
}"""
HEAVY = """<ir_version: 8, opset_import: ["" : 17]>
net (float[8, 64] x, float[64, 64] w, float[64, 64] v, int64 rate) => (y, z) <int64 usual = {16000}> {
    c = Equal (rate, usual)
    y, z = If (c) <then_branch = a () => (float[8, 64] p, float[8, 64] q) {
        t = MatMul (x, w)   p = Tanh (t)   u = MatMul (p, v)   k = Softmax (u)   q = MatMul (k, w)
    }, else_branch = b () => (float[8, 64] r, float[8, 64] s) {
        f = MatMul (x, v)   g = Sigmoid (f)   r = MatMul (g, v)   h = MatMul (r, w)   s = Cos (h)
    }>
}"""
MIDWAY = """<ir_version: 8, opset_import: ["" : 17]>
net (float[8, 64] x, float[64, 64] w, float limit) => (y) <int64[1] pick = {3}, int64 zero = {0}> {
    m = MatMul (x, w)
    most = ReduceMax <keepdims = 0> (m)
    c = Greater (most, limit)
    r = Relu (m)
    y = If (c) <then_branch = a () => (float[8, 64] p) {
        big = ReduceMin <keepdims = 0> (r)
        d = Less (big, limit)
        p = If (d) <then_branch = deep () => (float[8, 64] e) { e = LpNormalization (r) },
                    else_branch = other () => (float[8, 64] f) { g = Cast <to = 7> (most)  h = Gather (r, g)
                                                                 f = Add (h, r) }>
    }, else_branch = b () => (float[8, 64] s) { i = Abs (m)  s = Sub (i, r) }>
}"""
"""One of the inner branches reads by an index that is in bounds only where it is chosen."""


def run_both(engine: EngineFile, model: onnx.ModelProto, feeds: dict[str, np.ndarray], seed: int = 0) -> None:
    made, wanted = Simulator(engine).run(feeds, seed=seed), Reference(model).run(feeds)
    for name, array in wanted.items():
        assert made[name].shape == array.shape
        assert np.allclose(made[name], array, rtol=1e-4, atol=1e-4), name


def test_cheap_branches_both_run() -> None:
    model = parser.parse_model(CHEAP)
    shapes = (("x", (Range(1, 4, 8), Range(4, 4, 4))), ("c", ()))
    engine = build_hollow(model, BuildOptions("sm_90", shapes=shapes))
    assert "Where" in ops(model) and not conditions(engine.plan.steps)
    assert all(step.kind != "host" for step in engine.plan.steps)
    for chosen in (True, False):
        x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
        run_both(engine, model, {"x": x, "c": np.array(chosen)})


def test_of_heavy_branches_one_runs() -> None:
    model = parser.parse_model(HEAVY)
    engine = EngineFile.from_bytes(build_hollow(model, OPTIONS).to_bytes())
    steps = engine.plan.steps
    assert [engine.plan.regions[s.region].ops for s in steps if s.kind == "host"] == [["Equal", "Identity"]]
    kinds = {when.wanted: [s.name for s in steps for w in s.when if w == when] for s in steps for when in s.when}
    assert len(kinds[True]) >= 3 and len(kinds[False]) >= 3
    assert not any(len(step.when) > 1 for step in steps)
    for rate in (16000, 8000):
        run_both(engine, model, {**feeds_of(model), "rate": np.array(rate)}, seed=rate)
    report = check_model(model, OPTIONS)
    assert [reason.reason.split(" before")[0] for one in report.islands for reason in one.reasons] == [
        "it decides which branch runs",
        "the host looks which branch runs",
    ]


def test_branches_in_branches_run_where_their_conditions_say() -> None:
    model = parser.parse_model(MIDWAY)
    engine = EngineFile.from_bytes(build_hollow(model, OPTIONS).to_bytes())
    assert len(conditions(engine.plan.steps)) == 2 and any(len(step.when) == 2 for step in engine.plan.steps)
    feeds = feeds_of(model)
    feeds["x"], feeds["w"] = feeds["x"] / 10, feeds["w"] / 10
    for seed, limit in enumerate((-10.0, 0.0, 0.1, 10.0)):
        run_both(engine, model, {**feeds, "limit": np.array(limit, np.float32)}, seed)
    far = {**feeds, "x": feeds["x"] * 1e4, "limit": np.array(1e9, np.float32)}
    run_both(engine, model, far)


def test_a_branch_that_does_not_fit_stays_on_the_host_alone() -> None:
    """The other one is on the device, and the model fails where the wrong one is chosen, as in ONNX Runtime."""
    text = HEAVY.replace("f = MatMul (x, v)", "f0 = MatMul (x, v) f1 = Flatten <axis = 0> (f0) f = MatMul (f1, v)")
    model = parser.parse_model(text.replace("float[8, 64] x", "float[A, 64] x"))
    options = BuildOptions("sm_90", shapes=(("x", (Range(8, 8, 8), Range(64, 64, 64))),))
    engine = build_hollow(model, options)
    hosts = [engine.plan.regions[s.region].ops for s in engine.plan.steps if s.kind == "host"]
    assert sorted(hosts) == [["Equal", "Identity"], ["If"]]
    feeds = feeds_of(parser.parse_model(HEAVY))
    run_both(engine, model, {**feeds, "rate": np.array(16000)})
    with pytest.raises(IngotError):
        Simulator(engine).run({**feeds, "rate": np.array(8000)})
    assert any(row.reason == "this branch does not fit the shapes at hand" for row in rows(check_model(model, options)))


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("r = Concat <axis = 0> (x, x)", "its branches make different shapes, ['N', 4] and ['2*N', 4]"),
        (
            "n = NonZero (x) k = Cast <to = 1> (n) m = ReduceMax <keepdims = 0> (k) r = Add (x, m)",
            "a branch holds NonZero",
        ),
    ],
)
def test_branches_that_no_kernel_chooses_from_say_so(new: str, why: str) -> None:
    text = CHEAP.replace("r = Sin (x)", new)
    model = parser.parse_model(text)
    shapes = (("x", (Range(1, 4, 8), Range(4, 4, 4))), ("c", ()))
    options = BuildOptions("sm_90", shapes=shapes)
    found = rows(check_model(model, options))
    assert [row.reason.startswith(why) for row in found] == [True], found


def test_the_work_of_two_branches_is_not_joined() -> None:
    """Products that read the same value are one, but not those of which one may not be needed."""
    model = parser.parse_model(HEAVY)
    engine = build_hollow(model, OPTIONS)
    both = [s.name for s in engine.plan.steps if s.kind == "kernel" and not s.when]
    assert all(engine.plan.regions[s.region].ops == ["Where"] for s in engine.plan.steps if s.name in both), both


UNTIL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[4, 64] x, float[64, 64] w, float limit) => (y, k) <int64 m = {6}, bool go = {1}, int64 none = {0}> {
    y, k = Loop (m, go, x, none) <body = turn (int64 i, bool c, float[4, 64] s, int64 n) =>
            (bool d, float[4, 64] t, int64 j) {
        one = Constant <value = int64 {1}> ()
        j = Add (n, one)
        p = MatMul (s, w)
        t = Sin (p)
        most = ReduceMax <keepdims = 1> (t)
        d = Less (limit, most)
    }>
}"""


@pytest.mark.parametrize("heavy", [False, True])
def test_a_loop_that_data_ends_goes_as_far_as_it_must(heavy: bool) -> None:
    """Heavy turns run only where they take place; cheap ones all run, and Wheres hand on what counts."""
    text = UNTIL if not heavy else UNTIL.replace("t = Sin (p)", "q = MatMul (p, w) r = MatMul (q, w) t = Sin (r)")
    text = text if not heavy else text.replace("64]", "2048]").replace("[64,", "[2048,")
    model = parser.parse_model(text)
    engine = build_hollow(model, OPTIONS)
    assert not any("Loop" in region.ops for region in engine.plan.regions)
    assert len(conditions(engine.plan.steps)) == (5 if heavy else 0)
    turns = set()
    feeds = feeds_of(model)
    feeds["w"] /= 52 if heavy else 14
    for limit in (2.0, 0.5, 0.2, -1.0):
        feeds["limit"] = np.array(limit, np.float32)
        made, wanted = Simulator(engine).run(feeds), Reference(model).run(feeds)
        assert made["k"] == wanted["k"] and np.allclose(made["y"], wanted["y"], rtol=1e-4, atol=1e-4)
        turns.add(int(made["k"]))
    assert len(turns) >= 3 and 6 in turns


def test_a_condition_leaves_its_island_where_the_choice_is_made_on_the_host() -> None:
    model = parser.parse_model(HEAVY)
    imported = import_model(model)

    def accepts(region: Region) -> Answer:
        choice = any(op.op == "Where" for op in region.ops)
        return No("not here", node=region.name) if choice else first_acceptance(region, Target(90), TACTICS)

    lowered = lower(canonicalise(imported.model, fp16=False).model, imported.ranges, accepts)
    assert isinstance(lowered, Lowered) and lowered.guards
    assert sum("Where" in [op.op for op in region.ops] for region in lowered.regions if region.kind is Kind.HOST) == 1
    engine = plan_engine(lowered)
    for rate in (16000, 8000):
        run_both(engine, model, {**feeds_of(model), "rate": np.array(rate)}, seed=rate)
