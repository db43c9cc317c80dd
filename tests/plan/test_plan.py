"""Order, memory and edges of plans over hand-made Graphs."""

from __future__ import annotations

import numpy as np
import pytest
from support.plan_graphs import ALL, chain, inception, residual_branches, split_views, symbolic
from support.plans import GraphBuilder, engine_of, op, plan_engine

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.kernels.api import Pdl, Workspace
from ingot.plan import arena
from ingot.plan.build import build_plan
from ingot.plan.lifetimes import ancestors, in_sequence
from ingot.plan.spec import Plan
from ingot.tune.hollow import hollow_choices, hollow_program


def plan_of(lowered: Lowered, **options: object) -> Plan:
    return build_plan(lowered, hollow_choices(lowered, **options), "sm_90").plan  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(ALL))
def test_arena_is_within_five_percent_of_the_bound(name: str) -> None:
    lowered = ALL[name]()
    bundle = build_plan(lowered, hollow_choices(lowered), "sm_90")
    assert bundle.arena_bound <= bundle.plan.arena_bytes <= 1.05 * bundle.arena_bound


@pytest.mark.parametrize("name", sorted(ALL))
def test_rebuild_is_byte_identical(name: str) -> None:
    images = {engine_of(build_plan(low, hollow_choices(low), "sm_90")).to_bytes() for low in (ALL[name](), ALL[name]())}
    assert len(images) == 1


def test_pointwise_steps_run_in_place() -> None:
    plan = plan_of(chain())
    place = {v.name: v.memory for v in plan.values}
    assert place["y0"] == place["c0"] and place["y3"] == place["c3"]
    assert place["c1"].offset != place["c0"].offset


def test_no_step_runs_in_place_while_another_reads_its_input() -> None:
    g = GraphBuilder()
    g.input("x", (4, 4))
    for name in ("a", "b", "c"):
        g.value(name, (4, 4))
    g.value("y", (4, 4))
    g.step(Kind.MAP, "Exp", ["x"], "a")
    g.step(Kind.MAP, "Neg", ["a"], "b")
    g.step(Kind.MAP, "Tanh", ["a"], "c")
    g.step(Kind.MAP, "Add", ["b", "c"], "y")
    place = {v.name: v.memory.offset for v in plan_of(g.lowered(["y"])).values}
    assert len({place["a"], place["b"], place["c"]}) == 3


def test_broadcast_inputs_are_never_taken_over() -> None:
    g = GraphBuilder()
    g.input("x", (1, 4))
    g.input("z", (4, 4))
    g.value("a", (1, 4))
    g.value("b", (4, 4))
    g.value("y", (4, 4))
    g.step(Kind.MAP, "Exp", ["x"], "a")
    g.step(Kind.MAP, "Add", ["a", "z"], "b")
    g.step(Kind.MAP, "Neg", ["b"], "y")
    place = {v.name: v.memory.offset for v in plan_of(g.lowered(["y"])).values}
    assert place["a"] != place["b"]


def test_windows_share_the_memory_of_their_roots() -> None:
    plan = plan_of(split_views())
    place = {v.name: v.memory for v in plan.values}
    assert place["l"].offset == place["e"].offset and place["r"].offset == place["e"].offset + 8
    assert place["t"].offset == place["r"].offset
    assert (place["prod"].space, place["prod"].binding) == ("output", "y")


def test_parallel_branches_stay_parallel_in_a_small_arena() -> None:
    plan = plan_of(residual_branches())
    names = {s.name: i for i, s in enumerate(plan.steps)}
    above = ancestors([s.after for s in plan.steps])
    first, projection = names["Conv_1"], names["Conv_2"]
    assert not above[first] >> projection & 1 and not above[projection] >> first & 1


def test_large_arenas_reuse_memory_between_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = inception(8)
    wide = build_plan(lowered, hollow_choices(lowered), "sm_90")
    monkeypatch.setattr("ingot.plan.build._FREE_BYTES", 0)
    dense = build_plan(lowered, hollow_choices(lowered), "sm_90")
    assert dense.plan.arena_bytes < wide.plan.arena_bytes
    assert sum(len(s.after) for s in dense.plan.steps) > 0
    above = ancestors([s.after for s in dense.plan.steps])
    assert sum(a.bit_count() for a in above) > sum(a.bit_count() for a in ancestors([s.after for s in wide.plan.steps]))


def test_edges_are_transitively_reduced() -> None:
    for make in ALL.values():
        plan = plan_of(make())
        above = ancestors([s.after for s in plan.steps])
        for step in plan.steps:
            assert not any(above[a] >> b & 1 for a in step.after for b in step.after)


def test_programmatic_edges_only_to_waiting_kernels_with_one_predecessor() -> None:
    lowered = residual_branches()
    none, waits = plan_of(lowered), plan_of(lowered, pdl=Pdl.TRIGGERS)
    assert not any(s.programmatic for s in none.steps)
    for step in waits.steps:
        assert step.programmatic == (step.after if len(step.after) == 1 else [])
    assert any(len(s.after) == 2 for s in waits.steps)


def test_kernels_after_islands_have_full_edges() -> None:
    plan = plan_of(ALL["with_island"](), pdl=Pdl.WAITS)
    host = next(i for i, s in enumerate(plan.steps) if s.kind == "host")
    assert all(not s.programmatic for s in plan.steps if host in s.after)


def test_workspaces() -> None:
    lowered = residual_branches()
    split = hollow_program(lowered.regions[1], 2, Pdl.WAITS, (Workspace(1000), Workspace(64, zeroed=True)))
    plan = plan_of(
        lowered, programs={1: split, 3: hollow_program(lowered.regions[3], 2, workspaces=(Workspace(8, True),))}
    )
    place = {v.name: v.memory for v in plan.values}
    assert place["workspace:1.0"].space == "arena" and place["workspace:1.0"].bytes == 1000
    assert place["workspace:1.1"].space == place["workspace:3.0"].space == "persistent"
    assert {place["workspace:1.1"].offset, place["workspace:3.0"].offset} == {0, 256}
    assert plan.persistent_bytes == 512
    steps = [s for s in plan.steps if s.region == 1]
    assert len(steps) == 2 and plan.steps.index(steps[0]) in steps[1].after


def test_equal_weights_and_cubins_are_stored_once() -> None:
    g = GraphBuilder()
    g.input("x", (2, 4))
    same = np.arange(16, dtype=np.float32).reshape(4, 4)
    g.constant("w0", same)
    g.constant("w1", same.copy())
    g.constant("w2", same.T.copy(), (1, 0))
    for name in ("a", "b", "y"):
        g.value(name, (2, 4))
    for source, weight, target in (("x", "w0", "a"), ("a", "w1", "b"), ("b", "w2", "y")):
        g.step(Kind.GEMM, "MatMul", [source, weight], target)
    plan = plan_of(g.lowered(["y"]))
    offsets = {v.name: v.memory.offset for v in plan.values if v.memory.space == "weights"}
    assert offsets == {"w0": 0, "w1": 0, "w2": 0}, "the transposed weight lies like the others in memory"
    assert len(plan.cubins) == 1 and plan.weights_bytes == 256


def test_flops_and_bytes_follow_the_shapes() -> None:
    engine = plan_engine(symbolic())
    from ingot.engine.describe import describe

    layers = {layer.name: layer for layer in describe(engine, {"n": 4, "t": 5}).layers}
    assert layers["MatMul_0"].flops == 2 * 4 * 5 * 8 * 8
    assert layers["MatMul_0"].bytes == 4 * (4 * 5 * 8 * 2 + 64)
    assert layers["Relu_1"].flops == 4 * 5 * 8
    assert layers["Concat_2"].flops == 0


def test_conv_flops_are_exact() -> None:
    plan = plan_of(residual_branches())
    flops = {r.name: r.flops for r in plan.regions}
    assert flops["Conv_1"] == 2 * 2 * 8 * 64 * 8 * 9 and flops["Conv_2"] == 2 * 2 * 8 * 64 * 8


def test_order_prefers_little_live_memory() -> None:
    """Four expensive branches that shrink at once: doing them one by one needs a quarter of the memory."""
    g = GraphBuilder()
    g.input("x", (64,))
    g.constant("shape", np.array([64, 64]))
    for i in range(4):
        g.value(f"big{i}", (64, 64))
        g.step(Kind.MAP, "Expand", ["x", "shape"], f"big{i}")
    for i in range(4):
        g.value(f"small{i}", (1, 64))
        g.region(
            Kind.REDUCE, [op("ReduceSum", [f"big{i}", "axes"], [f"small{i}"])], [f"small{i}"], literals={"axes": (0,)}
        )
    g.value("y", (4, 64))
    g.step(Kind.MAP, "Concat", [f"small{i}" for i in range(4)], "y", axis=0)
    lowered = g.lowered(["y"])
    plan = build_plan(lowered, hollow_choices(lowered), "sm_90", bodies=False).plan
    order = [plan.regions[s.region].name.split("_")[0] for s in plan.steps]
    assert order == ["Expand", "ReduceSum"] * 4 + ["Concat"]


def test_arena_against_exhaustive_conflicts() -> None:
    """Random intervals: the assignment never overlaps what conflicts and stays near the bound."""
    from ingot.plan.lifetimes import Buffer, conflicts

    rng = np.random.default_rng(0)
    for _ in range(30):
        buffers = []
        for i in range(40):
            first = int(rng.integers(60))
            last = min(59, first + int(rng.integers(1, 12)))
            touched = sum(1 << s for s in range(first, last + 1))
            buffers.append(Buffer(str(i), int(rng.integers(1, 5000)), touched, 1 << first))
        clash = conflicts(buffers, in_sequence(60))
        offsets, size = arena.assign(buffers, clash)
        for i, rivals in enumerate(clash):
            for j in rivals:
                assert offsets[i] + buffers[i].bytes <= offsets[j] or offsets[j] + buffers[j].bytes <= offsets[i]
        assert size <= 1.15 * arena.max_live(buffers, 60)
