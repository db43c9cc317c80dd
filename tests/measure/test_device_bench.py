"""Measuring and comparing an engine on the device: a hand-written Plan. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import tiny
from support.tiny import TinyPlan, number

from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.measure.bench import Case, bench
from ingot.measure.compare import compare
from ingot.measure.figures import Budget, Record, to_json
from ingot.measure.inputs import random_feeds
from ingot.measure.reference import Reference
from ingot.plan.spec import RegionDecl
from ingot.runtime.engine import Engine
from ingot.runtime.values import step_values

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]

N = 1000
BUDGET = Budget(warmup=0.0, seconds=0.02, iterations=5)


def engine(factor: int = 3) -> Engine:
    """y = 2x + factor * x over two branches, and z = y through a copy."""
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("a", [N], offset=0, size=1 << 13)
    p.value("b", [N], offset=1 << 13, size=1 << 13)
    p.value("y", [N], "output")
    p.value("z", [N], "output")
    first = p.kernel("scale", ["x", "a", number(N), number(2)], N, ["a"])
    second = p.kernel("scale", ["x", "b", number(N), number(factor)], N, ["b"])
    third = p.kernel("add", ["a", "b", "y", number(N)], N, ["y"], after=[first, second])
    p.copy("y", "z", after=[third])
    file = p.engine().file
    regions = [
        RegionDecl(step.name, "map", [], "", step.reads, step.writes, "hand[]", 0.0, False, 0, 0, "float32")
        for step in file.plan.steps
    ]
    steps = [msgspec.structs.replace(step, region=i) for i, step in enumerate(file.plan.steps)]
    plan = msgspec.structs.replace(file.plan, regions=regions, steps=steps)
    return Engine(EngineFile.from_bytes(dataclasses.replace(file, plan=plan).to_bytes()))


def model() -> onnx.ModelProto:
    """The same in ONNX, with factor 3."""

    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [N])

    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Mul", ["x", "three"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
    ]
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("two", 2.0), ("three", 3.0))]
    graph = helper.make_graph(nodes, "g", [tensor("x")], [tensor("y"), tensor("z")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def case(made: Engine, folder: Path, reference: bool = True) -> Case:
    path = folder / "e.ingot"
    made.save(path)
    return Case("row", "m.onnx", path, random_feeds, Reference(model()) if reference else None)


def test_figures_of_an_engine_on_the_device(tmp_path: Path) -> None:
    record = bench(case(engine(), tmp_path), BUDGET, ["onnxruntime", "torch"])
    figures = record.figures
    assert record.correct and figures is not None and figures.compute is not None and figures.latency is not None
    assert (
        figures.h2d is not None and figures.d2h is not None and figures.enqueue is not None and figures.spin is not None
    )
    assert figures.run.samples >= 5 and figures.throughput > 0 and figures.load_ms > 0
    assert figures.allocations == 0
    assert record.environment is not None and record.environment.arch == tiny.target()
    assert record.environment.cuda
    by_name = {peer.name: peer for peer in record.peers}
    runtime = by_name["onnxruntime"]
    assert runtime.run is not None and runtime.ratio == pytest.approx(runtime.run.median / figures.run.median)
    assert runtime.outputs and runtime.outputs[0].relative < 1e-6
    converted = [peer for peer in record.peers if peer.name == "torch"]
    assert converted and all(peer.error or peer.outputs[0].relative < 1e-3 for peer in converted)
    assert b'"row"' in to_json(record)


def test_without_transfers(tmp_path: Path) -> None:
    figures = bench(case(engine(), tmp_path), Budget(0.0, 0.0, 3, transfers=False)).figures
    assert figures is not None and figures.latency is None and figures.h2d is None and figures.compute is not None


def test_wrong_results_are_told(tmp_path: Path) -> None:
    record: Record = bench(case(engine(4), tmp_path), BUDGET)
    assert not record.correct
    assert record.outputs[0].relative == pytest.approx(0.2, rel=1e-4)


def test_an_engine_without_bodies_needs_its_model(tmp_path: Path) -> None:
    with pytest.raises(IngotError, match="body"):
        bench(case(engine(), tmp_path, reference=False), BUDGET)


def test_values_come_in_the_order_of_the_steps() -> None:
    made = engine()
    context = made.context()
    x = np.arange(N, dtype=np.float32)
    found = {made.plan.values[i].name: array for i, array in step_values(context, {"x": x})}
    assert list(found) == ["a", "b", "y", "z"]
    assert all(np.array_equal(found[name], k * x) for name, k in zip("abyz", (2, 3, 5, 5), strict=True))


def test_outputs_are_compared_on_the_device() -> None:
    feeds = random_feeds({"x": ("float32", (N,))})
    good = compare(engine().file, Reference(model()), feeds, tolerance=1e-4)
    assert good.where == "GPU" and good.first is None and [r.difference.name for r in good.rows] == ["y", "z"]
    bad = compare(engine(4).file, Reference(model()), feeds, inner=True, tolerance=1e-4)
    assert [r.difference.name for r in bad.rows] == ["a", "b", "y", "z"]
    assert bad.first is not None and bad.first.difference.name == "b"
