"""Random graphs against ONNX Runtime: engines for the CPU, plans in the simulator, kernels on the GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.any_graphs import AnyGraph, differences, feeds_of, model_of
from support.any_ops import grown, seeded
from support.gpu import device_target

from ingot.builder.api import build_engine, build_hollow
from ingot.engine.file import EngineFile
from ingot.options import BuildOptions
from ingot.passes import lazy, lower
from ingot.plan.spec import conditions
from ingot.runtime.engine import Engine
from ingot.simulate.simulator import Simulator

NIGHTLY = 5000
TOGETHER = 25
"""Graphs in one model, where they are seeded: importing, planning and running cost a good part whatever the size."""
GPU_GRAPHS = 500


def wanted(graphs: Sequence[AnyGraph], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's results, unoptimised."""
    model = model_of(graphs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    return dict(zip(names, session.run(names, feeds), strict=True))


def check(graphs: Sequence[AnyGraph], target: str) -> EngineFile | None:
    """Asserts that all outputs of the graphs, built into one engine for ``target``, are ONNX Runtime's.

    Gives the engine; None where the graphs have no output.
    """
    model, feeds = model_of(graphs), feeds_of(graphs)
    if not model.graph.output:
        return None
    truth = wanted(graphs, feeds)
    if target == "simulator":
        engine = build_hollow(model, BuildOptions("sm_90"))
        made = Simulator(engine).run(feeds)
    else:
        engine = build_engine(model, BuildOptions(target, opt_level=0))
        made = Engine(engine).context().run(feeds)
    wrong = differences(truth, made, graphs)
    nodes = (
        "\n".join(f"{n.op_type} {list(n.input)} -> {list(n.output)}" for n in model.graph.node)
        if len(graphs) == 1
        else ""
    )
    assert not wrong, "\n".join([*wrong, nodes])
    return engine


def group(first: int, count: int = TOGETHER, steps: int = 8) -> list[AnyGraph]:
    """Seeded graphs whose names begin with their seed."""
    return [seeded(seed, steps, f"g{seed}_") for seed in range(first, first + count)]


def drawn(data: st.DataObject) -> AnyGraph:
    """A graph of hypothesis's choice, which it can shrink."""
    return grown(lambda n: data.draw(st.integers(0, n - 1)))


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small graphs are cut as large ones: islands take no neighbours in, and the host looks at every condition."""
    monkeypatch.setattr(lower, "cheaper_on_host", lambda *_: {})
    for cost in ("_READ_BACK", "_ON_HOST"):
        monkeypatch.setattr(lazy, cost, 0.0)


def test_graphs_are_repeatable_and_use_every_maker() -> None:
    first, again = (model_of(group(0)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == again
    ops = {node.op_type for g in group(0, 300) for node in g.nodes}
    assert len(ops) > 60 and {"If", "Loop", "Scan", "LSTM", "GRU", "RNN"} <= ops


def test_a_wrong_result_is_seen() -> None:
    graphs = group(3, 2)
    truth = wanted(graphs, feeds_of(graphs))
    name = next(iter(truth))
    assert not differences(truth, truth, graphs)
    assert differences(truth, {**truth, name: truth[name] + 1}, graphs)


@pytest.mark.parametrize("target", ["cpu", "simulator"])
def test_seeded_graphs(target: str) -> None:
    check(group(0), target)


@pytest.mark.usefixtures("as_if_large")
def test_graphs_whose_course_the_host_decides() -> None:
    engine = check(group(24, 12), "simulator")
    assert engine is not None and engine.plan.data and len(conditions(engine.plan.steps)) > 3


@settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_drawn_graphs(data: st.DataObject) -> None:
    check([drawn(data)], "simulator")


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["cpu", "simulator"])
@pytest.mark.parametrize("first", range(1000, 1000 + NIGHTLY, 250))
def test_many_seeded_graphs(first: int, target: str) -> None:
    for start in range(first, first + 250, TOGETHER):
        check(group(start), target)


@pytest.mark.nightly
@pytest.mark.usefixtures("as_if_large")
@pytest.mark.parametrize("first", range(6000, 6500, 100))
def test_many_graphs_whose_course_the_host_decides(first: int) -> None:
    for start in range(first, first + 100, TOGETHER):
        check(group(start), "simulator")


@pytest.mark.nightly
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_drawn_graphs(data: st.DataObject) -> None:
    check([drawn(data)], "simulator")


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no GPU")
@pytest.mark.parametrize("first", range(0, GPU_GRAPHS, TOGETHER))
def test_graphs_on_the_device(first: int) -> None:
    """Models of many graphs: the compile processes never wait, and equal ops share their kernels."""
    check(group(first, steps=6), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no GPU")
@pytest.mark.usefixtures("as_if_large")
@pytest.mark.parametrize("first", range(0, GPU_GRAPHS // 5, TOGETHER))
def test_graphs_on_the_device_whose_course_the_host_decides(first: int) -> None:
    engine = check(group(first, steps=6), "cuda")
    assert engine is not None and conditions(engine.plan.steps)
