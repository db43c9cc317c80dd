"""The simulator agrees with ONNX Runtime on sound plans and refuses broken ones."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from support.plan_graphs import ALL, chain, inception, on_cpu, residual_branches, split_views, symbolic
from support.plans import feeds_of, oracle, plan_engine

from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.lowered import Lowered
from ingot.kernels.api import Pdl, Workspace
from ingot.plan.build import build_plan
from ingot.plan.lifetimes import ancestors
from ingot.plan.spec import Plan
from ingot.simulate.faults import PlanFault
from ingot.simulate.simulator import Simulator, shuffled
from ingot.tune.hollow import hollow_choices, hollow_program


def check(engine: EngineFile, lowered: Lowered, seeds: int = 4) -> None:
    feeds = feeds_of(lowered)
    expected = oracle(lowered, feeds)
    simulator = Simulator(engine)
    for seed in range(seeds):
        got = simulator.run(feeds, seed=seed)
        assert got.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ALL))
def test_sound_plans(name: str) -> None:
    lowered = ALL[name]()
    check(plan_engine(lowered, pdl=Pdl.TRIGGERS), lowered)


def test_cpu_plan() -> None:
    lowered = on_cpu()
    engine = plan_engine(lowered, target="cpu")
    assert {s.kind for s in engine.plan.steps} == {"host"} and engine.plan.arena_bytes == 0
    check(engine, lowered)


def test_memory_reuse_between_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.plan.build._FREE_BYTES", 0)
    for lowered in (inception(8), residual_branches()):
        check(plan_engine(lowered), lowered, seeds=8)


@pytest.mark.parametrize("sizes", [{"n": 1, "t": 2}, {"n": 2, "t": 3}, {"n": 4, "t": 5}])
def test_every_shape_of_the_profile(sizes: dict[str, int]) -> None:
    lowered = symbolic()
    feeds = feeds_of(lowered, sizes)
    got = Simulator(plan_engine(lowered)).run(feeds)
    np.testing.assert_allclose(got["y"], oracle(lowered, feeds)["y"], rtol=1e-5, atol=1e-5)


def test_several_kernels_and_workspaces() -> None:
    lowered = residual_branches()
    spaces = (Workspace(4096), Workspace(16, zeroed=True))
    programs = {i: hollow_program(lowered.regions[i], 3, Pdl.WAITS, spaces) for i in (1, 2, 3)}
    check(plan_engine(lowered, programs), lowered, seeds=8)


def test_orders_differ_by_seed() -> None:
    plan = plan_engine(inception()).plan
    assert len({shuffled(plan, seed) for seed in range(10)}) > 3
    assert shuffled(plan, 5) == shuffled(plan, 5)


# -- broken plans


def mutated(lowered: Lowered, change: Callable[[Plan], Plan], **options: object) -> EngineFile:
    bundle = build_plan(lowered, hollow_choices(lowered, **options), "sm_90")  # type: ignore[arg-type]
    plan = msgspec.json.decode(msgspec.json.encode(bundle.plan), type=Plan)
    return EngineFile(change(plan), bundle.weights, bundle.cubins, bundle.models)


def replace(plan: Plan, **fields: object) -> Plan:
    return msgspec.structs.replace(plan, **fields)


def without_edge(plan: Plan, step: int, before: int) -> Plan:
    steps = list(plan.steps)
    kept = [a for a in steps[step].after if a != before]
    assert len(kept) < len(steps[step].after)
    steps[step] = msgspec.structs.replace(steps[step], after=kept, programmatic=[])
    return replace(plan, steps=steps)


def moved(plan: Plan, name: str, offset: int) -> Plan:
    values = list(plan.values)
    index = next(i for i, v in enumerate(values) if v.name == name)
    memory = msgspec.structs.replace(values[index].memory, offset=offset)
    values[index] = msgspec.structs.replace(values[index], memory=memory)
    return replace(plan, values=values)


def offset(plan: Plan, name: str) -> int:
    return next(int(v.memory.offset) for v in plan.values if v.name == name)


@pytest.mark.parametrize("name", ["chain", "residual", "inception", "split_views"])
def test_every_missing_edge_is_found(name: str) -> None:
    lowered = ALL[name]()
    feeds = feeds_of(lowered)
    plan = plan_engine(lowered).plan
    for index, step in enumerate(plan.steps):
        for before in step.after:
            engine = mutated(lowered, lambda p, i=index, b=before: without_edge(p, i, b))
            with pytest.raises(PlanFault):
                Simulator(engine).run(feeds)


def test_missing_memory_edges_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges that exist only because memory is reused: the data flow alone would still be right."""
    lowered = inception(8)
    flow = ancestors([step.after for step in plan_engine(lowered).plan.steps])
    monkeypatch.setattr("ingot.plan.build._FREE_BYTES", 0)
    engine = plan_engine(lowered)
    feeds = feeds_of(lowered)
    found = 0
    for index, step in enumerate(engine.plan.steps):
        for before in step.after:
            if flow[index] >> before & 1:
                continue
            with pytest.raises(PlanFault, match="no edge orders"):
                Simulator(mutated(lowered, lambda p, i=index, b=before: without_edge(p, i, b))).run(feeds)
            found += 1
    assert found > 0


def test_overlapping_live_values_are_found() -> None:
    lowered = residual_branches()
    engine = mutated(lowered, lambda p: moved(p, "p", offset(p, "a")))
    with pytest.raises(PlanFault):
        Simulator(engine).run(feeds_of(lowered))


def test_ordered_overwrite_of_a_live_value_is_found() -> None:
    """No race: the steps are in sequence, but the second overwrites what the last still reads."""
    lowered = residual_branches()

    def change(plan: Plan) -> Plan:
        steps = list(plan.steps)
        for i in range(1, len(steps)):
            steps[i] = msgspec.structs.replace(steps[i], after=[i - 1])
        return moved(replace(plan, steps=steps), "p", offset(plan, "a"))

    with pytest.raises(PlanFault, match=r"left there|overlap"):
        Simulator(mutated(lowered, change)).run(feeds_of(lowered))


def test_a_shifted_window_is_found() -> None:
    lowered = inception()
    engine = mutated(lowered, lambda p: moved(p, "p1", offset(p, "p1") + 4))
    with pytest.raises(PlanFault):
        Simulator(engine).run(feeds_of(lowered))


def test_an_input_window_in_the_wrong_place_changes_results() -> None:
    lowered = split_views()
    feeds = feeds_of(lowered)
    engine = mutated(lowered, lambda p: moved(p, "l", offset(p, "l") + 4))
    assert not np.allclose(Simulator(engine).run(feeds)["y"], oracle(lowered, feeds)["y"])


def test_in_place_convolution_is_found() -> None:
    lowered = chain()
    engine = mutated(lowered, lambda p: moved(p, "c1", offset(p, "y0")))
    with pytest.raises(PlanFault, match="not pointwise"):
        Simulator(engine).run(feeds_of(lowered))


def test_overlapping_persistent_workspaces_are_found() -> None:
    lowered = residual_branches()
    programs = {i: hollow_program(lowered.regions[i], workspaces=(Workspace(16, zeroed=True),)) for i in (1, 3)}
    engine = mutated(lowered, lambda p: moved(p, "workspace:3.0", 0), programs=programs)
    with pytest.raises(PlanFault, match="persistent"):
        Simulator(engine).run(feeds_of(lowered))


def test_a_workspace_shared_by_parallel_steps_is_found() -> None:
    lowered = residual_branches()
    programs = {i: hollow_program(lowered.regions[i], 2, workspaces=(Workspace(512),)) for i in (1, 2)}
    engine = mutated(lowered, lambda p: moved(p, "workspace:2.0", offset(p, "workspace:1.0")), programs=programs)
    with pytest.raises(PlanFault, match="no edge orders"):
        Simulator(engine).run(feeds_of(lowered))


# -- wrong use


def test_wrong_feeds() -> None:
    simulator = Simulator(plan_engine(symbolic()))
    good = np.zeros((2, 3, 8), np.float32)
    for feeds, reason in (
        ({}, "not given"),
        ({"x": good, "z": good}, "no such input"),
        ({"x": good.astype(np.float64)}, "float64"),
        ({"x": good[0]}, "dimensions|shape"),
        ({"x": np.zeros((9, 3, 8), np.float32)}, "n"),
    ):
        with pytest.raises(IngotError, match=reason):
            simulator.run(feeds)


def test_an_engine_without_bodies() -> None:
    lowered = chain(1)
    bundle = build_plan(lowered, hollow_choices(lowered), "sm_90", bodies=False)
    with pytest.raises(IngotError, match="body"):
        Simulator(EngineFile(bundle.plan, bundle.weights, bundle.cubins, bundle.models)).run(feeds_of(lowered))
